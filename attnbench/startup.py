"""What comes before every other import: the current folder, Ctrl-C, garbage, and a checkout's conf/ and plugins/.

And scipy.signal, whose code waits here until somebody uses it.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import TracebackType
from typing import Any


def is_command() -> bool:
    """Tell whether this process is `attnbench` or `python -m attnbench`, or one that it started.

    Otherwise it is a program that imports the package.
    """
    if sys.argv[:1] == ["-m"]:  # until the module is found
        return any(word.partition(".")[0] == "attnbench" for word in sys.orig_argv)
    folder, name = os.path.split((sys.argv or [""])[0])
    return name == "attnbench" or (name == "__main__.py" and folder == os.path.dirname(__file__))  # noqa: PTH120


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


class Deferred:
    """Finds scipy.signal, and runs its code only when something of it is asked for (PEP 562).

    torchmetrics, which Lightning imports, imports it to give it the name `hamming`, for the sake of a package that is
    seldom there: half a second, a twentieth of the default run. Here it has that name from the start.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find scipy.signal where it lies; leave all else to the finders that follow."""
        spec = PathFinder.find_spec(name, path) if name == "scipy.signal" else None
        if spec is not None:
            spec.loader = cls(spec.loader)  # type: ignore[assignment]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make the module."""

    def exec_module(self, module: Any) -> None:
        """Run the module's code when a name is asked for that it lacks."""

        def run(name: str) -> Any:
            del module.__getattr__
            self.loader.exec_module(module)
            return getattr(module, name)

        def hamming(*args: Any, **options: Any) -> Any:
            return module.windows.hamming(*args, **options)

        module.__spec__.loader = module.__loader__ = self.loader
        module.__getattr__, module.hamming = run, hamming


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
    sys.meta_path.insert(0, Deferred)
import_beside("conf")
import_beside("plugins")
