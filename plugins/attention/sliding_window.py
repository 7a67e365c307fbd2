"""Sliding-window attention: each query sees its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor

from attnbench import Attention, MakeScore, Register, check_mask, hide_masked, hookimpl, masked_softmax


class SlidingWindow(Attention):
    """Query i sees the keys i - window to i + window (Beltagy, Peters, Cohan 2020, arXiv:2004.05150).

    weights = softmax over the keys j with |i - j| <= window of score(query_i, key_j)
    context = weights · value

    The window is a mask, and meets the mask that is given: with a causal one, a query sees itself and `window` keys
    behind it. It shows what the window does to quality; the cost stays that of all pairs. A query further than
    `window` behind the last key sees nothing, and is given zeros.

    Args:
        query_dim: Dq, the width of a query.
        key_dim: Dk, the width of a key.
        value_dim: Dv, the width of a value and of the context.
        score: makes the scoring function.
        window: how far it sees on either side; 0 sees its own place alone.

    Raises ValueError when window is negative.
    """

    positional = True
    excused: ClassVar[Mapping[str, str]] = {"permutation": "its window is over positions, so that order is the point"}

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: MakeScore, *, window: int = 16) -> None:
        super().__init__()
        if window < 0:
            raise ValueError(f"window is at least 0, not {window}")
        self.score = score(query_dim, key_dim)
        self.window = window
        self.out_dim = value_dim

    def forward(
        self,
        query: Float[Tensor, "B Q Dq"],
        key: Float[Tensor, "B K Dk"],
        value: Float[Tensor, "B K Dv"],
        mask: Bool[Tensor, "B #Q K"] | None = None,
        *,
        previous: Float[Tensor, "B 1 Q K"] | None = None,
        need_weights: bool = True,
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend within the window; a scoring function that factors runs on a fused kernel."""
        check_mask(mask, query.shape[-2], key.shape[-2])
        i = torch.arange(query.shape[1], device=query.device).unsqueeze(-1)
        j = torch.arange(key.shape[1], device=query.device)
        near = ((i - j).abs() <= self.window).expand(query.shape[0], -1, -1)
        allowed = near if mask is None else near & mask
        key, value = hide_masked(allowed, key, value)
        if not need_weights and (factors := self.score.factor(query, key)) is not None:
            return F.scaled_dot_product_attention(*factors, value, attn_mask=allowed, scale=1.0), None
        weights = masked_softmax(self.score(query, key), allowed)
        return weights @ value, weights.unsqueeze(1) if need_weights else None


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `sliding_window`."""
    register("sliding_window", SlidingWindow)
