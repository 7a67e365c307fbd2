"""Standard output and error that never fail: a pipe that ended, or a full disk, must not end a run."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Lossy(io.FileIO):
    """A file descriptor whose writes do not fail.

    Attributes:
        error: the first thing that could not be written, if any.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write what can be written, and count the rest as written."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


@contextmanager
def lossy() -> Iterator[list[Lossy]]:
    """Print through `Lossy`, in whatever is a file and is not printed so yet; what its encoding lacks is escaped."""
    before = sys.stdout, sys.stderr
    files = []
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        with suppress(io.UnsupportedOperation):  # an object of a test's, say
            if not isinstance(stream, io.TextIOWrapper) or isinstance(getattr(stream.buffer, "raw", None), Lossy):
                continue
            files.append(Lossy(stream.fileno(), "w", closefd=False))
            stream.flush()
            text = io.TextIOWrapper(
                io.BufferedWriter(files[-1]), stream.encoding, "backslashreplace", line_buffering=stream.line_buffering
            )
            setattr(sys, name, text)
    try:
        yield files
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
