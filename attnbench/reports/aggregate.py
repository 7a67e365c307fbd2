"""Several tasks as one: scores between a floor and a goal, put together (Agarwal et al. 2021, arXiv:2108.13264).

Scores are {task: {seed: score}}, all tasks of one mechanism. Resampling is stratified: seeds are drawn anew within each
task, tasks are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from attnbench.reports.statistics import LEVEL

RESAMPLES = 2000

Scores = Mapping[str, Mapping[int, float]]
Samples = Sequence[NDArray[np.float64]]


def normalise(value: float, floor: float, goal: float) -> float:
    """Return a metric as a score: 0 at the floor (chance, or a control), 1 at the goal, whichever of them is larger.

    What is worse than the floor is below 0, what is better than the goal above 1.

    Raises:
        ValueError: floor and goal are the same.
    """
    if floor == goal:
        raise ValueError(f"floor and goal are both {goal}: there is no scale between them")
    return (value - floor) / (goal - floor)


def scale(floor: float | None, goal: float) -> tuple[float, float]:
    """Return floor and goal; where chance is not known, 0 stands for it, and 1 of an error, whose goal is 0."""
    return (float(goal == 0) if floor is None else floor), goal


def samples(scores: Scores) -> Samples:
    """Return each task's scores, without the names of tasks and seeds."""
    return [np.fromiter(scores[task].values(), dtype=float) for task in sorted(scores)]


def interquartile_mean(tasks: Samples) -> float:
    """Return the mean of the middle half of all runs of all tasks; each task weighs by its number of runs."""
    runs = np.sort(np.concatenate(list(tasks)))
    outer = len(runs) // 4
    return float(runs[outer : len(runs) - outer].mean())


def bootstrap(statistic: Callable[..., float], *mechanisms: Samples, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95% interval of a statistic of one or more mechanisms: percentiles, seeds drawn anew in each task."""
    rng = np.random.default_rng(0)
    values = [
        statistic(*([runs[rng.integers(len(runs), size=len(runs))] for runs in tasks] for tasks in mechanisms))
        for _ in range(resamples)
    ]
    low, high = np.quantile(values, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def profile(tasks: Samples, thresholds: Sequence[float]) -> list[float]:
    """Return the performance profile: the share of runs above each threshold, a mean over tasks."""
    return [float(np.mean([np.mean(runs > threshold) for runs in tasks])) for threshold in thresholds]


def improvement(one: Samples, other: Samples) -> float:
    """Return the probability of improvement: that a run of `one` is better than one of `other`, a mean over tasks.

    A tie counts as half (Mann, Whitney 1947). Tasks stand in the same order in both.

    Raises:
        ValueError: they do not have the same number of tasks.
    """
    shares = [float(np.mean(np.sign(a[:, None] - b[None, :])) / 2 + 0.5) for a, b in zip(one, other, strict=True)]
    return float(np.mean(shares))
