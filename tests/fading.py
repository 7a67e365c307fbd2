"""A mechanism whose state runs along the keys, and obeys every law; and one that drops its state every 16 keys."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnbench import Attention, hide_masked, prefix_mask


class Fading(Attention):
    """A state that fades by a tenth with each key, as a matrix: a signed one, of padding and causality alone."""

    masks = "prefix"
    signed = True
    excused: ClassVar[Mapping[str, str]] = {
        "permutation": "it fades from one key to the next, so that order is the point"
    }

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.widths = query_dim, key_dim, value_dim
        self.W = nn.Linear(query_dim, key_dim, bias=False)
        self.out_dim = value_dim

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        padding, causal = prefix_mask(mask, query, key, causal)
        there = key.new_ones(key.shape[:2], dtype=torch.bool) if padding is None else padding
        rank = there.cumsum(dim=1)
        now = rank.unsqueeze(2) if causal else there.sum(dim=1).view(-1, 1, 1)
        seen = there.unsqueeze(1) & (self.reach(key.shape[1], key.device) if causal else True)
        fade = (0.9 ** (now - rank.unsqueeze(1)).clamp(min=0)).to(value.dtype)
        weights = (self.W(query) @ key.mT * fade).masked_fill(~seen, 0.0)
        return weights @ value, weights.unsqueeze(1) if need_weights else None

    def reach(self, length: int, device: torch.device) -> Tensor:
        return torch.ones(length, length, dtype=torch.bool, device=device).tril()


class Dropping(Fading):
    """It drops its state every 16 keys, in all its forms alike."""

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        if not causal and key.shape[1]:
            start = (key.shape[1] - 1) // 16 * 16
            chunk = torch.arange(key.shape[1], device=key.device) >= start
            padding, causal = prefix_mask(mask, query, key, causal)
            if not causal:
                mask = chunk.expand(len(key), 1, -1) if padding is None else (padding & chunk).unsqueeze(1)
        return super().forward(query, key, value, mask, causal=causal, need_weights=need_weights)

    def reach(self, length: int, device: torch.device) -> Tensor:
        chunk = torch.arange(length, device=device) // 16
        return super().reach(length, device) & (chunk.unsqueeze(-1) == chunk)
