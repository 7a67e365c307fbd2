"""The picture of a test: BLEU by the length of the source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_lengths(groups: Mapping[str, float], mean: float) -> Figure:
    """Draw the BLEU of each group of sources, beside that of all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.axhline(mean, color="grey", linewidth=1, linestyle="--", label=f"all: {mean:.1f}")
    axis.plot(list(groups), list(groups.values()), "o-", label="this run")
    axis.set(xlabel="words of the source", ylabel="BLEU", ylim=(0, 1.1 * max(1.0, mean, *groups.values())))
    axis.legend(fontsize=8)
    return figure
