"""The task: its options, data, loss, metrics, and what it shows."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import AttentionMap, MakeAttention, Prediction, Split, Task, UsageError

from . import cache
from .figures import draw_confusion, draw_precision_recall
from .host import LABELS, Host
from .preparation import Preprocessing
from .reviews import Batch, Reviews, fill_in_front
from .vocabulary import PAD, START, UNKNOWN, Vocabulary
from .words import Array, split_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torchmetrics import Metric

SHOWN = 40  # tokens in a line of text, and that are drawn as queries: the last ones
PAD_SIGN, START_SIGN = "·", "▸"
VOCABULARY = "vocabulary.npz"

log = logging.getLogger("attnbench.imdb")


class Imdb(Task):
    """Sentiment of IMDB's film reviews: 25,000 to train on, 25,000 to test on (Maas et al. 2011, ACL).

    By default the attention slot pools a whole review, asked by one learned query: attention=uniform is then the mean
    of the embeddings. With pooling=mean or attention it is self-attention between the tokens. A token is the sum of
    the embeddings of its word, and of the pair and triple of words that end with it.

    Validation is a tenth of the training split, both labels alike, and of films that no training review is about.

    Args:
        archive: an archive of the data set's layout, in place of the download.
        folder: an extracted archive, the folder aclImdb, in place of the download.
        validate_on: films, or test: the test reviews, as old programs do; then nothing is left that was not seen.
        punctuation: whether a mark is a token, or dropped.
        words: rows for words, by frequency, three special ones included; null takes every word of min_counts.
        min_counts: how often a word, a pair, a triple has to stand in the training texts. One number: words alone.
        max_tokens: the last tokens of a review that are read.
        masked: whether padding is hidden. With false every review is made max_tokens long by padding in front, which
            is a token like any other; it goes with min_counts=[1] and row_dropout=0, where nothing else is padding.
        embed_dim: the width of an embedding.
        embed_scale: embeddings begin uniform over -embed_scale..embed_scale; of small ones all words score alike.
        encoder: none, or a bidirectional LSTM of embed_dim in each direction.
        pooling: slot, mean or attention, see above.
        dropout: on the pooled review.
        row_dropout: the share of words, pairs and triples that are left out at each training step.
    """

    recipe = {
        "trainer": {"max_epochs": 3, "batch_size": 64, "gradient_clip": None},
        "optimizer": {"name": "adamw", "lr": 4e-3, "weight_decay": 1e-3},
    }
    primary = "accuracy"
    floor = 0.5
    excused = {"splits": "123 reviews stand in both splits of the data set, which stay as they are"}

    def __init__(
        self,
        *,
        archive: Path | None = None,
        folder: Path | None = None,
        validate_on: Literal["films", "test"] = "films",
        punctuation: bool = True,
        words: int | None = None,
        min_counts: tuple[int, ...] = (2, 3, 4),
        max_tokens: int = 512,
        masked: bool = True,
        embed_dim: int = 64,
        embed_scale: float = 0.3,
        encoder: Literal["none", "bilstm"] = "none",
        pooling: Literal["slot", "mean", "attention"] = "slot",
        dropout: float = 0.4,
        row_dropout: float = 0.5,
    ) -> None:
        if not min_counts or min(min_counts) < 1:
            raise ValueError(f"min_counts={list(min_counts)}: one count for words, then pairs..., each at least 1")
        if max_tokens < 1 or embed_dim < 1 or (words is not None and words < 4):
            raise ValueError(
                f"max_tokens={max_tokens} and embed_dim={embed_dim} are at least 1, words={words} at least 4"
            )
        for name, share in (("dropout", dropout), ("row_dropout", row_dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} is at least 0 and less than 1, not {share}")
        if not embed_scale > 0:
            raise ValueError(f"embed_scale is greater than 0, not {embed_scale}")
        if not masked and (len(min_counts) > 1 or row_dropout > 0):
            raise ValueError("masked=false, which attends to padding, goes with min_counts=[1] and row_dropout=0")
        if archive is not None and folder is not None:
            raise ValueError("archive= and folder= are two ways to say where the reviews are; give one")
        self.archive, self.folder = archive, folder
        self.preprocessing = Preprocessing(punctuation, words, tuple(min_counts), max_tokens, validate_on)
        self.masked = masked
        self.make_host = partial(
            Host, embed_dim=embed_dim, encoder=encoder, pooling=pooling, dropout=dropout, row_dropout=row_dropout,
            masked=masked, embed_scale=embed_scale,
        )  # fmt: skip
        self.vocabulary: Vocabulary | None = None

    def prepare(self) -> None:
        """Fetch, check and encode the reviews, or read what was prepared before."""
        if self.vocabulary is not None:
            self.preprocessing = replace(self.preprocessing, vocabulary=self.vocabulary.digest())
        prepared = cache.prepare(self.preprocessing, self.archive, self.folder, self.vocabulary)
        self.vocabulary = prepared.vocabulary
        self.splits = {split: self._reviews(*arrays) for split, arrays in prepared.splits.items()}
        self.splits.setdefault("val", self.splits["test"])
        across, train, test = prepared.duplicates
        log.info("reviews: %s", {split: len(data) for split, data in self.splits.items()})
        log.info("texts that stand in both official splits: %d; again in train: %d, in test: %d", across, train, test)
        if self.preprocessing.validate_on == "test":
            log.warning("task.validate_on=test: the checkpoint is chosen on the test reviews, as old programs do")

    def _reviews(self, rows: Array, offsets: Array, labels: Array) -> Reviews:
        if not self.masked:
            rows, offsets = fill_in_front(rows, offsets, self.preprocessing.max_tokens)
        return Reviews(rows, offsets, labels)

    def save(self, folder: Path) -> None:
        """Keep the vocabulary with the run."""
        assert self.vocabulary is not None
        with (folder / VOCABULARY).open("wb") as file:
            np.savez_compressed(file, **self.vocabulary.arrays())  # type: ignore[arg-type]

    def restore(self, folder: Path) -> None:
        """Take up the run's vocabulary."""
        try:
            with (folder / VOCABULARY).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                self.vocabulary = Vocabulary.of_arrays({name: file[name] for name in file.files})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(f"{folder / VOCABULARY}: cannot be read: {error}") from error

    def data(self, split: Split) -> Dataset[Any]:
        """Return the split's reviews."""
        return self.splits[split]

    def lengths(self, split: Split) -> Tensor | None:
        """Return the reviews' lengths in tokens; None where all have one length."""
        lengths = self.splits[split].lengths
        return None if bool((lengths == lengths[0]).all()) else lengths

    def question(self, batch: Batch) -> Tensor:
        """Return the words."""
        return batch.rows

    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the classifier."""
        assert self.vocabulary is not None
        return self.make_host(make_attention, self.vocabulary.size, sparse=self.sparse)

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy (nats)."""
        return F.cross_entropy(model(batch)[0], batch.label)

    def metrics(self) -> dict[str, Metric]:
        """accuracy; and, drawn at test, the precision-recall curve and the confusion matrix."""
        from torchmetrics import MeanMetric
        from torchmetrics.classification import BinaryConfusionMatrix, BinaryPrecisionRecallCurve

        return {
            "accuracy": MeanMetric(),
            "precision_recall": BinaryPrecisionRecallCurve(),
            "confusion": BinaryConfusionMatrix(),
        }

    def evaluate(self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric]) -> Float[Tensor, ""]:
        """Classify and compare."""
        logits, _ = model(batch)
        metrics["accuracy"].update((logits.argmax(dim=-1) == batch.label).float())
        positive = logits.softmax(dim=-1)[:, 1]
        for name in ("precision_recall", "confusion"):
            metrics[name].update(positive, batch.label)
        return F.cross_entropy(logits, batch.label)

    def figures(self, values: Mapping[str, Any]) -> dict[str, Figure]:
        """Draw the precision-recall curve and the confusion matrix."""
        precision, recall, _ = (value.cpu().numpy() for value in values["precision_recall"])
        return {
            "precision_recall": draw_precision_recall(precision, recall),
            "confusion": draw_confusion(values["confusion"].cpu().numpy()),
        }

    def maps(self, model: nn.Module, batch: Batch) -> list[AttentionMap]:
        """Return the weight that each word of a review gets: from the one query, or from each of the last tokens."""
        assert isinstance(model, Host)
        if not model.attention.has_weights:
            return []
        logits, weights = model(batch, need_weights=True)
        assert weights is not None
        one = weights.shape[2] == 1
        maps = []
        for i, length in enumerate(batch.lengths.tolist()):
            words = self._words(batch.rows[i, :length])
            title = f"{_answer(logits[i], batch.label[i])}, uniform weight {1 / length:.4f}"
            queries = slice(None) if one else slice(max(0, length - SHOWN), length)
            rows = ["review"] if one else words[queries]
            maps.append(AttentionMap(weights[i, :, queries, :length], rows, words, title=title))
        return maps

    def _words(self, rows: Tensor) -> list[str]:
        assert self.vocabulary is not None
        special = {PAD: PAD_SIGN, START: START_SIGN, UNKNOWN: "?"}
        return [special.get(row) or self.vocabulary.words[row - len(special)] for row in rows[:, 0].tolist()]

    def texts(self, model: nn.Module, batch: Batch) -> list[str]:
        """Say what was answered, and how each review ends."""
        logits, _ = model(batch)
        ends = [" ".join(self._words(rows[rows[:, 0] != PAD])[-SHOWN:]) for rows in batch.rows]
        return [f"{_answer(logits[i], batch.label[i])}: … {end}" for i, end in enumerate(ends)]

    def predict(self, model: nn.Module, text: str) -> Prediction:
        """Classify a review of one's own."""
        assert self.vocabulary is not None and isinstance(model, Host)
        punctuation = self.preprocessing.punctuation
        rows = self.vocabulary.encode(text, punctuation, self.preprocessing.max_tokens)
        batch = self._reviews(rows, np.array([0, len(rows)]), np.array([0]))[[0]]
        logits, weights = model(batch, need_weights=model.attention.has_weights)
        probabilities = logits.softmax(dim=-1)[0]
        answer = int(probabilities.argmax())
        shaded = None
        if weights is not None:  # the mean over the queries; with the words as they were written, known or not
            words = [START_SIGN, *split_words(text, punctuation)][-len(rows) :]
            words = [PAD_SIGN] * (weights.shape[-1] - len(words)) + words
            mean = weights[0].mean(dim=1, keepdim=True)
            shaded = AttentionMap(mean, [LABELS[answer]], words, title=LABELS[answer])
        return Prediction(LABELS[answer], float(probabilities[answer]), shaded)


def _answer(logits: Tensor, label: Tensor) -> str:
    """Say the answer with its probability, and the label."""
    probabilities = logits.detach().softmax(dim=-1)
    answer = int(probabilities.argmax())
    return f"{LABELS[answer]} {float(probabilities[answer]):.3f}, label {LABELS[int(label)]}"
