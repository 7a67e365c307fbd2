"""Scaled dot-product scores."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from attnbench import Register, ScoringFunction, hookimpl


class ScaledDot(ScoringFunction):
    """Dot product over the root of the width (Vaswani et al. 2017, arXiv:1706.03762).

    score(q, k) = q·k / sqrt(D), which keeps the scores' variance at 1 for independent entries of variance 1.

    Raises ValueError when query and key differ in width.
    """

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        if query_dim != key_dim:
            raise ValueError(
                f"scaled_dot needs query and key of one width, not {query_dim} and {key_dim}; "
                "scoring=bilinear takes any"
            )
        self.scale: float = query_dim**-0.5

    def forward(
        self, query: Float[Tensor, "*#batch Q D"], key: Float[Tensor, "*#batch K D"]
    ) -> Float[Tensor, "*batch Q K"]:
        """Score every query against every key."""
        return (query * self.scale) @ key.mT

    def factor(
        self, query: Float[Tensor, "*#batch Q D"], key: Float[Tensor, "*#batch K D"]
    ) -> tuple[Float[Tensor, "*#batch Q D"], Float[Tensor, "*#batch K D"]]:
        """q' = q / sqrt(D), k' = k."""
        return query * self.scale, key


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `scaled_dot`."""
    register("scaled_dot", ScaledDot)
