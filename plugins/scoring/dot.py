"""Dot-product scores."""

from __future__ import annotations

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.heads import one_width
from attnbench.shapes import Keys, Queries, ScoreMatrix


class Dot(ScoringFunction):
    """Dot product (Luong, Pham, Manning 2015, arXiv:1508.04025).

    score(q, k) = q·k

    Raises ValueError when query and key differ in width.
    """

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        one_width("dot", query_dim, key_dim)

    def forward(self, query: Queries, key: Keys) -> ScoreMatrix:
        """Score every query against every key."""
        return query @ key.mT

    def factor(self, query: Queries, key: Keys) -> tuple[Queries, Keys]:
        """q' = q, k' = k."""
        return query, key


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `dot`."""
    register("dot", Dot)
