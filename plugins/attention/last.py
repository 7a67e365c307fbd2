"""The control without attention: the last state."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from attnbench import Attention, Register, causal_mask, hide_masked, hookimpl
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, State


class Last(Attention):
    """The last valid value: a plain encoder-decoder (Sutskever, Vinyals, Le 2014, arXiv:1409.3215).

    context = value at the last position that the mask allows
    """

    baseline = True
    excused = {"permutation": "it takes the last key, so that order is the point"}

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend to the last allowed key."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        if causal and mask is None and not need_weights:
            return value, None
        mask = causal_mask(mask, query, causal)
        B, Q, K = query.shape[0], query.shape[1], key.shape[1]
        allowed = torch.ones(1, 1, K, dtype=torch.bool, device=query.device) if mask is None else mask
        from_behind = allowed.flip(-1).cumsum(dim=-1).flip(-1)
        weights = (allowed & (from_behind == 1)).to(value.dtype).expand(B, Q, K)
        return weights @ value, weights.unsqueeze(1) if need_weights else None

    def state_size(self, length: int) -> int:
        """Return 0: the next token's own value is the last."""
        return 0

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Return the value itself."""
        return value, ()


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `last`."""
    register("last", Last)
