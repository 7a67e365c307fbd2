"""The numbers of words, or of the pieces that words are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attnbench import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokens = Literal["words", "bpe"]
PAD, START, END, UNKNOWN = range(4)
SPECIAL = ["<pad>", "<start>", "<end>", "<unknown>"]
WORD_END = "</w>"


def learn(texts: Iterable[str], kind: Tokens, size: int) -> Tokenizer:
    """Learn a vocabulary of texts whose words have blanks between: the most frequent words, or merged pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    unknown = SPECIAL[UNKNOWN]
    options: dict[str, Any] = {"vocab_size": size, "special_tokens": SPECIAL, "show_progress": False}
    if kind == "words":
        tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
        trainer: Any = trainers.WordLevelTrainer(**options)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token=unknown, end_of_word_suffix=WORD_END))
        tokenizer.decoder = decoders.BPEDecoder(suffix=WORD_END)
        trainer = trainers.BpeTrainer(**options, end_of_word_suffix=WORD_END)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(vocabulary: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the numbers of each text."""
    return [encoding.ids for encoding in vocabulary.encode_batch_fast(texts)]


def pieces(vocabulary: Tokenizer, numbers: Sequence[int]) -> list[str]:
    """Return each number's word, or piece; a piece that another one follows ends in `-`."""
    words = [vocabulary.id_to_token(number) or "" for number in numbers]
    if all(word in SPECIAL or not word.endswith(WORD_END) for word in words):
        return words
    return [
        word if word in SPECIAL else word.removesuffix(WORD_END) if WORD_END in word else f"{word}-" for word in words
    ]


def decode(vocabulary: Tokenizer, numbers: Sequence[int]) -> str:
    """Return words with blanks between, up to the end symbol."""
    numbers = list(numbers[: numbers.index(END)] if END in numbers else numbers)
    return vocabulary.decode([n for n in numbers if n not in (PAD, START)], skip_special_tokens=False)


def save(vocabularies: Sequence[Tokenizer], path: Path) -> None:
    """Write vocabularies, as JSON."""
    path.write_text(json.dumps([vocabulary.to_str() for vocabulary in vocabularies]), encoding="utf-8")


def load(path: Path) -> tuple[Tokenizer, Tokenizer]:
    """Read a source's and a target's vocabulary; UsageError if they are not there, or damaged."""
    from tokenizers import Tokenizer

    try:
        read, written = map(Tokenizer.from_str, json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:  # the library raises no narrower one
        raise UsageError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    return read, written
