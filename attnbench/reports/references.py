"""Results that ship with a suite: mechanisms to stand beside, so that one's own is run alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attnbench.answers import AttentionMap
from attnbench.errors import UsageError, first_line
from attnbench.files import write_text
from attnbench.reports.cells import Cell, from_json

PERCENT = 100  # weights are kept in hundredths


@dataclass(frozen=True)
class References:
    """What lies beside a suite's file.

    Attributes:
        cells: of each arm and task.
        costs: of each arm, by length: seconds forward and backward as a ratio to multihead's in the same run.
        looks: by task and arm, the weights of one example.
    """

    cells: Sequence[Cell] = ()
    costs: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    looks: Mapping[tuple[str, str], AttentionMap] = field(default_factory=dict)

    def updated(self, new: References) -> References:
        """Return these, with what is new in the place of what was of the same arm and task, or behind it."""
        cells = {(cell.task, cell.arm): cell for cell in (*self.cells, *new.cells)}
        tasks = list(dict.fromkeys(task for task, _ in cells))
        ordered = sorted(cells.values(), key=lambda cell: tasks.index(cell.task))
        return References(ordered, {**self.costs, **new.costs}, {**self.looks, **new.looks})


def write(path: Path, references: References) -> None:
    """Write them as JSON, a line for each cell, cost and example."""
    parts: dict[str, list[Any]] = {
        "cells": [cell.as_json() for cell in references.cells],
        "costs": [[arm, list(ratios.items())] for arm, ratios in references.costs.items()],
        "looks": [[task, arm, _as_json(look)] for (task, arm), look in references.looks.items()],
    }
    texts = [f'"{name}": [\n' + ",\n".join(map(_line, entries)) + "\n]" for name, entries in parts.items()]
    write_text(path, "{\n" + ",\n".join(texts) + "\n}\n")


def _line(entry: Any) -> str:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read(path: Path, settings: Mapping[str, str]) -> tuple[References, list[str]]:
    """Read those of some tasks, and say which are left out, and why. None where there is no such file.

    Args:
        path: of the file.
        settings: the tasks, and the hash of each one's setting today: a result of another setting is left out.

    Raises:
        UsageError: the file is damaged, or something else.
    """
    if not path.is_file():
        return References(), []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = [cell for entry in record["cells"] if (cell := from_json(entry)).task in settings]
        fresh = [cell for cell in known if cell.setting == settings[cell.task]]
        tasks = {cell.task for cell in fresh}
        stale = dict.fromkeys(cell.task for cell in known if cell.task not in tasks)
        costs = {arm: {int(length): ratio for length, ratio in ratios} for arm, ratios in record["costs"]}
        looks = {(task, arm): _from_json(look) for task, arm, look in record["looks"] if task in tasks}
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: not the results of a suite: {first_line(error)}; take it away") from error
    notes = [f"{task}: the references are left out: the task or its recipe has changed since" for task in stale]
    return References(fresh, costs, looks), notes


def _as_json(look: AttentionMap) -> dict[str, Any]:
    return {
        "weights": (look.weights * PERCENT).round().int().tolist(),
        "rows": list(look.rows),
        "columns": list(look.columns),
        "mask": None if look.mask is None else look.mask.int().tolist(),
        "title": look.title,
        "truth": None if look.truth is None else look.truth.int().tolist(),
        "grid": look.grid,
        "image": None if look.image is None else (look.image * PERCENT).round().int().tolist(),
    }


def _from_json(record: Mapping[str, Any]) -> AttentionMap:
    mask, truth = ((None if (v := record[k]) is None else torch.tensor(v).bool()) for k in ("mask", "truth"))
    weights = torch.tensor(record["weights"], dtype=torch.float32) / PERCENT
    grid, image = record.get("grid"), record.get("image")
    return AttentionMap(
        weights,
        record["rows"],
        record["columns"],
        mask,
        record["title"],
        truth,
        None if grid is None else tuple(grid),
        None if image is None else torch.tensor(image) / PERCENT,
    )
