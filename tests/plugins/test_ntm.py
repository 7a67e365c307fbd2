"""Each stage of the addressing against numbers worked out by hand from the paper's equations 5 to 9."""

import math
from typing import Any

import pytest
import torch
from attnbench.plugins.attention.ntm import sharpen, shift
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnbench

LN2, LN3 = math.log(2), math.log(3)
MEMORY = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, -1.0]]])


def close(actual: Tensor, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), **tolerance)


def inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y))


def head(*, k: tuple[float, float] = (0.5, 0.0), beta: float = 1.0, g: float, s: Any = (0, 50, 0), gamma: float = 1.0):
    """Make a head whose parameters are these, whatever the query: W = 0, and b gives them."""
    made = attnbench.build(
        "attention", "ntm", query_dim=3, key_dim=2, value_dim=2, scoring={"name": "cosine", "beta": 1.0}
    )
    above = -50.0 if gamma == 1 else inverse_softplus(gamma - 1)
    gate = {0: -50.0, 1: 50.0}.get(g) if g in (0, 1) else math.log(g / (1 - g))
    with torch.no_grad():
        made.head.weight.zero_()
        made.head.bias.copy_(torch.tensor([*map(math.atanh, k), inverse_softplus(beta), gate, *s, above]))
    return made


def look(made: Any, previous: Any = None, mask: Tensor | None = None) -> Tensor:
    before = None if previous is None else torch.tensor(previous).view(1, 1, 1, -1)
    context, weights = made(torch.randn(1, 1, 3), MEMORY, MEMORY, mask, previous=before)
    close(context, weights[:, 0] @ MEMORY)
    return weights[0, 0, 0]


def test_content_by_hand() -> None:
    """Cosines 1, 0, 1, 0 whatever the lengths; with β = ln 3 the weights are 3 : 1 : 3 : 1."""
    close(look(head(beta=LN3, g=1)), [3 / 8, 1 / 8, 3 / 8, 1 / 8])


def test_content_looks_the_other_way_for_the_opposite_key() -> None:
    """k along the last row: cosines 0, -1, 0, 1, and β = ln 2."""
    close(look(head(k=(0.0, -0.3), beta=LN2, g=1)), [2 / 9, 1 / 9, 2 / 9, 4 / 9])


def test_the_gate_mixes_with_where_it_looked() -> None:
    """g = 1/4: a quarter of 3/8, 1/8, 3/8, 1/8 and three quarters of 0, 0, 0, 1."""
    close(look(head(beta=LN3, g=0.25), [0.0, 0.0, 0.0, 1.0]), [3 / 32, 1 / 32, 3 / 32, 25 / 32])


def test_a_closed_gate_knows_nothing_of_content() -> None:
    close(look(head(beta=40.0, g=0), [0.1, 0.2, 0.3, 0.4]), [0.1, 0.2, 0.3, 0.4])


def test_shift_moves_on_and_back_and_round_the_edge() -> None:
    """s = (1/2, 1/3, 1/6) on (+1, 0, -1), from the last key: half goes round to the first."""
    moved = look(head(g=0, s=(LN3, LN2, 0.0)), [0.0, 0.0, 0.0, 1.0])
    close(moved, [1 / 2, 0, 1 / 6, 1 / 3])


def test_shift_is_the_papers_circular_convolution() -> None:
    torch.manual_seed(0)
    weights, s = torch.rand(3, 1, 7), torch.rand(3, 1, 5)
    expected = torch.zeros(3, 1, 7)
    for b in range(3):
        for i in range(7):
            for j in range(7):
                offset = (i - j + 2) % 7 - 2  # the shift from j to i, -2 to 2 where there is one
                if -2 <= offset <= 2:
                    expected[b, 0, i] += weights[b, 0, j] * s[b, 0, 2 - offset]
    close(shift(weights, s), expected)


@given(st.integers(1, 6), st.integers(0, 2), st.integers(0, 2**16))
def test_masked_keys_are_no_part_of_the_ring(allowed: int, most: int, seed: int) -> None:
    torch.manual_seed(seed)
    weights, s = torch.rand(2, 1, allowed), torch.rand(2, 1, 2 * most + 1)
    places = torch.randperm(9)[:allowed].sort().values
    mask = torch.zeros(2, 1, 9, dtype=torch.bool)
    mask[..., places] = True
    spread = torch.zeros(2, 1, 9)
    spread[..., places] = weights
    moved = shift(spread, s, mask)
    close(moved[..., places], shift(weights, s))
    assert not moved[~mask].any()


def test_sharpen_by_hand() -> None:
    """γ = 2: 1, 4, 9, 4 of 18."""
    close(look(head(g=0, gamma=2.0), [1 / 8, 2 / 8, 3 / 8, 2 / 8]), [1 / 18, 4 / 18, 9 / 18, 4 / 18])


def test_sharpening_without_end_stays_a_distribution() -> None:
    flat = torch.full((1, 1, 128), 1 / 128, requires_grad=True)
    weights = sharpen(flat, torch.full((1, 1, 1), 1000.0))
    close(weights, torch.full((1, 1, 128), 1 / 128))
    weights.square().sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def test_a_head_starts_on_the_first_key_there_is() -> None:
    close(look(head(g=0)), [1, 0, 0, 0])
    close(look(head(g=0), mask=torch.tensor([[[False, True, True, True]]])), [0, 1, 0, 0])
    close(look(head(g=0), mask=torch.zeros(1, 1, 4, dtype=torch.bool)), [0, 0, 0, 0])


def test_all_stages_together_have_the_gradient_of_finite_differences() -> None:
    torch.manual_seed(0)
    made = attnbench.build("attention", "ntm", query_dim=3, key_dim=2, value_dim=2, scoring="cosine").double()
    query, memory = torch.randn(2, 1, 3).double().requires_grad_(), torch.randn(2, 5, 2).double().requires_grad_()
    previous = torch.rand(2, 1, 1, 5).double().softmax(dim=-1).requires_grad_()
    mask = torch.tensor([[[True] * 5], [[True, True, False, True, False]]])
    torch.autograd.gradcheck(
        lambda q, m, p: made(q, m, m, mask, previous=p), (query, memory, previous), nondet_tol=1e-12
    )


def test_the_examples_of_a_batch_know_nothing_of_each_other() -> None:
    torch.manual_seed(0)
    made = attnbench.build("attention", "ntm", query_dim=3, key_dim=2, value_dim=2, scoring="additive")
    query, memory, previous = torch.randn(4, 1, 3), torch.randn(4, 6, 2), torch.rand(4, 1, 1, 6).softmax(dim=-1)
    _, together = made(query, memory, memory, previous=previous)
    for i in range(4):
        one = slice(i, i + 1)
        close(made(query[one], memory[one], memory[one], previous=previous[one])[1], together[one])


def test_it_takes_one_query_at_a_time() -> None:
    with pytest.raises(ValueError, match=r"one query at a time, not 2.*previous="):
        head(g=0)(torch.randn(1, 2, 3), MEMORY, MEMORY)


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(attnbench.UsageError, match="max_shift is at least 0, not -1"):
        attnbench.build("attention", "ntm", query_dim=3, key_dim=2, value_dim=2, scoring="cosine", max_shift=-1)


def test_biases_say_how_it_starts() -> None:
    """β = softplus(2), g = sigmoid(-9), and s all for one key on: whatever the query, it walks."""
    options = {"beta_bias": 2.0, "gate_bias": -9.0, "shift_bias": 20.0, "scoring": {"name": "cosine", "beta": 1.0}}
    made = attnbench.build("attention", "ntm", query_dim=3, key_dim=2, value_dim=2, **options)
    given = torch.tensor([0.0, 0.0, 2.0, -9.0, 20.0, 0.0, 0.0, 0.0])
    close(made.head.bias, given, atol=0.1, rtol=0)
    close(look(made, [0.0, 1.0, 0.0, 0.0]), [0.0, 0.0, 1.0, 0.0], atol=0.01, rtol=0)


def test_a_head_may_start_by_staying_where_it_is() -> None:
    options = {"gate_bias": -9.0, "stay_bias": 20.0, "scoring": "cosine"}
    made = attnbench.build("attention", "ntm", query_dim=3, key_dim=2, value_dim=2, max_shift=2, **options)
    close(look(made, [0.0, 1.0, 0.0, 0.0]), [0.0, 1.0, 0.0, 0.0], atol=0.01, rtol=0)


def test_a_head_may_start_by_sharpening() -> None:
    options = {"query_dim": 3, "key_dim": 2, "value_dim": 2, "gate_bias": -9.0, "stay_bias": 20.0, "scoring": "cosine"}
    for gamma_bias, first in ((0.0, 0.66), (20.0, 1.0)):  # .6^γ / (.6^γ + .4^γ), γ = 1 + softplus of the bias
        made = attnbench.build("attention", "ntm", gamma_bias=gamma_bias, **options)
        close(look(made, [0.0, 0.6, 0.4, 0.0]), [0.0, first, 1 - first, 0.0], atol=0.02, rtol=0)
