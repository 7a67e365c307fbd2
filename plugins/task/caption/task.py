"""The task: its options, data, loss, metrics, and what it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import AttentionMap, MakeAttention, Prediction, Split, Task, UsageError
from attnbench.hosts import Cell, Decoded

from .host import Captioner
from .pictures import Pictures, choose_words, read_folder, read_picture
from .scenes import CANVAS, END, PAD, SIDE, SPECIAL, START, WORDS, Batch, Scenes, read_digits, split_samples

if TYPE_CHECKING:
    from torchmetrics import Metric

GRID = 8  # places, across and down: 64 keys
VOCABULARY = "vocabulary.json"
#: Of the scenes of a split: the stream of random numbers, and how many there are.
STREAMS: Mapping[Split, tuple[int, int]] = {"train": (0, 2**33), "val": (1, 1_000), "test": (2, 5_000)}


class Caption(Task):
    """Captions of images: a grid of features is looked at, word by word (Xu et al. 2015, arXiv:1502.03044).

    By default an image is a scene of handwritten digits, and its caption spells them in reading order:

        . 3 7
        . . 2      three beside seven above two
        . . .

    The digits are scikit-learn's 1,797; those of validation and test are of samples that no training scene holds.
    Training scenes are fresh at each step, a function of (run's seed, step).

    Args:
        least: digits in a scene, at least.
        most: digits in a scene, at most.
        images: read images of one's own, a folder in Flickr8k's layout: Images/ and captions.txt, `image,caption`.
            The metric is then BLEU against all captions of an image.
        size: pixels of such an image, across and down: 16, 32, 64, 128...
        max_words: of a caption of such an image, what follows is cut off.
        min_count: how often a word has to stand in the training captions of such images to be written.
        data_seed: draws validation and test, and shares out the samples; apart from the run's seed, so that seeds
            share them.
        width: of a feature.
        dropout: the share of the filters that are left out at each training step, before the last convolution.
        embed_dim: the width of a word's embedding.
        hidden_dim: half of the decoder's width.
        cell: gru or lstm.

    Raises ValueError when a number is too small, or a size is not 8 times a power of two.
    """

    recipe = {
        "trainer": {"max_steps": 1_400, "batch_size": 64, "val_every": 700, "eval_batch_size": 250},
        "optimizer": {"name": "adamw", "lr": 4e-3, "warmup": 0.1},
    }
    primary = "exact_match"
    stepwise = True
    fresh = True

    def __init__(
        self,
        *,
        least: int = 3,
        most: int = 5,
        images: Path | None = None,
        size: int = 64,
        max_words: int = 20,
        min_count: int = 2,
        data_seed: int = 0,
        width: int = 24,
        dropout: float = 0.05,
        embed_dim: int = 32,
        hidden_dim: int = 64,
        cell: Cell = "gru",
    ) -> None:
        if not 1 <= least <= most <= 9:
            raise ValueError(f"least={least} and most={most}: from 1 to 9 digits, and the least first")
        if min(max_words, min_count, width) < 1:
            raise ValueError(f"{max_words=}, {min_count=} and {width=} are at least 1")
        if size not in (GRID << n for n in range(1, 8)):
            raise ValueError(f"size={size}: expected 16, 32, 64, 128, 256, 512 or 1024")
        self.least, self.most, self.folder, self.data_seed = least, most, images, data_seed
        self.width, self.dropout, self.embed_dim, self.hidden_dim, self.cell = (
            width,
            dropout,
            embed_dim,
            hidden_dim,
            cell,
        )
        self.max_words, self.min_count = max_words, min_count
        self.size, self.length, self.channels = CANVAS, 2 * most, 1
        self.words: Sequence[str] = WORDS
        if images is not None:
            self.size, self.length, self.channels, self.words = size, max_words + 1, 3, ()
            self.primary, self.fresh = "bleu", False

    def prepare(self) -> None:
        """Read the digits, or the images."""
        if self.folder is None:
            samples, labels = read_digits()
            self.splits: dict[Split, Dataset[Batch]] = {}
            for split, chosen in split_samples(labels, self.data_seed).items():
                stream, size = STREAMS[split]
                seed = self.seed if split == "train" else self.data_seed
                digits = samples[chosen], labels[chosen]
                self.splits[split] = Scenes(digits, seed, stream, size, self.least, self.most)
            return
        images = read_folder(self.folder, self.size, self.data_seed)
        self.words = self.words or choose_words(
            [c for _, captions in images["train"].values() for c in captions], self.min_count
        )
        self.splits = {s: Pictures(i, self.words, self.length, each=s == "train") for s, i in images.items()}

    def save(self, folder: Path) -> None:
        """Keep the words of one's own captions with the run."""
        if self.folder is not None:
            (folder / VOCABULARY).write_text(json.dumps(self.words), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Take up the run's words."""
        if self.folder is not None:
            try:
                words = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
                if not isinstance(words, list) or words[: len(SPECIAL)] != list(SPECIAL):
                    raise ValueError(f"expected a list of words that begins with {' '.join(SPECIAL)}")
                self.words = [str(word) for word in words]
            except (OSError, ValueError) as error:
                raise UsageError(f"{folder / VOCABULARY}: cannot be read: {error}") from error

    def data(self, split: Split) -> Dataset[Any]:
        """Return the split's images and captions."""
        return self.splits[split]

    def question(self, batch: Batch) -> Tensor:
        """Return the image."""
        return batch.image

    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the network and the decoder."""
        return Captioner(
            make_attention,
            len(self.words),
            channels=self.channels,
            halvings=(self.size // GRID).bit_length() - 1,
            grid=GRID,
            width=self.width,
            dropout=self.dropout,
            embed_dim=self.embed_dim,
            hidden_dim=self.hidden_dim,
            cell=self.cell,
            pad=PAD,
            start=START,
            end=END,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of each word, knowing those before it (nats)."""
        return F.cross_entropy(
            model(batch.image, batch.caption).flatten(0, 1), batch.caption.flatten(), ignore_index=PAD
        )

    def terms(self, batch: Batch) -> int:
        """Count the words."""
        return int((batch.caption != PAD).sum())

    def metrics(self) -> dict[str, Metric]:
        """exact_match: the share of captions that are right in every word; word_accuracy; bleu of one's own images."""
        from torchmetrics import MeanMetric
        from torchmetrics.text import BLEUScore

        metrics: dict[str, Metric] = {"exact_match": MeanMetric(), "word_accuracy": MeanMetric()}
        return metrics if self.folder is None else {**metrics, "bleu": BLEUScore()}

    def decode(self, model: nn.Module, batch: Batch) -> Batch:
        """Write greedily."""
        return batch._replace(decoded=self._decoded(model, batch))

    def _decoded(self, model: nn.Module, batch: Batch) -> Decoded:
        assert isinstance(model, Captioner)
        return batch.decoded or model.greedy(batch.image, self.length, need_weights=True)

    def evaluate(self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric]) -> Float[Tensor, ""]:
        """Write greedily, and compare: a caption is right if it is one of the image's."""
        written = self._written(self._decoded(model, batch).tokens)
        right = written == batch.caption
        metrics["exact_match"].update((written.unsqueeze(1) == batch.references).all(dim=2).any(dim=1).float())
        metrics["word_accuracy"].update(right[batch.caption != PAD].float())
        if "bleu" in metrics:
            references = [[self._text(r) for r in of_one if r.any()] for of_one in batch.references]
            metrics["bleu"].update([self._text(w) for w in written], references)
        return self.loss(model, batch)

    def _written(self, tokens: Int[Tensor, "B t"]) -> Int[Tensor, "B T"]:
        return F.pad(tokens, (0, self.length - tokens.shape[1]), value=PAD)

    def _text(self, numbers: Tensor) -> str:
        return " ".join(self.words[number] for number in _ended(numbers) if number != END)

    def maps(self, model: nn.Module, batch: Batch) -> list[AttentionMap]:
        """Rows are the words written, keys the places of the grid; the truth is where the digit is that a word names.

        There are none where attention has no weights.
        """
        tokens, weights = self._decoded(model, batch)
        if weights is None:
            return []
        truth = covered(batch.places, self.size)
        return [
            self._map(batch.image[i], tokens[i], weights[i], self._title(batch, tokens, i), truth[i])
            for i in range(len(tokens))
        ]

    def _map(
        self, image: Tensor, tokens: Tensor, weights: Tensor, title: str, truth: Tensor | None = None
    ) -> AttentionMap:
        numbers = _ended(tokens)
        count = len(numbers)
        rows = ["end" if number == END else self.words[number] for number in numbers]
        columns = [f"row {row} column {column}" for row in range(1, GRID + 1) for column in range(1, GRID + 1)]
        truth = None if truth is None or not truth.any() else truth[:count]
        pixels = image.permute(1, 2, 0).squeeze(2) / 255
        return AttentionMap(
            weights[:, :count], rows, columns, title=title, truth=truth, image=pixels, grid=(GRID, GRID)
        )

    def texts(self, model: nn.Module, batch: Batch) -> list[str]:
        """What was written, and what was right if that differs."""
        tokens = self._decoded(model, batch).tokens
        return [self._title(batch, tokens, i) for i in range(len(tokens))]

    def _title(self, batch: Batch, tokens: Tensor, i: int) -> str:
        written, captions = self._text(tokens[i]), [self._text(r) for r in batch.references[i] if r.any()]
        return written if written in captions else f"{written} (wrong: {self._text(batch.caption[i])})"

    def predict(self, model: nn.Module, text: str) -> Prediction:
        """Caption the picture that lies at a path; of digits, dark ones on a light ground are turned to light ones."""
        assert isinstance(model, Captioner)
        path = text.strip()
        image = read_picture(Path(path).expanduser(), self.size, self.channels, f"predict: {path!r}")
        if self.channels == 1 and image.float().median() > 127:
            image = 255 - image
        batch = image.unsqueeze(0).to(model.place.device)
        tokens, weights = model.greedy(batch, self.length, need_weights=True)
        of_each = model(batch, tokens).softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        caption = self._text(tokens[0])
        shown = None if weights is None else self._map(image, tokens[0], weights[0], caption)
        written = of_each[0, : len(_ended(tokens[0]))]
        return Prediction(caption, float(written.prod()), shown, written.tolist())


def _ended(tokens: Int[Tensor, " T"]) -> list[int]:
    """Return the words up to the end, END included where it is there."""
    numbers: list[int] = tokens.tolist()
    return numbers[: numbers.index(END) + 1] if END in numbers else numbers


def covered(places: Int[Tensor, "B T 2"], size: int) -> Bool[Tensor, "B T K"]:
    """Mark the places of the grid of which a digit covers half and more, down and across."""
    patch = size // GRID
    edges = patch * torch.arange(GRID, device=places.device)
    start, there = places.unsqueeze(-1), (places >= 0).all(dim=-1)
    shared = (torch.minimum(start + SIDE, edges + patch) - torch.maximum(start, edges)) * 2 >= patch
    return (shared[..., 0, :, None] & shared[..., 1, None, :]).flatten(2) & there.unsqueeze(-1)
