"""What turns scores into weights, against numbers worked out by hand, bisection and finite differences."""

import math
from typing import Any

import pytest
import torch
from by_hand import close, make
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench import NORMALISERS, masked_entmax15, masked_sparsemax


def test_sparsemax_by_hand() -> None:
    """Of 1, 0.5, -1 the first two stay: tau = (1.5 - 1) / 2 = 0.25. Of 3, 1 one stays."""
    close(masked_sparsemax(torch.tensor([[1.0, 0.5, -1.0]])), [[0.75, 0.25, 0]])
    close(masked_sparsemax(torch.tensor([[3.0, 1.0]])), [[1, 0]])


def test_entmax15_by_hand() -> None:
    """Of 0, 1 (halved 0, 1/2), tau solves tau² + (1/2 - tau)² = 1: tau = (1 - sqrt 7) / 4."""
    tau = (1 - math.sqrt(7)) / 4
    close(masked_entmax15(torch.tensor([[0.0, 1.0]])), [[tau**2, (0.5 - tau) ** 2]])
    close(masked_entmax15(torch.tensor([[5.0, 1.0, 1.0]])), [[1, 0, 0]])


def bisected(scores: Tensor, power: float, scale: float) -> Tensor:
    """Weights max(scale·scores - tau, 0)^power that sum to 1, tau found by halving."""
    z = scores.double() * scale
    low, high = z.amax(-1, keepdim=True) - 1, z.amax(-1, keepdim=True)
    for _ in range(100):
        tau = (low + high) / 2
        over = (z - tau).clamp(min=0).pow(power).sum(-1, keepdim=True) > 1
        low, high = torch.where(over, tau, low), torch.where(over, high, tau)
    return (z - tau).clamp(min=0).pow(power)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=9))
def test_sparse_normalisers_are_what_bisection_finds(scores: list[float]) -> None:
    row = torch.tensor([scores], dtype=torch.float64)
    close(masked_sparsemax(row), bisected(row, 1, 1), atol=1e-8, rtol=0)
    close(masked_entmax15(row), bisected(row, 2, 0.5), atol=1e-8, rtol=0)


def test_entmax15_keeps_its_digits_over_very_many_keys() -> None:
    """A few good keys among 32,768, the others without weight."""
    torch.manual_seed(0)
    scores = torch.full((10, 32_768), -50.0)
    scores[:, 1:4] = -1.9 - 0.1 * torch.rand(10, 3)
    scores[:, 0] = 0
    close(masked_entmax15(scores), bisected(scores, 2, 0.5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("normaliser", sorted(NORMALISERS))
def test_normalisers_have_the_derivatives_of_finite_differences(normaliser: Any) -> None:
    """The second too; rows without a key, with one, and with one that takes all the weight are among them."""
    torch.manual_seed(0)
    scores = torch.randn(3, 4, 6, dtype=torch.float64)
    mask = torch.rand(3, 4, 6) > 0.4
    mask[0, 0], mask[0, 1] = False, torch.arange(6) == 2
    mask[0, 2], scores[0, 2, 3] = True, 6.0
    scores.requires_grad_()
    torch.autograd.gradcheck(lambda x: NORMALISERS[normaliser](x, mask), (scores,))
    torch.autograd.gradgradcheck(lambda x: NORMALISERS[normaliser](x, mask), (scores,))


@pytest.mark.parametrize("normaliser", sorted(NORMALISERS))
@pytest.mark.parametrize("name", ["soft", "multihead"])
def test_a_normaliser_is_taken_with_and_without_weights(name: str, normaliser: str) -> None:
    torch.manual_seed(0)
    attend = make(name, (8, 8, 8), scoring="dot", normaliser=normaliser)
    query, key = 3 * torch.randn(2, 3, 8), 3 * torch.randn(2, 7, 8)
    context, weights = attend(query, key, key)
    close(attend(query, key, key, need_weights=False)[0], context)
    assert bool((weights == 0).any()) == (normaliser in ("sparsemax", "entmax15"))
