"""Sliding-window attention: each query sees its neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from attnbench import (
    Attention,
    MakeScore,
    Register,
    append,
    attend,
    hide_masked,
    hookimpl,
)
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, State

SMALLEST = 16  # queries in a block: fewer make the products too small to be fast


class SlidingWindow(Attention):
    """Query i sees the keys i - window to i + window (Beltagy, Peters, Cohan 2020, arXiv:2004.05150).

    weights = softmax over the keys j with |i - j| <= window of score(query_i, key_j)
    context = weights · value

    Of the paper's patterns this is the window: no dilation, no global tokens.

    Queries are taken in blocks, and a block is scored against the keys that one of it may see: the cost is linear in
    the length, with causal=True too, unless weights are asked for. With causal=True a query sees itself and `window`
    keys behind it. A query further than `window` behind the last key sees nothing, and gets zeros.

    Args:
        window: how far it sees on either side; 0 sees its own place alone.

    Raises ValueError when window is negative.
    """

    positional = True
    excused = {"permutation": "its window is over positions, so that order is the point"}

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: MakeScore, *, window: int = 16) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        if window < 0:
            raise ValueError(f"window is at least 0, not {window}")
        self.score = score(query_dim, key_dim)
        self.window = window

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend within the window; a scoring function that factors runs on a fused kernel."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        B, queries, keys = query.shape[0], query.shape[1], key.shape[1]
        if not (B and queries and keys):
            none = query.new_zeros(B, queries, keys)
            return none @ value, none.unsqueeze(1) if need_weights else None
        # an exported program serves any length
        window = self.window if torch.compiler.is_exporting() else min(self.window, max(queries, keys))
        size = max(window, SMALLEST)
        seen = size + 2 * window  # keys, by the queries of one block
        count = -(-queries // size)
        behind = count * size + window - keys
        query_BNSD = F.pad(query, (0, 0, 0, count * size - queries)).view(B, count, size, query.shape[-1])
        key_BNWD, value_BNWD = (F.pad(x, (0, 0, window, behind)).unfold(1, seen, size).mT for x in (key, value))
        first = torch.arange(count, device=query.device).view(-1, 1, 1) * size
        i = first + torch.arange(size, device=query.device).unsqueeze(-1)
        j = first + torch.arange(-window, size + window, device=query.device)
        ahead = 0 if causal else window
        allowed = (i - j <= window) & (j - i <= ahead) & (j >= 0) & (j < keys)
        allowed = allowed.expand(B, -1, -1, -1)
        if mask is not None and mask.shape[1] == 1:
            allowed = allowed & F.pad(mask, (window, behind)).unfold(-1, seen, size).transpose(1, 2)
        elif mask is not None:
            rows = F.pad(mask, (0, 0, 0, count * size - queries)).view(B, count, size, keys)
            allowed = allowed & rows.gather(-1, j.clamp(0, keys - 1).expand(B, -1, size, -1))
            hidden = ~allowed.any(dim=-2).unsqueeze(-1)  # of those, the ones that only queries elsewhere may attend
            key_BNWD, value_BNWD = (x.masked_fill(hidden, 0.0) for x in (key_BNWD, value_BNWD))
        context, weights = attend(
            self.score,
            query_BNSD,
            key_BNWD,
            value_BNWD,
            allowed,
            need_weights=need_weights,
            query_places=i.squeeze(-1),
            key_places=j.squeeze(-2),
        )
        context = context.flatten(1, 2)[:, :queries]
        if weights is None:
            return context, None
        band = weights.new_zeros(B, count, size, window + keys + max(behind, 0))
        band = band.scatter(-1, (j + window).expand_as(weights), weights).flatten(1, 2)
        return context, band[:, None, :queries, window : window + keys]

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Attend to the window, and keep what the next query sees of it."""
        count = None if state is None or not self.score.positional else state[2]
        keys, values = append(state, key, value)
        now = key.new_zeros(1, dtype=torch.long) if count is None else count[0].long()
        behind = torch.arange(1 - keys.shape[1], 1, device=key.device)
        context, _ = attend(
            self.score, query, keys, values, need_weights=False, query_places=now, key_places=now + behind
        )
        held = tuple(x[:, max(0, x.shape[1] - self.window) :] for x in (keys, values))
        return context, (*held, (now + 1).expand(key.shape[0], 1)) if self.score.positional else held

    def state_size(self, length: int) -> int:
        """Return the numbers of the window's keys and values, and one for the place of a positional score."""
        return min(length, self.window) * (self.widths[1] + self.widths[2]) + int(self.score.positional)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `sliding_window`."""
    register("sliding_window", SlidingWindow)
