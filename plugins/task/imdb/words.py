"""Words of a text, and their numbers in many texts."""

from __future__ import annotations

import functools
import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BREAK = "<br />"
WORD = r"\w+(?:'\w+)*"
INVISIBLE = "\u200b-\u200f\u2060\ufeff"  # zero-width characters, among them the byte order mark: no marks to read
WORD_OR_MARK = rf"{WORD}|[^\w\s{INVISIBLE}]"


@functools.cache
def _tokenizer(punctuation: bool) -> tuple[Any, Any]:
    from tokenizers import Regex, normalizers, pre_tokenizers

    normalizer = normalizers.Sequence([normalizers.Replace(BREAK, " "), normalizers.Lowercase()])
    words = Regex(WORD_OR_MARK if punctuation else WORD)
    return normalizer, pre_tokenizers.Split(words, behavior="removed", invert=True)


def split_words(text: str, punctuation: bool) -> list[str]:
    """Lower-case, take HTML's line breaks away, and find the words, with the marks between them or without."""
    normalizer, splitter = _tokenizer(punctuation)
    return [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]


def number_words(texts: Iterable[str], punctuation: bool) -> tuple[list[str], Array, Array]:
    """Number the words of texts in the order of their first appearance.

    No word reaches over white space: each distinct piece between is split into words once.

    Returns:
        The words, before them one that stands for the start of a text and is none; the numbers [N] of the texts, one
        after the other, each behind that of its start; and where each begins and the last ends [texts + 1].
    """
    piece_number: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    pieces, starts = array("i"), array("q")
    for text in texts:
        starts.append(len(pieces))
        pieces.append(piece_number[""])
        pieces.fromlist([*map(piece_number.__getitem__, text.replace(BREAK, " ").split())])
    normalizer, splitter = _tokenizer(punctuation)
    number, numbers, counts = {"\n": 0}, [0], [1]  # the start's, which comes first and is no word
    for piece in normalizer.normalize_str("\n".join(piece_number)).split("\n")[1:]:
        words = splitter.pre_tokenize_str(piece)
        counts.append(len(words))
        numbers.extend([number.setdefault(word, len(number)) for word, _ in words])
    lengths, order = np.array(counts), np.frombuffer(pieces, np.int32)
    first = np.cumsum(lengths) - lengths
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    places = np.repeat(first[order] - offsets[:-1], lengths[order]) + np.arange(offsets[-1])
    return list(number), np.array(numbers, np.int32)[places], offsets[[*starts, len(order)]]
