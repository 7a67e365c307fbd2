"""The tables of a comparison, for people and for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.reports.compare import Row, Table, printable
from attnbench.reports.runs import LeftOut

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NONE = "-"


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
    if row.target_seconds is None:
        return f"{row.target:g} never"
    share = "" if row.reached == len(row.runs) else f" ({row.reached} of {len(row.runs)})"
    return f"{row.target:g} in {row.target_seconds:.1f} s{share}"


@dataclass(frozen=True)
class Column:
    """A column of a table for people: its heading, its cell, and the key of `Row.record` that it is sorted by."""

    heading: str
    key: str
    cell: Callable[[Row], str]


def _interval(row: Row) -> str:
    return NONE if row.interval is None else f"{_plain(row.interval[0])} to {_plain(row.interval[1])}"


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
    Column("verdict", "verdict", lambda row: row.verdict),
    Column("parameters", "parameters", lambda row: _budget(row, "parameters")),
    Column("seconds", "train_seconds", lambda row: _seconds(row, "train_seconds")),
    Column("CPU seconds", "train_cpu_seconds", lambda row: _seconds(row, "train_cpu_seconds")),
    Column("examples/s", "examples_per_second", lambda row: _budget(row, "examples_per_second")),
    Column("memory", "peak_memory_bytes", _memory),
    Column("reached", "target_seconds", _reached),
)


def method(table: Table) -> str:
    """Say how the numbers came about."""
    return (
        f"n: seeds; sd over them; 95% interval of the mean (t below ten seeds, bootstrap-t from ten on); "
        f"difference to {table.reference}, paired t-test on common seeds, Holm-corrected for {table.comparisons}; "
        "seconds: of training, on the clock and of the processor; reached: the validation metric, and the training "
        "seconds until then."
    )


def title(table: Table) -> str:
    """Name a table."""
    return f"{table.task}: {table.metric}, {'higher' if table.mode == 'max' else 'lower'} is better"


#: The columns that a narrow terminal goes without, the first to go first.
NARROW = (
    "examples/s", "memory", "reached", "CPU seconds", "parameters", "seconds", "95% interval", "p (Holm)", "difference",
    "sd",
)  # fmt: skip
GROUP = 30  # letters of a group in a line of a narrow table, of longer ones the rest is folded


def show(tables: Sequence[Table], left_out: Sequence[LeftOut]) -> None:
    """Print the tables in the terminal, as wide as it is: with fewer columns, or a line for each row."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:  # whoever reads it from a file does not want it folded
        console = Console(highlight=False, width=250)
    for table in tables:
        columns = _fitting(table, console.width)
        if columns:
            console.print(_drawn(table, columns))
        else:
            console.print(Text(printable(title(table)), style="bold"))
            for row in table.rows:
                console.print(Text(f"{row.label}: {_plain(row.mean)}, n {len(row.values)}, {row.verdict}"))
        for note in table.notes:
            console.print(Text(f"! {note}", style="yellow"))
        missing = ", ".join(column.heading for column in COLUMNS if column not in columns)
        if missing:
            what = missing if columns else "a table"
            console.print(Text(f"too narrow for: {what}; see --html, --csv, --markdown", style="dim"))
        console.print(Text(method(table), style="dim"))


def _fitting(table: Table, width: int) -> list[Column]:
    """Return the columns that a line of so many letters has room for; none where too little is left."""
    columns = list(COLUMNS)
    for heading in (*NARROW, None):
        cells = [[column.heading, *(column.cell(row) for row in table.rows)] for column in columns]
        widths = [max(map(len, column)) for column in cells]
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
        right = column.heading not in ("group", "verdict", "reached")
        group = column.heading == "group"
        drawn.add_column(column.heading, justify="right" if right else "left", overflow="fold", no_wrap=not group)
    for row in table.rows:
        colour = {"reference": "bold", "better": "green", "worse": "red"}.get(row.verdict, "")
        drawn.add_row(*(Text(c.cell(row), style=colour if c.key == "verdict" else "") for c in columns))
    return drawn


def print_markdown(tables: Sequence[Table], left_out: Sequence[LeftOut]) -> None:
    """Print the tables as Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"

    for table in tables:
        print(f"### {printable(title(table))}\n")
        print(line(column.heading for column in COLUMNS))
        print("|" + " --- |" * len(COLUMNS))
        for row in table.rows:
            print(line(column.cell(row) for column in COLUMNS))
        print()
        for note in table.notes:
            print(f"- {note}")
        print(f"\n{method(table)}\n")


def print_csv(tables: Sequence[Table], left_out: Sequence[LeftOut]) -> None:
    """Print the rows of all tables as CSV, in units that the headings say; lists are separated by spaces."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    records = [{"task": table.task, "metric": table.metric, **row.record()} for table in tables for row in table.rows]
    writer.writerow(records[0])
    for record in records:
        writer.writerow(" ".join(map(str, v)) if isinstance(v, list) else v for v in record.values())


def print_json(tables: Sequence[Table], left_out: Sequence[LeftOut]) -> None:
    """Print everything as JSON, in the units that the keys say."""
    listed = [
        {
            "task": table.task,
            "metric": table.metric,
            "better": "higher" if table.mode == "max" else "lower",
            "reference": table.reference,
            "rows": [row.record() for row in table.rows],
            "notes": table.notes,
        }
        for table in tables
    ]
    gone = [{"folder": str(entry.folder), "reason": entry.reason} for entry in left_out]
    print(json.dumps({"tables": listed, "left_out": gone}, indent=2, ensure_ascii=False, allow_nan=False))


FORMS: Mapping[str, Callable[[Sequence[Table], Sequence[LeftOut]], None]] = {
    "terminal": show,
    "csv": print_csv,
    "json": print_json,
    "markdown": print_markdown,
}
