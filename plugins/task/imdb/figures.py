"""Pictures of a test: the precision-recall curve and the confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .host import LABELS
from .words import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_precision_recall(precision: Array, recall: Array) -> Figure:
    """Draw the curve of the label positive, with its average precision."""
    figure, axis = _square()
    axis.plot(recall, precision)
    axis.set(xlabel="recall of positive", ylabel="precision of positive", xlim=(0, 1), ylim=(0.45, 1.02))
    average = -float((precision[:-1] * np.diff(recall)).sum())
    axis.set_title(f"average precision {average:.4f}", fontsize=9)
    return figure


def draw_confusion(counts: Array) -> Figure:
    """Draw how many reviews of each label got each answer: counts [truth, answer]."""
    figure, axis = _square()
    axis.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for truth, answer in np.ndindex(2, 2):
        colour = "white" if truth == answer else "black"
        axis.text(answer, truth, f"{int(counts[truth, answer]):,}", ha="center", va="center", color=colour)
    axis.set_xticks(range(2), LABELS)
    axis.set_yticks(range(2), LABELS, rotation=90, va="center")
    axis.set(xlabel="answer", ylabel="truth")
    return figure


def _square() -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=110, layout="constrained")
    return figure, figure.subplots()
