"""What attention costs, as a table and as a picture."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from attnbench.files import whole
from attnbench.measure import MODES

PANELS = (
    (MODES[0], "seconds", "forward, seconds"),
    (MODES[1], "seconds", "forward and backward, seconds"),
    (MODES[1], "memory_bytes", "extra peak memory of both, bytes"),
)


@contextmanager
def follow() -> Iterator[tuple[Callable[[str], None], Callable[[int, int, str], None]]]:
    """Show on stderr how far a benchmark is: a bar in a terminal, elsewhere a line for each thing that is begun.

    Returns:
        What prints a line; and what moves the bar: so many done of so many, and what is measured now.
    """
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, said = bar.add_task("", total=None), [""]

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)
            if not console.is_terminal and what != said[-1]:
                print(f"{done}/{total} {what}", file=sys.stderr)
            said.append(what)

        yield partial(console.print, markup=False, soft_wrap=True), tell


def show(result: Mapping[str, Any]) -> None:
    """Print the rows of a `bench.json`, length by length, the cheapest first, and the fitted exponents."""
    console = Console(highlight=False, soft_wrap=True)
    for mode in MODES:
        table = Table(box=None, pad_edge=False, header_style="bold", title=mode, title_justify="left")
        table.add_column("length", justify="right")
        table.add_column("")
        for title in ("ms", "quartiles", "ratio", "extra MB"):
            table.add_column(title, justify="right", no_wrap=True)
        length = None
        for row in sorted(result["rows"], key=lambda row: (row["length"], row[mode]["seconds"])):
            table.add_row("" if row["length"] == length else str(row["length"]), row["name"], *_cells(row[mode]))
            length = row["length"]
        console.print(table)
        console.print()
    console.print(
        f"ratio: of the median time to that of {result['rows'][0]['name']}; extra MB: the peak above the start"
    )
    if result["exponents"]:
        fitted = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        fitted.add_column("cost = c · length^p\np ± standard error", no_wrap=True)
        names = list(dict.fromkeys(what for row in result["exponents"].values() for what in row))
        for name in names:
            fitted.add_column(name.replace("+", "+\n").replace(" ", "\n"), justify="right", no_wrap=True)
        for name in by_cost(result):
            row = result["exponents"].get(name, {})
            fitted.add_row(name, *(_power(row[what]) if what in row else "-" for what in names))
        console.print(fitted)


def by_cost(result: Mapping[str, Any]) -> list[str]:
    """Return the names of what was measured, the cheapest first: by seconds of both passes at its longest length."""
    longest = {row["name"]: row for row in sorted(result["rows"], key=lambda row: row["length"])}
    return sorted(longest, key=lambda name: (-longest[name]["length"], longest[name][MODES[1]]["seconds"]))


def _power(fitted: Mapping[str, float]) -> str:
    return f"{fitted['power']:.2f} ± {fitted['error']:.2f}"


def _cells(cost: Mapping[str, Any]) -> tuple[str, str, str, str]:
    memory, ratio = cost["memory_bytes"], cost["ratio"]
    return (
        _milliseconds(cost["seconds"]),
        f"{_milliseconds(cost['q1'])} to {_milliseconds(cost['q3'])}",
        "-" if ratio is None else f"{ratio:.2f}",
        "-" if memory is None else f"{memory / 1e6:.1f}",
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.3g}"


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Draw cost by length on logarithmic axes, bars from quartile to quartile, a line for each row's name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    lengths = sorted({row["length"] for row in result["rows"]})
    drawn: dict[str, Any] = {}
    axes = figure.subplots(1, len(PANELS))
    for place, name in reversed(list(enumerate(by_cost(result)))):  # as the lines lie, the dearest on top
        power = result["exponents"].get(name, {}).get(f"{MODES[1]} time")
        label = name if power is None else f"{name}  ~ length^{_power(power)}"
        style = {"color": f"C{place % 10}", "marker": "os^vD*P"[place % 7]}
        style["linestyle"] = "--" if name in result["config"]["reference"] else "-"
        for axis, (mode, what, _) in zip(axes, PANELS, strict=True):
            rows = [row for row in result["rows"] if row["name"] == name and row[mode][what]]
            at, costs = [row["length"] for row in rows], [row[mode][what] for row in rows]
            if rows and what == "seconds":
                below = [row[mode]["seconds"] - row[mode]["q1"] for row in rows]
                above = [row[mode]["q3"] - row[mode]["seconds"] for row in rows]
                drawn[label] = axis.errorbar(at, costs, yerr=(below, above), capsize=3, **style)
            elif rows:
                axis.plot(at, costs, **style)
    for axis, (_, _, title) in zip(axes, PANELS, strict=True):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.minorticks_off()
        axis.set_xlabel("length (queries, and as many keys)")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    figure.legend(
        drawn.values(), drawn.keys(), loc="outside right center", fontsize=8, title="forward and backward, seconds"
    )
    config = result["config"]
    facts = [f"batch {config['batch']}", f"width {config['dim']}", config["dtype"]]
    facts += [word for word in ("causal", "weights") if config[word]]
    facts += [result["device"], *([f"{config['threads']} thread(s)"] if result["device"] == "cpu" else [])]
    figure.suptitle(", ".join([*facts, f"torch {result['torch']}"]), fontsize=10)
    with whole(file) as path:
        figure.savefig(path)
