"""Induction: what followed this token last time?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from attnbench import Draws, Published, Register, Sequences, TokenTask, hookimpl


class Induction(TokenTask):
    """What stood behind the mark before (Olsson et al. 2022, "Induction heads", arXiv:2209.11895).

    Random letters; a mark `*` stands among them several times, always with the same letter behind it, which is to be
    written at each but the first. `-` is not scored:

        tokens   c * f a b * f c d * f
        targets  - - - - - f - - - f -
        truth    - - - - - 2 - - - 6 -

    It takes two steps, one that brings each letter together with what stands before it and one that looks the mark up:
    two layers, or a convolution and one. It tells whether positions, or a gate that forgets, carry to longer sequences.

    Args:
        letters: how many there are.
        asks: how often the mark stands in the sequence again.
        length: tokens in a sequence.
        width, layers, mlp, conv, positions: of the host: width and blocks; hidden units of the feed-forward, in
            multiples of the width, and inputs that the causal convolution sees, 0 for none.
    """

    recipe = TokenTask.recipe_with(max_steps=400)
    goal = 0.99
    over = ("length",)
    published = (
        Published("solved at 4,000 times the trained length", "Gu, Dao 2023, arXiv:2312.00752, section 4.1",
                  "Mamba, 2 layers, 256 tokens", "16 letters, one question at the end; trained far longer"),
        Published("not solved beyond twice the trained length", "Gu, Dao 2023, arXiv:2312.00752, section 4.1",
                  "softmax attention, absolute, rotary or xPos", "as above"),
    )  # fmt: skip

    def __init__(
        self,
        *,
        letters: int = 16,
        asks: int = 2,
        length: int = 32,
        width: int = 32,
        layers: int = 2,
        mlp: int = 0,
        conv: int = 0,
        positions: Literal["none", "learned", "sinusoidal"] = "none",
    ) -> None:
        if letters < 2 or asks < 1:
            raise ValueError(f"letters is at least 2 and asks at least 1, not {letters} and {asks}")
        if length < 2 * (asks + 1):
            raise ValueError(f"a mark asked {asks} times needs length={2 * (asks + 1)} or more, not {length}")
        super().__init__(letters + 1, width=width, layers=layers, mlp=mlp, conv=conv, positions=positions)
        self.letters, self.asks, self.length = letters, asks, length
        self.floor = 1 / letters

    def slices(self) -> Mapping[str, Mapping[str, Any]]:
        """Two, four and eight times the length."""
        return {f"length{n * self.length}": {"length": n * self.length} for n in (2, 4, 8)}

    def generate(self, draws: Draws) -> Sequences:
        """Draw letters, the places of the mark, no two of them neighbours, and the letter behind it."""
        marks = self.asks + 1
        free = self.length - marks  # places, each mark taken together with the letter behind it
        places = draws.choose(free, marks).sort(dim=1).values + torch.arange(marks)
        tokens = draws.integers(self.letters, self.length)
        letter = draws.integers(self.letters, 1).expand(-1, marks)
        tokens = tokens.scatter(1, places, self.letters).scatter(1, places + 1, letter)
        nothing, asked = torch.zeros_like(tokens), places[:, 1:]
        return Sequences(
            tokens,
            nothing.scatter(1, asked, letter[:, 1:]),
            nothing.bool().scatter(1, asked, True),
            (nothing - 1).scatter(1, asked, places[:, :-1] + 1),
        )

    def label(self, token: int) -> str:
        """A letter, or * for the mark."""
        return "*" if token == self.letters else _letter(token)


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"a{number}"


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `induction`."""
    register("induction", Induction)
