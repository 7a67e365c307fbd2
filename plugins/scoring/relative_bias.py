"""A learned bias for each distance."""

from __future__ import annotations

import torch
from torch import nn

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.heads import one_width
from attnbench.shapes import KeyPlaces, Keys, Queries, QueryPlaces, ScoreMatrix


class RelativeBias(ScoringFunction):
    """A dot product and a learned bias for each distance (Raffel et al. 2019, arXiv:1910.10683, section 2.1).

    score(q_m, k_n) = q·k / sqrt(D) + b_(n - m), n - m clipped to -max_distance .. max_distance

    T5 learns a bias for each head, in 32 buckets that widen with the distance, and leaves out 1/sqrt(D). Here heads
    share their scoring function, and so the bias, and distances are clipped as in Shaw et al. 2018 (arXiv:1803.02155).
    b begins as in T5, normal with deviation 1/sqrt(D).

    Args:
        max_distance: what is further away has the bias of this distance.

    Raises ValueError when query and key differ in width, or max_distance is not positive.
    """

    positional = True
    excused = {"permutation": "it scores by distance, so that order is the point"}

    def __init__(self, query_dim: int, key_dim: int, *, max_distance: int = 32) -> None:
        super().__init__()
        self.scale: float = one_width("relative_bias", query_dim, key_dim) ** -0.5
        if max_distance < 1:
            raise ValueError(f"max_distance is at least 1, not {max_distance}")
        self.max_distance = max_distance
        self.b = nn.Parameter(self.scale * torch.randn(2 * max_distance + 1))

    def forward(
        self, query: Queries, key: Keys, query_places: QueryPlaces = None, key_places: KeyPlaces = None
    ) -> ScoreMatrix:
        """Score every query against every key."""
        if query_places is None:
            query_places = torch.arange(query.shape[-2], device=query.device)
        if key_places is None:
            key_places = torch.arange(key.shape[-2], device=key.device)
        distance = key_places.unsqueeze(-2) - query_places.unsqueeze(-1)
        bias = self.b[distance.clamp(-self.max_distance, self.max_distance) + self.max_distance]
        return (query * self.scale) @ key.mT + bias


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `relative_bias`."""
    register("relative_bias", RelativeBias)
