"""Images of one's own with their captions, in Flickr8k's layout; and how any picture becomes an image of the task."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from attnbench import Split, UsageError
from attnbench.sampling import numpy_generator

from .scenes import END, PAD, SPECIAL, UNKNOWN, Batch

SHARES: Mapping[Split, float] = {"test": 0.1, "val": 0.1}  # of the images; at least one in each split


def read_picture(path: Path, size: int, channels: int, where: str) -> UInt8[Tensor, "channels size size"]:
    """Read a picture, squeezed to a square, grey with one channel and in colour with three.

    Raises:
        UsageError: it cannot be read as a picture; the message begins with `where`.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.array(
                picture.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BOX)
            )
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{where}: cannot be read as a picture: {reason}") from error
    return torch.from_numpy(pixels).view(size, size, -1).permute(2, 0, 1).contiguous()


def split_words(caption: str) -> list[str]:
    """Return the words of a caption, in lower case."""
    return re.findall(r"[\w']+", caption.lower())


def read_captions(folder: Path) -> dict[str, list[list[str]]]:
    """Read captions.txt, lines `image,caption` under a header: the words of each caption by the image's name.

    Raises:
        UsageError: there is none, it cannot be read, or a line is malformed: which, and how.
    """
    path, captions = folder / "captions.txt", dict[str, list[list[str]]]()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            if next(lines, None) != ["image", "caption"]:
                raise UsageError(f"task.images={folder}: {path.name} begins with the line `image,caption`")
            for line in lines:
                if len(line) != 2 or not line[0] or not split_words(line[1]):
                    raise UsageError(f"{path}, line {lines.line_num}: expected `image,caption`, got {','.join(line)!r}")
                captions.setdefault(line[0], []).append(split_words(line[1]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"task.images={folder}: {path.name} cannot be read: {reason}") from error
    return captions


def read_folder(folder: Path, size: int, seed: int) -> dict[Split, dict[str, tuple[Tensor, list[list[str]]]]]:
    """Read the images of FOLDER/Images that captions.txt names, each with its captions, and share them out.

    Equal images are in one split.

    Raises:
        UsageError: something cannot be read, or there are fewer than three different images.
    """
    captions, alike = read_captions(folder), dict[bytes, list[str]]()
    images = {name: read_picture(p := folder / "Images" / name, size, 3, str(p)) for name in captions}
    for name, image in images.items():
        alike.setdefault(image.numpy().tobytes(), []).append(name)
    if len(alike) < 3:
        raise UsageError(f"task.images={folder}: {len(alike)} different images; three splits need at least 3")
    groups = [list(alike.values())[i] for i in numpy_generator(seed).permutation(len(alike))]
    splits: dict[Split, dict[str, tuple[Tensor, list[list[str]]]]] = {}
    for split, share in SHARES.items():
        count = max(1, round(share * len(alike)))
        splits[split] = {name: (images[name], captions[name]) for group in groups[:count] for name in group}
        groups = groups[count:]
    return {**splits, "train": {name: (images[name], captions[name]) for group in groups for name in group}}


def choose_words(captions: Sequence[Sequence[str]], least: int) -> list[str]:
    """Return the vocabulary: the special words, then those that occur at least so often, the most frequent first."""
    counts = Counter(word for caption in captions for word in caption)
    return [*SPECIAL, *(word for word, count in sorted(counts.items(), key=lambda p: (-p[1], p[0])) if count >= least)]


class Pictures(Dataset[Batch]):
    """Images with their captions.

    Args:
        images: an image and its captions, by name.
        words: the vocabulary.
        length: words of a caption that are kept, END among them.
        each: whether each caption is an example; else each image is one, with its first.
    """

    def __init__(
        self,
        images: Mapping[str, tuple[UInt8[Tensor, "C size size"], list[list[str]]]],
        words: Sequence[str],
        length: int,
        *,
        each: bool,
    ) -> None:
        index = {word: number for number, word in enumerate(words)}
        self.images = torch.stack([image for image, _ in images.values()])
        most = max(len(captions) for _, captions in images.values())
        self.captions = torch.full((len(images), most, length), PAD)
        self.examples: list[tuple[int, int]] = []
        for i, (_, captions) in enumerate(images.values()):
            for j, caption in enumerate(captions):
                numbers = [*(index.get(word, UNKNOWN) for word in caption[: length - 1]), END]
                self.captions[i, j, : len(numbers)] = torch.tensor(numbers)
                if each or j == 0:
                    self.examples.append((i, j))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: list[int]) -> Batch:
        i, j = torch.tensor([self.examples[index] for index in indices]).view(-1, 2).unbind(1)
        caption = self.captions[i, j]
        return Batch(self.images[i], caption, torch.full((*caption.shape, 2), -1), self.captions[i])
