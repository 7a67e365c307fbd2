"""Copying: whole strings, chosen items, or what followed a few letters."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attnbench import Draws, Published, Register, Sequences, TokenTask, UsageError, hookimpl

BLANK, MARK = 26, 27
Kind = Literal["copy", "selective", "ngram"]


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
        blanks: of selective, how many are strewn in.
        n: of ngram, how many letters are given.
        width: of the host.
        layers: of the host.
        mlp: of the host's feed-forward, in multiples of the width; 0 for none.
        conv: how many inputs the host's causal convolution sees; 0 for none.
        positions: none, learned or sinusoidal.
    """

    recipe: ClassVar[Mapping[str, Any]] = {
        **TokenTask.recipe,
        "trainer": {"max_steps": 600, "batch_size": 64, "val_every": 150, "eval_batch_size": 250},
    }
    goal = 0.99
    over = ("longest", "blanks")
    floor = 1 / 26
    whole_sequences = True
    published: ClassVar[tuple[Published, ...]] = (
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
        return GENERATORS[self.kind](self, draws)

    def copy(self, draws: Draws) -> Sequences:
        """Return strings, the mark, and the strings again."""
        letters, lengths = self._strings(draws)
        longest, B = self.longest, len(draws)
        place = torch.arange(2 * longest).expand(B, -1)
        source = (place - lengths - 1).clamp(0, longest - 1)  # the letter that stands at a place behind the mark
        again = letters.gather(1, source)
        first = torch.cat([letters, letters], dim=1)
        tokens = torch.where(place < lengths, first, torch.where(place == lengths, MARK, again))
        following = (place - lengths).clamp(0, longest - 1)
        scored = (place >= lengths) & (place < 2 * lengths)
        targets = torch.where(scored, letters.gather(1, following), 0)
        tokens = torch.where(place < 2 * lengths, tokens, BLANK)
        return Sequences(tokens, targets, scored, torch.where(scored, following, -1))

    def selective(self, draws: Draws) -> Sequences:
        """Return letters strewn among blanks, and as many marks."""
        count, B = self.longest, len(draws)
        letters = draws.integers(26, count)
        places = draws.choose(count + self.blanks, count).sort(dim=1).values
        tokens = torch.full((B, 2 * count + self.blanks), BLANK).scatter(1, places, letters)
        tokens[:, count + self.blanks :] = MARK
        behind = torch.zeros(B, count + self.blanks, dtype=torch.long)
        scored = torch.cat([behind.bool(), torch.ones(B, count, dtype=torch.bool)], dim=1)
        return Sequences(tokens, torch.cat([behind, letters], dim=1), scored, torch.cat([behind - 1, places], dim=1))

    def ngram(self, draws: Draws) -> Sequences:
        """Return strings, the mark, and an n-gram of each; of equal ones in it, the last is meant."""
        letters, lengths = self._strings(draws)
        n, B = self.n, len(draws)
        start = (draws.uniform(1) * (lengths - n)).long()
        given = letters.gather(1, start + torch.arange(n))
        windows = letters.unfold(1, n, 1)[:, : self.longest - n]  # those that a letter follows
        fits = (windows == given.unsqueeze(1)).all(dim=-1)
        place = torch.arange(fits.shape[1])
        found = torch.where(fits & (place + n < lengths), place, -1).amax(dim=1, keepdim=True) + n
        total = self.longest + 1 + n
        tokens = torch.full((B, total), BLANK)
        where = torch.arange(total).expand(B, -1)
        padded = torch.cat([letters, torch.zeros(B, total - self.longest, dtype=torch.long)], dim=1)
        tokens = torch.where(where < lengths, padded, tokens)
        tokens = torch.where(where == lengths, MARK, tokens).scatter(1, lengths + 1 + torch.arange(n), given)
        scored = where == lengths + n
        targets = torch.where(scored, letters.gather(1, found), 0)
        return Sequences(tokens, targets, scored, torch.where(scored, found, -1))

    def _strings(self, draws: Draws) -> tuple[Tensor, Tensor]:
        lengths = self.shortest + draws.integers(self.longest - self.shortest + 1, 1)
        return draws.integers(26, self.longest), lengths

    def label(self, token: int) -> str:
        """A letter, `.` for a blank, `|` for the mark."""
        return (string.ascii_lowercase + ".|")[token]

    def encode(self, text: str) -> list[int]:
        """Read `cab|`; with kind=selective blanks are dots; with kind=ngram the n-gram stands behind the mark."""
        for letter in "".join(text.split()):
            if letter not in string.ascii_lowercase + ".|":
                raise UsageError(f"{letter!r}: type letters a to z, . for a blank and | for the mark, such as cab|")
        return [(string.ascii_lowercase + ".|").index(letter) for letter in "".join(text.split())]

    def answer_length(self, tokens: Sequence[int]) -> int:
        """Return how many letters are left to be written: of a copy, those before the mark that are not behind it."""
        mark = list(tokens).index(MARK) if MARK in tokens else len(tokens)
        return max(1, 2 * mark + 1 - len(tokens)) if self.kind == "copy" else 1


GENERATORS: Mapping[Kind, Callable[[Copying, Draws], Sequences]] = {
    "copy": Copying.copy,
    "selective": Copying.selective,
    "ngram": Copying.ngram,
}


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `copying`."""
    register("copying", Copying)
