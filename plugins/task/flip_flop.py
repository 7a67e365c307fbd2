"""Flip-flop: the bit that was written last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attnbench import Draws, Published, Register, Sequences, TokenBatch, TokenTask, hookimpl

WORDS = ("0", "1", "w", "r", "i")
WRITE, READ, IGNORE = 2, 3, 4


class FlipFlop(TokenTask):
    """A memory of one bit (Liu et al. 2023, "Exposing attention glitches", arXiv:2306.00946).

    Instructions, each with a bit behind it: write it, ignore it, or read: the bit behind `r` is the last that was
    written. The first instruction writes, the last reads. `-` is not scored:

        tokens   w 1 i 0 i 1 r 1 w 0 i 1 r
        targets  - - - - - - 1 - - - - - 0
        truth    - - - - - - 1 - - - - - 9

    It tells whether a mechanism forgets what was written before: softmax attention has to single out the last of many
    writes, by position, and errs where they are rarer (`sparse`) or more frequent (`dense`) than it was trained on.

    Args:
        length: tokens in a sequence, two for each instruction, the last bit left out.
        ignore: the share of ignored instructions; reads and writes share the rest.
        width, layers, mlp, conv, positions: of the host: width and blocks; hidden units of the feed-forward, in
            multiples of the width, and inputs that the causal convolution sees, 0 for none.
    """

    # the sparse slice is learned after the trained range
    recipe = TokenTask.recipe_with(max_steps=400, batch_size=32, stop_at_goal=False)
    primary = "error"
    mode = "min"
    goal = 0.0
    over = ("ignore", "length")
    floor = 0.5
    measures = ("error",)
    published = (
        Published("error .069, sparse .403", "Yang et al. 2025, arXiv:2505.16381, table 1", "RoPE, 1 layer, d=64",
                  "2 heads, 512 tokens; trained far longer"),
        Published("error .083, sparse .363", "Yang et al. 2025, arXiv:2505.16381, table 1", "forgetting", "as above"),
        Published("error 0, sparse 1e-6", "Yang et al. 2025, arXiv:2505.16381, table 1", "the PaTH map", "as above"),
    )  # fmt: skip

    def __init__(
        self,
        *,
        length: int = 63,
        ignore: float = 0.8,
        width: int = 64,
        layers: int = 1,
        mlp: int = 0,
        conv: int = 2,
        positions: Literal["none", "learned", "sinusoidal"] = "none",
    ) -> None:
        if length < 3 or length % 2 == 0:
            raise ValueError(
                f"length is odd and at least 3 (the last bit is what is asked), not {length}; try {length + 1}"
            )
        if not 0 <= ignore <= 1:
            raise ValueError(f"ignore is a share, 0 to 1, not {ignore}")
        super().__init__(len(WORDS), width=width, layers=layers, mlp=mlp, conv=conv, positions=positions)
        self.length, self.ignore = length, ignore

    def slices(self) -> Mapping[str, Mapping[str, Any]]:
        """Fewer writes and more of them than in training, as in the paper; and four times the length."""
        return {"sparse": {"ignore": 0.98}, "dense": {"ignore": 0.1}, "longer": {"length": 4 * self.length + 3}}

    def generate(self, draws: Draws) -> Sequences:
        """Draw instructions and bits; behind `r` goes the last bit written."""
        steps = (self.length + 1) // 2
        chance = draws.uniform(steps)
        instruction = torch.where(
            chance < self.ignore, IGNORE, torch.where(chance < (1 + self.ignore) / 2, READ, WRITE)
        )
        instruction[:, 0], instruction[:, -1] = WRITE, READ
        bits = draws.integers(2, steps)
        place = torch.arange(steps).expand(len(draws), -1)
        last = torch.where(instruction == WRITE, place, 0).cummax(dim=1).values
        read = instruction == READ
        bits = torch.where(read, bits.gather(1, last), bits)
        tokens = torch.stack([instruction, bits], dim=-1).flatten(1)
        at_instructions = torch.zeros_like(tokens)
        at_instructions[:, ::2] = 1
        scored = (tokens == READ) & at_instructions.bool()
        truth = torch.where(scored, (2 * last + 1).repeat_interleave(2, dim=1), -1)
        targets = torch.where(scored, bits.repeat_interleave(2, dim=1), 0)
        return Sequences(tokens[:, :-1], targets[:, :-1], scored[:, :-1], truth[:, :-1])

    def measure(self, logits: Float[Tensor, "N V"], batch: TokenBatch) -> Mapping[str, Float[Tensor, " N"]]:
        """error: whether a read is wrong."""
        return {"error": (logits.argmax(dim=-1) != batch.targets[batch.scored]).float()}

    def label(self, token: int) -> str:
        """0, 1, w, r or i."""
        return WORDS[token]


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `flip_flop`."""
    register("flip_flop", FlipFlop)
