"""A constructor's signature becomes a typed Hydra node, and every error in a value becomes one line."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
)

from attnbench.config import RunConfig, refuse_not_finite
from attnbench.errors import UnfitError, UsageError, first_line, nearest

#: What stands before `*` in a constructor, for each kind of component; `score` is for those who use one.
FRAMEWORK_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "scoring": ("query_dim", "key_dim"),
    "attention": ("query_dim", "key_dim", "value_dim", "score"),
    "task": (),
}
KINDS = tuple(FRAMEWORK_ARGUMENTS)
#: Words that YAML, or Hydra's command line, takes for a truth, a number or nothing.
RESERVED = {"true", "false", "yes", "no", "on", "off", "y", "n", "null", "none", "nan", "inf"}


@dataclass(frozen=True)
class Option:
    """A keyword-only argument of a constructor: what a user may configure."""

    name: str
    type: Any
    default: Any

    def __str__(self) -> str:
        return f"{self.name}={format_value(self.default)}"


def format_value(value: Any) -> str:
    """Write a value as it is typed on the command line."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(format_value, value))}]"
    return str(value)


def parameters(cls: type) -> list[inspect.Parameter]:
    """Return the constructor's parameters, without self."""
    return list(inspect.signature(cls).parameters.values())


def takes_score(cls: type) -> bool:
    """Tell whether an attention class uses a scoring function."""
    return any(parameter.name == "score" for parameter in parameters(cls))


def options(cls: type) -> list[Option]:
    """Read the options off a component's constructor.

    Raises:
        UnfitError: an argument after `*` has no type, no default, a mutable default, or a type that a config
            cannot hold; or the constructor takes `**kwargs`, which would swallow misspelt options.
    """
    init: Any = cls.__init__  # type: ignore[misc]
    try:
        hints = get_type_hints(init)
    except NameError as error:
        raise UnfitError(
            f"{cls.__name__}.__init__ has a type that is not there when it runs, '{error.name}': "
            "import it outside `if TYPE_CHECKING`"
        ) from error
    result = []
    for parameter in parameters(cls):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UnfitError(f"{cls.__name__} takes {parameter}: name each option, with its type and default")
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        name = parameter.name
        where = f"{cls.__name__}'s option '{name}'"
        if name == "name":
            raise UnfitError(f"{where} is reserved: it holds the component's registered name: choose another word")
        if name not in hints:
            raise UnfitError(f"{where} has no type: write `{name}: int = 3`, or what it is")
        if parameter.default is parameter.empty:
            raise UnfitError(f"{where} has no default: write `{name}: {type_name(hints[name])} = ...`")
        if isinstance(parameter.default, list | dict | set):
            raise UnfitError(f"{where} has a mutable default: write a tuple, `{name}: tuple[int, ...] = (1, 2)`")
        result.append(Option(name, hints[name], parameter.default))
    return result


def name_fault(name: str) -> str | None:
    """Return why a word cannot be a component's name; None where it can."""
    if not (name.isidentifier() and name.isascii()):
        return "a name is a word of ASCII letters, digits and _, not starting with a digit"
    if name.lower() in RESERVED:
        return "YAML and the command line read that word as a value, not as a name"
    return None


def check_signature(kind: str, cls: type) -> None:
    """Raise UnfitError unless the arguments before `*` are those that the framework supplies, and `options` fit."""
    expected = FRAMEWORK_ARGUMENTS[kind]
    positional = tuple(p.name for p in parameters(cls) if p.kind is p.POSITIONAL_OR_KEYWORD)
    allowed = {expected, expected[:-1]} if kind == "attention" else {expected}
    if positional not in allowed:
        wanted = ", ".join(("self", *expected, "*", "..."))
        got = ", ".join(("self", *positional))
        raise UnfitError(f"{cls.__name__}.__init__({got}) does not fit: a {kind} is `def __init__({wanted})`")
    _entries(cls)


def check_recipe(owner: str, recipe: Mapping[str, Any]) -> None:
    """Raise UnfitError where a task's recipe sets what a run does not have, or to the wrong type."""
    settings = {key: value for key, value in recipe.items() if key != "defaults"}
    try:
        OmegaConf.merge(_run(), settings)
    except OmegaConfBaseException as error:
        raise UnfitError(f"{owner}.recipe does not fit a run: {explain(error)}") from error


@cache
def _run() -> DictConfig:
    """Return a run's config as it is without a recipe."""
    run: DictConfig = OmegaConf.structured(RunConfig)
    OmegaConf.set_struct(run, True)
    return run


def node(name: str, cls: type) -> type:
    """Make the typed config node of a component registered as `name`: its options (see there), and its name."""
    return make_dataclass(name, [("name", str, field(default=name)), *_entries(cls)])


@cache
def _entries(cls: type) -> tuple[tuple[str, Any, Any], ...]:
    """Make a node's field of each option, tried together, and then one by one so that an error names the option."""
    entries: list[tuple[str, Any, Any]] = []
    for option in (known := options(cls)):
        config_type, default = _config_type(option, cls)
        if isinstance(default, tuple):
            entry = (option.name, config_type, field(default_factory=lambda d=default: list(d)))  # type: ignore[misc]
        else:
            entry = (option.name, config_type, field(default=default))
        entries.append(entry)
    if _fault(entries) is None:
        return tuple(entries)
    for option, entry in zip(known, entries, strict=True):
        if (error := _fault([entry])) is not None:
            raise UnfitError(
                f"{cls.__name__}'s option '{option.name}: {type_name(option.type)} = {option.default!r}' is not one "
                "that a config can hold: write a bool, int, float, str, Path, Enum, Literal or tuple[X, ...], "
                "or one of them `| None`, and a default of that type"
            ) from error
    return tuple(entries)


def _fault(entries: list[tuple[str, Any, Any]]) -> Exception | None:
    """Return what OmegaConf says against fields; None where it takes them."""
    try:
        OmegaConf.structured(make_dataclass("node", entries))
    except (OmegaConfBaseException, ValueError) as error:
        return error
    return None


def type_name(hint: Any) -> str:
    """Write a type as in a signature."""
    return hint.__name__ if isinstance(hint, type) else re.sub(r"\b(typing|pathlib(\._local)?)\.", "", str(hint))


def _config_type(option: Option, cls: type) -> tuple[Any, Any]:
    """Translate what OmegaConf does not know: Literal of words -> Enum, tuple[X, ...] -> list[X]."""
    where = f"{cls.__name__}'s option '{option.name}'"
    kind, default = without_none(option.type), option.default
    optional = kind is not option.type
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        if not all(isinstance(word, str) and word.isidentifier() for word in inner):
            raise UnfitError(f"{where}: a Literal option is made of words: write `Literal['a', 'b']`")
        if default is not None and default not in inner:
            raise UnfitError(f"{where}: its default {default!r} is not one of {inner}: write one of them")
        kind = _choice(option.name, inner)
        default = None if default is None else kind[default]
    elif get_origin(kind) is tuple:
        if len(inner) != 2 or inner[1] is not Ellipsis:
            raise UnfitError(f"{where} is a tuple of fixed length: write `tuple[int, ...]`, or one option each")
        kind = types.GenericAlias(list, inner[:1])
    return (kind | None if optional else kind), default


def without_none(hint: Any) -> Any:
    """Return X of `X | None`, and any other type as it is."""
    arms = [arm for arm in get_args(hint) if arm is not type(None)]
    return arms[0] if get_origin(hint) in (Union, types.UnionType) and len(arms) == 1 else hint


@cache
def _choice(name: str, words: tuple[str, ...]) -> Any:
    """Make the enum of some words: one and the same each time, for a config made with one fits no other."""
    enum: Any = Enum
    return enum(name, {word: word for word in words})


def fill(label: str, made: type, values: Mapping[str, Any]) -> DictConfig:
    """Put values into a node, type by type; UsageError, beginning with `label.option`, for one that does not fit."""
    try:
        filled = OmegaConf.merge(OmegaConf.structured(made), {key: _primitive(value) for key, value in values.items()})
    except OmegaConfBaseException as error:
        raise UsageError(explain(error, prefix=label)) from error
    assert isinstance(filled, DictConfig)
    refuse_not_finite(label, filled)
    return filled


def _primitive(value: Any) -> Any:
    """Return Python's number for one of NumPy's, and the word of a Literal: another process makes its Enum anew."""
    if isinstance(value, Enum):
        return value.name
    return value.item() if getattr(value, "shape", None) == () else value


def constructor_arguments(config: DictConfig | Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Turn a filled node into the constructor's keyword arguments."""
    plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
    assert isinstance(plain, dict)
    result = {}
    for option in options(cls):
        value = plain[option.name]
        word = isinstance(value, Enum) and get_origin(without_none(option.type)) is Literal
        result[option.name] = value.name if word else tuple(value) if isinstance(value, list) else value
    return result


def explain(error: OmegaConfBaseException, prefix: str = "") -> str:
    """Return what OmegaConf says of a bad key or value as one line that names it and what was expected.

    Args:
        error: what was raised.
        prefix: what stands before the key in the line.
    """
    key = ".".join(part for part in (prefix, error.full_key or str(error.key or "")) if part)
    group, _, option = key.rpartition(".")
    if not isinstance(error, ConfigAttributeError | ConfigKeyError):
        return f"{key}: {first_line(error)}"
    known = [str(name) for name in error.parent_node or () if group not in KINDS or name != "name"]
    owner = f"{group} '{error.object_type.__name__}'" if group in KINDS and error.object_type else group or "the run"
    return f"{key}: {owner} has no option '{option}'; {nearest(option, known)}"
