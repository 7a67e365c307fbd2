"""Encoded pairs as batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from attnbench.hosts import Decoded

from .vocabulary import END, PAD


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
        references: all translations of each source, words with blanks between.
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


def padded(rows: list[list[int]]) -> Int[Tensor, "N L"]:
    """Put lists side by side."""
    longest = max(map(len, rows), default=0)
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], dtype=torch.int32).view(
        len(rows), longest
    )


def trimmed(rows: Int[Tensor, "B L"]) -> Int[Tensor, "B l"]:
    """Leave out columns of padding."""
    return rows[:, : int((rows != PAD).sum(dim=1).max())]
