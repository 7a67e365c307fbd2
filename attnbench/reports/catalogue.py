"""What there is to choose from: `--help` and `list`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from importlib.resources import files
from typing import Any, get_type_hints

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attnbench.config import OptimizerConfig, RunConfig, TrainerConfig
from attnbench.errors import UsageError, nearest
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.schema import KINDS, format_value, options, takes_score, type_name
from attnbench.tokens import TokenTask

#: The families that components are listed by: heading, and which classes belong; the first that holds. A class says so
#: through its contract, so that anyone's component is listed where it belongs, and no table of names is kept.
FAMILIES: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "scoring": {
        "scoring=NAME, of query and key": lambda cls: not cls.positional,
        "scoring=NAME, of query, key and their positions": lambda cls: True,
    },
    "attention": {
        "attention=NAME with any scoring=NAME": takes_score,
        "attention=NAME, with weights of its own": lambda cls: cls.masks == "any" and not cls.baseline,
        "attention=NAME, with a state that runs along the keys": lambda cls: not cls.baseline,
        "attention=NAME, baselines": lambda cls: True,
    },
    "task": {
        "task=NAME, next tokens of generated sequences": lambda cls: issubclass(cls, TokenTask),
        "task=NAME": lambda cls: True,
    },
}
#: The groups of a run's own options.
SETTINGS: Mapping[str, type] = {"trainer": TrainerConfig, "optimizer": OptimizerConfig}
#: The number of a paper, which `list NAME` shows, and a list has no room for.
PAPER_ID = re.compile(r",? (arXiv:)?\d{4}\.\d{4,5}")
#: Its authors and year besides, which a narrow terminal has no room for.
CITATION = re.compile(r" \([^()]*\b(19|20)\d\d\b[^()]*\)")
#: A field of a dataclass, and the comment behind it.
COMMENTED = re.compile(r"^    (\w+): [^#]*#\s*(.+)$", re.MULTILINE)

USAGE = """\
attnbench trains any attention mechanism on any task, and shows where it looked.

  python -m attnbench [GROUP=NAME ...] [GROUP.OPTION=VALUE ...]    one run
  python -m attnbench -m GROUP=NAME,NAME seed=0,1,2                a sweep: one run for each combination
  python -m attnbench resume=RUN_FOLDER [OPTION=VALUE ...]         go on with an interrupted run
  python -m attnbench COMMAND ...                                  {commands}
  tensorboard --logdir runs                                        look at the runs
"""


def show_help(registry: Registry, commands: Iterable[str]) -> None:
    """Print every group with its names, every option with its default, shipped and third-party."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(USAGE.format(commands=", ".join(commands)), markup=False)
    for kind in KINDS:
        table = Table(box=None, show_header=False, pad_edge=False)
        for component in registry.of(kind):
            defaults = " ".join(f"{kind}.{option}" for option in options(component.cls))
            table.add_row(f"  {kind}={component.name}", escape(component.summary))
            if defaults:
                table.add_row("", defaults, style="dim")
        console.print(table)
        console.print()
    for group, config in SETTINGS.items():
        defaults = " ".join(f"{group}.{setting.name}={setting.default}" for setting in settings(config))
        console.print(f"  {group}={'|'.join(_presets(group))}", markup=False)
        console.print(f"      {defaults}", style="dim", markup=False)
    experiments = "|".join(_presets("experiment"))
    if experiments:
        console.print(f"  experiment={experiments}", markup=False)
    console.print(f"  seed={format_value(RunConfig().seed)}", markup=False)
    console.print("\nA task's recipe sets some of these; the command line wins. --cfg job prints the composed config,")
    console.print(
        "--hydra-help what else the command line can do. `python -m attnbench list` says where each comes from."
    )


def _presets(group: str) -> list[str]:
    folder = files("attnbench.conf") / group
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def family(component: Component) -> str:
    """Return the heading that a component is listed under."""
    return next(heading for heading, belongs in FAMILIES[component.kind].items() if belongs(component.cls))


def families(registry: Registry) -> dict[str, list[Component]]:
    """Return the components of each family, by its heading, in the order of `FAMILIES`."""
    components: dict[str, list[Component]] = {heading: [] for by in FAMILIES.values() for heading in by}
    for kind in KINDS:
        for component in registry.of(kind):
            components[family(component)].append(component)
    return {heading: members for heading, members in components.items() if members}


def show_list(registry: Registry) -> None:
    """Print a line for each component, family by family, cut at the terminal's width; and failures."""
    console = Console(highlight=False, soft_wrap=True)
    width = max((len(component.name) for component in registry.components.values()), default=0)
    for heading, components in families(registry).items():
        console.print(f"[bold]{heading}[/bold]")
        for component in components:
            summary = PAPER_ID.sub("", component.summary)
            if console.is_terminal and len(summary) > (room := console.width - width - 4):
                summary = CITATION.sub("", summary)
                summary = summary if len(summary) <= room else summary[: room - 1] + "…"
            console.print(f"  {component.name:{width}}  {summary}", markup=False)
            if not component.shipped:
                console.print(f"  {'':{width}}  from {component.origin}", markup=False, style="dim")
        console.print()
    for source in registry.disabled:
        console.print(f"disabled: plugin '{source.name}', {source.origin}", markup=False, style="dim")
    for failure in registry.failures:
        console.print(f"failed: {failure}", markup=False, style="red")
    console.print("list NAME shows equation, source, options, and what it goes with;")
    console.print(f"{' and '.join(f'list {group}' for group in SETTINGS)} the options of a run.")


@dataclass(frozen=True)
class Setting:
    """An option of a run: its name, its type or the words it may be, its default, and what it sets."""

    name: str
    type: str
    default: str
    description: str


def settings(config: type) -> list[Setting]:
    """Return the options of a dataclass of `attnbench.config`; the comment behind a field describes it."""
    descriptions, types = dict(COMMENTED.findall(inspect.getsource(config))), get_type_hints(config)
    return [
        Setting(field.name, _words(types[field.name]), format_value(field.default), descriptions.get(field.name, ""))
        for field in fields(config)
    ]


def _words(kind: Any) -> str:
    """Return a type's name, or the words of an enum."""
    return " | ".join(kind.__members__) if isinstance(kind, type) and issubclass(kind, Enum) else type_name(kind)


def show_settings(group: str) -> None:
    """Print the options of `trainer` or `optimizer`: default, type, and what each sets."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    for setting in settings(SETTINGS[group]):
        table.add_row(f"{group}.{setting.name}={setting.default}", f"{setting.description} [dim]({setting.type})[/dim]")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\npresets: {group}={'|'.join(_presets(group))}", markup=False)


def show_one(registry: Registry, word: str) -> None:
    """Print all about the components of a name, `multihead` or `attention=multihead`; or the options of `trainer`.

    Raises:
        UsageError: there is none, or two plugins claim the name.
    """
    if word in SETTINGS:
        show_settings(word)
        return
    console = Console(highlight=False, soft_wrap=True)
    for component in _called(registry, word):
        console.print(f"[bold]{component.kind}={component.name}[/bold]  {component.cls.__name__}\n")
        console.print(inspect.getdoc(component.cls) or "It has no docstring.", markup=False)
        console.print("\noptions:" if options(component.cls) else "\noptions: none")
        for option in options(component.cls):
            console.print(f"    {component.kind}.{option}  ({type_name(option.type)})", markup=False)
        console.print(f"from: {component.origin}", markup=False)
        _show_fits(console, fits(registry, component))


def _show_fits(console: Console, reasons: Mapping[str, str | None]) -> None:
    """Print what goes together in one line for each reason, since there are dozens of components."""
    by_reason: dict[tuple[str, str | None], list[str]] = {}
    for word, reason in reasons.items():
        kind, _, name = word.partition("=")
        by_reason.setdefault((kind, reason), []).append(name)
    for (kind, reason), names in by_reason.items():
        line = f"goes with {kind}=" if reason is None else f"not with {kind}="
        console.print(line + ",".join(names) + (f": {reason}" if reason else ""), markup=False)


def _called(registry: Registry, word: str) -> list[Component]:
    kind, equals, name = word.rpartition("=")
    if equals:
        return [registry.get(kind, name)]
    for key in registry.taken:
        if key[1] == name:
            registry.get(*key)
    components = [component for component in registry.components.values() if component.name == name]
    if not components:
        for failure in registry.failures:
            if failure.name == name:
                raise UsageError(str(failure))
        known = {component.name for component in registry.components.values()}
        raise UsageError(f"{name}: no such component; {nearest(name, known)}")
    return components


def fits(registry: Registry, component: Component) -> dict[str, str | None]:
    """Return what a component can be combined with: None where their widths and options allow it, else why not.

    For an attention module these are the tasks, for a task the attention modules, and for a scoring function, which
    any task can use, the attention modules.
    """
    if component.kind == "attention":
        return {f"task={t.name}": registry.incompatibility(component.name, task=t.name) for t in registry.of("task")}
    if component.kind == "task":
        return {
            f"attention={attention.name}": registry.incompatibility(attention.name, task=component.name)
            for attention in registry.of("attention")
        }
    reasons = {a.name: registry.incompatibility(a.name, scoring=component.name) for a in registry.of("attention")}
    return {f"attention={name}": reason and "it uses no scoring function" for name, reason in reasons.items()}


def as_json(registry: Registry, word: str | None) -> dict[str, Any]:
    """Return what `show_list` and `show_one` print, as JSON can hold it."""
    components = _called(registry, word) if word else [component for kind in KINDS for component in registry.of(kind)]
    return {
        "components": [
            {
                "kind": component.kind,
                "name": component.name,
                "family": family(component),
                "summary": component.summary,
                "docstring": inspect.getdoc(component.cls) or "",
                "options": [
                    {"name": option.name, "type": type_name(option.type), "default": format_value(option.default)}
                    for option in options(component.cls)
                ],
                "origin": component.origin,
                "fits": fits(registry, component),
            }
            for component in components
        ],
        "failures": [asdict(failure) for failure in registry.failures],
        "disabled": [{"name": source.name, "origin": source.origin} for source in registry.disabled],
    }
