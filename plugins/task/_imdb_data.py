"""The Large Movie Review data set as arrays: fetched, checked, split by film, turned into numbers, cached."""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import logging
import lzma
import os
import re
import sys
import tarfile
import zipfile
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnbench import Split, UsageError

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
ARCHIVE = "aclImdb_v1.tar.gz"
PER_LABEL = 12_500  # reviews of each split and label
LABELS = ("neg", "pos")
OWN_FILES = "use files you have: task.archive=PATH.tar.gz, or task.folder=PATH of an extracted aclImdb"

PAD, START, UNKNOWN, FIRST_WORD = 0, 1, 2, 3
FORMAT = 1  # of the prepared arrays; a new number leaves the old ones alone
BREAK = "<br />"
WORD = r"\w+(?:'\w+)*"
WORD_OR_MARK = rf"{WORD}|[^\w\s]"
MEMBER = re.compile(r"(?:\./)?aclImdb/(train|test)/(?:(neg|pos)/(\d+)_\d+\.txt|urls_(neg|pos)\.txt)")

Array = np.ndarray[Any, np.dtype[Any]]
log = logging.getLogger("attnbench.imdb")


class Review(NamedTuple):
    """A text, whether it is positive, and the film it is about."""

    text: str
    label: int
    film: str


@dataclass(frozen=True)
class Reading:
    """How reviews become numbers: all that shapes the prepared arrays, beside the reviews themselves.

    Attributes:
        punctuation: whether a mark is a token.
        words: how many rows the words have, three special ones included; None for all that are frequent enough.
        min_counts: how often a word, a pair, a triple (and so on) stands in the training texts to get a row.
        max_tokens: how many of a review's last tokens are kept.
        validate_on: "films", a tenth of the training reviews; or "test", with all of them to train on.
        vocabulary: the digest of a vocabulary that is given; empty for one drawn from the training texts.
    """

    punctuation: bool
    words: int | None
    min_counts: tuple[int, ...]
    max_tokens: int
    validate_on: str
    vocabulary: str = ""


def say(line: str) -> None:
    """Tell the user, and the run's log."""
    print(f"imdb: {line}", file=sys.stderr)
    log.info("%s", line)


# The reviews


def cache_folder() -> Path:
    """Give the folder for downloads and prepared arrays: $ATTNBENCH_DATA, or the platform's cache folder."""
    if chosen := os.environ.get("ATTNBENCH_DATA"):
        return Path(chosen) / "imdb"
    import pooch  # type: ignore[import-untyped]

    return Path(pooch.os_cache("attnbench")) / "imdb"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process that works in a folder; say so when another one has to be waited for."""
    from filelock import FileLock, Timeout

    with full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            say(f"another run is at work in {folder}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Turn what a full or read-only disk says into a line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        raise UsageError(
            f"{folder}: {os.strerror(error.errno)}; set ATTNBENCH_DATA to a folder with 400 MB of room"
        ) from error


def fetch(folder: Path) -> Path:
    """Download the archive from its official address, once; a file that is there already is checked.

    Raises:
        UsageError: there is no network, no room, or what came is not the data set.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    if not (folder / ARCHIVE).exists():
        say(f"downloading {URL} (84 MB) to {folder}")
    try:
        with full_disk(folder):
            progress = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=60)
            pooch.retrieve(URL, f"sha256:{SHA256}", ARCHIVE, folder, downloader=progress)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{URL}: by its checksum this is not the data set; start again, or {OWN_FILES}") from error
    except OSError as error:  # what requests raises is one
        reason = type(error).__name__
        raise UsageError(f"{URL}: cannot be downloaded ({reason}); start again, or {OWN_FILES}") from error
    return folder / ARCHIVE


def fingerprint(path: Path, option: str) -> str:
    """Tell the archive or the folder apart from others: by its bytes, or by its files' names, sizes and times.

    Raises:
        UsageError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for split, label in itertools.product(("train", "test"), LABELS):
                with os.scandir(path / split / label) as entries:
                    for line in sorted(f"{e.name} {(s := e.stat()).st_size} {s.st_mtime_ns}" for e in entries):
                        digest.update(line.encode())
            return digest.hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{option}={path}: {error.strerror}: {error.filename}; expected aclImdb's files") from error


def read_archive(path: Path, option: str) -> dict[Split, list[Review]]:
    """Read the reviews out of the archive; nothing is extracted, so that no member can be written anywhere.

    Raises:
        UsageError: it is no whole archive, has a member outside its folder, or lacks reviews (see `_reviews`).
    """
    texts: dict[tuple[str, str, int], str] = {}
    urls: dict[tuple[str, str], list[str]] = {}
    where = f"{option}={path}"
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                found = MEMBER.fullmatch(member.name)
                if found is None:
                    if member.name.startswith("/") or ".." in Path(member.name).parts:
                        reason = "lies outside the folder; not the data set"
                        raise UsageError(f"{where}: its member {member.name!r} {reason}")
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None:
                    raise UsageError(f"{where}: its member {member.name!r} is a link, not a review; not the data set")
                _sort_in(found, file.read(), texts, urls)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{where}: truncated or altered ({reason}); download it again, or {OWN_FILES}") from error
    return _reviews(texts, urls, where)


def read_folder(path: Path) -> dict[Split, list[Review]]:
    """Read the reviews of an extracted archive: the folder that holds `train` and `test`.

    Raises:
        UsageError: a file cannot be read, or reviews are lacking (see `_reviews`).
    """
    texts: dict[tuple[str, str, int], str] = {}
    urls: dict[tuple[str, str], list[str]] = {}
    try:
        for split in ("train", "test"):
            for file in itertools.chain((path / split).glob("urls_*.txt"), (path / split).glob("[np]*/*.txt")):
                found = MEMBER.fullmatch(f"aclImdb/{file.relative_to(path).as_posix()}")
                if found is not None:
                    _sort_in(found, file.read_bytes(), texts, urls)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"task.folder={path}: cannot be read: {error}") from error
    return _reviews(texts, urls, f"task.folder={path}")


def _sort_in(
    found: re.Match[str],
    content: bytes,
    texts: dict[tuple[str, str, int], str],
    urls: dict[tuple[str, str], list[str]],
) -> None:
    split, label, number, listed = found.groups()
    if listed is not None:
        urls[split, listed] = content.decode().split()
    else:
        texts[split, label, int(number)] = content.decode()


def _reviews(
    texts: Mapping[tuple[str, str, int], str], urls: Mapping[tuple[str, str], list[str]], where: str
) -> dict[Split, list[Review]]:
    """Put the reviews in order. Line i of a url file names the film of review i.

    Raises:
        UsageError: a split and label does not have as many reviews as the data set, or a review has no film.
    """
    counts = Counter((split, label) for split, label, _ in texts)
    if any(counts[split, label] != PER_LABEL for split in ("train", "test") for label in LABELS):
        found = ", ".join(f"{counts[s, label]:,} {s}/{label}" for s in ("train", "test") for label in LABELS)
        raise UsageError(f"{where}: expected {PER_LABEL:,} reviews of each split and label, found {found}; {OWN_FILES}")
    reviews: dict[Split, list[Review]] = {"train": [], "test": []}
    for (split, label, number), text in sorted(texts.items()):
        films = urls.get((split, label), [])
        if number >= len(films):
            raise UsageError(f"{where}: {split}/urls_{label}.txt names no film for review {number}; {OWN_FILES}")
        reviews["test" if split == "test" else "train"].append(Review(text, LABELS.index(label), films[number]))
    return reviews


def by_film(reviews: Sequence[Review]) -> tuple[list[Review], list[Review]]:
    """Set a tenth aside, of both labels alike: reviews of films of which no other review is left.

    Films are taken in an order that is a function of their names; one whose reviews no longer fit is passed over.
    """
    films: dict[str, list[Review]] = defaultdict(list)
    for review in reviews:
        films[review.film].append(review)
    room = Counter(review.label for review in reviews)
    room = Counter({label: count // 10 for label, count in room.items()})
    aside: set[str] = set()
    for film in sorted(films, key=_shuffled):
        taken = Counter(review.label for review in films[film])
        if all(taken[label] <= room[label] for label in taken):
            room -= taken
            aside.add(film)
    return [r for r in reviews if r.film not in aside], [r for r in reviews if r.film in aside]


def _shuffled(text: str) -> bytes:
    """Give a key to sort by that looks random and is always the same."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


# Numbers


@functools.cache
def _tokenizer(punctuation: bool) -> tuple[Any, Any]:
    from tokenizers import Regex, normalizers, pre_tokenizers

    normalizer = normalizers.Sequence([normalizers.Replace(BREAK, " "), normalizers.Lowercase()])
    words = Regex(WORD_OR_MARK if punctuation else WORD)
    return normalizer, pre_tokenizers.Split(words, behavior="removed", invert=True)


def split_words(text: str, punctuation: bool) -> list[str]:
    """Lower-case, take HTML's line breaks away, and find the words, with their marks between them or without."""
    normalizer, splitter = _tokenizer(punctuation)
    return [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]


def number_words(texts: Iterable[str], punctuation: bool) -> tuple[list[str], Array, Array]:
    """Number the words of texts in the order of their first appearance.

    No word reaches over white space: each distinct piece between is split into words once.

    Returns:
        The words, before them one that stands for the start of a text and is none; the numbers [N] of the texts, one
        after the other, each behind that of its start; and where each begins and the last ends [texts + 1].
    """
    place: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    pieces, starts = array("i"), array("q")
    for text in texts:
        starts.append(len(pieces))
        pieces.append(place[""])
        pieces.fromlist([*map(place.__getitem__, text.replace(BREAK, " ").split())])
    normalizer, splitter = _tokenizer(punctuation)
    number, numbers, held = {"\n": 0}, [0], [1]  # the start's, which comes first and is no word
    for piece in normalizer.normalize_str("\n".join(place)).split("\n")[1:]:
        words = splitter.pre_tokenize_str(piece)
        held.append(len(words))
        numbers.extend([number.setdefault(word, len(number)) for word, _ in words])
    lengths, which = np.array(held), np.frombuffer(pieces, np.int32)
    first = np.cumsum(lengths) - lengths
    offsets = np.concatenate([[0], np.cumsum(lengths[which])])
    places = np.repeat(first[which] - offsets[:-1], lengths[which]) + np.arange(offsets[-1])
    return list(number), np.array(numbers, np.int32)[places], offsets[[*starts, len(which)]]


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
        found = hashlib.sha256("\n".join(self.words).encode())
        for keys in self.keys:
            found.update(keys.tobytes())
        return found.hexdigest()

    def encode(self, text: str, reading: Reading) -> Array:
        """Turn one text into rows, [tokens, 1 + len(keys)]."""
        number = {word: row for row, word in enumerate(self.words, FIRST_WORD)}
        words = np.array([START, *(number.get(w, UNKNOWN) for w in split_words(text, reading.punctuation))], np.int32)
        return self.rows(words, np.array([0]))[-reading.max_tokens :]

    def rows(self, words: Array, starts: Array) -> Array:
        """Give the rows of the words, pairs, ... that end at each token; PAD for those that have none.

        Args:
            words: [N], the word rows of texts, one after the other.
            starts: where each text begins.
        """
        columns = [words]
        for order in range(len(self.keys)):
            columns.append(self._column(order, columns[-1], words, starts))
        return np.stack(columns, axis=1)

    def _column(self, order: int, shorter: Array, words: Array, starts: Array) -> Array:
        """Give the rows of the n-grams of `keys[order]` that end at each token, given those one word shorter."""
        known, first = self.keys[order], self.num_words + sum(map(len, self.keys[:order]))
        wanted = self._keys(shorter, words, starts)
        tokens = np.flatnonzero(wanted >= 0)
        wanted = wanted[tokens]
        place = _search(known, wanted)
        found = np.append(known, -1)[place] == wanted
        column = np.full(len(words), PAD, np.int32)
        column[tokens[found]] = first + place[found]
        return column

    def _keys(self, shorter: Array, words: Array, starts: Array) -> Array:
        """Give the key of the n-gram that ends at each token; -1 where there is none."""
        before = np.concatenate([[PAD], shorter[:-1]]).astype(np.int64)
        before[starts] = PAD
        none = (before == PAD) | (before == UNKNOWN) | (words == UNKNOWN)
        return np.where(none, -1, before * self.num_words + words)

    @classmethod
    def learn(cls, words: Sequence[str], numbers: Array, starts: Array, reading: Reading) -> tuple[Vocabulary, Array]:
        """Find what is frequent enough in texts.

        Args:
            words: the words that `numbers` are the places of.
            numbers: [N], training texts one after the other.
            starts: where each begins; what stands there is no word, but START.

        Returns:
            The vocabulary, and for each of `words` its row.
        """
        inside = np.ones(len(numbers), bool)
        inside[starts] = False
        counts = np.bincount(numbers[inside], minlength=len(words))
        enough: list[int] = np.flatnonzero(counts >= reading.min_counts[0]).tolist()
        order = sorted(enough, key=lambda n: (-counts[n], words[n]))
        kept = order if reading.words is None else order[: reading.words - FIRST_WORD]
        row_of = np.full(len(words), UNKNOWN, np.int32)
        row_of[kept] = np.arange(FIRST_WORD, FIRST_WORD + len(kept))
        rows = row_of[numbers]
        rows[starts] = START
        made = cls([words[n] for n in kept], [])
        shorter = rows
        for least in reading.min_counts[1:]:
            if made.keys:
                shorter = made._column(len(made.keys) - 1, shorter, rows, starts)
            keys, times = np.unique(made._keys(shorter, rows, starts), return_counts=True)
            made = cls(made.words, [*made.keys, keys[(times >= least) & (keys >= 0)]])
        return made, row_of

    def arrays(self) -> dict[str, Array]:
        """Give what `of_arrays` makes it again from."""
        text = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        return {"words": text, **{f"keys{order}": keys for order, keys in enumerate(self.keys, 2)}}

    @classmethod
    def of_arrays(cls, given: Mapping[str, Array]) -> Vocabulary:
        """Make it again."""
        words = bytes(given["words"]).decode().split("\n")
        orders = itertools.takewhile(lambda order: f"keys{order}" in given, itertools.count(2))
        return cls(words, [given[f"keys{order}"] for order in orders])


def _search(known: Array, wanted: Array) -> Array:
    """Do as np.searchsorted, faster: in blocks put in order first, neighbours are found side by side."""
    places = np.empty(len(wanted), np.int64)
    for begin in range(0, len(wanted), 65_536):
        block = wanted[begin : begin + 65_536]
        order = np.argsort(block)
        places[begin : begin + 65_536][order] = np.searchsorted(known, block[order])
    return places


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
        """Give what `of_arrays` makes it again from."""
        parts = {f"{split}_{i}": a for split, arrays in self.splits.items() for i, a in enumerate(arrays)}
        return {**self.vocabulary.arrays(), **parts, "duplicates": np.array(self.duplicates)}

    @classmethod
    def of_arrays(cls, given: Mapping[str, Array]) -> Prepared:
        """Make it again."""
        names: tuple[Split, ...] = ("train", "val", "test")
        splits = {s: (given[f"{s}_0"], given[f"{s}_1"], given[f"{s}_2"]) for s in names if f"{s}_0" in given}
        across, train, test = given["duplicates"].tolist()
        return cls(Vocabulary.of_arrays(given), splits, (across, train, test))


def encode(reviews: Mapping[Split, list[Review]], reading: Reading, given: Vocabulary | None) -> Prepared:
    """Turn the official splits into a run's, in numbers."""
    train, val = (reviews["train"], []) if reading.validate_on == "test" else by_film(reviews["train"])
    parts: dict[Split, list[Review]] = {"train": train, "val": val, "test": reviews["test"]}
    for part in parts.values():
        part.sort(key=lambda review: _shuffled(review.text))  # so that both labels stand among the first few
    everything = itertools.chain.from_iterable(parts.values())
    words, flat, starts = number_words((review.text for review in everything), reading.punctuation)
    numbers, begins, done = {}, {}, 0
    for split, part in parts.items():
        begin, end = starts[done], starts[done + len(part)]
        numbers[split], begins[split] = flat[begin:end], starts[done : done + len(part) + 1] - begin
        done += len(part)
    if given is None:
        vocabulary, row_of = Vocabulary.learn(words, numbers["train"], begins["train"][:-1], reading)
    else:
        known = {word: row for row, word in enumerate(given.words, FIRST_WORD)}
        vocabulary, row_of = given, np.array([known.get(word, UNKNOWN) for word in words], np.int32)
    row_of[0] = START

    def encoded(split: Split) -> tuple[Array, Array, Array]:
        rows = vocabulary.rows(row_of[numbers[split]], begins[split][:-1])
        rows, offsets = _last_tokens(rows, begins[split], reading.max_tokens)
        return rows, offsets, np.array([review.label for review in parts[split]], np.int64)

    with ThreadPoolExecutor() as pool:  # NumPy's searches let others run
        splits = dict(zip(parts, pool.map(encoded, parts), strict=True))
    if reading.validate_on == "test":
        del splits["val"]
    return Prepared(vocabulary, splits, duplicates(reviews))


def _last_tokens(rows: Array, offsets: Array, most: int) -> tuple[Array, Array]:
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, most)
    from_end = np.repeat(offsets[1:], lengths) - np.arange(len(rows))
    return rows[from_end <= most], np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)


def duplicates(reviews: Mapping[Split, list[Review]]) -> tuple[int, int, int]:
    """Count the texts of test that stand in train too, and repetitions within train and within test."""
    texts = {split: Counter(review.text for review in part) for split, part in reviews.items()}
    within = {split: sum(counts.values()) - len(counts) for split, counts in texts.items()}
    return len(texts["train"].keys() & texts["test"].keys()), within["train"], within["test"]


# The cache


def prepare(reading: Reading, archive: str | None, folder: str | None, vocabulary: Vocabulary | None) -> Prepared:
    """Give the prepared arrays: from the cache, or made from the archive or folder, or from the official address.

    Raises:
        UsageError: the reviews cannot be had; the line says what to do.
    """
    home = cache_folder()
    with alone(home):
        if folder is not None:
            source, option = Path(folder).expanduser(), "task.folder"
        elif archive is not None:
            source, option = Path(archive).expanduser(), "task.archive"
        else:
            source, option = fetch(home), "task.archive"
        key = json.dumps([FORMAT, PER_LABEL, fingerprint(source, option), asdict(reading)])
        path = home / f"prepared-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
        prepared = load(path)
        if prepared is None:
            say(f"preparing the reviews of {source}")
            reviews = read_folder(source) if folder is not None else read_archive(source, option)
            prepared = encode(reviews, reading, vocabulary)
            with full_disk(home):
                save(path, prepared)
    return prepared


def load(path: Path) -> Prepared | None:
    """Read prepared arrays, each checked against its sum (CRC-32); None where there are none, or damaged ones."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return Prepared.of_arrays({name: file[name] for name in file.files})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        say(f"{path}: damaged ({' '.join(str(error).split())}); made anew")
        return None


def save(path: Path, prepared: Prepared) -> None:
    """Write prepared arrays whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez(file, **prepared.arrays())  # type: ignore[arg-type]
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
