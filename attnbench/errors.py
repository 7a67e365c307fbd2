"""What a user can mend, in one line: the errors, and the nearest name to what was typed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UsageError(Exception):
    """Something that a user can mend: shown as one line, without a traceback, with a non-zero exit code."""


class IncompatibleError(UsageError):
    """A combination that no run can have: a sweep skips it."""


class UnfitError(TypeError):
    """A plugin, or a class that it registers, does not fit the bench; the message says what to write instead."""


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """The run was stopped from outside; the message is its folder, which can be resumed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, and which there are."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    listed = ", ".join(names) if names else "none"
    return f"did you mean '{close[0]}'? (there are: {listed})" if close else f"there are: {listed}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory did not suffice; torch says so by a text alone."""
    said = re.compile("out of memory|allocate memory|Storage size calculation overflowed|multiplication overflow")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said.search(str(error)) is not None)
