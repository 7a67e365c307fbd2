"""Associative recall: which value stood behind this key?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from attnbench import Draws, Published, Register, Sequences, TokenTask, hookimpl

BLANK = 0
GAP_POWER = 0.01  # Zoology's `power_a`: keys are asked for soon rather than late


class Recall(TokenTask):
    """Multi-query associative recall (MQAR; Arora et al. 2023, "Zoology", arXiv:2312.04927).

    Pairs of a key and a value, then each key once more, among blanks: its value is to be written. Keys are the tokens
    below half of the vocabulary, values those above. With 2 pairs; `-` is not scored:

        tokens   k3 v9 k5 v7 . . k5 . k3 . . .
        targets  -  -  -  -  - - v7 - v9 - - -
        truth    -  -  -  -  - - 3  - 1  - - -

    It tells what a state can hold: looking back finds any number of pairs, a state of fixed size is full at some. One
    layer finds the value *behind* a key only if something brings the two together: `conv`, a second layer, or
    `layout=stacked`, in which a pair is one token.

    Args:
        pairs: keys to remember, and to be asked for.
        length: tokens in a sequence.
        vocabulary: half of it keys, half of it values; stacked, each pair of them is a token besides.
        layout: interleaved, key and value one after the other; or stacked, a pair is one token.
        updates: how many keys are assigned once more; the last value counts.
        noise: the share of blanks that hold a random token of the vocabulary instead.
        width, layers, mlp, conv, positions: of the host: width and blocks; hidden units of the feed-forward, in
            multiples of the width, and inputs that the causal convolution sees, 0 for none.
    """

    recipe = TokenTask.recipe_with(max_steps=400)
    goal = 0.99
    over = ("pairs", "length")
    published = (
        Published("accuracy 1.00", "Arora et al. 2023, arXiv:2312.04927, figure 2", "attention, 512 tokens, 64 pairs",
                  "2 layers, d=64, vocabulary 8,192; the best of four rates on the test data"),
        Published("accuracy 1.00", "Yang et al. 2024, arXiv:2406.06484, figure 2", "DeltaNet, 512 tokens", "as above"),
        Published("accuracy .22", "Yang et al. 2024, arXiv:2406.06484, figure 2", "GLA, 512 tokens", "as above"),
    )  # fmt: skip

    def __init__(
        self,
        *,
        pairs: int = 8,
        length: int = 32,
        vocabulary: int = 64,
        layout: Literal["interleaved", "stacked"] = "interleaved",
        updates: int = 0,
        noise: float = 0.0,
        width: int = 32,
        layers: int = 1,
        mlp: int = 0,
        conv: int = 2,
        positions: Literal["none", "learned", "sinusoidal"] = "none",
    ) -> None:
        half, stacked = vocabulary // 2, layout == "stacked"
        least = (1 if stacked else 2) * (pairs + updates) + 2 * pairs
        if pairs < 1 or not 0 <= updates <= pairs:
            raise ValueError(f"pairs is at least 1, and updates is 0 to {max(pairs, 0)}, not {pairs} and {updates}")
        if length < least or length % 2:
            raise ValueError(f"{pairs} pairs and {updates} updates need an even length from {least} on, not {length}")
        if half - 1 < pairs:
            raise ValueError(f"{pairs} pairs need vocabulary={2 * pairs + 2} or more, not {vocabulary}")
        if not 0 <= noise <= 1:
            raise ValueError(f"noise is a share, 0 to 1, not {noise}")
        tokens = vocabulary + ((half - 1) * (vocabulary - half) if stacked else 0)
        super().__init__(tokens, width=width, layers=layers, mlp=mlp, conv=conv, positions=positions)
        self.pairs, self.length, self.vocabulary, self.layout = pairs, length, vocabulary, layout
        self.updates, self.noise, self.half, self.stacked = updates, noise, half, stacked
        self.floor = 1 / (vocabulary - half)

    def slices(self) -> Mapping[str, Mapping[str, Any]]:
        """Half and twice the pairs, in half and twice the length; and the same pairs at four times the length."""
        counts = [n for n in (self.pairs // 2, 2 * self.pairs) if 1 <= n < self.half and not self.updates]
        more = {f"pairs{n}": {"pairs": n, "length": max(4 * n, self.length * n // self.pairs)} for n in counts}
        return more | {"longer": {"length": 4 * self.length}}

    def generate(self, draws: Draws) -> Sequences:
        """Draw keys, values, and where each key is asked for: slot i with a probability that falls as i^-0.99."""
        half = self.half
        keys = 1 + draws.choose(half - 1, self.pairs)
        values = half + draws.choose(self.vocabulary - half, self.pairs)
        named, written, last, place = keys, values, values, torch.arange(self.pairs)
        if self.updates:
            named = torch.cat([keys, keys[:, : self.updates]], dim=1)
            written = torch.cat([values, half + draws.integers(self.vocabulary - half, self.updates)], dim=1)
            last = torch.cat([written[:, self.pairs :], values[:, self.updates :]], dim=1)
            place = torch.cat([self.pairs + torch.arange(self.updates), place[self.updates :]])
        if self.stacked:
            context = self.vocabulary + (named - 1) * (self.vocabulary - half) + written - half
        else:
            context, place = torch.stack([named, written], dim=-1).flatten(1), 2 * place + 1
        tokens = self._blanks(draws)
        tokens[:, : context.shape[1]] = context
        slots = (self.length - context.shape[1]) // 2
        near = (GAP_POWER - 1) * torch.arange(1, slots + 1).log()
        asked = context.shape[1] + 2 * (near - (-draws.uniform(slots).log()).log()).topk(self.pairs).indices
        tokens.scatter_(1, asked, keys)
        targets = torch.zeros_like(tokens).scatter_(1, asked, last)
        truth = torch.full_like(tokens, -1).scatter_(1, asked, place.expand(len(draws), -1))
        return Sequences(tokens, targets, truth >= 0, truth)

    def _blanks(self, draws: Draws) -> torch.Tensor:
        if not self.noise:
            return torch.full((len(draws), self.length), BLANK)
        noisy = draws.bernoulli(self.noise, self.length)
        return torch.where(noisy, draws.integers(self.vocabulary, self.length), BLANK)

    def label(self, token: int) -> str:
        """`.` for a blank, k and v with a number, both of a stacked pair."""
        if token >= self.vocabulary:
            key, value = divmod(token - self.vocabulary, self.vocabulary - self.half)
            return f"k{key + 1}v{value + self.half}"
        return "." if token == BLANK else f"{'k' if token < self.half else 'v'}{token}"


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `recall`."""
    register("recall", Recall)
