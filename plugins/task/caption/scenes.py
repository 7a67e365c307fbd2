"""Scenes drawn from handwritten digits, and the captions that spell them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from attnbench import Draws, Split
from attnbench.hosts import Decoded
from attnbench.sampling import numpy_generator

#: 1,797 digits of 8 x 8 pixels, 0 to 240: the samples of digit d lie side by side in row d, blank behind the last.
DIGITS = Path(__file__).parent / "digits.png"
SIDE = 8  # pixels of a digit
CELLS = 3  # of a scene, across and down
CELL, MARGIN = 10, 1  # pixels of a cell, and around all of them
CANVAS = CELLS * CELL + 2 * MARGIN
PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("·", "▸", "⏹", "?")
BESIDE, ABOVE = 4, 5
FIRST_DIGIT = 6
WORDS = (
    *SPECIAL, "beside", "above",
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip
SHARES: Mapping[Split, float] = {"test": 0.2, "val": 0.1, "train": 0.7}  # of the samples of digits


class Batch(NamedTuple):
    """Images and what is to be written for them.

    Attributes:
        image: 0 to 255; C is 1 of grey, 3 of colour.
        caption: words, END, PAD behind.
        places: the upper left pixel (down, across) of the digit that each word names; -1 where it names none.
        references: all captions of the image, the one above among them; PAD alone where it has fewer than others.
        decoded: what was written, once it is.
    """

    image: UInt8[Tensor, "B C height width"]
    caption: Int[Tensor, "B T"]
    places: Int[Tensor, "B T 2"]
    references: Int[Tensor, "B R T"]
    decoded: Decoded | None = None


def read_digits() -> tuple[UInt8[Tensor, "N 8 8"], Int[Tensor, " N"]]:
    """Read all samples and their labels."""
    with Image.open(DIGITS) as picture:
        rows = torch.from_numpy(np.array(picture)).view(10, SIDE, -1, SIDE).transpose(1, 2)
    samples, labels = rows.flatten(0, 1), torch.arange(10).repeat_interleave(rows.shape[1])
    there = (samples > 0).flatten(1).any(dim=1)
    return samples[there], labels[there]


def split_samples(labels: Int[Tensor, " N"], seed: int) -> dict[Split, Int[Tensor, " n"]]:
    """Share out the samples: none is in two splits."""
    order = torch.from_numpy(numpy_generator(seed).permutation(len(labels)))
    sizes = [round(share * len(labels)) for share in SHARES.values()]
    parts = torch.split(order, [*sizes[:-1], len(labels) - sum(sizes[:-1])])
    return dict(zip(SHARES, parts, strict=True))


class Scenes(Dataset[Batch]):
    """Scenes of `least` to `most` digits: image i is a function of (seed, stream, i) alone.

        image   . 3 7      caption  three beside seven above two
                . . 2

    Args:
        samples: the digits to draw from, and their labels.
        seed: of the scenes.
        stream: separate from those of other splits.
        size: how many there are.
        least: digits in a scene.
        most: likewise.
    """

    def __init__(
        self,
        samples: tuple[UInt8[Tensor, "n 8 8"], Int[Tensor, " n"]],
        seed: int,
        stream: int,
        size: int,
        least: int,
        most: int,
    ) -> None:
        self.pixels, self.labels = samples
        self.seed, self.stream, self.size, self.least, self.most = seed, stream, size, least, most

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: list[int]) -> Batch:
        draws, most = Draws(self.seed, indices, stream=self.stream), self.most
        absent = torch.arange(most) >= self.least + draws.integers(most - self.least + 1, 1)
        cells = draws.choose(CELLS**2, most).masked_fill(absent, CELLS**2).sort(dim=1).values
        chosen = draws.integers(len(self.labels), most)
        down, across = cells // CELLS, cells % CELLS
        jitter = draws.integers(CELL - SIDE + 1, most, 2)
        corner = MARGIN + CELL * torch.stack([down, across], dim=-1) + jitter
        image = _drawn(self.pixels[chosen], corner, absent)
        caption, places = _written(self.labels[chosen], down, corner, absent)
        return Batch(image, caption, places, caption.unsqueeze(1))


def _drawn(pixels: Tensor, corner: Tensor, absent: Tensor) -> Tensor:
    """Draw digits, [B, D, 8, 8], on scenes, at their upper left pixels."""
    step = torch.arange(SIDE)
    rows, columns = corner[..., :1] + step, corner[..., 1:] + step
    place = CANVAS * rows.unsqueeze(-1) + columns.unsqueeze(-2)
    place = place.masked_fill(absent[..., None, None], CANVAS**2)  # a pixel behind the last, which is dropped
    image = torch.zeros(len(pixels), CANVAS**2 + 1, dtype=torch.uint8)
    image.scatter_(1, place.flatten(1), pixels.flatten(1))
    return image[:, :-1].view(-1, 1, CANVAS, CANVAS)


def _written(labels: Tensor, down: Tensor, corner: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Write digits and what stands between them; END behind the last."""
    same_row = F.pad(down[:, 1:] == down[:, :-1], (0, 1))
    between = torch.where(same_row, BESIDE, ABOVE)
    last = F.pad(absent[:, 1:], (0, 1), value=True) & ~absent
    between = between.masked_fill(last, END).masked_fill(absent, PAD)
    digits = (FIRST_DIGIT + labels).masked_fill(absent, PAD)
    places = corner.masked_fill(absent.unsqueeze(-1), -1)
    nowhere = torch.full_like(places, -1)
    return torch.stack([digits, between], dim=2).flatten(1), torch.stack([places, nowhere], dim=2).flatten(1, 2)
