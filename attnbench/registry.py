"""Loading plugins, one at a time and isolated: names -> classes, and where each came from."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from omegaconf import OmegaConf

from attnbench import hookspecs, plugins  # type: ignore[attr-defined]
from attnbench.interfaces import Attention, ScoringFunction, Task
from attnbench.schema import (
    RunConfig,
    UnfitError,
    UsageError,
    arguments,
    check_recipe,
    check_signature,
    fill,
    nearest,
    node,
    takes_score,
)

BASES: Mapping[str, type] = {"scoring": ScoringFunction, "attention": Attention, "task": Task}
SHIPPED = Path(plugins.__file__).resolve().parent
#: Where an error rises that is not the plugin's own doing, but that of what loads it.
MACHINERY = tuple(str(Path(str(module.__file__)).parent) + os.sep for module in (importlib, pluggy, hookspecs))


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
    """Something to load: a file's module, or an installed package's entry point.

    Attributes:
        name: the file's name without `.py`, or the entry point's: what $ATTNBENCH_DISABLE names.
        origin: where it is, for people.
        shipped: whether it is ours, so that a failure is a bug of ours.
        load: gives the module or object that has the hooks.
        file: where it is, if that is known before it is loaded.
    """

    name: str
    origin: str
    shipped: bool
    load: Callable[[], Any]
    file: Path | None = None


@dataclass
class Registry:
    """What can be chosen: components by kind and name, and what failed to load."""

    components: dict[tuple[str, str], Component] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    #: names that two plugins claim: neither has them, and a run that asks for one is told of both
    taken: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    #: plugins that $ATTNBENCH_DISABLE keeps out
    disabled: list[Source] = field(default_factory=list)

    @classmethod
    def load(cls, *files: Path) -> Registry:
        """Load every plugin there is, what ships, folders, entry points, and `files` besides.

        $ATTNBENCH_DISABLE=NAME,NAME keeps plugins out, by the name of their file or entry point.
        $ATTNBENCH_STRICT=1 makes a plugin that fails an error, for automated runs that must not go on without it.

        Raises:
            UsageError: a plugin failed, under $ATTNBENCH_STRICT.
            Exception: a shipped plugin failed, which is an error of ours.
        """
        registry = cls()
        disabled = {name.strip() for name in os.environ.get("ATTNBENCH_DISABLE", "").split(",")}
        for source in _sources(files):
            if source.name in disabled:
                registry.disabled.append(source)
            else:
                registry._load_one(source)
        if registry.failures and os.environ.get("ATTNBENCH_STRICT", "0") not in ("", "0"):
            raise UsageError(f"{registry.failures[0]} (fatal: ATTNBENCH_STRICT is set)")
        return registry

    def _load_one(self, source: Source) -> None:
        found: list[Component] = []
        try:
            _register(source, found)
        except (Exception, SystemExit) as error:
            if source.shipped:
                raise
            self.failures.append(Failure(source.name, source.origin, _reason(error, source)))
            return
        for component in found:
            key = (component.kind, component.name)
            if key in self.taken:
                other = self.taken[key][0]
            elif key in self.components:
                other = self.components.pop(key).origin
            else:
                self.components[key] = component
                continue
            self.taken[key] = (other, component.origin)
            self.failures.append(Failure(source.name, source.origin, _clash(key, other, source)))

    def store(self) -> None:
        """Hand Hydra a typed node for every component, and for the run itself."""
        from hydra.core.config_store import ConfigStore  # `build` does without Hydra

        store = ConfigStore.instance().store
        store(name="run", node=RunConfig)
        for component in self.components.values():
            made: Any = node(component.name, component.cls)
            if issubclass(component.cls, Task):
                # a task may override the run around it, so that its own options stand one level down
                recipe = {**component.cls.recipe, "task": OmegaConf.structured(made)}
                store(group="task", name=component.name, node=recipe, package="_global_")
            else:
                store(group=component.kind, name=component.name, node=made)
        OmegaConf.register_new_resolver("mechanism", self.mechanism, replace=True)
        OmegaConf.register_new_resolver("differs", differs, replace=True)

    def mechanism(self, attention: str, scoring: str) -> str:
        """Name an attention module with its scoring function, if it uses one."""
        known = self.components.get(("attention", attention))
        return attention if known is not None and not takes_score(known.cls) else f"{attention}-{scoring}"

    def of(self, kind: str) -> list[Component]:
        """Give the components of a kind, by name."""
        return [self.components[key] for key in sorted(self.components) if key[0] == kind]

    def get(self, kind: str, name: str) -> Component:
        """Find a component.

        Raises:
            UsageError: there is none of that name, or the plugin of that name failed, or two plugins claim it.
        """
        key = (kind, name)
        if key in self.taken:
            first, second = self.taken[key]
            raise UsageError(f"{kind}={name}: both {first} and {second} register it; rename one of them")
        if key not in self.components:
            for failure in self.failures:
                if failure.name == name:
                    raise UsageError(f"{kind}={name}: {failure}")
            raise UsageError(f"{kind}={name}: no such {kind}; {nearest(name, (c.name for c in self.of(kind)))}")
        return self.components[key]

    def why_not(self, task: str, attention: str) -> str | None:
        """Say why a task's host cannot use an attention module; None when it can.

        Raises:
            UsageError: there is no such task or attention.
        """
        if self.get("attention", attention).cls.recurrent and not self.get("task", task).cls.stepwise:
            return (
                f"attention={attention} moves from where it looked before, one query at a time, "
                f"and the host of task={task} asks all its queries at once"
            )
        return None

    def build(self, kind: str, config: Mapping[str, Any], **framework: Any) -> Any:
        """Make a component from its config, {"name": ..., option: value}.

        Args:
            kind: scoring, attention or task.
            config: the registered name, and options.
            framework: what stands before `*` in its constructor.

        Raises:
            UsageError: no such name or option, a value of the wrong type, or one that the constructor refuses.
        """
        component = self.get(kind, str(config["name"]))
        filled = fill(kind, node(component.name, component.cls), config)
        try:
            return component.cls(**framework, **arguments(filled, component.cls))
        except ValueError as error:
            raise UsageError(f"{kind}={component.name}: {error}") from error

    def build_attention(
        self,
        attention: Mapping[str, Any],
        scoring: Mapping[str, Any] | None,
        *,
        query_dim: int,
        key_dim: int,
        value_dim: int,
    ) -> Attention:
        """Make an attention module, with the scoring function that it is to use.

        Raises:
            UsageError: as `build`; or a scoring function is missing, or given to a mechanism that uses none.
        """
        component = self.get("attention", str(attention["name"]))
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        if not takes_score(component.cls):
            if scoring is not None:
                raise UsageError(no_scoring(component.name))
            return self.build("attention", attention, **widths)  # type: ignore[no-any-return]
        if scoring is None:
            known = ", ".join(c.name for c in self.of("scoring"))
            raise UsageError(f"attention={component.name} needs a scoring function: scoring=NAME, one of {known}")
        chosen = scoring

        def score(query_dim: int, key_dim: int) -> ScoringFunction:
            return self.build("scoring", chosen, query_dim=query_dim, key_dim=key_dim)  # type: ignore[no-any-return]

        return self.build("attention", attention, **widths, score=score)  # type: ignore[no-any-return]


def differs(overrides: Sequence[str]) -> str:
    """Name what was typed, for the run folder's name: `_optimizer.lr-0.1`; its path tells the rest."""
    typed = [override for override in overrides if override.partition("=")[0] not in (*BASES, "seed")]
    words = "".join(f"_{override.lstrip('+')}" for override in typed)
    return re.sub(r"[^\w.+-]+", "-", words)[:80]


def no_scoring(attention: str) -> str:
    """Say that an attention module uses no scoring function."""
    return f"scoring=: attention={attention} uses no scoring function; leave scoring= out"


def build(kind: str, name: str, *, scoring: str | Mapping[str, Any] | None = None, **given: Any) -> Any:
    """Make any registered component for your own program, without Hydra or Lightning.

        attnbench.build("attention", "multihead", query_dim=64, key_dim=64, value_dim=64,
                        scoring="additive", num_heads=4)

    Args:
        kind: "scoring", "attention" or "task".
        name: its registered name (`python -m attnbench list` shows them all).
        scoring: for an attention module that uses one, the scoring function's name, or a mapping of its name and
            options: {"name": "additive", "hidden_dim": 32}.
        given: the widths, and the component's options.

    Raises:
        UsageError: an unknown name, a misspelt option, a value of the wrong type, widths that do not fit.
    """
    registry = Registry.load()
    if kind not in BASES:
        raise UsageError(f"kind '{kind}': no such kind of component; {nearest(kind, BASES)}")
    component = registry.get(kind, name)
    positional = [p for p in ("query_dim", "key_dim", "value_dim") if p in inspect.signature(component.cls).parameters]
    missing = [p for p in positional if p not in given]
    if missing:
        raise UsageError(f"{kind} '{name}' needs {', '.join(f'{p}=' for p in missing)}")
    framework = {p: given.pop(p) for p in positional}
    config = {"name": name, **given}
    if kind == "attention":
        chosen = {"name": scoring} if isinstance(scoring, str) else scoring
        return registry.build_attention(config, chosen, **framework)
    return registry.build(kind, config, **framework)


def _register(source: Source, found: list[Component]) -> None:
    """Run one plugin's hooks in a plugin manager of its own, so that it can disturb no other."""
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
        hook(register=partial(_add, found, source.origin, kind, base))


def _add(found: list[Component], origin: str, kind: str, base: type, name: str, cls: Any) -> None:
    if not (isinstance(name, str) and name.isidentifier()):
        raise UnfitError(
            f"{kind} {name!r}: a name is a word of letters, digits and _, not starting with a digit: rename it"
        )
    if not (isinstance(cls, type) and issubclass(cls, base)):
        what = cls.__name__ if isinstance(cls, type) else repr(cls)
        parent = base.__name__
        raise UnfitError(f"{kind} '{name}' is {what}, which is no attnbench.{parent}: write `class ...({parent})`")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(vars(cls)["__abstractmethods__"]))
        raise UnfitError(f"{kind} '{name}': {cls.__name__} is abstract: define {missing}")
    if any((other.kind, other.name) == (kind, name) for other in found):
        raise UnfitError(f"it registers {kind} '{name}' twice: rename one of them")
    check_signature(kind, cls)
    if issubclass(cls, Task):
        check_recipe(cls.__name__, cls.recipe)
        if not isinstance(getattr(cls, "primary", None), str):
            raise UnfitError(f'{cls.__name__} has no `primary`: write `primary = "accuracy"`, a key of its metrics()')
    found.append(Component(kind, name, cls, origin))


def _sources(files: tuple[Path, ...]) -> Iterator[Source]:
    seen: dict[str, Path] = {}
    for folder in plugins.folders():
        for path in sorted([*folder.glob("*.py"), *(p for kind in BASES for p in folder.glob(f"{kind}/*.py"))]):
            if path.name.startswith("_") or not _speaks_of_us(path):
                continue  # whatever else lies in a folder named plugins is no plugin of ours
            module = ".".join(["attnbench.plugins", *path.relative_to(folder).with_suffix("").parts])
            shipped = folder.resolve() == SHIPPED and path.parent != folder
            origin = f"{path.relative_to(folder.parent)} (shipped)" if shipped else str(path)
            load: Callable[[], Any] = partial(importlib.import_module, module)
            if path.is_symlink() and not path.exists():
                load = partial(_refuse, f"it is a link to {path.readlink()}, which is not there: mend or remove it")
            elif not path.stem.isidentifier():
                word = "".join(letter if letter.isalnum() else "_" for letter in path.stem)
                load = partial(_refuse, f"'{path.name}' is no module name: rename the file, such as to {word}.py")
            elif module in seen:
                load = partial(_refuse, f"{seen[module]} has the same file name: rename one of the files")
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
    imported = (sys.modules.get(entry.module) for entry in entries)  # they have been loaded by now
    known = [*seen.values(), *(Path(found.__file__) for found in imported if found and found.__file__)]
    for path in files:
        if path.resolve() not in {p.resolve() for p in known}:
            yield Source(path.stem, str(path), False, partial(_import_file, path), path)


def _speaks_of_us(path: Path) -> bool:
    try:
        return "attnbench" in path.read_text(encoding="utf-8", errors="ignore")
    except OSError:  # loading it says what is wrong with it
        return not path.is_dir()


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


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"attnbench.plugins.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UnfitError(f"{path} is not a Python file: name it {path.stem}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _clash(key: tuple[str, str], other: str, source: Source) -> str:
    kind, name = key
    return (
        f"it registers {kind} '{name}', which {other} registers too, so neither has the name: "
        f"rename one of them, or set ATTNBENCH_DISABLE={source.name}"
    )


def _reason(error: BaseException, source: Source) -> str:
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
    if name.partition(".")[0] == "attnbench":
        import attnbench

        wanted = str(getattr(error, "name_from", None) or name.rpartition(".")[2])
        return f"import from attnbench what is public there; {nearest(wanted, attnbench.__all__)}"
    if not isinstance(error, ModuleNotFoundError):
        return None
    if source.file is not None and any(source.file.parent.glob(f"{name}.py")):
        return f"it lies beside the plugin: write `from attnbench.plugins import {name}`"
    return f"pip install {name.partition('.')[0]}"


def _place(error: BaseException, source: Source) -> str | None:
    """Name the last line of the plugin's own that an exception passed through."""
    places: list[tuple[str, int]] = []
    trace = error.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = [place for place in places if source.file is not None and Path(place[0]).name == source.file.name]
    others = [place for place in places if not place[0].startswith(("<", *MACHINERY))]
    for file, line in reversed(own or others):
        return f"{Path(file).name}:{line}"
    return None
