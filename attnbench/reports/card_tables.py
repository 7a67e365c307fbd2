"""A report card as tables for people: in the terminal, and as Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from attnbench.reports.card import MULTIHEAD, Card, Standing, join, range_of, size_of, telling, verdict, width
from attnbench.reports.cells import Cell
from attnbench.reports.compare import printable
from attnbench.reports.statistics import interval, interval_name, wilson

NONE = "-"


@dataclass(frozen=True)
class Sheet:
    """A table: a heading for each column, and rows that begin with an arm's label.

    Attributes:
        narrow: places of the columns that a narrow terminal goes without, the first to go first; a task may be called
            as another column is.
        words: places of the columns of words, which are folded.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    narrow: Sequence[int] = ()
    words: Sequence[int] = ()


def sheets(card: Card) -> list[Sheet]:
    """Return the tables of a card: of the suite, or of `tune` one for each task."""
    return [tuned(card, task) for task in card.tasks] if card.suite == "tune" else [standings(card)]


def standings(card: Card) -> Sheet:
    """Return the mechanisms, best first: tasks across."""
    headings = ["mechanism", "score", "95% interval", *card.tasks, "goal reached", "state", "cost", "not told apart"]
    rows = [
        [
            f"> {row.arm}" if row.mine else row.arm,
            digits(row.score, 2),
            between(row.interval, 2),
            *(digits(fmean(row.scores[task].values()), 2) if task in row.cells else NONE for task in card.tasks),
            f"{row.reached} of {row.runs}",
            NONE if row.state is None else f"{row.state:.2g}",
            NONE if row.cost is None else f"{row.cost[1]:.2g}",
            ", ".join(alike(card, row)) or NONE,
        ]
        for row in card.standings
    ]
    title = f"{card.suite}: score from chance, 0, to the goal, 1; > from the command line"
    reached, state, cost, alike_with = range(len(headings) - 4, len(headings))
    return Sheet(title, headings, rows, (alike_with, 2, reached, cost, state), (0, alike_with))


def alike(card: Card, row: Standing) -> list[str]:
    """Return those of which an arm cannot be told apart, with the smallest difference that could have been shown."""
    found = []
    for (one, other), pair in card.pairs.items():
        if one == row.arm and not pair.distinct:
            found.append(other if pair.smallest is None else f"{other} ({size_of(pair.smallest)})")
    return found


def tuned(card: Card, task: str) -> Sheet:
    """Return what the arms of a task tried, and what came of the best rate."""
    cells = card.on(task)
    first = next(iter(cells.values()), None)
    if first is None:
        return Sheet(f"{task}: no arm could be trained", ["arm"], [])
    rates = sorted({lr for cell in cells.values() for lr, _ in cell.tried})
    slices = list(first.slices)
    headings = ["arm", "score", "95% interval", "rate"]
    headings += [f"validation at {lr:g}" for lr in rates] + ["good rates"] * bool(rates)
    headings += [h for name in slices for h in (slice_name(name), "95% interval")]
    headings += ["goal reached", "95% interval", "steps to goal", "CPU seconds", "parameters", "state"]
    rows = [[arm, *_tuned(cell, rates, slices)] for arm, cell in cells.items()]
    title = f"{task}: {first.metric}, {'higher' if first.mode == 'max' else 'lower'} is better"
    return Sheet(title, headings, rows)


def _tuned(cell: Cell, rates: Sequence[float], slices: Sequence[str]) -> list[str]:
    scores, tried = list(cell.scores.values()), dict(cell.tried)
    parts = [cell.slices.get(name, []) for name in slices]
    seconds = [value for value in cell.cpu_seconds if not math.isnan(value)]
    return [
        digits(fmean(scores), 2),
        between(interval(scores), 2),
        f"{cell.lr:g}",
        *(digits(tried.get(lr)) for lr in rates),
        *[good_rates(cell)] * bool(rates),
        *(text for part in parts for text in (digits(fmean(part) if part else None), between(interval(part)))),
        f"{cell.reached} of {len(cell.seeds)}",
        between(wilson(cell.reached, len(cell.seeds)), 2),
        NONE if cell.steps_to_goal is None else f"{cell.steps_to_goal:,.0f}",
        f"{fmean(seconds):.1f}" if seconds else NONE,
        f"{cell.parameters:,}",
        NONE if cell.state_size is None else f"{cell.state_size:,}",
    ]


def slice_name(name: str) -> str:
    """Name a slice of the test."""
    return name or "as trained"


def digits(value: float | None, places: int = 4) -> str:
    """Write a metric."""
    return NONE if value is None or math.isnan(value) else f"{value:z.{places}f}"


def between(ends: tuple[float, float] | None, places: int = 4) -> str:
    """Write an interval."""
    return NONE if ends is None else f"{digits(ends[0], places)} to {digits(ends[1], places)}"


def good_rates(cell: Cell) -> str:
    """Write which rates around the best are within 95% of its score, and by what factor they go apart."""
    window = width(cell)
    if window is None:
        return "none"
    low, high = window
    return f"{low:g}" if low == high else f"{low:g} to {high:g} (x{high / low:.3g})"


def told_apart(card: Card, task: str) -> str:
    """Say which arms of a task cannot be distinguished."""
    pairs = card.pairs_on[task]
    known = {frozenset(pair): found for pair, found in pairs.items()}
    if not known:
        return f"{task}: one arm alone, nothing to tell apart"
    same = {pair: found for pair, found in known.items() if not found.distinct}
    order = list(card.on(task))
    named = [" and ".join(sorted(pair, key=order.index)) for pair in same]
    method = "paired t-tests of the score on common seeds, Holm-corrected"
    if not named:
        return f"{task}: all arms can be distinguished ({method} for {len(known)})"
    smallest = [found.smallest for found in same.values() if found.smallest is not None]
    shown = f"; these seeds could have shown differences of {range_of(smallest)}" if smallest else ""
    return f"{task}: cannot be distinguished: {'; '.join(named)} ({method} for {len(known)}){shown}"


def method(card: Card) -> str:
    """Say how the numbers came about."""
    tuning = ", ".join(map(str, card.tuning_seeds))
    chosen = (
        f"rates chosen by validation on tuning seeds ({tuning}), which are not reported"
        if tuning
        else "one rate, not tuned"
    )
    ways = f"{chosen}; reported on seeds {', '.join(map(str, card.seeds))}"
    if card.suite == "tune":
        name = interval_name(len(card.seeds))
        return (
            f"{ways}; 95%: {name} of the mean, Wilson's of reaching the goal; good rates: within 95% of the best score"
        )
    return (
        f"{ways}; score: interquartile mean over {join(card.counted) if card.counted else 'no task'}, its interval by "
        "bootstrap over seeds within each task; state and cost (forward and backward): ratios to "
        f"{MULTIHEAD}; not told apart: by paired t-tests of the mean score on common seeds, Holm-corrected, and the "
        "smallest difference that these seeds could have shown"
    )


def show(card: Card) -> None:
    """Print the card in the terminal, as wide as it is."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:  # whoever reads it from a file does not want it folded
        console = Console(highlight=False, width=250)
    for sheet in sheets(card):
        console.print(Text(printable(sheet.title), style="bold"))
        if card.suite == "tune":
            _stand(console, sheet)
        else:
            _lie(console, sheet)
    if card.suite == "tune":
        told = [line for task in card.tasks for line in (told_apart(card, task), f"{task}: {telling(card, task)[1]}")]
    else:
        told = [" ".join(verdict(card, arm)) for arm in card.mine]
    for line in told:
        console.print(Text(printable(line)))
    for note in card.notes:
        console.print(Text(f"! {printable(note)}", style="yellow"))
    console.print(Text(method(card), style="dim"))


def _lie(console: Any, sheet: Sheet) -> None:
    """Print a table with a line for each arm, without the columns that there is no room for."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = [[heading, *(row[i] for row in sheet.rows)] for i, heading in enumerate(sheet.headings)]
    widths = [max(map(len, column)) for column in columns]
    for i in sheet.words:  # names are folded
        widths[i] = min(24, widths[i])
    if sum(widths) + len(widths) > console.width:  # headings of numbers too
        widths = [
            width if i in sheet.words else max(5, *map(len, column[1:]))
            for i, (width, column) in enumerate(zip(widths, columns, strict=True))
        ]
    shown = list(range(len(columns)))
    for i in sheet.narrow:
        if sum(widths[j] + 1 for j in shown) > console.width:
            shown.remove(i)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for i in shown:
        width = None if i in sheet.words else widths[i]
        justify: Literal["left", "right"] = "left" if i in sheet.words else "right"
        table.add_column(sheet.headings[i], justify=justify, overflow="fold", width=width, min_width=widths[i])
    for row in sheet.rows:
        style = "bold" if row[0].startswith("> ") else ""
        table.add_row(*(Text(printable(row[i]), style=style) for i in shown))
    console.print(table)
    missing = [heading for i, heading in enumerate(sheet.headings) if i not in shown]
    if missing:
        console.print(Text(f"too narrow for: {', '.join(missing)}; see --markdown, --csv", style="dim"))


def _stand(console: Any, sheet: Sheet) -> None:
    """Print a table with a column for each arm, as many tables as the terminal's width asks for."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    first = max(map(len, sheet.headings)) + 2
    widths = [max(map(len, row)) + 2 for row in sheet.rows]
    rows = list(sheet.rows)
    while rows:
        fit, used = 0, first
        while fit < len(rows) and (not fit or used + widths[fit] <= console.width):
            used, fit = used + widths[fit], fit + 1
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
        table.add_column("arm", no_wrap=True)
        for row in rows[:fit]:
            table.add_column(Text(printable(row[0])), justify="right", overflow="fold")
        for i, heading in enumerate(sheet.headings[1:], 1):
            table.add_row(heading, *(Text(row[i]) for row in rows[:fit]))
        console.print(table)
        rows, widths = rows[fit:], widths[fit:]


def print_markdown(card: Card) -> None:
    """Print the card as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(re.sub(r"([\\|<>*_`])", r"\\\1", printable(cell)) for cell in cells) + " |"

    for sheet in sheets(card):
        print(f"### {printable(sheet.title)}\n")
        print(line(sheet.headings))
        print("|" + " --- |" * len(sheet.headings))
        for row in sheet.rows:
            print(line(row))
        print()
    told = [told_apart(card, task) for task in card.tasks] if card.suite == "tune" else []
    for note in [*told, *card.notes]:
        print(f"- {printable(note)}")
    print(f"\n{method(card)}\n")
