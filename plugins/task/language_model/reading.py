"""Texts, and archives of texts, as one string."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from attnbench import UsageError

OWN_TEXT = Path(__file__).parent / "text.txt"
MOST = 4_000_000  # characters that are read


def read(file: Path | None, least: int) -> str:
    """Read a text, or the texts of an archive.

    Args:
        file: a text, or an archive of texts; None for the text that ships.
        least: how many characters are needed.

    Raises:
        UsageError: it cannot be read, is no text in UTF-8, or is shorter.
    """
    path = file or OWN_TEXT
    try:
        if path.name.endswith((".tar.gz", ".tgz")):
            content = _read_archive(path)
        else:
            with path.open(encoding="utf-8-sig") as text:
                content = text.read(MOST)
    except UnicodeDecodeError as error:
        raise UsageError(f"task.file={path}: not a text in UTF-8: {error.reason} at byte {error.start}") from error
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UsageError(f"task.file={path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not content.strip():
        raise UsageError(f"task.file={path}: the text is empty")
    if "\0" in content:
        raise UsageError(f"task.file={path}: not a text, it holds the character 0")
    if len(content) < least:
        raise UsageError(
            f"task.file={path}: {len(content)} characters, and a window of this block needs {least} or more"
        )
    return content


def read_characters(path: Path) -> list[str]:
    """Read a list of characters that a run has saved.

    Raises:
        UsageError: it is not there, or is no such list.
    """
    try:
        characters = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if not (isinstance(characters, list) and characters and all(isinstance(c, str) for c in characters)):
        raise UsageError(f"{path}: not a list of characters")
    return characters


def _read_archive(path: Path) -> str:
    texts, length = [], 0
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.isfile() and member.name.endswith(".txt") else None
            if opened is not None:
                texts.append(opened.read(MOST).decode("utf-8"))
                length += len(texts[-1]) + 1
                if length > MOST:
                    break
    if not texts:
        raise UsageError(f"task.file={path}: the archive holds no .txt file")
    return "\n".join(texts)[:MOST]
