"""Fused paths: the same numbers as the plain ones, on the kernels that they are meant for."""

import math

import pytest
import torch
from jaxtyping import config

from attnbench import NORMALISERS, attend, fused_attention, masked_softmax
from attnbench.contract.harness import BilinearScore
from attnbench.kernels import overwriting_softmax


@pytest.mark.parametrize("mask", [None, torch.tensor([[[True, True, False]], [[False] * 3]])])
def test_weights_in_the_place_of_their_scores_are_the_same_to_the_second_derivative(mask):
    def made(scores, overwrite):
        return (overwriting_softmax if overwrite else masked_softmax)(2 * scores, mask)

    scores = torch.randn(2, 4, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()
    grad = torch.arange(24.0, dtype=torch.double).view(2, 4, 3)
    twice = [
        [weights, *torch.autograd.grad(weights, scores, grad)] for weights in (made(scores, True), made(scores, False))
    ]
    torch.testing.assert_close(*twice)
    assert torch.autograd.gradcheck(made, (scores, True)) and torch.autograd.gradgradcheck(made, (scores, True))
    product = torch.randn(2, 4, 3)
    assert overwriting_softmax(product, mask).data_ptr() == product.data_ptr()


def test_weights_in_the_place_of_their_scores_can_be_mapped_over_examples():
    def first(scores):
        return overwriting_softmax(2 * scores)[0, 0]

    scores = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mapped = torch.func.vmap(torch.func.grad(first))(scores)
    torch.testing.assert_close(mapped, torch.autograd.grad(torch.softmax(2 * scores, dim=-1)[:, 0, 0].sum(), scores)[0])


def test_what_comes_back_from_a_hidden_key_is_not_looked_at():
    product = torch.zeros(1, 1, 2, requires_grad=True)
    weights = overwriting_softmax(1 * product, torch.tensor([[[True, False]]]))
    weights.backward(torch.tensor([[[1.0, math.nan]]]))
    assert product.grad.tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize("shape", [(2,), (2, 3), ()])
@pytest.mark.parametrize("rows", [1, 4])
def test_fused_attention_is_the_plain_one(shape, rows):
    query, key, value = (torch.randn(*shape, n, 6, dtype=torch.double) for n in (4, 5, 5))
    mask = torch.rand(*shape, rows, 5) > 0.4
    mask[..., 0, :] = False
    plain = masked_softmax(0.3 * query @ key.mT, mask) @ value
    torch.testing.assert_close(fused_attention(query, key, value, mask, scale=0.3), plain)
    assert not fused_attention(query, key, value, mask)[..., 0, :].any(), "a row that may attend nothing"
    assert not fused_attention(query, key, value, scale=0.3).isnan().any()


def operations(call):
    names = []

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    with Names():
        call()
    return " ".join(names)


def test_of_three_dimensions_the_fused_kernel_is_used_too():
    query, key, value = (torch.randn(2, n, 8) for n in (4, 5, 5))
    names = operations(lambda: fused_attention(query, key, value, torch.ones(2, 1, 5, dtype=torch.bool)))
    assert "flash_attention" in names and "softmax" not in names


@pytest.mark.parametrize(("narrow", "fused"), [(8, True), (4, True), (3, False)])
@pytest.mark.parametrize("by_key", [True, False])
def test_of_two_widths_the_narrower_is_filled_up_unless_it_more_than_doubles(narrow, fused, by_key):
    width, value_width = (8, narrow) if by_key else (narrow, 8)
    given = [torch.randn(2, 9, n, requires_grad=True) for n in (width, width, value_width)]
    contexts = []
    names = operations(lambda: contexts.append(fused_attention(*given, scale=0.3, causal=True)))
    assert ("flash_attention" in names) == fused
    lower = torch.ones(9, 9, dtype=torch.bool).tril()
    contexts.append(masked_softmax(0.3 * given[0] @ given[1].mT, lower) @ given[2])
    torch.testing.assert_close(*contexts)
    torch.testing.assert_close(*(torch.autograd.grad(x.square().sum(), given) for x in contexts))


@pytest.mark.parametrize("keys", [8, 9])
def test_of_few_keys_training_takes_the_plain_products_and_the_same_gradients(keys):
    given = [torch.randn(2, n, 8, requires_grad=True) for n in (4, keys, keys)]
    names = operations(lambda: fused_attention(*given))
    assert ("flash_attention" in names) == (keys == 9)
    with torch.no_grad():
        assert "flash_attention" in operations(lambda: fused_attention(*given))
    direction = torch.randn(2, 4, 8)
    plain = masked_softmax(0.3 * given[0] @ given[1].mT) @ given[2]
    fused = fused_attention(*given, scale=0.3)
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(
        torch.autograd.grad(fused, given, direction), torch.autograd.grad(plain, given, direction)
    )


def test_the_plain_products_have_derivatives_of_derivatives():
    given = [torch.randn(2, n, 6, requires_grad=True) for n in (3, 4, 4)]
    found = []
    for few in (True, False):
        context = fused_attention(*given, scale=0.3) if few else masked_softmax(0.3 * given[0] @ given[1].mT) @ given[2]
        slopes = torch.autograd.grad(context.square().sum() + given[0].pow(3).sum(), given, create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), given))
    torch.testing.assert_close(*found)


def test_a_mask_without_a_dimension_for_examples_is_for_all_of_them():
    query, key, value = (torch.randn(2, n, 6) for n in (4, 5, 5))
    mask = torch.rand(4, 5) > 0.3
    torch.testing.assert_close(
        fused_attention(query, key, value, mask), fused_attention(query, key, value, mask.expand(2, -1, -1))
    )


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
@pytest.mark.parametrize("length", [1, 4, 40])
def test_causal_is_the_mask_spelled_out(shape, length):
    query, key, value = (torch.randn(*shape, length, 8, dtype=torch.double, requires_grad=True) for _ in range(3))
    padding = torch.rand(*shape, 1, length) > 0.4
    lower = torch.ones(length, length, dtype=torch.bool).tril()
    for mask, spelled in ((None, lower), (padding, padding & lower)):
        plain = masked_softmax(0.3 * query @ key.mT, spelled) @ value
        fused = fused_attention(query, key, value, mask, scale=0.3, causal=True)
        torch.testing.assert_close(fused, plain)
        grads = [torch.autograd.grad(x.square().sum(), (query, key, value)) for x in (fused, plain)]
        torch.testing.assert_close(*grads)


def test_causal_and_nothing_else_builds_no_mask():
    x = torch.randn(1, 64, 8)
    names = operations(lambda: fused_attention(x, x, x, causal=True))
    assert "flash_attention" in names
    assert not any(word in names for word in ("tril", "ones", "softmax"))


def test_a_key_without_a_value_is_refused_where_the_kernel_would_read_past_the_end(monkeypatch):
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # the checker of signatures would speak first
    memory = torch.randn(2, 6, 8)
    with pytest.raises(ValueError, match="key and value of one length"):
        fused_attention(memory[:1], memory[:1, :5], memory[:1])
    with pytest.raises(ValueError, match="query and key are of one width"):
        fused_attention(memory[..., :7], memory, memory)
    with pytest.raises(ValueError, match="as many queries as keys, not 5 and 6"):
        fused_attention(memory[:, :5], memory, memory, causal=True)


@pytest.mark.parametrize("need_weights", [True, False])
def test_float16_scores_are_computed_in_float32(need_weights):
    """300 times 300 is beyond float16; and 90,000 is more than 80,000."""
    query = torch.tensor([[[300.0]]], dtype=torch.float16)
    key = torch.tensor([[[300.0], [800 / 3]]], dtype=torch.float16)
    value = torch.tensor([[[1.0], [2.0]]], dtype=torch.float16)
    context, _ = attend(None, query, key, value, need_weights=need_weights)
    assert context.tolist() == [[[1.0]]]


@pytest.mark.parametrize("normaliser", ["softmax", "sparsemax"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_attend_is_score_normalise_weigh(normaliser, need_weights):
    torch.manual_seed(0)
    score = BilinearScore(4, 5).double()
    query, key, value = (torch.randn(2, 3, n, dtype=torch.double) for n in (4, 5, 6))
    options = {"causal": True, "need_weights": need_weights, "normaliser": normaliser}
    context, weights = attend(score, query, key, value, **options)
    expected = NORMALISERS[normaliser](score(query, key), torch.ones(3, 3, dtype=torch.bool).tril())
    torch.testing.assert_close(context, expected @ value)
    assert weights is None if not need_weights else torch.allclose(weights, expected)
