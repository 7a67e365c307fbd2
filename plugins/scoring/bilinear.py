"""Bilinear scores."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.shapes import Keys, Queries, ScoreMatrix


class Bilinear(ScoringFunction):
    """A learned bilinear form (Luong, Pham, Manning 2015, arXiv:1508.04025, there "general").

    score(q, k) = qᵀ W k, W of shape [Dq, Dk]
    """

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        self.W = nn.Linear(query_dim, key_dim, bias=False)

    def forward(self, query: Queries, key: Keys) -> ScoreMatrix:
        """Score every query against every key."""
        projected: Tensor = self.W(query)
        return projected @ key.mT

    def factor(self, query: Queries, key: Keys) -> tuple[Float[Tensor, "*#batch Q Dk"], Float[Tensor, "*#batch K Dk"]]:
        """q' = Wᵀ q, k' = k."""
        return self.W(query), key


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `bilinear`."""
    register("bilinear", Bilinear)
