"""The tables of a comparison, for people; `export` has them for programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.reports.compare import Row, Table, printable
from attnbench.reports.runs import LeftOut

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NONE = "-"
#: So many run folders that are left out are named one by one.
NAMED = 5


def _plain(value: float | None, sign: str = "") -> str:
    if value is None:
        return NONE
    return f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign},.5g}"


def _budget(row: Row, cost: str) -> str:
    value = row.costs[cost]
    return (NONE if value is None else f"{value:,.0f}") + (f" ({row.excess[cost]:+.0%})" if cost in row.excess else "")


def _p(row: Row) -> str:
    return NONE if row.p is None else "<0.0001" if row.p < 0.0001 else f"{row.p:.4f}"


def _reached(row: Row) -> str:
    if row.target is None:
        return NONE
    if row.target_steps is None or row.target_seconds is None:
        return f"{row.target:g} never"
    return f"{row.target:g} in {row.target_steps:,.0f} steps, {row.target_seconds:.1f} s"


def _success(row: Row) -> str:
    if row.success is None:
        return NONE
    reached, low, high = row.success
    return f"{reached} of {len(row.runs)} ({low:.2f} to {high:.2f})"


def _better(row: Row) -> str:
    return NONE if (b := row.better) is None or row.p is None else f"{b.share:.2f} ({b.low:.2f} to {b.high:.2f})"


def _verdict(row: Row) -> str:
    """Return the verdict; where groups cannot be told apart, in a second line what could be."""
    if row.verdict != "cannot be distinguished":
        return row.verdict or NONE
    needed = []
    if row.smallest_difference is not None:
        needed.append(_plain(row.smallest_difference))
    if row.seeds_needed is not None:
        needed.append(f"{row.seeds_needed} seeds")
    return row.verdict + (f"\n(needs {' or '.join(needed)})" if needed else "")


@dataclass(frozen=True)
class Column:
    """A column of a table for people: its heading, its cell, and the key of `Row.record` that it is sorted by."""

    heading: str
    key: str
    cell: Callable[[Row], str]


def _interval(row: Row) -> str:
    if row.interval is None:
        return NONE
    kind = "t" if " t " in row.interval_name else "bootstrap-t"
    return f"{_plain(row.interval[0])} to {_plain(row.interval[1])} ({kind})"


def _memory(row: Row) -> str:
    return NONE if (used := row.costs["peak_memory_bytes"]) is None else f"{used / 2**20:,.0f} MiB"


def _seconds(row: Row, cost: str) -> str:
    return NONE if (spent := row.costs[cost]) is None else f"{spent:,.1f}"


COLUMNS = (
    Column("group", "group", lambda row: row.label),
    Column("n", "n", lambda row: str(len(row.values))),
    Column("mean", "mean", lambda row: _plain(row.mean)),
    Column("sd", "sd", lambda row: _plain(row.sd)),
    Column("95% interval", "low95", _interval),
    Column(
        "difference", "difference", lambda row: NONE if row.difference is None else _plain(row.difference.mean, "+")
    ),
    Column("p (Holm)", "p_holm", _p),
    Column("verdict", "verdict", _verdict),
    Column("P(better)", "p_better", _better),
    Column("success", "successes", _success),
    Column("reached", "target_steps", _reached),
    Column("tried", "tried", lambda row: NONE if row.tried is None else str(row.tried)),
    Column("parameters", "parameters", lambda row: _budget(row, "parameters")),
    Column("seconds", "train_seconds", lambda row: _seconds(row, "train_seconds")),
    Column("CPU seconds", "train_cpu_seconds", lambda row: _seconds(row, "train_cpu_seconds")),
    Column("examples/s", "examples_per_second", lambda row: _budget(row, "examples_per_second")),
    Column("memory", "peak_memory_bytes", _memory),
)
#: Of words, which stand on the left.
WORDS = ("group", "verdict", "reached")


def columns_of(tables: Iterable[Table]) -> list[Column]:
    """Return the columns in which any row of the tables has something."""
    rows = [row for table in tables for row in table.rows]
    return [column for column in COLUMNS if any(column.cell(row) != NONE for row in rows)]


#: What the headings mean that do not say it themselves.
MEANING = {
    "n": "n: seeds",
    "sd": "sd: over seeds",
    "95% interval": "95% interval: of the mean",
    "P(better)": "P(better): share of common seeds on which it beats the reference (Wilson's 95% interval)",
    "success": "success: runs whose validation reached the task's goal, or --target (Wilson's 95% interval)",
    "reached": "reached: the validation metric, and the median steps and training seconds until then",
    "tried": "tried: configurations that the group was chosen from",
    "seconds": "seconds: of training",
}


def method(table: Table, columns: Sequence[Column]) -> str:
    """Say how the numbers in these columns came about; nothing where they say it themselves."""
    parts = [MEANING[column.heading] for column in columns if column.heading in MEANING]
    if table.comparisons:
        parts.append(
            f"difference to {table.reference}, paired t-test on common seeds, Holm-corrected for {table.comparisons}"
        )
    if any("needs" in _verdict(row) for row in table.rows):
        parts.append("needs: the smallest difference these seeds could show, or the seeds to show the one seen")
    return "; ".join(parts) + "." * bool(parts)


def remarks(table: Table) -> list[str]:
    """Say what the table tells as a whole: how well it tells groups apart, and what was chosen."""
    said = []
    ratio = table.separation
    if ratio == math.inf:
        said.append("separation: seeds differ nowhere, groups do")
    elif ratio is not None and ratio >= 1:
        said.append(f"separation {ratio:.1f}: groups differ {ratio:.1f} times as much as seeds do")
    elif ratio is not None:
        said.append(
            f"separation {ratio:.1f}: seeds differ more than groups do; this table tells little about the groups"
        )
    if table.chosen:
        chosen = ", ".join(table.chosen)
        said.append(f"{chosen}: of each group the value with the best validation, chosen on the seeds that are shown")
    return said


def title(table: Table) -> str:
    """Name a table."""
    return f"{table.task}: {table.metric}, {'higher' if table.mode == 'max' else 'lower'} is better"


#: The columns that a narrow terminal goes without, the first to go first.
NARROW = (
    "examples/s", "memory", "CPU seconds", "P(better)", "reached", "parameters", "seconds", "95% interval", "success",
    "p (Holm)", "tried", "difference", "sd",
)  # fmt: skip
GROUP = 30  # letters of a group in a line of a narrow table, of longer ones the rest is folded


def show(tables: Sequence[Table]) -> None:
    """Print the tables in the terminal, as wide as it is: with fewer columns, or a line for each row."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    whole = not console.is_terminal  # whoever reads it from a file does not want it folded
    if whole:
        console = Console(highlight=False, width=250)

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style=style), soft_wrap=whole)

    for table in tables:
        columns = _fitting(table, console.width)
        if columns:
            console.print(_drawn(table, columns))
        else:
            say(printable(title(table)), "bold")
            for row in table.rows:
                verdict = "" if row.verdict is None else f", {_line(_verdict(row))}"
                say(f"{row.label}: {_plain(row.mean)}, n {len(row.values)}{verdict}")
        for note in table.notes:
            say(f"! {note}", "yellow")
        for remark in remarks(table):
            say(remark)
        missing = ", ".join(column.heading for column in columns_of([table]) if column not in columns)
        if missing:
            say(f"too narrow for: {missing if columns else 'a table'}; see --html, --csv, --markdown", "dim")
        if ways := method(table, columns):
            say(ways, "dim")


def _line(cell: str) -> str:
    """Return a cell in one line."""
    return cell.replace("\n", " ")


def _fitting(table: Table, width: int) -> list[Column]:
    """Return the columns that a line of so many letters has room for; none where too little is left."""
    columns = columns_of([table])
    for heading in (*NARROW, None):
        cells = [[column.heading, *(column.cell(row) for row in table.rows)] for column in columns]
        widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in cells]
        widths[0] = min(widths[0], GROUP)
        if sum(widths) + 3 * len(widths) + 1 <= width:
            return columns
        columns = [column for column in columns if column.heading != heading]
    return []


def _drawn(table: Table, columns: Sequence[Column]) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=Text(printable(title(table)), style="bold"), box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        right = column.heading not in WORDS
        group = column.heading == "group"
        drawn.add_column(column.heading, justify="right" if right else "left", overflow="fold", no_wrap=not group)
    for row in table.rows:
        colour = {"reference": "bold", "better": "green", "worse": "red"}.get(row.verdict or "", "")
        drawn.add_row(*(Text(c.cell(row), style=colour if c.key == "verdict" else "") for c in columns))
    return drawn


def markdown(tables: Sequence[Table]) -> str:
    """Return the tables as Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(_line(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"

    lines = []
    for table in tables:
        columns = columns_of([table])
        lines += [f"### {printable(title(table))}\n", line(c.heading for c in columns), "|" + " --- |" * len(columns)]
        lines += [line(column.cell(row) for column in columns) for row in table.rows]
        lines += ["", *(f"- {note}" for note in (*table.notes, *remarks(table))), f"\n{method(table, columns)}\n"]
    return "\n".join(lines)


def tell_left_out(entries: Sequence[LeftOut]) -> None:
    """Name the first run folders that are in no table on standard error, and count the others."""
    for entry in entries[:NAMED]:
        print(printable(entry), file=sys.stderr)
    if len(entries) > NAMED:
        print(f"left out: {len(entries) - NAMED} more; compare --json names them all", file=sys.stderr)
