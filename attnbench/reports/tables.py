"""The tables of a comparison, for people and for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from attnbench.reports.compare import Row, Table, printable
from attnbench.reports.runs import LeftOut

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


def _seconds(row: Row) -> str:
    return NONE if (spent := row.costs["train_seconds"]) is None else f"{spent:,.1f}"


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
    Column("seconds", "train_seconds", _seconds),
    Column("examples/s", "examples_per_second", lambda row: _budget(row, "examples_per_second")),
    Column("memory", "peak_memory_bytes", _memory),
    Column("reached", "target_seconds", _reached),
)


def method(table: Table) -> str:
    """Say how the numbers came about."""
    return (
        f"n: seeds; sd over them; 95% interval of the mean (t below ten seeds, bootstrap-t from ten on); "
        f"difference to {table.reference}, paired t-test on common seeds, Holm-corrected for {table.comparisons}; "
        "seconds: of training; reached: the validation metric, and the training seconds until then."
    )


def title(table: Table) -> str:
    """Name a table."""
    return f"{table.task}: {table.metric}, {'higher' if table.mode == 'max' else 'lower'} is better"


def show(tables: Sequence[Table], left_out: Sequence[LeftOut]) -> None:
    """Print the tables in the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:  # whoever reads it from a file does not want it folded
        console = Console(highlight=False, width=250)
    for table in tables:
        drawn = RichTable(title=Text(printable(title(table)), style="bold"), box=box.SIMPLE_HEAD, title_justify="left")
        for column in COLUMNS:
            right = column.heading not in ("group", "verdict", "reached")
            drawn.add_column(column.heading, justify="right" if right else "left", overflow="fold")
        for row in table.rows:
            colour = {"reference": "bold", "better": "green", "worse": "red"}.get(row.verdict, "")
            drawn.add_row(*(Text(c.cell(row), style=colour if c.key == "verdict" else "") for c in COLUMNS))
        console.print(drawn)
        for note in table.notes:
            console.print(Text(f"! {note}", style="yellow"))
        console.print(Text(method(table), style="dim"))


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
