"""Counting: how often has this letter been seen?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from attnbench import Draws, Register, Sequences, TokenTask, UsageError, hookimpl

START = 0


class Count(TokenTask):
    """How often has this letter been seen so far? (the histogram task of Weiss et al. 2021, arXiv:2106.06981)

    For instance 5 letters of 2, behind the start `.`:

        tokens   . a b a a b
        targets  - 1 1 2 3 2

    Attention that holds to the start and to equal letters gives the start 1/(n + 1). A mean over everything comes near:
    it has the share of each letter and of the start. Who sees the present letter alone guesses.

    Args:
        length: letters in an example.
        letters: how many different ones.
        width: of the host.
        mlp: hidden units of the feed-forward, in multiples of the width.
    """

    goal = 0.99

    def __init__(self, *, length: int = 16, letters: int = 4, width: int = 32, mlp: int = 4) -> None:
        if not 2 <= letters <= 26 or length < 2:
            raise ValueError(f"letters={letters} is in 2..26, and length={length} at least 2")
        super().__init__(1 + max(26, length), width=width, mlp=mlp)  # letters and numbers share the tokens
        self.length, self.letters = length, letters

    def slices(self) -> Mapping[str, Mapping[str, Any]]:
        """Shorter rows, of smaller numbers."""
        return {"shorter": {"length": max(2, self.length // 2)}}

    def generate(self, draws: Draws) -> Sequences:
        """Draw letters, and count them."""
        letters = 1 + draws.integers(self.letters, self.length)
        counts = (letters.unsqueeze(1) == letters.unsqueeze(2)).tril().sum(dim=2)
        start = torch.full_like(letters[:, :1], START)
        targets = torch.cat([start, counts], dim=1)
        return Sequences(torch.cat([start, letters], dim=1), targets, targets > 0)

    def label(self, token: int) -> str:
        """Letters, and the start."""
        return "." if token == START else chr(ord("a") + token - 1)

    def encode(self, text: str) -> list[int]:
        """Read a row of letters, such as `abaab`."""
        known = [chr(ord("a") + letter) for letter in range(self.letters)]
        if unknown := [letter for letter in text.strip() if letter not in known]:
            raise UsageError(f"predict: {unknown[0]!r} is no letter here; there are: {' '.join(known)}")
        return [START, *(1 + known.index(letter) for letter in text.strip())]


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `count`."""
    register("count", Count)
