"""What an arm did on a task of a suite: tuned, then run anew on seeds that chose nothing; kept as JSON by the suite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from attnbench.reports.aggregate import normalise, scale
from attnbench.reports.runs import Run, curve, number


@dataclass(frozen=True)
class Cell:
    """An arm on a task.

    Attributes:
        task: its label in the suite.
        arm: the mechanism's label, with the options that were given: "deltanet negative=true".
        words: what chooses the arm on the command line.
        setting: the hash of the task's configuration and of the data that it draws.
        metric: the primary metric, "test/accuracy".
        mode: max or min.
        floor: the metric by chance; None where the task does not know it.
        goal: the metric at which the task counts as learned.
        tried: (learning rate, mean validation on the tuning seeds) of each; None where a run failed. Empty if one rate
            was there and nothing to choose.
        lr: the chosen rate.
        seeds: the reported ones.
        metrics: the primary metric and the same of each slice, "test/accuracy_longer": a value for each seed.
        curves: of each seed, what its validations measured: (step, value).
        cpu_seconds: of training, for each seed.
        parameters: of the whole model.
        state_size: numbers that the mechanism keeps to go on decoding behind a sequence of the task, all layers.
        versions: of attnbench and torch.
        folders: the reported runs; none of a reference.
    """

    task: str
    arm: str
    words: list[str]
    setting: str
    metric: str
    mode: str
    floor: float | None
    goal: float
    tried: list[tuple[float, float | None]]
    lr: float
    seeds: list[int]
    metrics: dict[str, list[float]]
    curves: list[list[tuple[int, float]]]
    cpu_seconds: list[float]
    parameters: int
    state_size: int | None
    versions: dict[str, str]
    folders: list[str] = field(default_factory=list)

    @property
    def values(self) -> dict[int, float]:
        """The primary metric: {seed: value}."""
        return dict(zip(self.seeds, self.metrics[self.metric], strict=True))

    @property
    def slices(self) -> dict[str, list[float]]:
        """The primary metric on each slice of the test, "" the task as it is trained: {name: values of the seeds}."""
        return {tag.removeprefix(self.metric).lstrip("_"): values for tag, values in self.metrics.items()}

    @property
    def scores(self) -> dict[int, float]:
        """0 at chance and 1 at the goal, the mean over the task and each of its slices, none outside: {seed: score}."""
        parts = list(self.slices.values())
        return {seed: fmean(self.score(part[i]) for part in parts) for i, seed in enumerate(self.seeds)}

    def score(self, value: float) -> float:
        """Put a value of the metric between chance, 0, and the goal, 1, none outside."""
        return min(1.0, max(0.0, normalise(value, *scale(self.floor, self.goal))))

    def reaches(self, value: float) -> bool:
        """Whether a value of the primary metric is at the goal."""
        return value >= self.goal if self.mode == "max" else value <= self.goal

    @property
    def reached(self) -> int:
        """On how many seeds the test reached the goal."""
        return sum(map(self.reaches, self.values.values()))

    @property
    def steps_to_goal(self) -> float | None:
        """After how many steps validation was first at the goal, the median of the seeds on which it was."""
        steps = [next((step for step, v in points if self.reaches(v)), None) for points in self.curves]
        return median(known) if (known := [step for step in steps if step is not None]) else None

    def as_json(self) -> dict[str, Any]:
        """Return plain values, without the folders, that `from_json` reads."""
        record = asdict(self)
        del record["folders"]
        return record


def from_json(record: Mapping[str, Any]) -> Cell:
    """Read a cell that `Cell.as_json` has written.

    Raises:
        TypeError: it is none.
    """
    return Cell(**record)


def from_runs(
    runs: Sequence[Run],
    *,
    task: str,
    arm: str,
    words: Sequence[str],
    setting: str,
    floor: float | None,
    tried: Mapping[float, float | None],
    state_size: int | None,
) -> Cell:
    """Make a cell of the reported runs."""
    first = runs[0].result
    metric, mode, goal = str(first["primary"]), str(first["mode"]), float(first["goal"])
    tags = [tag for tag in first["metrics"] if tag == metric or tag.startswith(f"{metric}_")]
    return Cell(
        task=task,
        arm=arm,
        words=list(words),
        setting=setting,
        metric=metric,
        mode=mode,
        floor=floor,
        goal=goal,
        tried=[(lr, tried[lr]) for lr in sorted(tried)],
        lr=float(runs[0].config["optimizer.lr"]),
        seeds=[run.seed for run in runs],
        metrics={tag: [_rounded(run.result["metrics"][tag]) for run in runs] for tag in tags},
        curves=[
            [(int(step), _rounded(v)) for step, _, v in curve(run, metric.replace("test/", "val/", 1))] for run in runs
        ],
        cpu_seconds=[number(run.result.get("train_cpu_seconds")) or math.nan for run in runs],
        parameters=int(first["parameters"]),
        state_size=state_size,
        versions=dict(first["versions"]),
        folders=[str(run.folder) for run in runs],
    )


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
