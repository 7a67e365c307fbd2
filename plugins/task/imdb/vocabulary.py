"""The rows of the embedding table: words, and the n-grams that end with them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .words import Array, split_words

PAD, START, UNKNOWN, FIRST_WORD = 0, 1, 2, 3


@dataclass(frozen=True)
class Vocabulary:
    """The rows of the embedding table: special ones, words by frequency, then pairs, triples, and so on.

    Attributes:
        words: the words, from row FIRST_WORD on.
        keys: for pairs, triples...: sorted, each the row of all but its last word, times the words, plus the last.
    """

    words: Sequence[str]
    keys: Sequence[Array]

    @property
    def num_words(self) -> int:
        """Rows of the words, the special ones included."""
        return FIRST_WORD + len(self.words)

    @property
    def size(self) -> int:
        """Rows of all."""
        return self.num_words + sum(len(keys) for keys in self.keys)

    def digest(self) -> str:
        """Tell it apart from others."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        for keys in self.keys:
            digest.update(keys.tobytes())
        return digest.hexdigest()

    def encode(self, text: str, punctuation: bool, max_tokens: int) -> Array:
        """Turn the last tokens of one text into rows, [tokens, 1 + len(keys)]."""
        number = {word: row for row, word in enumerate(self.words, FIRST_WORD)}
        words = np.array([START, *(number.get(word, UNKNOWN) for word in split_words(text, punctuation))], np.int32)
        return self.rows(words, np.array([0]))[-max_tokens:]

    def rows(self, words: Array, starts: Array) -> Array:
        """Return the rows of the words, pairs, ... that end at each token; PAD for those that have none.

        Args:
            words: [N], the word rows of texts, one after the other.
            starts: where each text begins.
        """
        columns = [words]
        for order in range(len(self.keys)):
            columns.append(self._column(order, columns[-1], words, starts))
        return np.stack(columns, axis=1)

    def _column(self, order: int, shorter: Array, words: Array, starts: Array) -> Array:
        """Return the rows of the n-grams of `keys[order]` that end at each token, from those one word shorter."""
        known, first = self.keys[order], self.num_words + sum(map(len, self.keys[:order]))
        keys = self._keys(shorter, words, starts)
        tokens = np.flatnonzero(keys >= 0)
        keys = keys[tokens]
        place = _search(known, keys)
        in_vocabulary = np.append(known, -1)[place] == keys
        column = np.full(len(words), PAD, np.int32)
        column[tokens[in_vocabulary]] = first + place[in_vocabulary]
        return column

    def _keys(self, shorter: Array, words: Array, starts: Array) -> Array:
        """Return the key of the n-gram that ends at each token; -1 where there is none."""
        before = np.concatenate([[PAD], shorter[:-1]]).astype(np.int64)
        before[starts] = PAD
        none = (before == PAD) | (before == UNKNOWN) | (words == UNKNOWN)
        return np.where(none, -1, before * self.num_words + words)

    @classmethod
    def learn(
        cls, words: Sequence[str], numbers: Array, starts: Array, min_counts: Sequence[int], size: int | None
    ) -> tuple[Vocabulary, Array]:
        """Find what is frequent enough in texts.

        Args:
            words: the words that `numbers` are the places of.
            numbers: [N], training texts one after the other.
            starts: where each begins; what stands there is no word, but START.
            min_counts: how often a word, a pair, a triple (and so on) has to stand in the texts.
            size: how many rows the words have, three special ones included; None for all that are frequent enough.

        Returns:
            The vocabulary, and for each of `words` its row.
        """
        inside = np.ones(len(numbers), bool)
        inside[starts] = False
        counts = np.bincount(numbers[inside], minlength=len(words))
        frequent: list[int] = np.flatnonzero(counts >= min_counts[0]).tolist()
        order = sorted(frequent, key=lambda n: (-counts[n], words[n]))[: None if size is None else size - FIRST_WORD]
        row_of = np.full(len(words), UNKNOWN, np.int32)
        row_of[order] = np.arange(FIRST_WORD, FIRST_WORD + len(order))
        rows = row_of[numbers]
        rows[starts] = START
        vocabulary = cls([words[n] for n in order], [])
        shorter = rows
        for least in min_counts[1:]:
            if vocabulary.keys:
                shorter = vocabulary._column(len(vocabulary.keys) - 1, shorter, rows, starts)
            keys, times = np.unique(vocabulary._keys(shorter, rows, starts), return_counts=True)
            vocabulary = cls(vocabulary.words, [*vocabulary.keys, keys[(times >= least) & (keys >= 0)]])
        return vocabulary, row_of

    def arrays(self) -> dict[str, Array]:
        """Return what `of_arrays` makes it again from."""
        text = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        return {"words": text, **{f"keys{order}": keys for order, keys in enumerate(self.keys, 2)}}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array]) -> Vocabulary:
        """Make it again."""
        words = bytes(arrays["words"]).decode().split("\n")
        orders = itertools.takewhile(lambda order: f"keys{order}" in arrays, itertools.count(2))
        return cls(words, [arrays[f"keys{order}"] for order in orders])


def _search(known: Array, keys: Array) -> Array:
    """Return np.searchsorted(known, keys), faster: sorted blocks of keys read `known` in its order."""
    places = np.empty(len(keys), np.int64)
    for begin in range(0, len(keys), 65_536):
        block = keys[begin : begin + 65_536]
        order = np.argsort(block)
        places[begin : begin + 65_536][order] = np.searchsorted(known, block[order])
    return places
