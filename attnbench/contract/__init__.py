"""The laws that every component obeys: for a test, for a plugin author's pytest, and for `python -m attnbench check`.

    from attnbench.contract import check
    for finding in check(registry.get("attention", "mine"), registry): ...

A law is a function of a `Subject` whose docstring says what holds; it raises `Broken` with the smallest failing case.
A component is excused from a law by its class: `excused = {"permutation": "order is the point"}`; where the law holds
all the same, the excuse is what is broken. Scoring functions obey the laws of attention too, in a plain softmax and
weighted sum.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from attnbench.contract import attention, scoring, task
from attnbench.contract.findings import Finding
from attnbench.contract.harness import Broken, Law, Skipped, Subject, require, said
from attnbench.errors import UsageError, nearest
from attnbench.loading import Component
from attnbench.registry import Registry

__all__ = [
    "LAWS",
    "Broken",
    "Finding",
    "Law",
    "Skipped",
    "Subject",
    "check",
    "check_all",
    "declarations",
    "laws_for",
    "named",
    "written_in",
]


def laws_for(kind: str) -> dict[str, Law]:
    """Give the laws of a kind of component (scoring, attention, task) by name; each one's docstring says what holds."""
    return {law.__name__: law for law in LAWS[kind]}


def named(registry: Registry, names: Iterable[str]) -> list[Component]:
    """Find components by name, `multihead` or `attention=multihead`; all of them when none is named.

    Raises:
        UsageError: there is none of that name.
    """
    everything = [component for kind in LAWS for component in registry.of(kind)]
    found: list[Component] = []
    for name in names:
        kind, equals, word = name.rpartition("=")
        matching = [c for c in everything if c.name == word and (not equals or c.kind == kind)]
        if not matching:
            known = (f"{c.kind}={c.name}" if equals else c.name for c in everything)
            raise UsageError(f"{name}: no such component; {nearest(name, known)}")
        found += matching
    return found or everything


def written_in(registry: Registry, file: Path) -> list[Component]:
    """Find the components that a file, or a folder, brought.

    Raises:
        UsageError: one of its components, or all of them, are not registered, and why.
    """

    def same(path: str | Path) -> bool:
        return Path(path).resolve() == file.resolve()

    for failure in registry.failures:
        if same(failure.origin):
            raise UsageError(str(failure))
    for key, origins in registry.taken.items():
        if any(map(same, origins)):
            registry.get(*key)
    for source in registry.disabled:
        if source.path is not None and same(source.path):
            raise UsageError(f"{file}: ATTNBENCH_DISABLE keeps plugin '{source.name}' out")
    found = [
        component
        for component in registry.components.values()
        if same(component.origin) or Path(inspect.getfile(component.cls)).resolve().is_relative_to(file.resolve())
    ]
    if not found:
        raise UsageError(f"{file}: it brings no component; `list` says which there are, from where, and what failed")
    return found


def check(
    component: Component, registry: Registry, *, device: str = "cpu", laws: Iterable[str] | None = None
) -> list[Finding]:
    """Hold a component to the laws of its kind, all of them or those named.

    Args:
        component: what is checked, made with its default options.
        registry: what it is combined with.
        device: where: cpu, cuda.
        laws: names, of `laws_for(component.kind)`.
    """
    known = laws_for(component.kind)
    subject = Subject(component, registry, device)
    return [_try(name, known[name], subject) for name in (known if laws is None else laws)]


def check_all(components: Iterable[Component], registry: Registry, device: str = "cpu") -> dict[str, list[Finding]]:
    """Check components, showing on a terminal which one is at work; findings by "kind=name".

    Raises:
        UsageError: there is no such device.
    """
    from rich.console import Console

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).strip().splitlines()[0]}") from error
    torch.set_num_threads(1)  # on shapes this small, more threads wait for one another
    found = {}
    with Console(stderr=True).status("checking") as status:
        for component in components:
            label = f"{component.kind}={component.name}"
            status.update(f"checking {label}")
            found[label] = check(component, registry, device=device)
    return found


def _try(name: str, law: Law, subject: Subject) -> Finding:
    finding = _find(name, law, subject)
    reason = subject.component.cls.excused.get(name)
    if reason is None:
        return finding
    if finding.status == "passed":
        return Finding(name, "broken", "excused, yet it holds: take the excuse away")
    return Finding(name, "excused", reason)


def _find(name: str, law: Law, subject: Subject) -> Finding:
    devices = list(range(torch.cuda.device_count())) if subject.device != "cpu" else []
    with torch.random.fork_rng(devices):
        try:
            return Finding(name, "passed", law(subject) or "")
        except Skipped as reason:
            return Finding(name, "skipped", str(reason))
        except Broken as case:
            return Finding(name, "broken", str(case))
        except Exception as error:
            return Finding(name, "broken", said(error))


def declarations(subject: Subject) -> None:
    """What the class is excused from are laws of its kind, each with a reason."""
    known = laws_for(subject.component.kind)
    for name, reason in subject.component.cls.excused.items():
        require(name in known, f"excused['{name}'] is no law; there are {', '.join(known)}")
        require(reason.strip(), f"excused['{name}'] gives no reason")


LAWS: Mapping[str, tuple[Law, ...]] = {
    "scoring": (declarations, *scoring.LAWS),
    "attention": (declarations, *attention.LAWS),
    "task": (declarations, *task.LAWS),
}
