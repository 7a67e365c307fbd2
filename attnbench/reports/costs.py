"""What attention costs, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PANELS = (
    ("forward", "seconds", "forward, seconds"),
    ("forward+backward", "seconds", "forward and backward, seconds"),
    ("forward+backward", "memory_bytes", "extra peak memory of both, bytes"),
)


def show(result: Mapping[str, Any]) -> None:
    """Print the rows of a `bench.json`, length by length, and the fitted exponents."""
    console = Console(highlight=False, soft_wrap=True)
    for mode in ("forward", "forward+backward"):
        table = Table(box=None, pad_edge=False, header_style="bold", title=mode, title_justify="left")
        table.add_column("length", justify="right")
        table.add_column("")
        for title in ("ms", "quartiles", "ratio", "extra MB"):
            table.add_column(title, justify="right", no_wrap=True)
        length = None
        for row in result["rows"]:
            table.add_row("" if row["length"] == length else str(row["length"]), row["name"], *_cells(row[mode]))
            length = row["length"]
        console.print(table)
        console.print()
    console.print(
        f"ratio: of the median time to that of {result['rows'][0]['name']}; extra MB: the peak above the start"
    )
    if result["exponents"]:
        fitted = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        fitted.add_column("cost = c · length^p\np of", no_wrap=True)
        names = list(dict.fromkeys(what for row in result["exponents"].values() for what in row))
        for name in names:
            fitted.add_column(name.replace(" ", "\n"), justify="right")
        for name, row in result["exponents"].items():
            fitted.add_row(name, *(f"{row[what]:.2f}" if what in row else "-" for what in names))
        console.print(fitted)


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

    figure = Figure(figsize=(14, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(row["name"] for row in result["rows"]))
    lengths = sorted({row["length"] for row in result["rows"]})
    for axis, (mode, what, title) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for place, name in enumerate(names):
            rows = [row for row in result["rows"] if row["name"] == name and row[mode][what]]
            if not rows:
                continue
            at, costs = [row["length"] for row in rows], [row[mode][what] for row in rows]
            power = result["exponents"].get(name, {}).get(f"{mode} {'time' if what == 'seconds' else 'memory'}")
            label = name if power is None else f"{name}  ~ length^{power:.2f}"
            style = {"color": f"C{place % 10}", "marker": "os^vD*P"[place % 7], "label": label}
            style["linestyle"] = "--" if name in result["config"]["reference"] else "-"
            if what == "seconds":
                below = [row[mode]["seconds"] - row[mode]["q1"] for row in rows]
                above = [row[mode]["q3"] - row[mode]["seconds"] for row in rows]
                axis.errorbar(at, costs, yerr=(below, above), capsize=3, **style)
            else:
                axis.plot(at, costs, **style)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.minorticks_off()
        axis.set_xlabel("length (queries, and as many keys)")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend(fontsize=7)
    config = result["config"]
    threads = f", {config['threads']} thread(s)" if result["device"] == "cpu" else ""
    figure.suptitle(
        f"batch {config['batch']}, width {config['dim']}, {config['dtype']}, {result['device']}{threads}, "
        f"torch {result['torch']}",
        fontsize=10,
    )
    figure.savefig(file)
