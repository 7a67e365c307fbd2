"""Encoded reviews as batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from .vocabulary import PAD
from .words import Array


class Batch(NamedTuple):
    """Rows of the table for each token [B, L, n], how many tokens are real [B], 0 negative or 1 positive [B]."""

    rows: Int[Tensor, "B L n"]
    lengths: Int[Tensor, "B"]
    label: Int[Tensor, "B"]


class Reviews(Dataset[Batch]):
    """Encoded reviews, one after the other; a batch is padded to its longest.

    Args:
        rows: [N, n], of all tokens.
        offsets: where each review begins and the last ends, [R + 1].
        labels: [R].
    """

    def __init__(self, rows: Array, offsets: Array, labels: Array) -> None:
        self.rows, self.offsets, self.labels = (torch.from_numpy(array) for array in (rows, offsets, labels))
        self.lengths = self.offsets.diff()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> Batch:
        chosen = torch.tensor(indices, dtype=torch.long)
        lengths = self.lengths[chosen]
        place = torch.arange(int(lengths.max()))
        rows = self.rows[(self.offsets[chosen].unsqueeze(1) + place).clamp(max=len(self.rows) - 1)]
        rows = rows.masked_fill((place >= lengths.unsqueeze(1)).unsqueeze(-1), PAD)
        return Batch(rows.long(), lengths, self.labels[chosen])


def fill_in_front(rows: Array, offsets: Array, width: int) -> tuple[Array, Array]:
    """Make all reviews `width` tokens long, with PAD in front as a token like any other.

    Args:
        rows: [N, n], of all tokens of reviews that are not longer.
        offsets: where each review begins and the last ends, [R + 1].

    Returns:
        The rows [R · width, n], and the offsets.
    """
    lengths = np.diff(offsets)
    filled = np.full((len(lengths), width, rows.shape[1]), PAD, rows.dtype)
    filled[np.arange(width) >= width - lengths[:, None]] = rows
    return filled.reshape(-1, rows.shape[1]), np.arange(len(offsets)) * width
