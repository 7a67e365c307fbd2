"""Additive scores: the textbook's numbers for any input, and no tensor of all pairs."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from attnbench.plugins.scoring import additive
from attnbench.plugins.scoring.additive import Additive, Scores
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def tiles_smaller_than_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additive, "SMALL", 0)
    monkeypatch.setattr(additive, "TILE", 64)
    monkeypatch.setattr(additive, "TILE_KEYS", 5)


def textbook(score: Additive, query: Tensor, key: Tensor) -> Tensor:
    """Bahdanau's equation as it is written, in float64."""
    W, U, v = (parameter.double() for parameter in (score.W.weight, score.U.weight, score.v.weight[0]))
    pairs = torch.einsum("...qd,hd->...qh", query.double(), W).unsqueeze(-2)
    return (torch.tanh(pairs + torch.einsum("...kd,hd->...kh", key.double(), U).unsqueeze(-3)) * v).sum(-1)


def reference(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return (torch.tanh(a[:, :, None] + b[:, None]) * v).sum(-1)


def gradients(scores: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> list[Tensor]:
    return [scores.detach(), *torch.autograd.grad(scores, inputs, grad.to(scores.dtype))]


def tokens(shape: tuple[int, ...], scale: float, seed: int) -> Tensor:
    """Entries of every size up to `scale`, of both signs, and some zeros."""
    generator = torch.Generator().manual_seed(seed)
    sizes = scale ** (2 * torch.rand(shape, generator=generator) - 1)
    return sizes * torch.randint(-1, 2, shape, generator=generator)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 7)),
    scale=st.sampled_from([1.0, 10.0, 42.0, 44.0, 100.0, 1e4]),
    mirrored=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_scores_and_gradients_are_float32_rounding_away_from_float64_for_inputs_of_any_size(
    shape: tuple[int, int, int, int], scale: float, mirrored: bool, seed: int
) -> None:
    N, Q, K, D = shape
    a, b, v = tokens((N, Q, D), scale, seed), tokens((N, K, D), scale, seed + 1), tokens((D,), 3.0, seed + 2)
    if mirrored:  # a huge b that cancels a huge a: tanh is not saturated there
        b[:, 0] = -a[:, 0] + 0.25
    grad = tokens((N, Q, K), 2.0, seed + 3)
    inputs = tuple(x.requires_grad_() for x in (a, b, v))
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    got = gradients(Scores.apply(*inputs), inputs, grad)
    want = gradients(reference(*exact), exact, grad)
    g, w = grad.abs().double(), v.detach().abs().double()
    # what each result is a sum of: its rounding is a few eps of the sum of its terms' sizes
    terms = [w.sum(), g.sum(2, keepdim=True) * w, g.sum(1).unsqueeze(-1) * w, g.sum()]
    for name, ours, theirs, size in zip(("scores", "a", "b", "v"), got, want, terms, strict=True):
        assert ((ours - theirs).abs() <= 16 * EPS * size).all(), name


def test_a_worked_number() -> None:
    score = Additive(1, 1, hidden_dim=2)
    with torch.no_grad():
        score.W.weight.copy_(torch.tensor([[1.0], [0.0]]))
        score.U.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        score.v.weight.copy_(torch.tensor([[2.0, 3.0]]))
    # q = 0.5, k = 0.25: 2 tanh(0.75) + 3 tanh(-0.25) = 2 * 0.6351490 - 3 * 0.2449187
    assert score(torch.tensor([[0.5]]), torch.tensor([[0.25]])).item() == pytest.approx(0.5355419, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 500.0])
def test_gradients_agree_with_finite_differences_in_float64(scale: float) -> None:
    a, b, v = (
        torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
        for shape in ((2, 5, 4), (2, 6, 4), (4,))
    )
    a[0] += scale
    b[0] -= scale  # e^2a alone is beyond float64 at 500
    inputs = tuple(x.requires_grad_() for x in (a, b, v))
    assert torch.autograd.gradcheck(Scores.apply, inputs)


def test_gradients_reach_queries_keys_and_every_parameter() -> None:
    torch.manual_seed(0)
    score = Additive(5, 4, hidden_dim=6)
    query, key, grad = torch.randn(3, 7, 5), torch.randn(3, 8, 4), torch.randn(3, 7, 8)
    inputs = (query.requires_grad_(), key.requires_grad_(), *score.parameters())
    got = gradients(score(query, key), inputs, grad)
    want = gradients(textbook(score, query, key), inputs, grad)
    assert len(got) == 6
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ((7, 5), (8, 5)),
        ((2, 7, 5), (2, 8, 5)),
        ((2, 3, 7, 5), (2, 3, 8, 5)),
        ((2, 1, 7, 5), (3, 8, 5)),
        ((7, 5), (4, 8, 5)),
        ((2, 1, 5), (2, 1, 5)),
        ((30, 1, 5), (30, 9, 5)),
        ((2, 0, 5), (2, 8, 5)),
        ((2, 7, 5), (2, 0, 5)),
        ((0, 7, 5), (0, 8, 5)),
    ],
)
def test_leading_dimensions_broadcast_and_any_number_of_tokens_is_scored(
    query: tuple[int, ...], key: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    score = Additive(5, 5, hidden_dim=6)
    q, k = torch.randn(query, requires_grad=True), torch.randn(key, requires_grad=True)
    got, want = score(q, k), textbook(score, q, k)
    assert got.shape == want.shape
    grad = torch.randn(want.shape)
    for ours, theirs in zip(gradients(got, (q, k), grad), gradients(want, (q, k), grad), strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("limit", ["SMALL", "TILE"])
def test_gradients_do_not_depend_on_whether_pairs_are_cut_into_tiles(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    score = Additive(5, 5).double()
    query, key = (torch.randn(3, 9, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    grad = torch.randn(3, 9, 9, dtype=torch.float64)
    inputs = (query, key, *score.parameters())
    cut = gradients(score(query, key), inputs, grad)
    monkeypatch.setattr(additive, limit, 10**6)
    for ours, whole in zip(cut, gradients(score(query, key), inputs, grad), strict=True):
        torch.testing.assert_close(ours, whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    score = Additive(5, 5, hidden_dim=200).to(dtype)
    query, key = torch.randn(3, 9, 5, dtype=dtype), torch.randn(3, 9, 5, dtype=dtype)
    a, b, v = score.W(query), score.U(key), score.v.weight[0]
    got = score(query, key)
    assert got.dtype == dtype
    torch.testing.assert_close(got, reference(a.double(), b.double(), v.double()).to(dtype), rtol=2 * EPS, atol=1e-3)


def test_autocast_gives_its_dtype_and_float32_gradients() -> None:
    torch.manual_seed(0)
    score = Additive(5, 5)
    query, key = torch.randn(3, 9, 5), torch.randn(3, 9, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = score(query, key)
        got.sum().backward()
    assert got.dtype == torch.bfloat16
    assert score.v.weight.grad is not None and score.v.weight.grad.dtype == torch.float32
    torch.testing.assert_close(got.double(), textbook(score, query, key), rtol=0.02, atol=0.02)


def test_nan_in_a_token_stays_with_that_token() -> None:
    torch.manual_seed(0)
    score = Additive(5, 5)
    query, key = torch.randn(2, 9, 5), torch.randn(2, 9, 5)
    key[1, 3, 0] = torch.nan
    wrong = score(query, key).isnan()
    assert wrong[1, :, 3].all()
    assert wrong.sum() == 9


def test_nothing_as_large_as_all_pairs_is_kept_for_the_backward_pass() -> None:
    score = Additive(8, 8)
    query, key = torch.randn(1, 100, 8, requires_grad=True), torch.randn(1, 100, 8, requires_grad=True)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        score(query, key)
    assert 0 < max(kept) <= 100 * 8


def test_no_tensor_of_all_pairs_is_ever_made() -> None:
    N, L, D = 2, 60, 16
    query, key = torch.randn(N, L, D, requires_grad=True), torch.randn(N, L, D, requires_grad=True)
    made: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            made.extend(x.untyped_storage().size() // 4 for x in [result] if isinstance(x, Tensor))
            return result

    score = Additive(D, D)
    with Watch():
        score(query, key).sum().backward()
    assert max(made) == N * L * L  # the scores themselves


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing does so
@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # of Python 3.13.0 alone
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_compiler_takes_it_whole_and_gets_the_same(scale: float) -> None:
    torch.manual_seed(0)
    spec = importlib.util.spec_from_file_location("without_shape_checks", additive.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)  # a compiler does not look through the checks of shapes
    spec.loader.exec_module(module)
    score = module.Additive(5, 5)
    query, key = ((scale * torch.randn(2, 3, 9, 5)).requires_grad_() for _ in range(2))
    grad = torch.randn(2, 3, 9, 9)
    inputs = (query, key, *score.parameters())
    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    got, want = (gradients(f(query, key), inputs, grad) for f in (compiled, score))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_export_gives_a_program_for_any_length() -> None:
    torch.manual_seed(0)
    score, length = Additive(5, 5), torch.export.Dim.DYNAMIC
    program = torch.export.export(
        score, (torch.randn(2, 9, 5), torch.randn(2, 8, 5)), dynamic_shapes=({1: length}, {1: length})
    )
    query, key = torch.randn(2, 4, 5), torch.randn(2, 70, 5)
    torch.testing.assert_close(program.module()(query, key), score(query, key))
