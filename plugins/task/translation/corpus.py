"""Pairs of sentences: fetched or found, read, and shared out by source."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from attnbench import Split, UsageError, downloads

from .text import count_words, split_words

URL = "http://www.manythings.org/anki/fra-eng.zip"
OWN_FILE = "use a file you have: task.file=PATH"
MOST = {"val": 1000, "test": 4000}  # sources; a tenth of all at most

#: A source, and every translation of it, words with blanks between.
References = tuple[str, list[str]]


def fetch(folder: Path) -> Path:
    """Download the English-French pairs of Tatoeba, as ManyThings serves them, once.

    Raises:
        UsageError: there is no network, or no room, or what came is no archive.
    """
    path = downloads.fetch(URL, None, folder, size="7 MB", instead=OWN_FILE)
    if not zipfile.is_zipfile(path):
        path.unlink()
        raise UsageError(f"{URL}: what came is no archive; start again, or {OWN_FILE}")
    return path


def read(path: Path) -> str:
    """Read a text, or the text of an archive (.zip) whose name has no underscore.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        if path.suffix != ".zip":
            return path.read_text(encoding="utf-8-sig")
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".txt") and "_" not in name]
            if len(names) != 1:
                raise UsageError(f"task.file={path}: expected one text in the archive, found {len(names)}")
            return archive.read(names[0]).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"task.file={path}: not a text in UTF-8: {error.reason} at byte {error.start}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"task.file={path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def parse(text: str, columns: tuple[int, int], max_words: int, lower: bool, where: str) -> list[References]:
    """Return the sources of a tab-separated text, each with all of its translations, in the order of the text.

    Args:
        text: a pair a line.
        columns: where in a line a source and its translation stand.
        max_words: a source with more words, marks not counted, or such a translation, is left out.
        lower: whether upper case is made lower case.
        where: for messages, what the text is.

    Raises:
        UsageError: a line has no such column, or all pairs are too long.
    """
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) <= max(columns):
            raise UsageError(
                f"{where}, line {number}: expected a column {max(columns)} (the first is 0), separated by tabs; "
                f"there are {len(fields)}"
            )
        pair = [split_words(fields[column], lower) for column in columns]
        if all(0 < count_words(words) <= max_words for words in pair):
            source, target = map(" ".join, pair)
            references = found.setdefault(source, [])
            if target not in references:
                references.append(target)
    if len(found) < 20:
        raise UsageError(f"{where}: {len(found)} sources of at most {max_words} words; at least 20 are needed")
    return list(found.items())


def split(pairs: Sequence[References], seed: int) -> Mapping[Split, list[References]]:
    """Share sources out, each with all of its translations, in an order that is a function of source and seed."""

    def shuffled(pair: References) -> bytes:
        return hashlib.blake2b(f"{seed}:{pair[0]}".encode(), digest_size=8).digest()

    order = sorted(pairs, key=shuffled)
    tests, vals = (min(MOST[name], len(pairs) // 10) for name in ("test", "val"))
    return {"test": order[:tests], "val": order[tests : tests + vals], "train": order[tests + vals :]}
