"""Three keys and values, and what tests of numbers worked out by hand share."""

import math
from typing import Any

import torch
from torch import Tensor

import attnbench

KEY = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
VALUE = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [4.0, 0.0]]])


def make(name: str, widths: tuple[int, int, int] = (2, 2, 2), **options: Any) -> Any:
    query_dim, key_dim, value_dim = widths
    return attnbench.build("attention", name, query_dim=query_dim, key_dim=key_dim, value_dim=value_dim, **options)


def close(actual: Tensor, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), **tolerance)


def exponents(*scores: float) -> list[float]:
    """Softmax in plain Python."""
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]
