"""Date conversion: characters in, YYYY-MM-DD out."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import random
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import AttentionMap, MakeAttention, Prediction, Register, Split, Task, UsageError, hookimpl
from attnbench.hosts import Cell, Decoded, Encoded, EncoderDecoder

if TYPE_CHECKING:
    from torchmetrics import Metric

PAD, START = 0, 1
CHARACTERS = string.digits + string.ascii_letters + " ,/-"
VOCABULARY = len(CHARACTERS) + 2
NUMBERS = bytes.maketrans(CHARACTERS.encode(), bytes(range(2, VOCABULARY)))  # and "\0" is PAD
SOURCE_LENGTH, TARGET_LENGTH = 29, 10  # the book's columns
FIRST_DAY, LAST_DAY = datetime.date(1970, 1, 1), datetime.date(2017, 7, 24)

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
# Where the three fields stand, in each form; a weekday belongs to none.
FORMS = (
    re.compile(r"(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{2}|\d{4})"),
    re.compile(r"(?:[A-Za-z]+, )?(?P<month>[A-Za-z]+) (?P<day>\d{1,2}), (?P<year>\d{4})"),
)
FIELDS = ("year",) * 4 + (None,) + ("month",) * 2 + (None,) + ("day",) * 2  # of YYYY-MM-DD, character by character


class Batch(NamedTuple):
    """Source characters [B, S], padded behind, target characters [B, 10], and what was written, once it is."""

    source: Int[Tensor, "B S"]
    target: Int[Tensor, "B T"]
    decoded: Decoded | None = None


class Lines(Dataset[Batch]):
    """Encoded (source, target) pairs."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.source = encode((source for source, _ in pairs), SOURCE_LENGTH)
        self.target = encode((target for _, target in pairs), TARGET_LENGTH)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, indices: list[int]) -> Batch:
        source = self.source[indices]
        return Batch(source[:, : int((source != PAD).sum(dim=1).max())], self.target[indices])


def encode(texts: Iterable[str], length: int) -> Int[Tensor, "N S"]:
    """Turn characters into numbers, padded behind."""
    padded = "".join(text.ljust(length, "\0") for text in texts)
    numbers = np.frombuffer(padded.encode().translate(NUMBERS), np.uint8)
    return torch.from_numpy(numbers.astype(np.int64)).view(-1, length)


def decode(numbers: Tensor) -> str:
    """Turn numbers back into characters."""
    return "".join(CHARACTERS[number - 2] if number > START else "·" for number in numbers.tolist())


def written(day: datetime.date, form: str, case: str) -> str:
    """Write a day as a person would: form short, medium, long or full, in en_US; case title, upper or lower."""
    month = MONTHS[day.month - 1]
    if form == "short":
        text = f"{day.month}/{day.day}/{day.year % 100:02d}"
    elif form == "medium":
        text = f"{month[:3]} {day.day}, {day.year}"
    else:
        text = f"{month} {day.day}, {day.year}"
        text = f"{DAYS[day.weekday()]}, {text}" if form == "full" else text
    return text if case == "title" else text.upper() if case == "upper" else text.lower()


def drawn(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Draw lines for ever, from the distribution of the book's data."""
    days = FIRST_DAY.toordinal(), LAST_DAY.toordinal() + 1
    while True:
        day = datetime.date.fromordinal(rng.randrange(*days))
        form = rng.choice(("short", "medium", "long", "full"))
        case = rng.choice(("title", "title", "upper", "lower"))
        yield written(day, form, case), day.isoformat()


def alignment(source: str) -> Bool[Tensor, "10 S"]:
    """Mark, for each character of YYYY-MM-DD, the source's characters that tell it: its whole field.

    The hyphens have none; the century has the year's field, also where only two digits of the year are written.
    A source in none of the four forms has none at all.
    """
    truth = torch.zeros(TARGET_LENGTH, len(source), dtype=torch.bool)
    found = next((match for form in FORMS if (match := form.fullmatch(source.rstrip("·")))), None)
    if found is not None:
        for row, field in enumerate(FIELDS):
            if field is not None:
                truth[row, slice(*found.span(field))] = True
    return truth


def read(path: Path) -> list[tuple[str, str]]:
    """Read a file in the book's format: 29 characters, `_`, 10 characters, a line each.

    Raises:
        UsageError: the file cannot be read, or a line is malformed: which, and how.
    """
    try:
        lines = [line.rstrip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"task.file={path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return [_parse(line, f"task.file={path}, line {number}") for number, line in enumerate(lines, start=1)]


def _parse(line: str, where: str) -> tuple[str, str]:
    expected = f"expected {SOURCE_LENGTH} characters, `_`, {TARGET_LENGTH} characters (YYYY-MM-DD)"
    if len(line) != SOURCE_LENGTH + 1 + TARGET_LENGTH or line[SOURCE_LENGTH] != "_":
        raise UsageError(f"{where}: {expected}, got {line!r}")
    source, target = line[:SOURCE_LENGTH].rstrip(), line[SOURCE_LENGTH + 1 :]
    if not source:
        raise UsageError(f"{where}: the date to convert is empty")
    if unknown := sorted(set(source + target) - set(CHARACTERS)):
        raise UsageError(f"{where}: unknown character {unknown[0]!r}; letters, digits, space and ,/- are known")
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", target) is None:  # ISO 8601 has weeks, too
            raise ValueError
        datetime.date.fromisoformat(target)
    except ValueError:
        raise UsageError(f"{where}: {target!r} is not a date YYYY-MM-DD") from None
    return source, target


class DateConversion(Task):
    """Date conversion: `Sep 27, 1994` in, `1994-09-27` out, character by character.

    The lines are drawn as those of "Deep Learning from Scratch 2" (Saito 2018, ch. 7 and 8): days uniform over
    1970-01-01..2017-07-24, four forms, three cases. No string stands in two of train, validation and test.

    Args:
        lines: how many lines to draw; a file brings its own.
        test_share: the share of them to test on.
        val_share: the share of them to validate on.
        file: read the lines from this file, in the book's format: 29 characters, `_`, 10 characters.
        data_seed: draws and splits the lines; apart from the run's seed, so that seeds share their data.
        embed_dim: the width of a character's embedding.
        hidden_dim: the encoder's width in each direction; the decoder is twice as wide.
        cell: gru or lstm, of encoder and decoder.
    """

    recipe = {
        "trainer": {"max_epochs": 1, "batch_size": 64, "val_every": 84},
        "optimizer": {"lr": 1e-2, "warmup": 0.1},
    }
    primary = "exact_match"
    stepwise = True

    def __init__(
        self,
        *,
        lines: int = 50_000,
        test_share: float = 0.1,
        val_share: float = 0.04,
        file: Path | None = None,
        data_seed: int = 0,
        embed_dim: int = 32,
        hidden_dim: int = 32,
        cell: Cell = "gru",
    ) -> None:
        if min(test_share, val_share) < 0 or test_share + val_share > 1:
            raise ValueError(
                f"test_share={test_share} and val_share={val_share} are shares of the lines, at most 1 in all"
            )
        self.shares: dict[Split, float] = {
            "train": 1 - test_share - val_share,
            "val": val_share,
            "test": test_share,
        }
        self.lines, self.file, self.data_seed = lines, file, data_seed
        self.embed_dim, self.hidden_dim, self.cell = embed_dim, hidden_dim, cell

    def prepare(self) -> None:
        """Draw or read the lines, and share them out by string."""
        self._splits = {split: Lines(pairs) for split, pairs in self._pairs().items()}

    def _pairs(self) -> dict[Split, list[tuple[str, str]]]:
        rng = random.Random(self.data_seed)
        pairs: dict[Split, list[tuple[str, str]]] = {split: [] for split in self.shares}
        if self.file is not None:
            lines = read(self.file)
            rng.shuffle(lines)
            for source, target in lines:
                pairs[self._split_of(source)].append((source, target))
            return pairs
        wanted = {split: round(share * self.lines) for split, share in self.shares.items()}
        wanted["train"] = self.lines - wanted["val"] - wanted["test"]
        stream = drawn(rng)
        while missing := sum(max(0, wanted[split] - len(pairs[split])) for split in wanted):
            for source, target in itertools.islice(stream, missing):
                split = self._split_of(source)
                if len(pairs[split]) < wanted[split]:
                    pairs[split].append((source, target))
        return pairs

    def _split_of(self, source: str) -> Split:
        """Return the split that a string belongs to: drawn by its hash, always the same one."""
        digest = hashlib.blake2b(f"{self.data_seed}:{source}".encode(), digest_size=8).digest()
        chance = int.from_bytes(digest, "big") / 2**64
        if chance < self.shares["test"]:
            return "test"
        return "val" if chance < self.shares["test"] + self.shares["val"] else "train"

    def data(self, split: Split) -> Dataset[Any]:
        """Return the split's lines."""
        return self._splits[split]

    def lengths(self, split: Split) -> Tensor | None:
        """Return the lengths of the sources to evaluate; None for training, whose steps mix all forms."""
        return None if split == "train" else (self._splits[split].source != PAD).sum(dim=1)

    def question(self, batch: Batch) -> Tensor:
        """Return the date as it is written."""
        return batch.source

    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the encoder-decoder."""
        return EncoderDecoder(
            make_attention,
            VOCABULARY,
            embed_dim=self.embed_dim,
            hidden_dim=self.hidden_dim,
            cell=self.cell,
            pad=PAD,
            start=START,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of each character, knowing those before it (nats)."""
        return _cross_entropy(model(batch.source, batch.target), batch.target)

    def metrics(self) -> dict[str, Metric]:
        """exact_match: the share of dates that are right in every character; character_accuracy."""
        from torchmetrics import MeanMetric

        return {"exact_match": MeanMetric(), "character_accuracy": MeanMetric()}

    def decode(self, model: nn.Module, batch: Batch) -> Batch:
        """Write greedily."""
        return batch._replace(decoded=self._decoded(model, batch))

    def _decoded(self, model: nn.Module, batch: Batch, read: Encoded | None = None) -> Decoded:
        assert isinstance(model, EncoderDecoder)
        return batch.decoded or model.greedy(read or batch.source, TARGET_LENGTH, need_weights=True)

    def evaluate(self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric]) -> Float[Tensor, ""]:
        """Decode greedily and compare; a source is read once, for what is written and for the loss."""
        assert isinstance(model, EncoderDecoder)
        read = model.encode(batch.source)
        right = self._decoded(model, batch, read).tokens == batch.target
        metrics["exact_match"].update(right.all(dim=1).float())
        metrics["character_accuracy"].update(right.float())
        return _cross_entropy(model(read, batch.target), batch.target)

    def maps(self, model: nn.Module, batch: Batch) -> list[AttentionMap]:
        """Rows are the characters written, columns the characters read; the truth is the field that each tells.

        There are none where attention has no weights.
        """
        written, weights = self._decoded(model, batch)
        if weights is None:
            return []
        maps = []
        for i, length in enumerate((batch.source != PAD).sum(dim=1).tolist()):
            rows, columns, title = decode(written[i]), decode(batch.source[i, :length]), _title(batch, written, i)
            truth = alignment(columns)
            maps.append(AttentionMap(weights[i, ..., :length], list(rows), list(columns), title=title, truth=truth))
        return maps

    def texts(self, model: nn.Module, batch: Batch) -> list[str]:
        """Source, what was written, and what was right if that differs."""
        written, _ = self._decoded(model, batch)
        return [_title(batch, written, i) for i in range(len(written))]

    def predict(self, model: nn.Module, text: str) -> Prediction:
        """Convert one date, written in any of the four forms."""
        assert isinstance(model, EncoderDecoder)
        text = text.strip()
        if unknown := sorted(set(text) - set(CHARACTERS)):
            raise UsageError(f"predict: unknown character {unknown[0]!r}; letters, digits, space and ,/- are known")
        source = encode([text], len(text)).to(model.embed.weight.device)
        written, weights = model.greedy(source, TARGET_LENGTH, need_weights=True)
        answer = decode(written[0])
        of_each = model(source, written).softmax(dim=-1).gather(-1, written.unsqueeze(-1))
        seen = (
            None if weights is None else AttentionMap(weights[0], list(answer), list(text), title=f"{text} → {answer}")
        )
        return Prediction(answer, float(of_each.prod()), seen, of_each.flatten().tolist())


def _cross_entropy(logits: Float[Tensor, "B T V"], target: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def _title(batch: Batch, written: Tensor, i: int) -> str:
    source, target, got = decode(batch.source[i]).rstrip("·"), decode(batch.target[i]), decode(written[i])
    return f"{source} → {got}" + ("" if got == target else f" (wrong: {target})")


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `date`."""
    register("date", DateConversion)
