"""The figures of a report card, as SVG in the colours of its page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from attnbench.files import whole
from attnbench.reports import statistics
from attnbench.reports.aggregate import profile, samples
from attnbench.reports.card import MULTIHEAD, Card, width
from attnbench.reports.cells import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE, FAINT = "#1c2024", "#5b6470", "#d5dae1", "#9aa3af"
#: The page's colours, told apart by the colour-blind too; beyond them lines and markers go on to differ.
COLOURS = ("#0b62c4", "#c2410c", "#0f7b5f", "#a21caf", "#8a6500", "#0e7490", "#be123c", "#4d5562")
#: Where each stands in the page's style sheet.
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", FAINT: "faint"} | {c: f"c{n}" for n, c in enumerate(COLOURS)}
#: How the pictures of rates are read.
READ_RATES = (
    "ring: the rate that is chosen, of equals the middle one\nxN: the factor between rates within 95% of the best"
)
WIDTH = 3.9  # inches: as wide as a phone's screen, in letters of 9 points
SETTINGS: Any = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": LINE,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}

Style = Mapping[str, Any]


@contextmanager
def canvas(height: float, panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """Make a figure with panels, three beside one another, each `WIDTH` x `height` inches, to be drawn within."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        across, down = min(panels, 3), -(-panels // 3)
        figure = Figure(figsize=(WIDTH * across, height * down), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for axis in axes[panels:]:
            axis.set_axis_off()
        yield figure, axes[:panels]


def as_svg(figure: Figure) -> str:
    """Return a figure as an element of a page, whose style sheet gives the colours."""
    written = io.StringIO()
    figure.savefig(
        written, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = written.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg [^>]*?) (?:width|height)="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg [^>]*?) (?:width|height)="[^"]*"', r"\1", text)
    text = re.sub(r' xmlns(?::\w+)?="[^"]*"| version="[^"]*"', "", text)
    return re.sub("#[0-9a-f]{6}", lambda m: f"var(--{VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], text)


def styles(card: Card) -> dict[str, Style]:
    """Return how each arm is drawn: those of the command line in colours, multihead in ink, others grey if many."""
    few = len(card.arms) <= len(COLOURS)
    drawn: dict[str, Style] = {}
    for arm in card.arms:
        if arm == MULTIHEAD and arm not in card.mine:
            drawn[arm] = {"color": INK, "linestyle": "--", "marker": "s", "zorder": 3, "markersize": 4}
        elif arm in card.mine or few:
            drawn[arm] = coloured(sum(style["zorder"] == 4 for style in drawn.values()))
        else:
            drawn[arm] = {"color": FAINT, "linewidth": 0.9, "marker": ".", "markersize": 3, "zorder": 2}
    return drawn


def coloured(number: int) -> Style:
    """Return how the arm of a number is drawn where all have colours."""
    dash = ("-", (0, (5, 2)), (0, (1, 1.5)))[number // len(COLOURS) % 3]
    marker = "o^vD*Pp"[number % 7]
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": dash, "marker": marker, "zorder": 4}


def key(figure: Figure, axis: Axes, names: Mapping[str, str], drawn: Mapping[str, Style]) -> None:
    """Write which line is which below a figure: the named ones, and what the grey ones are."""
    handles, labels = axis.get_legend_handles_labels()
    lines = dict(zip(labels, handles, strict=True))
    shown = {names[arm]: lines[arm] for arm in names if arm in lines and drawn[arm]["zorder"] > 2}
    grey = [arm for arm in names if arm in lines and drawn[arm]["zorder"] == 2]
    if grey:
        shown[f"{len(grey)} others that ship"] = lines[grey[0]]
    columns = 1 if max(map(len, shown), default=0) > 26 else 2
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns, fontsize=8)


def difficulty(card: Card, task: str) -> str:
    """Draw the metric on each slice of a task's test, with 95% intervals over seeds."""
    cells, drawn = card.on(task), styles(card)
    first = next(iter(cells.values()))
    names = list(first.slices)
    with canvas(3.2) as (figure, [axis]):
        for value, name in ((first.floor, "chance"), (first.goal, "goal")):
            if value is not None:
                axis.axhline(value, color=SOFT, linewidth=0.8, linestyle=":")
                axis.annotate(
                    name,
                    (1, value),
                    xycoords=("axes fraction", "data"),
                    fontsize=7,
                    color=SOFT,
                    ha="right",
                    va="bottom",
                )
        for arm, cell in cells.items():
            parts = [cell.slices[name] for name in names if name in cell.slices]
            at = [n for n, name in enumerate(names) if name in cell.slices]
            axis.plot(at, [fmean(part) for part in parts], label=arm, **drawn[arm])
            ends = [statistics.interval(part) for part in parts]
            if drawn[arm]["zorder"] > 2 and None not in ends:
                axis.vlines(
                    at, [e[0] for e in ends if e], [e[1] for e in ends if e], color=drawn[arm]["color"], linewidth=1
                )
        axis.set_xticks(
            range(len(names)),
            [name or "as trained" for name in names],
            rotation=30 * (len(names) > 3),
            ha="right" if len(names) > 3 else "center",
        )
        axis.set_xlim(-0.3, len(names) - 0.7)
        axis.set_ylabel(first.metric)
        axis.grid(axis="y", linewidth=0.6)
        key(figure, axis, {arm: arm for arm in cells}, drawn)
        return as_svg(figure)


def dots(card: Card, task: str) -> str:
    """Draw each seed's score on a task, and the mean with its 95% interval; best first."""
    cells, drawn = card.on(task), styles(card)
    with canvas(0.7 + 0.2 * len(cells)) as (figure, [axis]):
        for place, (arm, cell) in enumerate(cells.items()):
            scores, colour = list(cell.scores.values()), drawn[arm]["color"]
            axis.plot(scores, [place] * len(scores), "o", color=colour, alpha=0.45, markersize=3.5, markeredgewidth=0)
            ends = statistics.interval(scores)
            if ends is not None:
                axis.hlines(place, *ends, color=colour, linewidth=1.4)
            axis.plot(fmean(scores), place, "|", color=colour, markersize=9, markeredgewidth=2)
        axis.set_yticks(range(len(cells)), list(cells), fontsize=8)
        for label, arm in zip(axis.get_yticklabels(), cells, strict=True):
            label.set_color(drawn[arm]["color"] if arm in card.mine else SOFT)
        axis.set_ylim(len(cells) - 0.5, -0.5)
        axis.set_xlim(-0.05, 1.05)
        axis.set_xlabel("score")
        axis.grid(axis="x", linewidth=0.6)
        return as_svg(figure)


def rate_lines(axis: Axes, cells: Mapping[str, Cell], drawn: Mapping[str, Style]) -> dict[str, str]:
    """Draw validation against rate, the chosen one ringed; return each arm's name with the width of its window."""
    names = {}
    for arm, cell in cells.items():
        known = [(lr, value) for lr, value in sorted(cell.tried) if value is not None]
        if not known:
            continue
        axis.plot(*zip(*known, strict=True), label=arm, **drawn[arm])
        chosen = [(lr, value) for lr, value in known if math.isclose(lr, cell.lr)]
        if chosen and drawn[arm]["zorder"] > 2:
            axis.plot(*chosen[0], "o", markersize=10, fillstyle="none", color=drawn[arm]["color"], zorder=5)
        window = width(cell)
        names[arm] = f"{arm}: {'learns at none' if window is None else f'x{window[1] / window[0]:.3g}'}"
    rates = sorted({lr for cell in cells.values() for lr, value in cell.tried if value is not None})
    axis.set_xscale("log")
    axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axis.minorticks_off()
    axis.set_xlabel("learning rate")
    axis.set_ylabel(next(iter(cells.values())).metric.replace("test/", "val/"))
    axis.grid(linewidth=0.6)
    return names


def rates(card: Card, task: str) -> str:
    """Draw validation against rate for the arms of a task."""
    cells = {arm: cell for arm, cell in card.on(task).items() if any(value is not None for _, value in cell.tried)}
    drawn = styles(card)
    with canvas(3.2) as (figure, [axis]):
        key(figure, axis, rate_lines(axis, cells, drawn), drawn)
        return as_svg(figure)


def draw_rates(cells: Sequence[Cell], path: Path) -> None:
    """Draw validation against rate, arm by arm, a panel for each task, into a PNG.

    The key says by what factor the rates around the best go apart that are within 95% of its score (`READ_RATES`).
    """
    tried = [cell for cell in cells if any(value is not None for _, value in cell.tried)]
    tasks = list(dict.fromkeys(cell.task for cell in tried))
    arms = list(dict.fromkeys(cell.arm for cell in tried))
    drawn = {arm: coloured(number) for number, arm in enumerate(arms)}
    with canvas(3.2 + 0.2 * len(arms), max(1, len(tasks))) as (figure, axes):
        for axis, task in zip(axes, tasks, strict=False):
            names = rate_lines(axis, {cell.arm: cell for cell in tried if cell.task == task}, drawn)
            axis.set_title(task, fontsize=10)
            handles, labels = axis.get_legend_handles_labels()
            axis.legend(
                handles,
                [names[arm] for arm in labels],
                title=READ_RATES,
                title_fontsize=7,
                fontsize=8,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.16),
            )
        with whole(path) as partial:
            figure.savefig(partial)


def profiles(card: Card) -> str:
    """Draw for each mechanism the share of its runs above each score, a mean over the tasks that count."""
    drawn, thresholds = styles(card), [n / 100 for n in range(101)]
    with canvas(3.2) as (figure, [axis]):
        for row in card.standings:
            if row.score is not None:
                runs = samples({task: row.scores[task] for task in card.counted})
                axis.plot(thresholds, profile(runs, thresholds), label=row.arm, **{**drawn[row.arm], "marker": ""})
        axis.set(xlabel="score", ylabel="share of runs above it", ylim=(-0.02, 1.02), xlim=(0, 1))
        axis.grid(linewidth=0.6)
        key(figure, axis, {row.arm: row.arm for row in card.standings}, drawn)
        return as_svg(figure)


def improvements(card: Card, arm: str) -> str:
    """Draw the probability that a run of an arm is better than one of each other, with its 95% interval."""
    others = [row.arm for row in card.standings if (arm, row.arm) in card.improvements]
    colour = styles(card)[arm]["color"]
    with canvas(0.8 + 0.2 * len(others)) as (figure, [axis]):
        axis.axvline(0.5, color=SOFT, linewidth=0.8, linestyle=":")
        for place, other in enumerate(others):
            share, ends = card.improvements[arm, other]
            axis.hlines(place, *ends, color=colour, linewidth=1.6)
            axis.plot(share, place, "o", color=colour)
        axis.set_yticks(range(len(others)), others, fontsize=8)
        axis.set_ylim(len(others) - 0.5, -0.5)
        axis.set(xlabel=f"P({arm} better)" if len(arm) < 30 else "P(better)", xlim=(-0.03, 1.03))
        axis.grid(axis="x", linewidth=0.6)
        return as_svg(figure)


def against(card: Card, costs: Mapping[str, float], name: str) -> str:
    """Draw score against what it costs, on a logarithmic axis: {arm: ratio to multihead's}."""
    drawn = styles(card)
    rows = [row for row in card.standings if row.score is not None and row.arm in costs]
    with canvas(3.2) as (figure, [axis]):
        for row in rows:
            style = {**drawn[row.arm], "linestyle": "", "markersize": 7 if row.mine else 4.5}
            axis.plot([costs[row.arm]], [row.score or 0.0], **style)
            if row.interval:
                axis.vlines(costs[row.arm], *row.interval, color=style["color"], linewidth=1)
        axis.set_xscale("log")
        axis.set(xlabel=f"{name}, ratio to {MULTIHEAD}", ylabel="score", ylim=(-0.04, 1.08))
        axis.grid(linewidth=0.6)
        axis.margins(x=0.25)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: "")
        write_names(axis, {row.arm: (costs[row.arm], row.score or 0.0) for row in rows}, drawn)
        return as_svg(figure)


def write_names(axis: Axes, points: Mapping[str, tuple[float, float]], drawn: Mapping[str, Style]) -> None:
    """Write names beside points, or where there is room, with a line to the point."""
    low, high = (math.log(end) for end in axis.get_xlim())
    at = {arm: ((math.log(x) - low) / (high - low), y) for arm, (x, y) in points.items()}  # shares of the axes
    taken = [(x - 0.012, x + 0.012, y) for x, y in at.values()]
    steps = sorted((n * 0.05 for n in range(-12, 13)), key=abs)
    for arm, (x, y) in sorted(at.items(), key=lambda item: -item[1][1]):
        wide = 0.02 * len(arm)
        places = [(left, y + step) for step in steps for left in (x + 0.03, x - 0.03 - wide)]
        free = [
            (left, height)
            for left, height in places
            if 0 <= left <= 1 - wide
            and 0 <= height <= 1.05
            and all(b < left or left + wide < a or abs(height - h) > 0.045 for a, b, h in taken)
        ]
        left, height = (free or places)[0]
        taken.append((left, left + wide, height))
        colour = drawn[arm]["color"] if drawn[arm]["zorder"] > 2 else SOFT
        if abs(height - y) > 0.01:
            end = left if left > x else left + wide
            (line,) = axis.plot([x, end], [y, height], color=FAINT, linewidth=0.6, zorder=1)
            line.set_transform(axis.get_yaxis_transform())
        axis.annotate(arm, (left, height), xycoords=("axes fraction", "data"), fontsize=7, color=colour, va="center")
