"""Where plugins are, loading them one at a time, and what is wrong with each that fails."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import linecache
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import extend_path
from traceback import walk_tb
from types import FrameType, ModuleType
from typing import Any

import pluggy

from attnbench import hookspecs, plugins  # type: ignore[attr-defined]
from attnbench.errors import UnfitError, nearest
from attnbench.interfaces import Attention, ScoringFunction, Task
from attnbench.schema import check_recipe, check_signature, name_fault

BASES: Mapping[str, type] = {"scoring": ScoringFunction, "attention": Attention, "task": Task}
SHIPPED = Path(plugins.__file__).resolve().parent
#: Where a plugin's module holds of what it was imported: its path, and how the files were.
STAMP = "__attnbench_stamp__"
#: What the origin of a shipped component ends with.
SHIPPED_MARK = " (shipped)"
#: Where an error rises that is not the plugin's own doing, but that of what loads it.
MACHINERY = tuple(str(Path(str(module.__file__)).parent) + os.sep for module in (importlib, pluggy, hookspecs))


def conf_folders() -> list[Path]:
    """Return where suites and experiments of one's own are: conf/ here, beside $ATTNBENCH_PLUGINS, in plugin packages.

    There need be no such folder.
    """
    beside = [Path(p).parent for p in os.environ.get("ATTNBENCH_PLUGINS", "").split(os.pathsep) if p]
    specs = [importlib.util.find_spec(point.module.partition(".")[0]) for point in entry_points(group="attnbench")]
    packages = [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin]
    return [place / "conf" for place in (Path(), *beside, *packages)]


@dataclass(frozen=True)
class Component:
    """A registered class: its kind, its name on the command line, and the plugin that brought it."""

    kind: str
    name: str
    cls: type[Any]
    origin: str

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]

    @property
    def shipped(self) -> bool:
        """Whether it comes with attnbench."""
        return self.origin.endswith(SHIPPED_MARK)


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded: its name, where it is, and why with what to do about it."""

    name: str
    origin: str
    reason: str

    def __str__(self) -> str:
        return f"plugin '{self.name}' is not loaded, {self.origin}: {self.reason}"


@dataclass(frozen=True)
class Source:
    """Something to load: the module of a file or folder, or an installed package's entry point.

    Attributes:
        name: the file's name without `.py`, the folder's, or the entry point's: what $ATTNBENCH_DISABLE names.
        origin: where it is, for people.
        shipped: whether it is ours, so that a failure is a bug of ours.
        load: returns the module or object that has the hooks.
        path: the file or folder, if that is known before it is loaded.
    """

    name: str
    origin: str
    shipped: bool
    load: Callable[[], Any]
    path: Path | None = None


def load(source: Source) -> list[Component]:
    """Run one plugin's hooks, in a plugin manager of its own so that it can disturb no other.

    Raises UnfitError where it does not fit the bench, and whatever the plugin raises, SystemExit included.
    """
    components: list[Component] = []
    plugin = source.load()
    manager = pluggy.PluginManager("attnbench")
    manager.add_hookspecs(hookspecs)
    known = [f"register_{kind}" for kind in BASES]
    implemented = [name for name in dir(plugin) if manager.parse_hookimpl_opts(plugin, name) is not None]
    for name in implemented:
        if name not in known:
            raise UnfitError(f"there is no hook '{name}'; {nearest(name, known)}: rename the function")
    if not implemented:
        raise UnfitError(
            "it has no hook: write `@hookimpl` above `def register_scoring(register)`, or _attention, or _task"
        )
    try:
        manager.register(plugin, source.origin)
    except pluggy.PluginValidationError as error:
        raise UnfitError(
            f"{' '.join(str(error).split())}: write `def {known[0]}(register)`, or _attention, _task"
        ) from error
    for kind, base in BASES.items():
        hook = getattr(manager.hook, f"register_{kind}")
        hook(register=partial(_add, components, source.origin, kind, base))
    return components


def _add(components: list[Component], origin: str, kind: str, base: type, name: str, cls: Any) -> None:
    if (fault := name_fault(str(name))) is not None:
        raise UnfitError(f"{kind} {name!r}: {fault}: rename it")
    if not (isinstance(cls, type) and issubclass(cls, base)):
        what = cls.__name__ if isinstance(cls, type) else repr(cls)
        parent = base.__name__
        raise UnfitError(f"{kind} '{name}' is {what}, which is no attnbench.{parent}: write `class ...({parent})`")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(vars(cls)["__abstractmethods__"]))
        raise UnfitError(f"{kind} '{name}': {cls.__name__} is abstract: define {missing}")
    if any((other.kind, other.name) == (kind, name) for other in components):
        raise UnfitError(f"it registers {kind} '{name}' twice: rename one of them")
    check_signature(kind, cls)
    if issubclass(cls, Task):
        check_recipe(cls.__name__, cls.recipe)
        if not isinstance(getattr(cls, "primary", None), str):
            raise UnfitError(f'{cls.__name__} has no `primary`: write `primary = "accuracy"`, a key of its metrics()')
    components.append(Component(kind, name, cls, origin))


def sources(paths: tuple[Path, ...]) -> Iterator[Source]:
    """Return what there is to load: in plugin folders, by installed packages' entry points, and `paths` besides."""
    _look_in_the_folders_of_now()
    seen: dict[str, Path] = {}
    for folder in plugins.folders():
        for path in _plugins_in(folder):
            module = ".".join(["attnbench.plugins", *path.relative_to(folder).with_suffix("").parts])
            shipped = folder.resolve() == SHIPPED and path.parent != folder
            origin = f"{path.relative_to(folder.parent)}{SHIPPED_MARK}" if shipped else str(path)
            load: Callable[[], Any] = partial(_import, module, path.resolve())
            if path.is_symlink() and not path.exists():
                load = partial(_refuse, f"it is a link to {path.readlink()}, which is not there: mend or remove it")
            elif not path.stem.isidentifier():
                word = "".join(letter if letter.isalnum() else "_" for letter in path.stem)
                load = partial(_refuse, f"'{path.name}' is no module name: rename it, such as to {word}{path.suffix}")
            elif module in seen:
                load = partial(_refuse, f"{seen[module]} has the same name: rename one of them")
            else:
                seen[module] = path
            yield Source(path.stem, origin, shipped, load, path)
    for part in plugins.missing_folders():
        missing = f"there is no such folder: make it, or take it out of ATTNBENCH_PLUGINS={part}"
        yield Source(part.name, str(part), False, partial(_refuse, missing))
    entries = sorted(entry_points(group="attnbench"), key=lambda entry: entry.name)
    for entry in entries:
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an installed package"
        yield Source(entry.name, f"{entry.value} ({package})", False, partial(_load_entry, entry))
    modules = (sys.modules.get(entry.module) for entry in entries)  # they have been loaded by now
    files = [Path(module.__file__) for module in modules if module and module.__file__]
    loaded = [*seen.values(), *(file.parent if file.name == "__init__.py" else file for file in files)]
    for path in paths:
        if not any(path.resolve().is_relative_to(other.resolve()) for other in loaded):
            yield Source(path.resolve().stem, str(path), False, partial(_import_path, path), path)


def _look_in_the_folders_of_now() -> None:
    """Let Python import from the plugin folders as they are: one may be new since, or the current folder another."""
    plugins.__path__[:] = map(str, plugins.folders())
    for kind in BASES:
        if (package := sys.modules.get(f"{plugins.__name__}.{kind}")) is not None:
            package.__path__ = extend_path(package.__path__[:1], package.__name__)  # ours is the first
    importlib.invalidate_caches()


def _plugins_in(folder: Path) -> list[Path]:
    """Return the files and folders of a plugin folder, and of its folders for each kind, that are plugins."""
    places = [folder, *(folder / kind for kind in BASES)]
    paths = sorted(path for place in places for path in place.glob("*") if path not in places)
    return [path for path in paths if not path.name.startswith(("_", ".")) and _is_plugin(path)]


def _is_plugin(path: Path) -> bool:
    """Tell whether a file or folder names attnbench: others in a folder named plugins are another program's."""
    if path.suffix == ".py":
        return _names_attnbench(path)
    return (path / "__init__.py").is_file() and any(map(_names_attnbench, path.glob("*.py")))


def _names_attnbench(path: Path) -> bool:
    try:
        return "attnbench" in path.read_text(encoding="utf-8", errors="ignore")
    except OSError:  # loading it says what is wrong with it
        return not path.is_dir()


def _import(name: str, path: Path) -> ModuleType:
    """Import a plugin; anew if the one of that name came from another folder."""
    module, stamp = sys.modules.get(name), _stamp(path)
    if module is not None and not Path(str(module.__file__)).resolve().is_relative_to(path):
        _forget(name)
    module = importlib.import_module(name)
    vars(module).setdefault(STAMP, (path, stamp))
    return module


def _forget(name: str) -> None:
    """Let a module, and those within it, be imported anew."""
    for known in [known for known in sys.modules if f"{known}.".startswith(f"{name}.")]:
        del sys.modules[known]


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what tells that a plugin's file, or one of its folder's, has changed."""
    files = sorted(path.glob("*.py")) if path.is_dir() else [path] if path.exists() else []
    return tuple((str(file), (now := file.stat()).st_mtime_ns, now.st_size) for file in files)


def fingerprint() -> tuple[object, ...]:
    """Return what tells that there may be other plugins, or other code in them, than there were."""
    places = [place for folder in plugins.folders() for place in (folder, *(folder / kind for kind in BASES))]
    files = [_stamp(path) for place in places for path in sorted(place.glob("*"))]
    installed = [(place, Path(place).stat().st_mtime_ns) for place in sys.path if place and Path(place).exists()]
    settings = [(name, value) for name, value in sorted(os.environ.items()) if name.startswith("ATTNBENCH_")]
    return Path.cwd(), tuple(files), tuple(installed), tuple(settings)


def forget_changed() -> None:
    """Let plugins whose files have changed since they were imported be imported anew."""
    for name, module in list(sys.modules.items()):
        if name.startswith("attnbench.plugins.") and (imported := vars(module).get(STAMP)) is not None:
            path, stamp = imported
            if stamp != _stamp(path):
                _forget(name)


def described(cls: type[Any], kind: str | None = None) -> Component:
    """Describe a class that no plugin registers, by its own name; UnfitError where no plugin could register it."""
    kind = kind or next((kind for kind, base in BASES.items() if issubclass(cls, base)), "attention")
    components: list[Component] = []
    _add(components, f"{cls.__module__}.{cls.__qualname__}", kind, BASES[kind], cls.__name__, cls)
    return components[0]


def _refuse(reason: str) -> ModuleType:
    raise UnfitError(reason)


def _load_entry(entry: EntryPoint) -> Any:
    """Load an entry point; one that leads nowhere is told apart from a plugin that lacks a package."""
    package = entry.dist.name if entry.dist else "its package"
    cure = f"entry point {entry.name} = {entry.value!r} leads nowhere: reinstall or uninstall {package}"
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if error.name is not None and f"{entry.module}.".startswith(f"{error.name}."):
            raise UnfitError(f"{cure} (no module '{error.name}')") from error
        raise
    except AttributeError as error:
        if entry.attr and entry.module in sys.modules:
            raise UnfitError(f"{cure} (no '{entry.attr}' in {entry.module})") from error
        raise


def _import_path(path: Path) -> ModuleType:
    """Import a file or folder that lies anywhere."""
    stem = path.resolve().stem
    name = f"attnbench.plugins.{stem}"
    while name in sys.modules:  # another's
        name += "_"
    file, inside = (path / "__init__.py", [str(path)]) if path.is_dir() else (path, None)
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)
    if spec is None or spec.loader is None:
        raise UnfitError(f"{path} is not a Python file: name it {stem}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def clash(key: tuple[str, str], other: str, source: Source) -> str:
    """Say that another plugin registers the same name, and what to do."""
    kind, name = key
    disable = f"or set ATTNBENCH_DISABLE={source.name}"
    if other.endswith(SHIPPED_MARK):
        return f"it registers {kind} '{name}', which {other} is: give it another name where it registers, {disable}"
    return (
        f"it registers {kind} '{name}', which {other} registers too, so neither has the name: "
        f"rename one of them, {disable}"
    )


def reason(error: BaseException, source: Source) -> str:
    """Put an exception into one line: what it is, the place in the plugin where it rose, and what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, UnfitError):
        return text
    cure = f"mend it, or set ATTNBENCH_DISABLE={source.name}"
    if isinstance(error, ImportError):
        cure = _import_cure(error, source) or cure
    place = _place(error, source)
    return f"{type(error).__name__}: {text}" + (f" ({place})" if place else "") + f": {cure}"


def _import_cure(error: ImportError, source: Source) -> str | None:
    """Say how to get what a plugin could not import; None where that cannot be known."""
    name = error.name or ""
    if f"{name}.".startswith("attnbench.plugins."):
        return None
    if name.partition(".")[0] == "attnbench":
        import attnbench

        wanted = str(getattr(error, "name_from", None) or name.rpartition(".")[2])
        return f"import from attnbench what is public there; {nearest(wanted, attnbench.__all__)}"
    if not isinstance(error, ModuleNotFoundError):
        return None
    if source.path is not None and any(source.path.glob(f"{name}.py")):
        return f"it lies in the plugin's folder: write `from . import {name}`"
    if source.path is not None and any(source.path.parent.glob(f"{name}.py")):
        return f"it lies beside the plugin: write `from attnbench.plugins import {name}`"
    return f"pip install {name.partition('.')[0]}"


def _place(error: BaseException, source: Source) -> str | None:
    """Name the last line of the plugin's own that an exception passed through."""
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    if source.path is not None:
        home = source.path.resolve()
        for file, line in reversed(places):
            if (path := Path(file).resolve()).is_relative_to(home):
                return f"{path.relative_to(home.parent)}:{line}"
    for file, line in reversed(places):
        if not file.startswith(("<", *MACHINERY)):
            return f"{Path(file).name}:{line}"
    return None


def plugin_line(error: BaseException) -> str:
    """Return " (plugins/mine.py:31)", the last line that an error passed through of a plugin that does not ship.

    "" where it passed through none, or is meant for the user: a `raise` of the plugin's, or of attnbench's, says it. Of
    an error that attnbench raised from another, that other counts.
    """
    installed = {f"{entry.module.partition('.')[0]}." for entry in entry_points(group="attnbench")}

    def owner(frame: FrameType) -> str:
        module, file = f"{frame.f_globals.get('__name__')}.", Path(frame.f_code.co_filename).resolve()
        plugin = module.startswith(("attnbench.plugins.", *installed))
        if plugin and not any(file.is_relative_to(SHIPPED / kind) for kind in BASES):
            return "plugin"
        return "attnbench" if module.startswith("attnbench.") else ""

    frames = list(walk_tb(error.__traceback__))
    while frames and owner(frames[-1][0]) == "attnbench" and error.__cause__ is not None:
        error = error.__cause__
        frames = list(walk_tb(error.__traceback__))
    places = [(Path(frame.f_code.co_filename), line) for frame, line in frames if owner(frame) == "plugin"]
    if not places:
        return ""
    last, line = frames[-1]
    if owner(last) and "raise " in linecache.getline(last.f_code.co_filename, line):
        return ""
    path, line = places[-1]
    return f" ({path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line})"
