"""What became of the laws, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Status = Literal["passed", "excused", "skipped", "broken"]
CELLS: Mapping[Status, str] = {
    "passed": "[green]holds[/green]",
    "excused": "[yellow]excused[/yellow]",
    "skipped": "[yellow]skipped[/yellow]",
    "broken": "[bold red]BROKEN[/bold red]",
}
LABEL = 18  # columns that a law's name takes


@dataclass(frozen=True)
class Finding:
    """What became of one law: passed, excused with the class's reason, skipped or broken with the case."""

    law: str
    status: Status
    detail: str = ""
    where: str = ""  # the line of the component's file, "mine.py:31"

    def told(self) -> str:
        """Return the detail, and where to look."""
        named = f"{self.where.partition(':')[0]}:" in self.detail
        return f"{self.detail} ({self.where})" if self.where and not named else self.detail


def show_laws(results: Mapping[str, list[Finding]], says: Mapping[str, str]) -> None:
    """Print a table of laws by components, what a lone component's laws say, and every reason.

    Args:
        results: findings by component, "attention=soft".
        says: what each law says, by its name.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    if len(results) == 1:
        [(component, findings)] = results.items()
        _one(console, component, findings, says)
    else:
        for kind in dict.fromkeys(component.partition("=")[0] for component in results):
            _many(console, {c: f for c, f in results.items() if c.startswith(f"{kind}=")})
        for component, findings in results.items():
            laws: dict[tuple[Status, str], list[str]] = {}  # what has one reason is one line
            for finding in findings:
                if finding.status != "passed":
                    laws.setdefault((finding.status, finding.told()), []).append(finding.law)
            for (status, detail), names in laws.items():
                line = f"{status} {component} {', '.join(names)}: {detail}"
                console.print(line, markup=False, soft_wrap=True, style="red" if status == "broken" else "")
    total = Counter(finding.status for findings in results.values() for finding in findings)
    counts = ", ".join(f"{total[status]} {status}" for status in CELLS if total[status] or status == "broken")
    console.print(f"{len(results)} component{'s' * (len(results) != 1)}: {counts}")


def _one(console: Console, component: str, findings: list[Finding], says: Mapping[str, str]) -> None:
    table = Table(box=None, pad_edge=False, title=component, title_justify="left")
    for heading in ("law", "", "what it says, and what came of it"):
        table.add_column(heading)
    idle: dict[str, list[str]] = {}  # laws that were not tried, by the reason
    for finding in findings:
        if finding.status == "skipped":
            idle.setdefault(finding.detail, []).append(finding.law)
    shared = {law for laws in idle.values() if len(laws) > 1 for law in laws}
    for finding in sorted(findings, key=lambda finding: finding.status != "broken"):  # what is broken first
        if finding.law in shared:
            continue
        text = f"[dim]{escape(says[finding.law])}[/dim]"
        if finding.detail:
            text += f"\n{escape(finding.told())}"
        table.add_row(finding.law, CELLS[finding.status], text)
    console.print(table)
    for reason, laws in idle.items():
        if len(laws) > 1:
            console.print(f"skipped {', '.join(laws)}: {reason}", markup=False)


def _many(console: Console, results: Mapping[str, list[Finding]]) -> None:
    wide = 2 + max(len(component.partition("=")[2]) for component in results)
    fit = max(1, (console.width - LABEL) // max(wide, 9))
    for start in range(0, len(results), fit):
        part = dict(list(results.items())[start : start + fit])
        table = Table(box=None, pad_edge=False)
        table.add_column("law", min_width=LABEL)
        for component in part:
            table.add_column(component.partition("=")[2], no_wrap=True)
        for row in zip(*part.values(), strict=True):
            table.add_row(row[0].law, *(CELLS[finding.status] for finding in row))
        console.print(table)
        console.print()
