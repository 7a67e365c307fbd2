"""Names -> classes, and where each came from."""

from __future__ import annotations

import inspect
import operator
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, overload

from omegaconf import OmegaConf

from attnbench.config import RunConfig, mechanism
from attnbench.errors import IncompatibleError, UsageError, first_line, nearest
from attnbench.interfaces import Attention, MakeScore, ScoringFunction, Task
from attnbench.loading import (
    BASES,
    Component,
    Failure,
    Source,
    clash,
    described,
    fingerprint,
    forget_changed,
    load,
    plugin_line,
    reason,
    sources,
)
from attnbench.schema import constructor_arguments, fill, node, takes_score

Kind: TypeAlias = Literal["scoring", "attention", "task"]
Scoring: TypeAlias = str | Mapping[str, Any] | MakeScore
Made = TypeVar("Made", bound=ScoringFunction | Attention | Task)

#: Groups of presets, of which a run need have none.
PRESETS = ("experiment", "trainer", "optimizer")
#: Where the processes of a sweep find which keys are swept, with commas.
SWEPT = "ATTNBENCH_SWEPT"


@dataclass
class Registry:
    """What can be chosen: components by kind and name, and what failed to load."""

    components: dict[tuple[str, str], Component] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    #: names that two plugins claim: neither has them, and a run that asks for one is told of both
    contested: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    #: plugins that $ATTNBENCH_DISABLE keeps out
    disabled: list[Source] = field(default_factory=list)

    @classmethod
    def load(cls, *paths: Path) -> Registry:
        """Load every plugin there is, what ships, folders, entry points, and `paths` besides.

        $ATTNBENCH_DISABLE=NAME,NAME keeps plugins out, by the name of their file or entry point.
        $ATTNBENCH_STRICT=1 makes a plugin that fails an error, for automated runs that must not go on without it.

        Raises:
            UsageError: a plugin failed, under $ATTNBENCH_STRICT.
            Exception: a shipped plugin failed, which is an error of ours.
        """
        registry = cls()
        disabled = {name.strip() for name in os.environ.get("ATTNBENCH_DISABLE", "").split(",")}
        for source in sources(paths):
            if source.name in disabled:
                shipped = [s for s in registry.disabled if s.shipped and s.name == source.name]
                if not source.shipped:  # what ships is kept out where nothing else has the name
                    for other in shipped:
                        registry.disabled.remove(other)
                        registry._load_one(other)
                registry.disabled.append(source)
            else:
                registry._load_one(source)
        if registry.failures and os.environ.get("ATTNBENCH_STRICT", "0") not in ("", "0"):
            raise UsageError(f"{registry.failures[0]} (fatal: ATTNBENCH_STRICT is set)")
        return registry

    def _load_one(self, source: Source) -> None:
        try:
            components = load(source)
        except BaseException as error:
            if source.shipped or isinstance(error, KeyboardInterrupt):
                raise
            self.failures.append(Failure(source.name, source.origin, reason(error, source)))
            return
        for component in components:
            key = (component.kind, component.name)
            first = self.components.get(key)
            if first is None and key not in self.contested:
                self.components[key] = component
                continue
            other = self.contested[key][0] if first is None else first.origin
            if first is None or not first.shipped:  # what ships keeps its name
                self.contested[key] = (other, component.origin)
                self.components.pop(key, None)
            self.failures.append(Failure(source.name, source.origin, clash(key, other, source)))

    def store(self, *, check_options: bool = True) -> None:
        """Hand Hydra a typed node for every component, and for the run itself.

        Args:
            check_options: whether Hydra is to refuse the options that a component lacks. In a sweep each job's are
                refused by themselves (see `attnbench.run_folder.typed`): an option may be for one of its mechanisms.
        """
        from hydra.core.config_store import ConfigStore  # `build` does without Hydra

        store = ConfigStore.instance().store
        store(name="run", node=RunConfig)
        for component in self.components.values():
            made: Any = node(component.name, component.cls)
            if not check_options:
                made = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(made), enum_to_str=True))
                OmegaConf.set_struct(made, False)
            if issubclass(component.cls, Task):
                # a task may override the run around it, so that its own options stand one level down
                recipe = {**component.cls.recipe, "task": made}
                store(group="task", name=component.name, node=recipe, package="_global_")
            else:
                store(group=component.kind, name=component.name, node=made)
        store(group="scoring", name="none", node={"name": None})
        for group in PRESETS:
            store(group=group, name="none", node={}, package="_global_" if group == "experiment" else group)
        OmegaConf.register_new_resolver("mechanism", self.mechanism, replace=True)
        OmegaConf.register_new_resolver("override_suffix", override_suffix, replace=True)

    def mechanism(self, attention: str, scoring: str | None) -> str:
        """Return the label of an attention module and its scoring function, if it uses one."""
        component = self.components.get(("attention", attention))
        unused = component is not None and not takes_score(component.cls)
        return mechanism(attention, None if unused else scoring)

    def of(self, kind: str) -> list[Component]:
        """Return the components of a kind, by name."""
        return [self.components[key] for key in sorted(self.components) if key[0] == kind]

    def get(self, kind: str, name: str) -> Component:
        """Return a component; UsageError where no plugin, a failed one, or two of them have that name."""
        key = (kind, name)
        if key in self.contested and key not in self.components:
            first, second = self.contested[key]
            raise UsageError(f"{kind}={name}: both {first} and {second} register it; rename one of them")
        if key not in self.components:
            for failure in self.failures:
                if failure.name == name:
                    raise UsageError(f"{kind}={name}: {failure}")
            known = nearest(name, (c.name for c in self.of(kind)))
            own = any(not component.origin.endswith("(shipped)") for component in self.components.values())
            if not own and not known.startswith("did you mean"):
                known += "; no plugin of yours is in ./plugins, in $ATTNBENCH_PLUGINS or installed"
            raise UsageError(f"{kind}={name}: no such {kind}; {known}")
        return self.components[key]

    def including(self, cls: type[Any], kind: str | None = None) -> tuple[Component, Registry]:
        """Return a class that no plugin registers as a component, and a registry that has it by its own name.

        Raises:
            UnfitError: it is no class that a plugin could register, as a component of this kind if one is named.
        """
        component = described(cls, kind)
        return component, replace(self, components={**self.components, (component.kind, component.name): component})

    def incompatibility(self, attention: str, *, task: str | None = None, scoring: str | None = "*") -> str | None:
        """Return why no run can have an attention module with that task and scoring function; None where one can.

        Args:
            attention: its name.
            task: a task's name; None: any.
            scoring: a scoring function's name; None: none; `*`: any.

        Raises:
            UsageError: there is no such attention or task.
        """
        cls = self.get("attention", attention).cls
        if not takes_score(cls) and scoring not in (None, "*"):
            return f"scoring=: attention={attention} uses no scoring function; leave scoring= out"
        if takes_score(cls) and scoring is None:
            known = ", ".join(component.name for component in self.of("scoring"))
            return f"attention={attention} needs a scoring function: scoring=NAME, one of {known}"
        if task is not None and cls.recurrent and not self.get("task", task).cls.stepwise:
            return (
                f"attention={attention} moves from where it looked before, one query at a time, "
                f"and the host of task={task} asks all its queries at once; choose another attention"
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
            return component.cls(**framework, **constructor_arguments(filled, component.cls))
        except ValueError as error:
            raise UsageError(f"{kind}={component.name}: {first_line(error)}{plugin_line(error)}") from error

    def build_attention(
        self,
        attention: Mapping[str, Any],
        scoring: Mapping[str, Any] | MakeScore | None,
        query_dim: int,
        key_dim: int,
        value_dim: int,
    ) -> Attention:
        """Make an attention module, with the scoring function that it is to use; UsageError as `build`.

        `scoring` is the config of one, or makes it.
        """
        component = self.get("attention", str(attention["name"]))
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        label = None if scoring is None else str(scoring["name"]) if isinstance(scoring, Mapping) else repr(scoring)
        reason = self.incompatibility(component.name, scoring=label)
        if reason is not None:
            raise IncompatibleError(reason)
        if scoring is None:
            return self.build("attention", attention, **widths)  # type: ignore[no-any-return]
        if not isinstance(scoring, Mapping):
            return self.build("attention", attention, **widths, score=scoring)  # type: ignore[no-any-return]
        chosen = scoring

        def score(query_dim: int, key_dim: int) -> ScoringFunction:
            return self.build("scoring", chosen, query_dim=query_dim, key_dim=key_dim)  # type: ignore[no-any-return]

        return self.build("attention", attention, **widths, score=score)  # type: ignore[no-any-return]


def override_suffix(overrides: Sequence[str]) -> str:
    """Return what was typed, for a run folder's name, what is swept first: `_lr-0.1_max_steps-300`.

    Its path says the components, and config.yaml everything. A path is its last part, a long value its beginning;
    what would make the name longer than 80 characters is left out whole.
    """
    swept = os.environ.get(SWEPT, "").split(",")
    typed = [override.lstrip("+").partition("=") for override in overrides]
    suffix = ""
    for key, _, value in sorted(typed, key=lambda word: word[0] not in swept):
        if key in (*BASES, "seed") or key.startswith("hydra"):
            continue
        short = value.rstrip("/").rpartition("/")[2]
        part = re.sub(r"[^\w.+-]+", "-", f"{key.rpartition('.')[2]}-{short[:20].strip()}")
        if len(suffix) + 1 + len(part) <= 80:
            suffix += f"_{part}"
    return suffix


@lru_cache(maxsize=1)
def _loaded(fingerprint: tuple[object, ...]) -> Registry:
    forget_changed()
    return Registry.load()


def current() -> Registry:
    """Return what is registered now: loaded anew where a plugin, a folder or the environment has changed.

    A plugin whose file has changed is imported anew: its class is another one from then on.
    """
    return _loaded(fingerprint())


def names(kind: Kind) -> list[str]:
    """Return the registered names of a kind: what `build` takes."""
    _check_kind(kind)
    return [component.name for component in current().of(kind)]


@overload
def build(kind: Kind, name: type[Made], /, *, scoring: Scoring | None = None, **arguments: Any) -> Made: ...
@overload
def build(
    kind: Literal["attention"], name: str, /, *, scoring: Scoring | None = None, **arguments: Any
) -> Attention: ...
@overload
def build(kind: Literal["scoring"], name: str, /, **arguments: Any) -> ScoringFunction: ...
@overload
def build(kind: Literal["task"], name: str, /, **arguments: Any) -> Task: ...
def build(kind: str, name: str | type[Any], /, *, scoring: Scoring | None = None, **arguments: Any) -> Any:
    """Make any registered component, or one of a class of your own, for your own program, without Hydra or Lightning.

        attnbench.build("attention", "multihead", query_dim=64, key_dim=64, value_dim=64,
                        scoring="additive", num_heads=4)

    Args:
        kind: "scoring", "attention" or "task".
        name: its registered name (`attnbench.names(kind)` returns them all), or a class that need not be registered.
        scoring: for an attention module that uses one, the scoring function's name, a mapping of its name and
            options, {"name": "additive", "hidden_dim": 32}, its class, or what else makes it for given widths.
        arguments: the widths, and the component's options.

    Raises:
        UsageError: an unknown name, a misspelt option, a value of the wrong type, widths that do not fit.
        UnfitError: a class that could not be registered.
    """
    _check_kind(kind)
    registry = current()
    if isinstance(name, type):
        component, registry = registry.including(name, kind)
    elif isinstance(name, str):
        component = registry.get(kind, name)
    else:
        raise UsageError(f"{kind}: a registered name is expected, such as 'dot', not {name!r}")
    positional = [p for p in ("query_dim", "key_dim", "value_dim") if p in inspect.signature(component.cls).parameters]
    missing = [p for p in positional if p not in arguments]
    if missing:
        raise UsageError(f"{kind} '{component.name}' needs {', '.join(f'{p}=' for p in missing)}")
    framework = {p: _width(p, arguments.pop(p)) for p in positional}
    config = {"name": component.name, **arguments}
    if kind != "attention":
        if scoring is not None:
            raise UsageError(f"scoring=: a {kind} takes none; leave scoring= out")
        return registry.build(kind, config, **framework)
    chosen = {"name": scoring} if isinstance(scoring, str) else scoring
    if isinstance(scoring, type):
        own, registry = registry.including(scoring, "scoring")
        chosen = {"name": own.name}
    named = isinstance(chosen, Mapping) and isinstance(chosen.get("name"), str)
    if not (chosen is None or callable(chosen) or named):
        raise UsageError(
            f"scoring: a name, or {{'name': NAME, option: value}}, or a class is expected, not {scoring!r}"
        )
    return registry.build_attention(config, chosen, **framework)


def _check_kind(kind: str) -> None:
    if not isinstance(kind, str) or kind not in BASES:
        raise UsageError(f"kind '{kind}': no such kind of component; {nearest(str(kind), BASES)}")


def _width(name: str, value: Any) -> int:
    """Return a width as an int, which NumPy's may be; UsageError where it is none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise UsageError(f"{name}={value!r}: a width is a whole number, at least 1")
    return number
