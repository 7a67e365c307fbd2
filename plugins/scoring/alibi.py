"""Linear biases."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.heads import one_width
from attnbench.shapes import KeyPlaces, Keys, Queries, QueryPlaces, ScoreMatrix


class ALiBi(ScoringFunction):
    """Attention with linear biases: what is further away scores less (Press, Smith, Lewis 2021, arXiv:2108.12409).

    score_h(q_m, k_n) = q·k / sqrt(D) - slope_h |m - n|,   slope_h = 2^(-8h/H), h = 1 .. H

    The paper is causal, where |m - n| = m - n; without a causal mask this is the symmetric form of its authors' code.
    Heads are the dimension before the queries, of inputs [B, H, Q, D]; of inputs [B, Q, D] there is one, whose slope
    would be 1/256: set `slope` then.

    Args:
        slope: of every head alike; null takes the paper's, head by head.

    Raises ValueError when query and key differ in width, or slope is negative.
    """

    positional = True
    excused = {"permutation": "it scores by distance, so that order is the point"}

    def __init__(self, query_dim: int, key_dim: int, *, slope: float | None = None) -> None:
        super().__init__()
        self.scale: float = one_width("alibi", query_dim, key_dim) ** -0.5
        if slope is not None and not slope >= 0:
            raise ValueError(f"slope is at least 0, not {slope}")
        self.slope = slope

    def forward(
        self, query: Queries, key: Keys, query_places: QueryPlaces = None, key_places: KeyPlaces = None
    ) -> ScoreMatrix:
        """Score every query against every key."""
        if query_places is None:
            query_places = torch.arange(query.shape[-2], device=query.device)
        if key_places is None:
            key_places = torch.arange(key.shape[-2], device=key.device)
        distance = (query_places.unsqueeze(-1) - key_places.unsqueeze(-2)).abs().to(query.dtype)
        # places that differ along the dimension before the queries are of blocks of one sequence, not of heads
        heads = 1 if query.dim() < 4 or distance.dim() > 2 else max(query.shape[-3], key.shape[-3])
        return (query * self.scale) @ key.mT - self.slopes(heads, query) * distance

    def slopes(self, heads: int, like: Tensor) -> Float[Tensor, "H 1 1"] | float:
        """Return the slope of each head."""
        if self.slope is not None or heads == 1:
            return 2.0**-8 if self.slope is None else self.slope
        return torch.exp2(-8 * torch.arange(1, heads + 1, device=like.device, dtype=like.dtype) / heads).view(-1, 1, 1)


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `alibi`."""
    register("alibi", ALiBi)
