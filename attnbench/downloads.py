"""Files from the network: fetched once into a cache, checked against their sum, by one process at a time."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attnbench.errors import UsageError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM)


def cache_folder(name: str) -> Path:
    """Return the folder for a task's downloads and what is made of them: $ATTNBENCH_DATA/name, or the user's cache."""
    if chosen := os.environ.get("ATTNBENCH_DATA"):
        return Path(chosen) / name
    import pooch  # type: ignore[import-untyped]

    return Path(pooch.os_cache("attnbench")) / name


def announce(name: str, line: str) -> None:
    """Tell the user on stderr, and the run's log, what a task is doing that takes its time."""
    print(f"{name}: {line}", file=sys.stderr)
    logging.getLogger(f"attnbench.{name}").info("%s", line)


@contextmanager
def exclusive(folder: Path, *, room: str = "room") -> Iterator[None]:
    """Make a folder and be the only process that works in it; say so when another one has to be waited for.

    Args:
        folder: of the cache, named after the task.
        room: how much is needed, such as "400 MB of room", for the line that says that the disk is full.

    Raises:
        UsageError: the folder cannot be made or written.
    """
    from filelock import FileLock, Timeout

    with explain_disk(folder, room=room):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            announce(folder.name, f"another run is at work in {folder}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explain_disk(folder: Path, *, room: str = "room") -> Iterator[None]:
    """Turn the OSError of a full or read-only disk into a UsageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        reason = os.strerror(error.errno or 0)
        raise UsageError(f"{folder}: {reason}; set ATTNBENCH_DATA to a folder with {room}") from error


def fetch(
    url: str,
    sha256: str | None,
    folder: Path,
    *,
    filename: str | None = None,
    size: str = "",
    room: str = "room",
    instead: str = "",
) -> Path:
    """Download a file once and return its path; one that is there already is checked. Call it within `exclusive`.

    Args:
        url: where it is.
        sha256: its checksum, in hexadecimal. None where the address serves what is newest, so that nobody can know it:
            that of what came is then kept beside it, in NAME.sha256, and a file that is no longer that is fetched anew.
        folder: of the cache, named after the task.
        filename: its name there; the last part of the url if None.
        size: for the line that announces the download, such as "84 MB".
        room: as in `exclusive`.
        instead: what a user without a network can do: "use a file you have: task.archive=PATH".

    Raises:
        UsageError: there is no network, no room, or what came has another checksum: in one line, with `instead`.
    """
    import pooch

    path = folder / (filename or url.rstrip("/").rpartition("/")[2])
    advice = f"start again, or {instead}" if instead else "start again"
    pooch.get_logger().setLevel("WARNING")
    kept = folder / f"{path.name}.sha256"
    if sha256 is None and path.exists() and kept.exists() and kept.read_text() != pooch.file_hash(path):
        announce(folder.name, f"{path} is not what was downloaded; it is downloaded anew")
        path.unlink()
    if not path.exists():
        announce(folder.name, f"downloading {url}{f' ({size})' if size else ''} to {folder}")
    try:
        with explain_disk(folder, room=room):
            named = {"User-Agent": "attnbench"}  # some servers refuse the library's own name
            progress = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=60, headers=named)
            pooch.retrieve(url, sha256 and f"sha256:{sha256}", path.name, folder, downloader=progress)
            if sha256 is None:
                kept.write_text(pooch.file_hash(path))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{url}: by its checksum this is not the file expected; {advice}") from error
    except OSError as error:  # what requests raises is one
        raise UsageError(f"{url}: cannot be downloaded ({type(error).__name__}); {advice}") from error
    return path
