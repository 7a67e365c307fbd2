"""Rotary positions."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.shapes import KeyPlaces, Keys, Queries, QueryPlaces, ScoreMatrix


class RoPE(ScoringFunction):
    """Rotary positions: a dot product that knows how far apart two tokens are (Su et al. 2021, arXiv:2104.09864).

    score(q_m, k_n) = (R_m q)·(R_n k) / sqrt(D) = qᵀ R_(n-m) k / sqrt(D)
    R_m turns the plane of the coordinates (i, i + D/2) by the angle m base^(-2i/D), i = 0 .. D/2 - 1

    The paper pairs the coordinates (2i, 2i + 1); pairing the halves, as GPT-NeoX and Llama do, is the same family of
    functions, with the coordinates in another order. Angles are computed in float32 at least.

    Args:
        base: the planes turn by 1 to about 1/base radians from one token to the next.

    Raises ValueError when query and key differ in width, the width is odd, or base is not above 1.
    """

    positional = True
    excused = {"permutation": "it scores by distance, so that order is the point"}

    def __init__(self, query_dim: int, key_dim: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        if query_dim != key_dim or query_dim % 2:
            raise ValueError(
                f"rope needs query and key of one even width, not {query_dim} and {key_dim}; scoring=bilinear takes any"
            )
        if not base > 1:
            raise ValueError(f"base is above 1, not {base}")
        self.base = base
        self.scale: float = query_dim**-0.5

    def forward(
        self, query: Queries, key: Keys, query_places: QueryPlaces = None, key_places: KeyPlaces = None
    ) -> ScoreMatrix:
        """Score every query against every key."""
        q, k = self.factor(query, key, query_places, key_places)
        return q @ k.mT

    def factor(
        self, query: Queries, key: Keys, query_places: QueryPlaces = None, key_places: KeyPlaces = None
    ) -> tuple[Queries, Keys]:
        """q' = R q / sqrt(D), k' = R k."""
        return self.rotate(query * self.scale, query_places), self.rotate(key, key_places)

    def rotate(
        self, x: Float[Tensor, "*batch L D"], places: Int[Tensor, "*#batch L"] | None
    ) -> Float[Tensor, "*batch L D"]:
        """Return each vector turned by its place's angles."""
        wide = torch.promote_types(x.dtype, torch.float32)
        half = x.shape[-1] // 2
        if places is None:
            places = torch.arange(x.shape[-2], device=x.device)
        frequencies = self.base ** (-torch.arange(half, device=x.device, dtype=wide) / half)
        angles = places.to(wide).unsqueeze(-1) * frequencies
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `rope`."""
    register("rope", RoPE)
