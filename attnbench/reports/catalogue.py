"""What there is to choose from: `list`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console

from attnbench.errors import UsageError, nearest
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.reports.usage import SETTINGS, show_settings, summary_line
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
            summary = summary_line(component, console, width + 4)
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


def show_one(registry: Registry, word: str) -> None:
    """Print all about the components of a name, `multihead` or `attention=multihead`; or the options of `trainer`."""
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
    for key in registry.contested:
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
