"""Reading run folders: what can be compared, and why the others cannot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.config import mechanism
from attnbench.run_folder import READ_YAML, Unusable, find, flat, in_use, read_mapping, resuming


@dataclass(frozen=True)
class Run:
    """A completed run.

    Attributes:
        folder: where it is.
        config: its config.yaml, flattened (see `flat`).
        result: its result.json.
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.config["task"])

    @property
    def tuning(self) -> bool:
        """Whether it was run to choose a configuration, not to be reported."""
        return self.config.get("part") == "tuning"

    @property
    def mechanism(self) -> str:
        """The attention module with its scoring function, if it uses one."""
        return mechanism(self.config["attention"], self.config.get("scoring"))

    def value(self, metric: str) -> float | None:
        """Return a metric, or one of the result's own numbers; None where the run has no such finite number."""
        return number(self.result["metrics"].get(metric, self.result.get(metric)))


@dataclass(frozen=True)
class LeftOut:
    """A run folder that cannot be compared, and why."""

    folder: Path
    reason: str

    def __str__(self) -> str:
        return f"left out: {self.folder}: {self.reason}"


def number(value: Any) -> float | None:
    """Return a finite number, or None."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


def read(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        Unusable: it is unfinished or damaged.
    """
    hint = f"resume with: python -m attnbench {resuming(folder)}"
    try:
        result = read_mapping(folder / "result.json", json.load)
    except Unusable as reason:
        raise Unusable(f"{reason}; {hint}" if str(reason).startswith("unfinished") else str(reason)) from None
    status = result.get("status")
    if status == "running" and in_use(folder):
        raise Unusable("unfinished: running")
    if status in ("running", "interrupted"):  # killed, it could not say that it ended
        raise Unusable(f"unfinished: interrupted; {hint}")
    config = flat(read_mapping(folder / "config.yaml", READ_YAML))
    if status == "failed" and config.get("part") == "tuning":  # at a rate that is too high: it was tried all the same
        result["metrics"] = {}
    elif status != "completed":
        error = result.get("error")
        raise Unusable(f"unfinished: {status}" + (f": {error}" if error else ""))
    if not isinstance(config.get("seed"), int) or not {"task", "attention"} <= config.keys():
        raise Unusable("damaged: config.yaml is not the config of a run")
    if not isinstance(result.get("metrics"), dict) or not isinstance(result.get("primary"), str):
        raise Unusable("damaged: result.json is not the result of a run")
    return Run(folder, config, result)


def read_all(folders: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Read every run folder in and under some folders."""
    runs, left_out = [], []
    for folder in find(folders):
        try:
            runs.append(read(folder))
        except Unusable as reason:
            left_out.append(LeftOut(folder, str(reason)))
    return runs, left_out


def reached(
    points: Sequence[tuple[float, float, float]], target: float, mode: str
) -> tuple[float, float, float] | None:
    """Return the first point of a curve that is as good as the target; None where none is."""
    return next((point for point in points if reaches(point[2], target, mode)), None)


def reaches(value: float, target: float, mode: str) -> bool:
    """Return whether a value is as good as a target."""
    return value >= target if mode == "max" else value <= target


def curve(run: Run, tag: str) -> list[tuple[float, float, float]]:
    """Return what validations measured: (step, seconds of training, value) of each; empty where nothing was."""
    recorded = run.result.get("curve")
    points = []
    for entry in recorded if isinstance(recorded, list) else []:
        if isinstance(entry, dict):
            step, seconds, value = (number(entry.get(key)) for key in ("step", "seconds", tag))
            if step is not None and seconds is not None and value is not None:
                points.append((step, seconds, value))
    return points
