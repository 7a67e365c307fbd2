"""Cosine scores with a learnable sharpness."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.heads import one_width
from attnbench.shapes import Keys, Queries, ScoreMatrix


class Cosine(ScoringFunction):
    """Cosine of the angle, sharpened: content addressing (Graves, Wayne, Danihelka 2014, arXiv:1410.5401).

    score(q, k) = β q·k / (|q| |k|), β > 0 learned

    A zero vector scores 0. β is learned as its logarithm (the paper takes a softplus of its controller's output).

    Args:
        beta: β at the start; null takes sqrt(Dk), at which independent entries score as in scaled_dot.

    Raises ValueError when query and key differ in width, or beta is not positive.
    """

    def __init__(self, query_dim: int, key_dim: int, *, beta: float | None = None) -> None:
        super().__init__()
        one_width("cosine", query_dim, key_dim)
        if beta is not None and not beta > 0:
            raise ValueError(f"beta is positive, not {beta}")
        self.log_beta = nn.Parameter(torch.tensor(math.log(key_dim**0.5 if beta is None else beta)))

    def forward(self, query: Queries, key: Keys) -> ScoreMatrix:
        """Score every query against every key."""
        strong = self.log_beta.exp() * unit(query)
        return strong @ key.mT / length(key).mT  # as `factor`, without an array of the keys' size

    def factor(self, query: Queries, key: Keys) -> tuple[Queries, Keys]:
        """q' = β q/|q|, k' = k/|k|."""
        return self.log_beta.exp() * unit(query), unit(key)

    def kernel(self, name: str) -> Mapping[str, Tensor] | None:
        """Offer `cosine`: log_beta, all else being as above."""
        return {"log_beta": self.log_beta} if name == "cosine" and type(self) is Cosine else None


def unit(x: Float[Tensor, "*batch N D"]) -> Float[Tensor, "*batch N D"]:
    """Return vectors of length 1; one shorter than the rounding of its type stays short."""
    return x / length(x)


def length(x: Float[Tensor, "*batch N D"]) -> Float[Tensor, "*batch N 1"]:
    """Return the vectors' lengths, at least the rounding of their type."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.clamp(min=torch.finfo(x.dtype).eps)


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `cosine`."""
    register("cosine", Cosine)
