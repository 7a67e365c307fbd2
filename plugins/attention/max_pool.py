"""The control that keeps what stands out."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from attnbench import Attention, Register, causal_mask, hide_masked, hookimpl
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, State


class MaxPool(Attention):
    """Max pooling: in each feature the largest value, whatever is asked; a baseline, the analogue of saliency.

    context_d = max over the keys that the mask allows of value_d
    weights = the share of features that a key had the largest value in

    Its context is not weights · value: each feature has a place of its own.
    """

    excused = {"mixing": "each feature has a place of its own"}

    baseline = True

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Take the largest."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        B, Q, K = query.shape[0], query.shape[1], key.shape[1]
        if causal and mask is None and K and not need_weights:
            return value.cummax(dim=1).values, None
        mask = causal_mask(mask, query, causal)
        if not K:
            return query.new_zeros(B, Q, self.out_dim), query.new_zeros(B, 1, Q, K) if need_weights else None
        value_BqKD = value.unsqueeze(1)
        if mask is not None:
            value_BqKD = value_BqKD.masked_fill(~mask.unsqueeze(-1), -math.inf)
        context, place = value_BqKD.max(dim=2)
        empty = None if mask is None else ~mask.any(dim=-1, keepdim=True)
        if empty is not None:
            context = context.masked_fill(empty, 0.0)
        if not need_weights:
            return context.expand(B, Q, -1), None
        position = torch.arange(K, device=value.device).unsqueeze(-1)
        weights = (place.unsqueeze(-2) == position).to(value.dtype).mean(dim=-1)
        if empty is not None:
            weights = weights.masked_fill(empty, 0.0)
        return context.expand(B, Q, -1), weights.expand(B, Q, K).unsqueeze(1)

    def state_size(self, length: int) -> int:
        """Return Dv, for the largest of each feature so far."""
        return self.out_dim

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Take the largest so far."""
        largest = value if state is None else torch.maximum(state[0], value)
        return largest, (largest,)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `max_pool`."""
    register("max_pool", MaxPool)
