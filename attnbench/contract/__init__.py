"""The laws that every component obeys: for a test, for a plugin author's pytest, and for `python -m attnbench check`.

    from attnbench.contract import check
    for finding in check(Mine): ...

A law is a function of a `Subject` whose docstring says what holds; it raises `Broken` with the smallest failing case.
A component says what it is excused from, `excused = {"permutation": "order is the point"}`, or from one kind of mask in
it, `{"masked_keys:random": "..."}`; where the law holds all the same, the excuse is what is broken. Scoring functions
obey the laws of attention too, in a plain softmax and weighted sum.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attnbench.config import read_override
from attnbench.contract import attention, scoring, task
from attnbench.contract.cases import KINDS
from attnbench.contract.findings import Finding
from attnbench.contract.harness import Law, Subject
from attnbench.contract.requirements import Broken, Skipped, first_words, line_called, line_in, require, root
from attnbench.contract.workers import Order, check_side_by_side
from attnbench.errors import UsageError, nearest
from attnbench.loading import Component
from attnbench.measure import kept_threads
from attnbench.registry import Registry, current

__all__ = [
    "LAWS",
    "Broken",
    "Finding",
    "Law",
    "Skipped",
    "Subject",
    "check",
    "check_all",
    "check_arms",
    "declarations",
    "laws_for",
    "named",
    "written_in",
]


def laws_for(kind: str) -> dict[str, Law]:
    """Return the laws of a kind (scoring, attention, task) by name; a law's docstring says what holds."""
    return {law.__name__: law for law in LAWS[kind]}


def named(registry: Registry, names: Iterable[str]) -> list[Component]:
    """Find components by name, `multihead` or `attention=multihead`, all if none is named; UsageError for another."""
    everything = [component for kind in LAWS for component in registry.of(kind)]
    components: list[Component] = []
    for name in names:
        kind, equals, word = name.rpartition("=")
        matching = [c for c in everything if c.name == word and (not equals or c.kind == kind)]
        if not matching:
            known = (f"{c.kind}={c.name}" if equals else c.name for c in everything)
            raise UsageError(f"{name}: no such component; {nearest(name, known)}")
        components += matching
    return components or everything


def written_in(registry: Registry, file: Path) -> list[Component]:
    """Find the components that a file or folder brought; UsageError, with the reason, where one is not registered."""

    def same(path: str | Path) -> bool:
        return Path(path).resolve() == file.resolve()

    for failure in registry.failures:
        if same(failure.origin):
            raise UsageError(str(failure))
    for key, origins in registry.contested.items():
        if any(map(same, origins)):
            registry.get(*key)
    for source in registry.disabled:
        if source.path is not None and same(source.path):
            raise UsageError(f"{file}: ATTNBENCH_DISABLE keeps plugin '{source.name}' out")
    components = [
        component
        for component in registry.components.values()
        if same(component.origin) or Path(inspect.getfile(component.cls)).resolve().is_relative_to(file.resolve())
    ]
    if not components:
        raise UsageError(f"{file}: it brings no component; `list` says which there are, from where, and what failed")
    return components


def check(
    component: Component | type[Any],
    registry: Registry | None = None,
    *,
    device: str = "cpu",
    laws: Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], object] = str,
) -> list[Finding]:
    """Hold a component to the laws of its kind, all of them or those named.

    One cause is told once: where it cannot be called, or returns NaN, no other law is tried; a law that rests on a
    broken one is not tried either, and one that the same error breaks again is not told again.

    Args:
        component: what is checked, or its class, which need not be registered.
        registry: what it is combined with; None: what is registered now.
        device: where: cpu, cuda.
        laws: names, of `laws_for(component.kind)`; each of them is tried.
        options: what it is made with, other than its defaults.
        say: called with the name of each law before it is tried.

    Raises:
        UsageError: there is no such option, or a value is of the wrong type.
        UnfitError: a class that no plugin could register.
    """
    registry = registry or current()
    if isinstance(component, type):
        component, registry = registry.including(component)
    known = laws_for(component.kind)
    subject = Subject(component, registry, device, options=options or {})
    assert subject.arguments is not None  # or it was refused
    findings: dict[str, Finding] = {}
    if laws is not None:
        for name in laws:
            say(name)
            findings[name] = _try(name, known[name], subject)[0]
        return list(findings.values())
    causes: dict[str, str] = {}
    for name, law in known.items():
        rests_on = () if name in ("declarations", "widths") else (ROOT, AFTER.get(name, ""))
        first = next((n for n in rests_on if _is_broken(findings.get(n))), None)
        if first is not None:
            findings[name] = Finding(name, "skipped", f"not tried, since '{first}' is broken")
            continue
        say(name)
        finding, cause = _try(name, law, subject)
        if finding.status == "broken" and cause in causes:
            finding = Finding(name, "skipped", f"the error that breaks '{causes[cause]}', again")
        elif finding.status == "broken" and cause:
            causes[cause] = name
        findings[name] = finding
    return list(findings.values())


#: Laws that are not tried once another is broken.
AFTER = {**attention.AFTER, **task.AFTER}
#: Components for a process that checks, at the least: it takes some seconds to begin.
LEAST_EACH = 4
#: The law that all others of scoring functions and attention modules rest on.
ROOT = "runs"
#: What differs from case to case in the words of one error: shapes and numbers.
DETAIL = re.compile(r"\[[^\]]*\]|\d+")


def _is_broken(finding: Finding | None) -> bool:
    return finding is not None and finding.status == "broken"


@kept_threads()
def check_all(
    components: Iterable[Component],
    registry: Registry,
    device: str = "cpu",
    laws: Iterable[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    processes: int = 1,
    paths: Sequence[Path] = (),
) -> dict[str, list[Finding]]:
    """Check components, showing on a terminal which one is at work; findings by "kind=name".

    Args:
        components: what is checked.
        registry: what they are combined with.
        device: where: cpu, cuda.
        laws: names; each of them is tried of the components that it is a law of.
        options: of each kind, {"task": {"file": ...}}.
        processes: how many check side by side, on a CPU and where each has several components to check. They load
            plugins anew: the registry is what they find.
        paths: plugins that they load besides.

    Raises:
        UsageError: there is no such device, law or option.
    """
    from rich.console import Console

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).strip().splitlines()[0]}") from error
    components = list(components)
    known = {name for component in components for name in laws_for(component.kind)}
    for name in laws or ():
        if name not in known:
            raise UsageError(f"--law {name}: no such law; {nearest(name, known)}")
    chosen = {f"{component.kind}={component.name}": component for component in components}
    orders: dict[str, Order] = {}
    for label, component in chosen.items():
        mine = None if laws is None else [name for name in laws if name in laws_for(component.kind)]
        of_kind = (options or {}).get(component.kind, {})
        orders[label] = Order(component.kind, component.name, mine, of_kind)
    with Console(stderr=True).status("checking") as status:

        def say(label: str, law: str, done: int) -> None:
            status.update(f"checking, {done} of {len(orders)} done; {label}: {law}")

        processes = min(processes, len(orders) // LEAST_EACH) if device == "cpu" else 1
        if processes > 1:
            return check_side_by_side(orders, processes, paths, say)
        torch.set_num_threads(1)  # on shapes this small, more threads wait for one another
        findings: dict[str, list[Finding]] = {}
        for label, order in orders.items():
            told, component = partial(say, label, done=len(findings)), chosen[label]
            findings[label] = check(
                component, registry, device=device, laws=order.laws, options=order.options, say=told
            )
    return findings


def check_arms(arms: Iterable[Sequence[str]], registry: Registry) -> dict[str, list[Finding]]:
    """Check what the words of runs choose, with their options; findings by "attention=soft normaliser=sparsemax"."""
    findings: dict[str, list[Finding]] = {}
    for arm, kind in itertools.product(arms, ("attention", "scoring")):
        chosen = [word.partition("=")[2] for word in arm if word.startswith(f"{kind}=")]
        options = [word.partition(".")[2] for word in arm if word.startswith(f"{kind}.")]
        label = " ".join([f"{kind}={''.join(chosen)}", *options])
        if chosen and label not in findings:
            values = dict(map(read_override, options))
            (findings[label],) = check_all([registry.get(kind, *chosen)], registry, options={kind: values}).values()
    return findings


def _try(name: str, law: Law, subject: Subject) -> tuple[Finding, str]:
    """Try a law; return what became of it, and the error that broke it, with its line, if one did."""
    excused = subject.made.excused
    masks = frozenset(key.partition(":")[2] for key in excused if key.partition(":")[0] == name and ":" in key)
    finding, cause = _find(name, law, replace(subject, without=masks) if masks else subject)
    if name in excused:
        if finding.status == "passed":
            return Finding(name, "broken", "excused, yet it holds: take the excuse away"), ""
        return Finding(name, "excused", excused[name]), ""
    for mask in sorted(masks) if finding.status == "passed" else ():
        if _find(name, law, replace(subject, only=frozenset([mask])))[0].status == "passed":
            return Finding(name, "broken", f"excused for {mask}, yet it holds there: take the excuse away"), ""
        finding = Finding(name, "passed", f"but for {mask}: {excused[f'{name}:{mask}']}")
    return finding, cause


def _find(name: str, law: Law, subject: Subject) -> tuple[Finding, str]:
    with subject.own_draws():
        try:
            return Finding(name, "passed", law(subject) or ""), ""
        except Skipped as reason:
            return Finding(name, "skipped", str(reason)), ""
        except Exception as error:
            message = str(error) if isinstance(error, Broken) else first_words(error)
            line = line_in(subject.file, error)
            if isinstance(root(error), Broken):
                return Finding(name, "broken", message, line or _defined(subject)), ""
            cause = DETAIL.sub("", first_words(root(error)))
            return Finding(name, "broken", message, line or line_called(error)), f"{cause} {line}"


def _defined(subject: Subject) -> str:
    """Return "mine.py:12", where the class of the component begins."""
    try:
        line = inspect.getsourcelines(subject.component.cls)[1]
    except (OSError, TypeError):
        return ""
    return f"{Path(subject.file).name}:{line}"


def declarations(subject: Subject) -> None:
    """What it is excused from are laws of its kind, each with a reason."""
    known = laws_for(subject.component.kind)
    for key, reason in subject.made.excused.items():
        name, colon, mask = key.partition(":")
        require(name in known, f"excused['{key}'] is no law; there are {', '.join(known)}")
        require(not colon or mask in KINDS, f"excused['{key}'] names no kind of mask; there are {', '.join(KINDS)}")
        require(reason.strip(), f"excused['{key}'] gives no reason")


LAWS: Mapping[str, tuple[Law, ...]] = {
    "scoring": (declarations, *scoring.LAWS),
    "attention": (declarations, *attention.LAWS),
    "task": (declarations, *task.LAWS),
}
