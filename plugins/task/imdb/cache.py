"""Prepared arrays, kept in the cache folder so that only the first run prepares them."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from attnbench import downloads

from . import archive
from .preparation import Prepared, Preprocessing, encode
from .vocabulary import Vocabulary

FORMAT = 1  # of the prepared arrays; a new number leaves the old ones alone


def prepare(
    preprocessing: Preprocessing, archive_path: Path | None, folder: Path | None, vocabulary: Vocabulary | None
) -> Prepared:
    """Return the prepared arrays: from the cache, or made from the archive or folder, or from the official address.

    Raises:
        UsageError: the reviews cannot be had; the line says what to do.
    """
    home = downloads.cache_folder("imdb")
    with downloads.exclusive(home, room=archive.ROOM):
        if folder is not None:
            source, option = folder, "task.folder"
        elif archive_path is not None:
            source, option = archive_path, "task.archive"
        else:
            source, option = archive.fetch(home), "task.archive"
        key = json.dumps([FORMAT, archive.PER_LABEL, archive.fingerprint(source, option), asdict(preprocessing)])
        path = home / f"prepared-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
        prepared = load(path)
        if prepared is None:
            downloads.announce("imdb", f"preparing the reviews of {source}")
            reviews = archive.read_folder(source) if folder is not None else archive.read_archive(source, option)
            prepared = encode(reviews, preprocessing, vocabulary)
            with downloads.explain_disk(home, room=archive.ROOM):
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
        downloads.announce("imdb", f"{path}: damaged ({' '.join(str(error).split())}); made anew")
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
