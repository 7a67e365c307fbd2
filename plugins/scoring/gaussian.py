"""Gaussian scores: kernel regression."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.heads import one_width
from attnbench.shapes import Keys, Queries, ScoreMatrix


class Gaussian(ScoringFunction):
    """Squared distance, whose softmax is kernel regression (Nadaraya 1964; Watson 1964).

    score(q, k) = -|q - k|² / 2σ², σ > 0 learned: the kernel's bandwidth

    The square is expanded, |q|² - 2 q·k + |k|², so that no array of Q x K x D is made; its rounding is that of |q||k|.

    Args:
        bandwidth: σ at the start; null takes Dk^(1/4), at which the term q·k weighs what it does in scaled_dot.

    Raises ValueError when query and key differ in width, or bandwidth is not positive.
    """

    def __init__(self, query_dim: int, key_dim: int, *, bandwidth: float | None = None) -> None:
        super().__init__()
        one_width("gaussian", query_dim, key_dim)
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError(f"bandwidth is positive, not {bandwidth}")
        self.log_bandwidth = nn.Parameter(torch.tensor(math.log(key_dim**0.25 if bandwidth is None else bandwidth)))

    def forward(self, query: Queries, key: Keys) -> ScoreMatrix:
        """Score every query against every key."""
        wide = torch.promote_types(query.dtype, torch.float32)  # in float16 the difference would be of infinities
        q, k = self.factor(query.to(wide), key.to(wide))
        distance = q @ k.mT - 0.5 * self.precision() * query.to(wide).square().sum(dim=-1, keepdim=True)
        return distance.to(query.dtype)

    def factor(
        self, query: Queries, key: Keys
    ) -> tuple[Float[Tensor, "*#batch Q Dq+1"], Float[Tensor, "*#batch K Dk+1"]]:
        """q' = [q; 1] / σ², k' = [k; -|k|²/2]. The term in |q|² is the same for all keys: softmax cancels it."""
        q = torch.cat([query, torch.ones_like(query[..., :1])], dim=-1)
        k = torch.cat(
            [key, (-0.5 * key.square().sum(dim=-1, keepdim=True)).clamp(min=torch.finfo(key.dtype).min)], dim=-1
        )
        return self.precision() * q, k

    def precision(self) -> Float[Tensor, ""]:
        """Return 1/σ²."""
        return torch.exp(-2 * self.log_bandwidth)


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `gaussian`."""
    register("gaussian", Gaussian)
