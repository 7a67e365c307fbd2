"""Automatic relevance determination: a Gaussian kernel that learns which dimensions count."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Register, ScoringFunction, hookimpl


class RelevanceKernel(ScoringFunction):
    """A Gaussian kernel with a length scale for each dimension, trained (Neal 1996, "Bayesian Learning", 1.3).

    score(q, k) = -½ Σ_d ((W q)_d - k_d)² / s_d²

    Its softmax is the kernel regression of Nadaraya and Watson (1964), in a metric of its own.

    Args:
        query_dim: Dq, the width of a query.
        key_dim: Dk, the width of a key.
        length_scale: s, where training begins; null takes the root of Dk, which makes the scores about 1 apart.
    """

    def __init__(self, query_dim: int, key_dim: int, *, length_scale: float | None = None) -> None:
        super().__init__()
        begin = key_dim**0.5 if length_scale is None else length_scale
        if begin <= 0:
            raise ValueError(f"length_scale is greater than 0, not {begin}")
        self.W = nn.Identity() if query_dim == key_dim else nn.Linear(query_dim, key_dim, bias=False)
        self.log_scale = nn.Parameter(torch.full((key_dim,), begin).log())

    def forward(
        self, query: Float[Tensor, "*batch Q Dq"], key: Float[Tensor, "*batch K Dk"]
    ) -> Float[Tensor, "*batch Q K"]:
        """Score every query against every key."""
        inverse = (-self.log_scale).exp()
        difference = (self.W(query) * inverse).unsqueeze(-2) - (key * inverse).unsqueeze(-3)
        return -0.5 * difference.square().sum(dim=-1)


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `ard`."""
    register("ard", RelevanceKernel)
