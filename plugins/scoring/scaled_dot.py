"""Scaled dot-product scores."""

from __future__ import annotations

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.heads import one_width
from attnbench.shapes import Keys, Queries, ScoreMatrix


class ScaledDot(ScoringFunction):
    """Dot product over the root of the width (Vaswani et al. 2017, arXiv:1706.03762).

    score(q, k) = q·k / sqrt(D), which keeps the scores' variance at 1 for independent entries of variance 1.

    Raises ValueError when query and key differ in width.
    """

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        self.scale: float = one_width("scaled_dot", query_dim, key_dim) ** -0.5

    def forward(self, query: Queries, key: Keys) -> ScoreMatrix:
        """Score every query against every key."""
        return (query * self.scale) @ key.mT

    def factor(self, query: Queries, key: Keys) -> tuple[Queries, Keys]:
        """q' = q / sqrt(D), k' = k."""
        return query * self.scale, key


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `scaled_dot`."""
    register("scaled_dot", ScaledDot)
