"""The Large Movie Review data set: its archive fetched, or found where the user has it, and its reviews read."""

from __future__ import annotations

import hashlib
import itertools
import lzma
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from attnbench import Split, UsageError, downloads

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
PER_LABEL = 12_500  # reviews of each split and label
LABELS = ("neg", "pos")
ROOM = "400 MB of room"
OWN_FILES = "use files you have: task.archive=PATH.tar.gz, or task.folder=PATH of an extracted aclImdb"
MEMBER = re.compile(r"(?:\./)?aclImdb/(train|test)/(?:(neg|pos)/(\d+)_\d+\.txt|urls_(neg|pos)\.txt)")

#: By split, label and number; and by split and label, the films of the reviews by number.
Texts = dict[tuple[str, str, int], str]
Urls = dict[tuple[str, str], list[str]]


class Review(NamedTuple):
    """A text, whether it is positive, and the film it is about."""

    text: str
    label: int
    film: str


def fetch(folder: Path) -> Path:
    """Download the archive from its official address, once; a file that is there already is checked.

    Raises:
        UsageError: there is no network, no room, or what came is not the data set.
    """
    return downloads.fetch(URL, SHA256, folder, size="84 MB", room=ROOM, instead=OWN_FILES)


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
        UsageError: it is not a whole archive, has a member outside its folder, or lacks reviews (see `_reviews`).
    """
    texts: Texts = {}
    urls: Urls = {}
    where = f"{option}={path}"
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                match = MEMBER.fullmatch(member.name)
                if match is None:
                    if member.name.startswith("/") or ".." in Path(member.name).parts:
                        reason = "lies outside the folder; not the data set"
                        raise UsageError(f"{where}: its member {member.name!r} {reason}")
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None:
                    raise UsageError(f"{where}: its member {member.name!r} is a link, not a review; not the data set")
                _add(match, file.read(), texts, urls)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{where}: truncated or altered ({reason}); download it again, or {OWN_FILES}") from error
    return _reviews(texts, urls, where)


def read_folder(path: Path) -> dict[Split, list[Review]]:
    """Read the reviews of an extracted archive: the folder that holds `train` and `test`.

    Raises:
        UsageError: a file cannot be read, or reviews are missing (see `_reviews`).
    """
    texts: Texts = {}
    urls: Urls = {}
    try:
        for split in ("train", "test"):
            for file in itertools.chain((path / split).glob("urls_*.txt"), (path / split).glob("[np]*/*.txt")):
                match = MEMBER.fullmatch(f"aclImdb/{file.relative_to(path).as_posix()}")
                if match is not None:
                    _add(match, file.read_bytes(), texts, urls)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"task.folder={path}: cannot be read: {error}") from error
    return _reviews(texts, urls, f"task.folder={path}")


def _add(match: re.Match[str], content: bytes, texts: Texts, urls: Urls) -> None:
    """Add a file's content to the texts, or to the urls."""
    split, label, number, urls_label = match.groups()
    if urls_label is not None:
        urls[split, urls_label] = content.decode().split()
    else:
        texts[split, label, int(number)] = content.decode()


def _reviews(texts: Mapping[tuple[str, str, int], str], urls: Urls, where: str) -> dict[Split, list[Review]]:
    """Put the reviews in order. Line i of a url file names the film of review i.

    Raises:
        UsageError: a split and label does not have as many reviews as the data set, or a review has no film.
    """
    counts = Counter((split, label) for split, label, _ in texts)
    if any(counts[split, label] != PER_LABEL for split in ("train", "test") for label in LABELS):
        numbers = ", ".join(f"{counts[s, label]:,} {s}/{label}" for s in ("train", "test") for label in LABELS)
        raise UsageError(
            f"{where}: expected {PER_LABEL:,} reviews of each split and label, found {numbers}; {OWN_FILES}"
        )
    reviews: dict[Split, list[Review]] = {"train": [], "test": []}
    for (split, label, number), text in sorted(texts.items()):
        films = urls.get((split, label), [])
        if number >= len(films):
            raise UsageError(f"{where}: {split}/urls_{label}.txt names no film for review {number}; {OWN_FILES}")
        reviews["test" if split == "test" else "train"].append(Review(text, LABELS.index(label), films[number]))
    return reviews
