"""What ships, and what lies in your own plugin folders: one import name for both.

A file `mine.py` in a folder of `$ATTNBENCH_PLUGINS` (separated by the system's path separator), or in `./plugins`, is
the module `attnbench.plugins.mine`, in this process and in every worker that it starts from here; so is a folder
`mine` with an `__init__.py`.
"""

import os
from pathlib import Path


def named() -> list[Path]:
    """Return the folders that $ATTNBENCH_PLUGINS names."""
    return [Path(part) for part in os.environ.get("ATTNBENCH_PLUGINS", "").split(os.pathsep) if part]


def folders() -> list[Path]:
    """Return the folders that plugins are loaded from: ours first, each once."""
    unique: dict[Path, Path] = {}
    for folder in [Path(__file__).parent, *named(), Path.cwd() / "plugins"]:
        if folder.is_dir():
            unique.setdefault(folder.resolve(), folder)
    return list(unique.values())


def missing_folders() -> list[Path]:
    """Return the folders that are named, and not there."""
    return [folder for folder in named() if not folder.is_dir()]


__path__ = [str(folder) for folder in folders()]
