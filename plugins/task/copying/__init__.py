"""Copying: whole strings, chosen items, or what followed a few letters."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attnbench import Draws, Published, Register, Sequences, TokenTask, hookimpl

from .strings import GENERATORS, MARK, Kind


class Copying(TokenTask):
    """Copy a string (Jelassi et al. 2024, "Repeat after me", arXiv:2402.01032), or part of one.

    Letters, then a mark `|`, behind which they are to be written again. `-` is not scored:

        copy       tokens   c a b | c a         targets  - - - c a b
        selective  tokens   . c . . a b | | |   targets  - - - - - - c a b
        ngram      tokens   c a b d | a b       targets  - - - - - - d

    Selective copying (Gu, Dao 2023, "Mamba", arXiv:2312.00752) asks for the letters without the blanks between them, in
    their order; ngram for the letter that followed an n-gram. Families of mechanisms change places between them:
    softmax attention copies strings that a state of fixed size cannot hold, gates skip blanks that positions stumble
    over. `sequence_accuracy` counts whole strings.

    Args:
        kind: copy, selective or ngram.
        shortest: letters of the shortest string; selective always has the longest.
        longest: letters of the longest string.
        blanks: of selective, how many are inserted.
        n: of ngram, its length.
        width, layers, mlp, conv, positions: of the host: width and blocks; hidden units of the feed-forward, in
            multiples of the width, and inputs that the causal convolution sees, 0 for none.
    """

    recipe = TokenTask.recipe_with(max_steps=600, val_every=150)
    goal = 0.99
    over = ("longest", "blanks")
    floor = 1 / 26
    whole_sequences = True
    excused = {"splits": "strings of few letters are alike now and then"}
    published = (
        Published("whole strings 1.00", "a replication of Jelassi et al. 2024, arXiv:2402.01032", "Transformer",
                  "32 letters; 12 layers, d=1,024, trained far longer"),
        Published("whole strings .00", "a replication of Jelassi et al. 2024, arXiv:2402.01032", "Mamba-2",
                  "as above"),
        Published("accuracy .998", "Gu, Dao 2023, arXiv:2312.00752, table 1", "Mamba, selective copying",
                  "16 letters among 4,096 tokens, 2 layers, d=64, 400,000 steps"),
    )  # fmt: skip

    def __init__(
        self,
        *,
        kind: Kind = "copy",
        shortest: int = 5,
        longest: int = 10,
        blanks: int = 16,
        n: int = 2,
        width: int = 64,
        layers: int = 2,
        mlp: int = 0,
        conv: int = 2,
        positions: Literal["none", "learned", "sinusoidal"] = "none",
    ) -> None:
        if longest < 1 or (kind != "selective" and not 1 <= shortest <= longest):
            raise ValueError(f"shortest is at least 1 and at most longest, not {shortest} and {longest}")
        if blanks < 0:
            raise ValueError(f"blanks is at least 0, not {blanks}")
        if kind == "ngram" and not 1 <= n < shortest:
            raise ValueError(f"n is at least 1 and below shortest={shortest}, not {n}")
        super().__init__(28, width=width, layers=layers, mlp=mlp, conv=conv, positions=positions)
        self.kind, self.shortest, self.longest, self.blanks, self.n = kind, shortest, longest, blanks, n

    def slices(self) -> Mapping[str, Mapping[str, Any]]:
        """Up to twice and up to four times the letters; of selective, as many times the blanks."""
        if self.kind == "selective":
            return {f"blanks{m * self.blanks}": {"blanks": m * self.blanks} for m in (2, 4) if self.blanks}
        return {
            f"letters{m * self.longest}": {"shortest": m * self.longest // 2 + 1, "longest": m * self.longest}
            for m in (2, 4)
        }

    def generate(self, draws: Draws) -> Sequences:
        """Draw letters, and how many."""
        return GENERATORS[self.kind](draws, self)

    def label(self, token: int) -> str:
        """A letter, `.` for a blank, `|` for the mark."""
        return (string.ascii_lowercase + ".|")[token]

    def answer_length(self, tokens: Sequence[int]) -> int:
        """Return how many letters are left to be written: of a copy, those before the mark that are not behind it."""
        mark = list(tokens).index(MARK) if MARK in tokens else len(tokens)
        return max(1, 2 * mark + 1 - len(tokens)) if self.kind == "copy" else 1


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `copying`."""
    register("copying", Copying)
