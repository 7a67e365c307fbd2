"""Local attention: a window around one place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnbench import Attention, MakeScore, Register, append, causal_mask, hide_masked, hookimpl, masked_softmax
from attnbench.shapes import BKD, BKV, BQD, Context, Look, Mask, State


class Local(Attention):
    """A window of 2D + 1 keys around p (Luong, Pham, Manning 2015, arXiv:1508.04025).

    monotonic:  query t looks around p = t; weights = softmax(score) over the window
    predictive: p = S sigmoid(vᵀ tanh(W query)); weights = softmax(score - (s - p)² / 2σ²) over the window, σ = D/2

    s is a key's position and S the place behind the last key that the mask allows. The paper multiplies by the
    Gaussian after the softmax, so that its weights sum to less than one; here its logarithm is added before. A
    monotonic window that would begin behind the last key stays at it.

    Args:
        window: D, how far it sees on either side.
        alignment: monotonic or predictive.

    Raises ValueError when window is not positive.
    """

    positional = True
    excused = {"permutation": "its window is over positions, so that order is the point"}

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        window: int = 10,
        alignment: Literal["monotonic", "predictive"] = "predictive",
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        if window < 1:
            raise ValueError(f"window is at least 1, not {window}")
        self.score = score(query_dim, key_dim)
        self.window = window
        self.predictive = alignment == "predictive"
        if self.predictive:
            self.W = nn.Linear(query_dim, query_dim, bias=False)
            self.v = nn.Linear(query_dim, 1, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend within the window."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        score = partial(self.score, key=key)
        context, weights = self.attend(score, query, value, causal_mask(mask, query, causal))
        return context, weights.unsqueeze(1) if need_weights else None

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Prepare the keys' part of the scores."""
        key, value = hide_masked(None, key, value, mask, widths=self.widths)
        score = self.score.prepare(key)

        def ask(query: Tensor, *, need_weights: bool = True) -> tuple[Tensor, Tensor | None]:
            context, weights = self.attend(score, query, value, mask)
            return context, weights.unsqueeze(1) if need_weights else None

        return ask

    def attend(
        self,
        score: Callable[..., Tensor],
        query: Float[Tensor, "B Q Dq"],
        value: Float[Tensor, "B K Dv"],
        mask: Bool[Tensor, "B #Q K"] | None,
        first: int = 0,
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B Q K"]]:
        """Attend within the window; `score` knows the keys, and `first` is the place of the first query."""
        Q, K = query.shape[1], value.shape[1]
        s = torch.arange(K, device=query.device)
        t = torch.arange(first, first + Q, device=query.device)
        if mask is None or not K:
            last = s.new_full((1, 1, 1), K - 1)
        else:
            last = torch.where(mask, s, 0).amax(dim=-1, keepdim=True)
        scores = score(query, query_places=t, key_places=s) if self.score.positional else score(query)
        if self.predictive:
            aim = self.v(torch.tanh(self.W(query)))
            wide = torch.promote_types(aim.dtype, torch.float32)  # bfloat16 counts to 256
            p = (last + 1) * torch.sigmoid(aim.to(wide))
            scores = scores - ((s - p).square() / (2 * (self.window / 2) ** 2)).to(scores.dtype)
        else:
            p = torch.minimum(t.view(1, Q, 1), last)
        inside = ((s - p).abs() <= self.window).expand(scores.shape)
        weights = masked_softmax(scores, inside if mask is None else inside & mask)
        return weights @ value, weights

    def state_size(self, length: int) -> int:
        """Return the numbers of all keys and values: the window may lie anywhere."""
        return length * (self.widths[1] + self.widths[2])

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Attend for the query at the last place."""
        keys, values = append(state, key, value)
        score = partial(self.score, key=keys)
        context, _ = self.attend(score, query, values, None, first=keys.shape[1] - 1)
        return context, (keys, values)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `local`."""
    register("local", Local)
