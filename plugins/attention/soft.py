"""Soft attention: any scoring function, a softmax, a weighted sum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from attnbench import (
    UNNORMALISED,
    Attention,
    MakeScore,
    Normaliser,
    Register,
    append,
    attend,
    hide_masked,
    hookimpl,
    prepare,
)
from attnbench.shapes import BKD, BKV, BQD, Context, Look, Mask, State


class Soft(Attention):
    """A weighted mean of the values, without projections (Bahdanau, Cho, Bengio 2014, arXiv:1409.0473).

    weights = softmax over the keys of score(query, key)
    context = weights · value

    With scoring=dot and one query this is the Attention of "Deep Learning from Scratch 2" (ch. 8), and with all the
    decoder's queries at once its TimeAttention.

    Args:
        normaliser: softmax; sparsemax or entmax15, which give most keys no weight at all; softmax1 or sigmoid, whose
            weights need not sum to one.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        normaliser: Normaliser = "softmax",
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.score = score(query_dim, key_dim)
        self.positional = self.score.positional
        self.normaliser, self.signed = normaliser, normaliser in UNNORMALISED

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend; a scoring function that factors runs on a fused kernel when no weights are needed."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        context, weights = attend(
            self.score,
            query,
            key,
            value,
            mask,
            causal=causal,
            need_weights=need_weights,
            normaliser=self.normaliser,
        )
        return context, None if weights is None else weights.unsqueeze(1)

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Prepare the keys' part of the scores."""
        key, value = hide_masked(None, key, value, mask, widths=self.widths)
        look = prepare(self.score, self.widths[0], key, value, mask, normaliser=self.normaliser)

        def ask(query: Tensor, *, need_weights: bool = True) -> tuple[Tensor, Tensor | None]:
            context, weights = look(query, need_weights=need_weights)
            return context, None if weights is None else weights.unsqueeze(1)

        return ask

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Attend to all keys so far."""
        keys, values = append(state, key, value)
        now = torch.full((1,), keys.shape[1] - 1, device=query.device)
        context, _ = attend(
            self.score, query, keys, values, need_weights=False, normaliser=self.normaliser, query_places=now
        )
        return context, (keys, values)

    def state_size(self, length: int) -> int:
        """Return the numbers of all keys and values."""
        return length * (self.widths[1] + self.widths[2])


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `soft`."""
    register("soft", Soft)
