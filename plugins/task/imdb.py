"""Sentiment of film reviews: words in, positive or negative out."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import (
    AttentionMap,
    MakeAttention,
    Prediction,
    Register,
    Split,
    Task,
    UsageError,
    hookimpl,
    masked_softmax,
)

from ._imdb_data import PAD, START, UNKNOWN, Array, Reading, Vocabulary, prepare, split_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torchmetrics import Metric

LABELS = ("negative", "positive")
SHOWN = 40  # tokens in a line of text, and that are drawn as queries: the last ones
PAD_SIGN, START_SIGN = "·", "▸"
VOCABULARY = "vocabulary.npz"

log = logging.getLogger("attnbench.imdb")

Pooling = Literal["slot", "mean", "attention"]
Encoder = Literal["none", "bilstm"]


class Batch(NamedTuple):
    """Rows of the table for each token [B, L, n], how many tokens are real [B], 0 negative or 1 positive [B]."""

    rows: Int[Tensor, "B L n"]
    lengths: Int[Tensor, "B"]
    label: Int[Tensor, "B"]


class Reviews(Dataset[Batch]):
    """Encoded reviews, one after the other; a batch is padded to its longest, or in front to `width`."""

    def __init__(self, rows: Array, offsets: Array, labels: Array, width: int | None) -> None:
        self.rows, self.offsets, self.labels = (torch.from_numpy(array) for array in (rows, offsets, labels))
        self.lengths = self.offsets.diff()
        self.padded = None if width is None else self._padded(torch.arange(len(labels)), width, in_front=True)

    def _padded(self, indices: Int[Tensor, "B"], width: int, *, in_front: bool = False) -> Int[Tensor, "B L n"]:
        lengths = self.lengths[indices].unsqueeze(1)
        place = torch.arange(width) - (width - lengths if in_front else 0)
        real = (place >= 0) & (place < lengths)
        rows = self.rows[(self.offsets[indices].unsqueeze(1) + place).clamp(0, len(self.rows) - 1)]
        return rows.masked_fill(~real.unsqueeze(-1), PAD)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> Batch:
        chosen = torch.tensor(indices, dtype=torch.long)
        lengths = self.lengths[chosen]
        rows = self._padded(chosen, int(lengths.max())) if self.padded is None else self.padded[chosen]
        return Batch(rows.long(), lengths, self.labels[chosen])


class Host(nn.Module):
    """Embedding, encoder, attention slot, pooling, dropout, classifier.

    x       = sum over the rows of a token (word, pair, triple) of their embeddings   [B, L, D]
    states  = x, or a bidirectional LSTM over it                                      [B, L, W]
    pooling "slot":       pooled = attention(a learned query, states, states)
            "mean":       pooled = mean over the tokens of attention(states, states, states)
            "attention":  pooled = sum over the tokens of softmax(v · tanh(U c)) c, c = attention(states, ...)
    logits  = linear(dropout(pooled))                                                 [B, 2]
    """

    def __init__(
        self,
        make_attention: MakeAttention,
        size: int,
        num_words: int,
        *,
        embed_dim: int,
        encoder: Encoder,
        pooling: Pooling,
        dropout: float,
        row_dropout: float,
        masked: bool,
        embed_scale: float,
    ) -> None:
        super().__init__()
        self.num_words, self.row_dropout, self.masked, self.pooling = num_words, row_dropout, masked, pooling
        self.table = nn.Embedding(size, embed_dim, padding_idx=PAD if masked else None, sparse=True)
        nn.init.uniform_(self.table.weight, -embed_scale, embed_scale)
        if masked:
            with torch.no_grad():
                self.table.weight[PAD].zero_()
        bilstm = encoder == "bilstm"
        self.encoder = nn.LSTM(embed_dim, embed_dim, batch_first=True, bidirectional=True) if bilstm else None
        width = 2 * embed_dim if bilstm else embed_dim
        self.query = nn.Parameter(torch.randn(width) * width**-0.5) if pooling == "slot" else None
        self.attention = make_attention(width, width, width)
        out = self.attention.out_dim
        score = nn.Sequential(nn.Linear(out, out), nn.Tanh(), nn.Linear(out, 1))
        self.score = score if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(out, len(LABELS))
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def embed(self, rows: Int[Tensor, "B L n"]) -> Float[Tensor, "B L D"]:
        """Sum the embeddings of each token's rows; in training, leave some of the rows out."""
        dropped = None
        if self.training and self.row_dropout:
            dropped = torch.rand(rows.shape, device=rows.device) >= 1 - self.row_dropout
            rows = rows.masked_fill(dropped, PAD)
        if rows.shape[-1] == 1:
            x: Tensor = self.table(rows.squeeze(-1))
            if dropped is not None and not self.masked:  # then padding has an embedding that is learned
                x = x.masked_fill(dropped, 0.0)
        else:
            flat, sparse = rows.flatten(0, 1), self.table.sparse
            x = F.embedding_bag(flat, self.table.weight, mode="sum", sparse=sparse, padding_idx=PAD)
            x = x.view(*rows.shape[:2], -1)
        return x if dropped is None else x / (1 - self.row_dropout)

    def mask(self, batch: Batch) -> Bool[Tensor, "B 1 L"] | None:
        """True where a token stands; None where padding is attended to as if it were one."""
        if not self.masked:
            return None
        return (torch.arange(batch.rows.shape[1], device=batch.rows.device) < batch.lengths.unsqueeze(1)).unsqueeze(1)

    def forward(
        self, batch: Batch, need_weights: bool = False
    ) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B H Q L"] | None]:
        """Give the logits of both labels; and the slot's weights."""
        states, mask = self.embed(batch.rows), self.mask(batch)
        if self.encoder is not None:
            packed = nn.utils.rnn.pack_padded_sequence(
                states, batch.lengths.cpu(), batch_first=True, enforce_sorted=False
            )
            states, _ = nn.utils.rnn.pad_packed_sequence(
                self.encoder(packed)[0], batch_first=True, total_length=states.shape[1]
            )
        queries = states
        if self.query is not None:  # where a query goes by its place, it is asked at every place
            queries = self.query.expand(len(states), states.shape[1] if self.attention.positional else 1, -1)
        contexts, weights = self.attention(queries, states, states, mask, need_weights=need_weights)
        if contexts.shape[1] == 1:
            pooled = contexts.squeeze(1)
        elif self.score is None and mask is None:
            pooled = contexts.mean(dim=1)
        else:
            scores = contexts.new_zeros(len(contexts), 1, contexts.shape[1])
            if self.score is not None:
                scores = self.score(contexts).mT
            pooled = (masked_softmax(scores, mask) @ contexts).squeeze(1)
        return self.out(self.dropout(pooled)), weights


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
        masked: padding behind, which is hidden; false pads in front to max_tokens and attends to it.
        embed_dim: the width of an embedding.
        embed_scale: embeddings begin uniform over -embed_scale..embed_scale; of small ones all words score alike.
        encoder: none, or a bidirectional LSTM of embed_dim in each direction.
        pooling: slot, mean or attention, see above.
        dropout: on the pooled review.
        row_dropout: the share of words, pairs and triples that are left out at each training step.
    """

    recipe: ClassVar[Mapping[str, Any]] = {
        "trainer": {"max_epochs": 3, "batch_size": 64, "gradient_clip": None},
        "optimizer": {"name": "adamw", "lr": 4e-3, "weight_decay": 1e-3},
    }
    primary = "accuracy"
    excused: ClassVar[Mapping[str, str]] = {
        "splits": "123 reviews stand in both splits of the data set, which stay as they are"
    }

    def __init__(
        self,
        *,
        archive: str | None = None,
        folder: str | None = None,
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
        if not masked and (encoder != "none" or len(min_counts) > 1):
            raise ValueError("masked=false, which attends to padding, goes with encoder=none and min_counts=[1]")
        if archive is not None and folder is not None:
            raise ValueError("archive= and folder= are two ways to say where the reviews are; give one")
        self.archive, self.folder = archive, folder
        self.reading = Reading(punctuation, words, tuple(min_counts), max_tokens, validate_on)
        self.max_tokens, self.masked, self.validate_on = max_tokens, masked, validate_on
        self.host = {
            "embed_dim": embed_dim, "encoder": encoder, "pooling": pooling, "dropout": dropout,
            "row_dropout": row_dropout, "masked": masked, "embed_scale": embed_scale,
        }  # fmt: skip
        self.vocabulary: Vocabulary | None = None

    def prepare(self) -> None:
        """Fetch, check and encode the reviews, or read what was prepared before."""
        if self.vocabulary is not None:
            self.reading = Reading(**{**vars(self.reading), "vocabulary": self.vocabulary.digest()})
        prepared = prepare(self.reading, self.archive, self.folder, self.vocabulary)
        self.vocabulary = prepared.vocabulary
        width = None if self.masked else self.max_tokens
        self.splits = {split: Reviews(*arrays, width) for split, arrays in prepared.splits.items()}
        self.splits.setdefault("val", self.splits["test"])
        across, train, test = prepared.duplicates
        log.info("reviews: %s", {split: len(data) for split, data in self.splits.items()})
        log.info("texts that stand in both official splits: %d; again in train: %d, in test: %d", across, train, test)
        if self.validate_on == "test":
            log.warning("task.validate_on=test: the checkpoint is chosen on the test reviews, as the seed program does")

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
        """Give the split's reviews."""
        return self.splits[split]

    def lengths(self, split: Split) -> Tensor | None:
        """Give the reviews' lengths in tokens; none where all are padded to one length."""
        return self.splits[split].lengths if self.masked else None

    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the classifier."""
        assert self.vocabulary is not None
        return Host(make_attention, self.vocabulary.size, self.vocabulary.num_words, **self.host)  # type: ignore[arg-type]

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy (nats)."""
        return F.cross_entropy(model(batch)[0], batch.label)

    def metrics(self) -> dict[str, Metric]:
        """accuracy; and, drawn at test, precision and recall, and which label was taken for which."""
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
        """Draw precision against recall, and which label was taken for which."""
        from matplotlib.figure import Figure

        precision, recall, _ = (value.cpu().numpy() for value in values["precision_recall"])
        curve = Figure(figsize=(4, 4), dpi=110, layout="constrained")
        axis = curve.subplots()
        axis.plot(recall, precision)
        axis.set(xlabel="recall of positive", ylabel="precision of positive", xlim=(0, 1), ylim=(0.45, 1.02))
        average = -float((precision[:-1] * np.diff(recall)).sum())
        axis.set_title(f"average precision {average:.4f}", fontsize=9)
        counts = values["confusion"].cpu().numpy()
        confusion = Figure(figsize=(4, 4), dpi=110, layout="constrained")
        axis = confusion.subplots()
        axis.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for truth, answer in ((0, 0), (0, 1), (1, 0), (1, 1)):
            colour = "white" if truth == answer else "black"
            axis.text(answer, truth, f"{int(counts[truth, answer]):,}", ha="center", va="center", color=colour)
        axis.set_xticks(range(2), LABELS)
        axis.set_yticks(range(2), LABELS, rotation=90, va="center")
        axis.set(xlabel="answer", ylabel="truth")
        return {"precision_recall": curve, "confusion": confusion}

    def maps(self, model: nn.Module, batch: Batch) -> list[AttentionMap]:
        """Give the weight that each word of a review gets: from the one query, or from each of the last tokens."""
        assert isinstance(model, Host)
        if not model.attention.has_weights:
            return []
        logits, weights = model(batch, need_weights=True)
        assert weights is not None
        found = []
        for i in range(len(logits)):
            tokens = slice(0, int(batch.lengths[i])) if self.masked else slice(None)
            words, title = self._words(batch.rows[i, tokens]), _verdict(logits[i], int(batch.label[i]))
            one = weights.shape[2] == 1
            looked = weights[i, :, slice(None) if one else tokens, tokens][:, -SHOWN:]
            found.append(AttentionMap(looked, ["review"] if one else words[-SHOWN:], words, title=title))
        return found

    def _words(self, rows: Tensor) -> list[str]:
        assert self.vocabulary is not None
        special = {PAD: PAD_SIGN, START: START_SIGN, UNKNOWN: "?"}
        return [special.get(row) or self.vocabulary.words[row - len(special)] for row in rows[:, 0].tolist()]

    def texts(self, model: nn.Module, batch: Batch) -> list[str]:
        """Say what was answered, and how each review ends."""
        logits, _ = model(batch)
        ends = [" ".join(self._words(rows[rows[:, 0] != PAD])[-SHOWN:]) for rows in batch.rows]
        return [f"{_verdict(logits[i], int(batch.label[i]))}: … {end}" for i, end in enumerate(ends)]

    def predict(self, model: nn.Module, text: str) -> Prediction:
        """Classify a review of one's own."""
        assert self.vocabulary is not None and isinstance(model, Host)
        rows = self.vocabulary.encode(text, self.reading)
        data = Reviews(rows, np.array([0, len(rows)]), np.array([0]), None if self.masked else self.max_tokens)
        logits, weights = model(data[[0]], need_weights=model.attention.has_weights)
        chances = logits.softmax(dim=-1)[0]
        answer = int(chances.argmax())
        looked = None
        if weights is not None:  # the mean over the queries; with the words as they were written, known or not
            words = [START_SIGN, *split_words(text, self.reading.punctuation)][-len(rows) :]
            words = [PAD_SIGN] * (weights.shape[-1] - len(words)) + words
            mean = weights[0].mean(dim=1, keepdim=True)
            looked = AttentionMap(mean, [LABELS[answer]], words, title=LABELS[answer])
        return Prediction(LABELS[answer], float(chances[answer]), looked)


def _verdict(logits: Tensor, label: int) -> str:
    chances = logits.detach().softmax(dim=-1)
    answer = int(chances.argmax())
    wrong = "" if answer == label else f" (wrong: {LABELS[label]})"
    return f"{LABELS[answer]} {float(chances[answer]):.3f}{wrong}"


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `imdb`."""
    register("imdb", Imdb)
