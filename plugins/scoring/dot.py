"""Dot-product scores."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from attnbench import Register, ScoringFunction, hookimpl


class Dot(ScoringFunction):
    """Dot product (Luong, Pham, Manning 2015, arXiv:1508.04025).

    score(q, k) = q·k

    Raises ValueError when query and key differ in width.
    """

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        if query_dim != key_dim:
            raise ValueError(
                f"dot needs query and key of one width, not {query_dim} and {key_dim}; scoring=bilinear takes any"
            )

    def forward(
        self, query: Float[Tensor, "*#batch Q D"], key: Float[Tensor, "*#batch K D"]
    ) -> Float[Tensor, "*batch Q K"]:
        """Score every query against every key."""
        return query @ key.mT

    def factor(
        self, query: Float[Tensor, "*#batch Q D"], key: Float[Tensor, "*#batch K D"]
    ) -> tuple[Float[Tensor, "*#batch Q D"], Float[Tensor, "*#batch K D"]]:
        """q' = q, k' = k."""
        return query, key


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `dot`."""
    register("dot", Dot)
