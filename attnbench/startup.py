"""What comes before every other import: the current folder, Ctrl-C, garbage, and a checkout's conf/ and plugins/."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from types import TracebackType


def is_command() -> bool:
    """Tell whether this process is `attnbench` or `python -m attnbench`, rather than a program that imports it."""
    if sys.argv[:1] == ["-m"]:  # until the module is found
        return any(word.partition(".")[0] == "attnbench" for word in sys.orig_argv)
    return os.path.basename((sys.argv or [""])[0]) == "attnbench"  # noqa: PTH119 (pathlib is not imported yet)


def put_current_folder_last() -> None:
    """Let Python search the current folder last.

    `python -m` puts it first, where a random.py or torch.py of the user's would be taken for the real one.
    """
    if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))


def end_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line that Ctrl-C came while something was imported."""
    if issubclass(kind, KeyboardInterrupt):
        print("attnbench: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def end_imports() -> None:
    """Collect garbage from now on, but never look through what was imported until now: it stays.

    Collections would take a fifth of the time of the imports, which make little garbage, and of the end of the process.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def import_beside(name: str) -> None:
    """Import a folder that lies beside the package in a checkout, and in it where it is installed, as `attnbench.name`.

    The checkout is not put on the package's path, for `attnbench.tests` would be importable then.
    """
    from pathlib import Path

    package, full_name = Path(__file__).parent, f"attnbench.{name}"
    if full_name in sys.modules or (package / name).is_dir():
        return
    folder = package.parent / name
    spec = importlib.util.spec_from_file_location(
        full_name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full_name] = module
    spec.loader.exec_module(module)
    setattr(sys.modules["attnbench"], name, module)


if is_command():
    put_current_folder_last()
    sys.excepthook = end_in_one_line
    gc.disable()  # until `end_imports`
import_beside("conf")
import_beside("plugins")
