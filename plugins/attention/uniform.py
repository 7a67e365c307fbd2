"""The control without attention: the mean."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from attnbench import Attention, Register, causal_mask, hide_masked, hookimpl, masked_softmax
from attnbench.prefix import widen
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, State


class Uniform(Attention):
    """Mean pooling: looks at every key alike. The baseline that tells what choosing where to look buys.

    context = mean of the values that the mask allows
    """

    baseline = True

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend to all keys alike."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        if causal and mask is None and not need_weights:
            count = torch.arange(1, key.shape[1] + 1, device=value.device).unsqueeze(-1)
            total = value.cumsum(dim=1, dtype=torch.promote_types(value.dtype, torch.float32))
            return (total / count).to(value.dtype), None
        mask = causal_mask(mask, query, causal)
        weights = masked_softmax(query.new_zeros(query.shape[0], query.shape[1], key.shape[1]), mask)
        return weights @ value, weights.unsqueeze(1) if need_weights else None

    def state_size(self, length: int) -> int:
        """Return Dv + 1, for the sum of the values and their number."""
        return self.out_dim + 1

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Return the mean so far."""
        wide = widen(value)  # bfloat16 counts to 256
        one = wide.new_ones(wide.shape[0], 1, 1)
        total, count = (wide, one) if state is None else (state[0] + wide, state[1] + one)
        return (total / count).to(value.dtype), (total, count)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `uniform`."""
    register("uniform", Uniform)
