"""Scoring functions against numbers worked out by hand, and references written pair by pair."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench import UsageError

QUERY = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
KEY = torch.tensor([[2.0, 0.0], [1.0, -1.0], [0.0, 4.0]])


def make(name: str, query_dim: int = 2, key_dim: int = 2, **options: Any) -> Any:
    return attnbench.build("scoring", name, query_dim=query_dim, key_dim=key_dim, **options)


def close(actual: Tensor, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), **tolerance)


def test_dot_by_hand() -> None:
    close(make("dot")(QUERY, KEY), [[2, -1, 8], [6, 3, 0]])


def test_scaled_dot_by_hand() -> None:
    root = math.sqrt(2)
    close(make("scaled_dot")(QUERY, KEY), [[2 / root, -1 / root, 8 / root], [6 / root, 3 / root, 0]])


def test_bilinear_by_hand() -> None:
    """W maps a query of width 2 to keys of width 3: here to [q1, q2, q1 + q2]."""
    score = make("bilinear", 2, 3)
    score.W.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    key = torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, -1.0]])
    close(score(QUERY, key), [[1 + 2 + 3, 4 - 3], [3 + 0 + 3, 0 - 3]])


def test_additive_by_hand() -> None:
    score = make("additive", hidden_dim=1)
    score.W.weight.data = torch.tensor([[1.0, 0.0]])
    score.U.weight.data = torch.tensor([[0.0, 1.0]])
    score.v.weight.data = torch.tensor([[2.0]])
    expected = [[2 * math.tanh(q + k) for k in (0, -1, 4)] for q in (1, 3)]
    close(score(QUERY, KEY), expected)


def test_additive_is_luongs_concat() -> None:
    score = make("additive", 2, 2, hidden_dim=5)
    concat = torch.cat([score.W.weight, score.U.weight], dim=1)
    for i, q in enumerate(QUERY):
        for j, k in enumerate(KEY):
            close(score(QUERY, KEY)[i, j], (score.v.weight[0] * torch.tanh(concat @ torch.cat([q, k]))).sum())


def test_cosine_by_hand() -> None:
    """|q| are sqrt(5) and 3, |k| are 2, sqrt(2) and 4."""
    score = make("cosine", beta=10.0)
    root5, root2 = math.sqrt(5), math.sqrt(2)
    close(score(QUERY, KEY), [[10 / root5, -10 / (root5 * root2), 20 / root5], [10, 10 / root2, 0]])


def test_cosine_of_a_zero_vector_is_zero_with_finite_gradients() -> None:
    score = make("cosine")
    key = torch.zeros(1, 2, requires_grad=True)
    scores = score(QUERY, key)
    close(scores, [[0], [0]])
    scores.sum().backward()
    assert key.grad is not None and key.grad.isfinite().all()


def test_cosine_learns_its_sharpness() -> None:
    score = make("cosine", beta=2.0)
    score(QUERY, KEY).sum().backward()
    close(score.log_beta.grad, score(QUERY, KEY).detach().sum())  # d(exp(b) c)/db = exp(b) c


def test_gaussian_by_hand() -> None:
    """Squared distances are 5, 9, 5 and 1, 5, 25; with sigma 2, each over 8."""
    close(make("gaussian", bandwidth=2.0)(QUERY, KEY), [[-5 / 8, -9 / 8, -5 / 8], [-1 / 8, -5 / 8, -25 / 8]])


def test_gaussian_is_nadaraya_watson_in_soft() -> None:
    attend = attnbench.build(
        "attention", "soft", query_dim=1, key_dim=1, value_dim=1, scoring={"name": "gaussian", "bandwidth": 0.5}
    )
    x, y = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([1.0, 2.0, 4.0])
    kernel = [math.exp(-((0.5 - float(k)) ** 2) / (2 * 0.25)) for k in x]
    expected = sum(w * float(v) for w, v in zip(kernel, y, strict=True)) / sum(kernel)
    for need_weights in (True, False):
        context, _ = attend(torch.tensor([[[0.5]]]), x.view(1, 3, 1), y.view(1, 3, 1), need_weights=need_weights)
        close(context.squeeze(), expected)


def test_location_by_hand() -> None:
    """Position j scores W_j · q, whatever the keys hold."""
    score = make("location", max_keys=4)
    score.W.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [9.0, 9.0]])
    close(score(QUERY, KEY), [[1, 2, 3], [3, 0, 3]])
    close(score(QUERY, torch.randn(3, 2)), [[1, 2, 3], [3, 0, 3]])


def test_location_refuses_more_keys_than_it_has_positions() -> None:
    with pytest.raises(UsageError, match=r"scores 2 positions, and there are 3 keys; scoring.max_keys=3"):
        make("location", max_keys=2)(QUERY, KEY)


def test_linear_by_hand() -> None:
    """w = [1, 0 | 0, 1 | 1, -1]: q1 + k2 + q1 k1 - q2 k2."""
    score = make("linear")
    score.w.weight.data = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0, -1.0]])
    close(score(QUERY, KEY), [[1 + 0 + 2 - 0, 1 - 1 + 1 + 2, 1 + 4 + 0 - 8], [3 + 0 + 6, 3 - 1 + 3, 3 + 4 + 0]])


def test_linear_is_a_vector_over_the_pair() -> None:
    score = make("linear", 3, 3)
    query, key = torch.randn(4, 3), torch.randn(5, 3)
    for i, q in enumerate(query):
        for j, k in enumerate(key):
            close(score(query, key)[i, j], (score.w.weight[0] * torch.cat([q, k, q * k])).sum())


@pytest.mark.parametrize("name", ["dot", "scaled_dot", "cosine", "gaussian", "linear"])
def test_widths_that_differ_are_refused_with_both_and_one_that_takes_them(name: str) -> None:
    with pytest.raises(UsageError, match=r"100 and 20.*scoring=bilinear"):
        make(name, 100, 20)


@pytest.mark.parametrize(
    ("name", "options"),
    [("additive", {"hidden_dim": 0}), ("cosine", {"beta": 0.0}), ("gaussian", {"bandwidth": -1.0}),
     ("location", {"max_keys": 0})],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        make(name, **options)


FACTORING = ["dot", "scaled_dot", "bilinear", "cosine", "gaussian", "linear"]


@pytest.mark.parametrize("name", FACTORING)
def test_factors_give_the_same_softmax(name: str) -> None:
    score = make(name, 4, 4).double()
    query, key = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 4).double()
    q, k = score.factor(query, key)
    close((q @ k.mT).softmax(-1), score(query, key).softmax(-1))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(-50, 50), st.floats(0.1, 5))
def test_gaussian_goes_by_differences_alone(seed: int, shift: float, bandwidth: float) -> None:
    torch.manual_seed(seed)
    score = make("gaussian", bandwidth=bandwidth).double()
    query, key = torch.randn(3, 2).double(), torch.randn(4, 2).double()
    close(score(query + shift, key + shift), score(query, key), atol=1e-6, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_cosine_goes_by_directions_alone(seed: int, size: float) -> None:
    torch.manual_seed(seed)
    score = make("cosine").double()
    query, key = torch.randn(3, 2).double(), torch.randn(4, 2).double()
    close(score(size * query, key), score(query, key))
