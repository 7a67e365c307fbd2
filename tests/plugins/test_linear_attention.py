"""Feature maps of linear attention, and its sums that run along the keys."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.registry import Registry

MAPS = ("elu", "taylor", "hedgehog", "performer")


def make(widths: tuple[int, int, int], **options: Any) -> Any:
    query_dim, key_dim, value_dim = widths
    torch.manual_seed(0)
    sizes = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
    return attnbench.build("attention", "linear_attention", **sizes, **options)


def normalised(products: Tensor) -> Tensor:
    return products / products.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("num_heads", [None, 1, 4])
@pytest.mark.parametrize("feature_map", MAPS)
def test_whole_in_chunks_and_token_by_token_are_one(feature_map: str, num_heads: int | None) -> None:
    module = make((8, 8, 6), feature_map=feature_map, num_heads=num_heads).double()
    x, v = torch.randn(2, 70, 8, dtype=torch.float64), torch.randn(2, 70, 6, dtype=torch.float64)
    mask = torch.rand(2, 1, 70) < 0.7
    for options in ({"causal": True}, {"causal": True, "mask": mask}, {}, {"mask": mask}):
        context, weights = module(x, x, v, **options)
        fast, none = module(x, x, v, **options, need_weights=False)
        assert none is None
        torch.testing.assert_close(fast, context)
        seen = (weights > 0).any(dim=-1)
        torch.testing.assert_close(weights.sum(dim=-1), seen.double())
    whole, state = module(x, x, v, causal=True)[0], None
    for t in range(70):
        now = slice(t, t + 1)
        context, state = module.step(x[:, now], x[:, now], v[:, now], state)
        torch.testing.assert_close(context, whole[:, now])
    assert sum(part.numel() for part in state) == 2 * module.state_size(70)


def test_elu_and_one_keeps_its_digits_and_its_slope() -> None:
    x = torch.tensor([-40.0, -1.0, 0.0, 2.0], requires_grad=True)
    features = make((4, 4, 4)).q_map(x, False)
    (slope,) = torch.autograd.grad(features.sum(), x)
    torch.testing.assert_close(features, torch.tensor([math.exp(-40), math.exp(-1), 1.0, 3.0]), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(slope, torch.tensor([math.exp(-40), math.exp(-1), 1.0, 1.0]), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_elu_has_finite_gradients_where_its_products_end(causal: bool, need_weights: bool) -> None:
    """Of -44 and -44 the product is about the smallest number of float32."""
    module, v = make((8, 8, 8)), torch.randn(2, 5, 8)
    for size in range(40, 56):
        q, k = ((-size - torch.rand(2, 5, 8)).requires_grad_() for _ in range(2))
        context, _ = module(q, k, v, causal=causal, need_weights=need_weights)
        for gradient in torch.autograd.grad(context.square().sum(), (q, k)):
            assert gradient.isfinite().all()


def test_causal_sums_make_no_array_of_all_pairs() -> None:
    """Of 40,000 x 40,000 weights in float32 it would take 6.4 GB."""
    x = torch.randn(1, 40_000, 4)
    context, _ = make((4, 4, 4))(x, x, x, causal=True, need_weights=False)
    assert context.shape == (1, 40_000, 4)


def test_taylor_is_the_exponentials_first_terms() -> None:
    module = make((8, 8, 6), feature_map="taylor")
    x, v = torch.randn(1, 5, 8), torch.randn(1, 5, 6)
    scores = module.q_proj(x) @ module.k_proj(x).mT / 4  # sqrt(16)
    _, weights = module(x, x, v)
    torch.testing.assert_close(weights[:, 0], normalised(1 + scores + scores.square() / 2))


def test_hedgehog_starts_as_the_softmax_of_twice_its_input_and_its_opposite() -> None:
    _, weights = make((2, 2, 2), feature_map="hedgehog")(
        *torch.tensor([[[[0.0, 0.5]]], [[[0.5, 0.0]]], [[[1.0, 1.0]]]])
    )
    assert weights.item() == pytest.approx(1)
    q, k = (torch.tensor([math.exp(2 * x) for x in row]) for row in ((0, 0.5, 0, -0.5), (0.5, 0, -0.5, 0)))
    features = make((2, 2, 2), feature_map="hedgehog").q_map(torch.tensor([0.0, 0.5]), False)
    torch.testing.assert_close(features, q / q.sum())
    keys = torch.tensor([[[0.5, 0.0], [0.0, 0.5]]])
    _, weights = make((2, 2, 2), feature_map="hedgehog")(torch.tensor([[[0.0, 0.5]]]), keys, keys)
    torch.testing.assert_close(weights[0, 0, 0], normalised(torch.stack((q @ k, q @ q))))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [30, 100])
def test_hedgehog_looks_somewhere_however_large_the_inputs(size: int, causal: bool, need_weights: bool) -> None:
    module = make((8, 8, 8), feature_map="hedgehog")
    q, k, v = (size * torch.randn(2, 5, 8) for _ in range(3))
    v[..., 0] = 1
    context, _ = module(q.requires_grad_(), k.requires_grad_(), v, causal=causal, need_weights=need_weights)
    torch.testing.assert_close(context[..., 0], torch.ones(2, 5))
    for gradient in torch.autograd.grad(context.square().sum(), (q, k)):
        assert gradient.isfinite().all()


def test_performer_has_the_features_of_its_equation() -> None:
    phi = make((4, 4, 4), feature_map="performer").q_map.double()
    x = torch.randn(3, 4, dtype=torch.float64)
    y = x / 4**0.25
    aims = torch.einsum("fd,bd->bf", phi.omega, y)
    torch.testing.assert_close(phi(x, True), torch.exp(aims - y.norm(dim=1, keepdim=True) ** 2 / 2) + 1e-4)
    torch.testing.assert_close(phi(x, False), torch.exp(aims - aims.max(dim=1, keepdim=True).values) + 1e-4)


def test_performer_is_near_softmax_with_many_features() -> None:
    """On average over 400 draws of 2 d features its products are a multiple of exp(q·k / sqrt(d)), to a few percent."""
    x = 0.4 * torch.randn(1, 6, 16, dtype=torch.float64)
    products = torch.zeros(6, 6, dtype=torch.float64)
    registry, chosen = Registry.load(), {"name": "linear_attention", "feature_map": "performer"}
    for seed in range(400):
        torch.manual_seed(seed)
        phi = registry.build_attention(chosen, None, query_dim=16, key_dim=16, value_dim=2).q_map
        features = phi.double()(x[0], True)
        products += features @ features.mT / 400
    expected = (x[0] @ x[0].mT / 4).exp()
    torch.testing.assert_close(normalised(products), normalised(expected), rtol=0.1, atol=0)


def test_heads_project_so_that_widths_may_differ() -> None:
    module = make((8, 12, 6), num_heads=2)
    context, weights = module(torch.randn(2, 3, 8), torch.randn(2, 5, 12), torch.randn(2, 5, 6))
    assert context.shape == (2, 3, 8)
    assert weights.shape == (2, 2, 3, 5)
    with pytest.raises((ValueError, attnbench.UsageError), match="num_heads of at least 1, not 0"):
        make((8, 8, 8), num_heads=0)
