"""The sequences of the three kinds of copying."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from attnbench import Draws, Sequences

BLANK, MARK = 26, 27
Kind = Literal["copy", "selective", "ngram"]


@runtime_checkable
class Sizes(Protocol):
    """The task's options, see there."""

    shortest: int
    longest: int
    blanks: int
    n: int


def copy(draws: Draws, sizes: Sizes) -> Sequences:
    """Return strings, the mark, and the strings again."""
    letters, lengths = _strings(draws, sizes)
    longest, B = sizes.longest, len(draws)
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


def selective(draws: Draws, sizes: Sizes) -> Sequences:
    """Return letters with blanks inserted, and as many marks."""
    count, B = sizes.longest, len(draws)
    letters = draws.integers(26, count)
    places = draws.choose(count + sizes.blanks, count).sort(dim=1).values
    tokens = torch.full((B, 2 * count + sizes.blanks), BLANK).scatter(1, places, letters)
    tokens[:, count + sizes.blanks :] = MARK
    behind = torch.zeros(B, count + sizes.blanks, dtype=torch.long)
    scored = torch.cat([behind.bool(), torch.ones(B, count, dtype=torch.bool)], dim=1)
    return Sequences(tokens, torch.cat([behind, letters], dim=1), scored, torch.cat([behind - 1, places], dim=1))


def ngram(draws: Draws, sizes: Sizes) -> Sequences:
    """Return strings, the mark, and an n-gram of each; of equal ones in it, the last is meant."""
    letters, lengths = _strings(draws, sizes)
    n, B = sizes.n, len(draws)
    start = (draws.uniform(1) * (lengths - n)).long()
    ngrams = letters.gather(1, start + torch.arange(n))
    windows = letters.unfold(1, n, 1)[:, : sizes.longest - n]  # those that a letter follows
    fits = (windows == ngrams.unsqueeze(1)).all(dim=-1)
    place = torch.arange(fits.shape[1])
    found = torch.where(fits & (place + n < lengths), place, -1).amax(dim=1, keepdim=True) + n
    total = sizes.longest + 1 + n
    tokens = torch.full((B, total), BLANK)
    where = torch.arange(total).expand(B, -1)
    padded = torch.cat([letters, torch.zeros(B, total - sizes.longest, dtype=torch.long)], dim=1)
    tokens = torch.where(where < lengths, padded, tokens)
    tokens = torch.where(where == lengths, MARK, tokens).scatter(1, lengths + 1 + torch.arange(n), ngrams)
    scored = where == lengths + n
    targets = torch.where(scored, letters.gather(1, found), 0)
    return Sequences(tokens, targets, scored, torch.where(scored, found, -1))


def _strings(draws: Draws, sizes: Sizes) -> tuple[Tensor, Tensor]:
    lengths = sizes.shortest + draws.integers(sizes.longest - sizes.shortest + 1, 1)
    return draws.integers(26, sizes.longest), lengths


GENERATORS: Mapping[Kind, Callable[[Draws, Sizes], Sequences]] = {"copy": copy, "selective": selective, "ngram": ngram}
