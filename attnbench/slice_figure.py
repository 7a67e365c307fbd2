"""Pictures of a test's slices: a metric over what the slices vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_slices(
    name: str,
    option: str,
    x: Sequence[float],
    y: Sequence[float],
    *,
    trained: float,
    lines: Mapping[str, Sequence[float]],
) -> Figure:
    """Draw a metric over an option.

    Args:
        name: of the metric.
        option: what the slices vary.
        x: the option's values, ascending.
        y: the metric at each.
        trained: the value that was trained on.
        lines: what else is known at each value, by name: chance, an estimate.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.axvline(trained, color="lightgrey", linewidth=6, zorder=0, label=f"trained on {trained:g}")
    for (label, values), style in zip(lines.items(), ("--", ":", "-."), strict=False):
        axis.plot(x, values, style, color="grey", linewidth=1, label=label)
    axis.plot(x, y, "o-", label="this run")
    if min(x) > 0 and max(x) > 3 * min(x):
        axis.set_xscale("log", base=2)
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    everything = [*y, *(value for values in lines.values() for value in values)]
    axis.set(xlabel=option, ylabel=name, ylim=(min(0.0, *y), 1.05 * max(everything)))
    axis.legend(fontsize=8)
    return figure
