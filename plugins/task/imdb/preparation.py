"""Reviews turned into the arrays that a run reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from attnbench import Split

from .archive import Review
from .splits import duplicates, shuffled, split_by_film
from .vocabulary import FIRST_WORD, START, UNKNOWN, Vocabulary
from .words import Array, number_words


@dataclass(frozen=True)
class Preprocessing:
    """How reviews become numbers: all that shapes the prepared arrays, beside the reviews themselves.

    Attributes:
        punctuation: whether a mark is a token.
        words: how many rows the words have, three special ones included; None for all that are frequent enough.
        min_counts: how often a word, a pair, a triple (and so on) stands in the training texts to get a row.
        max_tokens: how many of a review's last tokens are kept.
        validate_on: "films", a tenth of the training reviews; or "test", with all of them to train on.
        vocabulary: the digest of a vocabulary that is there already; empty for one drawn from the training texts.
    """

    punctuation: bool
    words: int | None
    min_counts: tuple[int, ...]
    max_tokens: int
    validate_on: str
    vocabulary: str = ""


@dataclass(frozen=True)
class Prepared:
    """Everything that a run reads.

    Attributes:
        vocabulary: drawn from the reviews that are trained on.
        splits: for each split, the rows of all tokens [N, n], where each review begins and the last ends [R + 1], and
            the labels [R].
        duplicates: texts that stand in both official splits; within train; within test.
    """

    vocabulary: Vocabulary
    splits: Mapping[Split, tuple[Array, Array, Array]]
    duplicates: tuple[int, int, int]

    def arrays(self) -> dict[str, Array]:
        """Return what `of_arrays` makes it again from."""
        parts = {f"{split}_{i}": a for split, arrays in self.splits.items() for i, a in enumerate(arrays)}
        return {**self.vocabulary.arrays(), **parts, "duplicates": np.array(self.duplicates)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array]) -> Prepared:
        """Make it again."""
        names: tuple[Split, ...] = ("train", "val", "test")
        splits = {s: (arrays[f"{s}_0"], arrays[f"{s}_1"], arrays[f"{s}_2"]) for s in names if f"{s}_0" in arrays}
        across, train, test = arrays["duplicates"].tolist()
        return cls(Vocabulary.of_arrays(arrays), splits, (across, train, test))


def encode(
    reviews: Mapping[Split, list[Review]], preprocessing: Preprocessing, vocabulary: Vocabulary | None
) -> Prepared:
    """Turn the official splits into a run's, in numbers, by a vocabulary that is learned if there is none yet."""
    on_test = preprocessing.validate_on == "test"
    train, val = (reviews["train"], []) if on_test else split_by_film(reviews["train"])
    parts: dict[Split, list[Review]] = {"train": train, "val": val, "test": reviews["test"]}
    for part in parts.values():
        part.sort(key=lambda review: shuffled(review.text))  # so that both labels stand among the first few
    texts = (review.text for review in itertools.chain.from_iterable(parts.values()))
    words, flat, starts = number_words(texts, preprocessing.punctuation)
    numbers, begins, done = {}, {}, 0
    for split, part in parts.items():
        begin, end = starts[done], starts[done + len(part)]
        numbers[split], begins[split] = flat[begin:end], starts[done : done + len(part) + 1] - begin
        done += len(part)
    if vocabulary is None:
        learned, row_of = Vocabulary.learn(
            words, numbers["train"], begins["train"][:-1], preprocessing.min_counts, preprocessing.words
        )
    else:
        known = {word: row for row, word in enumerate(vocabulary.words, FIRST_WORD)}
        learned, row_of = vocabulary, np.array([known.get(word, UNKNOWN) for word in words], np.int32)
    row_of[0] = START

    def encoded(split: Split) -> tuple[Array, Array, Array]:
        rows = learned.rows(row_of[numbers[split]], begins[split][:-1])
        rows, offsets = _last_tokens(rows, begins[split], preprocessing.max_tokens)
        return rows, offsets, np.array([review.label for review in parts[split]], np.int64)

    with ThreadPoolExecutor() as pool:  # NumPy's searches let others run
        splits = dict(zip(parts, pool.map(encoded, parts), strict=True))
    if on_test:
        del splits["val"]
    return Prepared(learned, splits, duplicates(reviews))


def _last_tokens(rows: Array, offsets: Array, most: int) -> tuple[Array, Array]:
    lengths = np.diff(offsets)
    from_end = np.repeat(offsets[1:], lengths) - np.arange(len(rows))
    ends = np.cumsum(np.minimum(lengths, most))
    return rows[from_end <= most], np.concatenate([[0], ends]).astype(np.int64)
