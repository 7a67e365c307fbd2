"""Encoded pairs as batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from attnbench.hosts import Decoded

from . import vocabulary
from .corpus import References
from .vocabulary import END, PAD

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Batch(NamedTuple):
    """Source [B, S] and target [B, T], which ends with END, padded behind; and all translations of each source.

    With them goes what was written, once it is.
    """

    source: Int[Tensor, "B S"]
    target: Int[Tensor, "B T"]
    references: list[list[str]]
    decoded: Decoded | None = None


class Sentences(Dataset[Batch]):
    """Encoded pairs; a batch is padded to its longest.

    Args:
        sources: the numbers of each.
        targets: likewise.
        references: all translations of each source, words with blanks between, the shortest first.
    """

    def __init__(self, sources: list[list[int]], targets: list[list[int]], references: Sequence[list[str]]) -> None:
        self.lengths = torch.tensor([len(source) for source in sources])
        self.source, self.target = padded(sources), padded([[*target, END] for target in targets])
        self.references = references

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, indices: list[int]) -> Batch:
        source, target = self.source[indices].long(), self.target[indices].long()
        return Batch(trimmed(source), trimmed(target), [self.references[i] for i in indices])


def encode(
    pairs: Sequence[References], vocabularies: tuple[Tokenizer, Tokenizer], seen: set[tuple[int, ...]], *, every: bool
) -> Sentences:
    """Number the words of the sources that are not `seen` once unknown words are one symbol, and add them to it.

    Args:
        pairs: sources with their translations.
        vocabularies: of what is read, and of what is written.
        seen: the numbers of other splits' sources.
        every: whether a source is an example with each of its translations, or with its first.
    """
    numbers = vocabulary.encode(vocabularies[0], [source for source, _ in pairs])
    new = [i for i, source in enumerate(numbers) if tuple(source) not in seen]
    seen.update(map(tuple, numbers))
    kept = [(i, target) for i in new for target in pairs[i][1][: None if every else 1]]
    targets = vocabulary.encode(vocabularies[1], [target for _, target in kept])
    references = {i: sorted(pairs[i][1], key=lambda target: target.count(" ")) for i in new}
    return Sentences([numbers[i] for i, _ in kept], targets, [references[i] for i, _ in kept])


def padded(rows: list[list[int]]) -> Int[Tensor, "N L"]:
    """Put lists side by side."""
    longest = max(map(len, rows), default=0)
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], dtype=torch.int32).view(
        len(rows), longest
    )


def trimmed(rows: Int[Tensor, "B L"]) -> Int[Tensor, "B l"]:
    """Leave out columns of padding."""
    return rows[:, : int((rows != PAD).sum(dim=1).max())]
