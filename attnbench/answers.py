"""What a trained model answers, and where it looked for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one example, to be drawn.

    Attributes:
        weights: [H, Q, K].
        rows: Q labels, what each query is.
        columns: K labels, what each key is.
        mask: [Q, K], True where the query may attend; None where it may attend everything.
        title: what the example is.
        truth: [Q, K], True at the keys that hold what the query is to write, where the task knows; a row of False has
            no such keys. `attention/alignment` is measured against it.
        grid: (rows, columns) of keys that are the places of a grid, row by row: it is drawn as one, a panel for each
            query. None for keys that stand in a line.
        image: [height, width] grey or [height, width, 3], 0 to 1: what the grid lies over.
    """

    weights: Tensor
    rows: Sequence[str]
    columns: Sequence[str]
    mask: Tensor | None = None
    title: str = ""
    truth: Tensor | None = None
    grid: tuple[int, int] | None = None
    image: Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    """What a trained model makes of one text.

    Attributes:
        label: the answer.
        probability: of the answer, by the model.
        attention: the weights of the text's words, one row for each query; None where attention has none to give.
        written: of an answer that is written piece by piece, one for each row of `attention`: the probability of each
            piece by the model, knowing those before it.
    """

    label: str
    probability: float
    attention: AttentionMap | None = None
    written: Sequence[float] = ()
