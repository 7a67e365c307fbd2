"""What was chosen before the test was read: options by validation, and from how many configurations."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from attnbench.reports.runs import Run
from attnbench.run_folder import fingerprint
from attnbench.schema import format_value


def values_of(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    """Return a run's values of some keys of its config, as they are written on a command line."""
    return tuple(format_value(run.config.get(key)) for key in keys)


def validation(run: Run) -> str:
    """Return the metric that a choice is made by: the primary one, on validation data."""
    return str(run.result["primary"]).replace("test/", "val/", 1)


def best_on_validation(runs: Sequence[Run], keys: Sequence[str]) -> tuple[list[Run], int, int]:
    """Return the runs whose values of `keys` have the best validation, a mean over runs.

    Returns:
        The runs; how many values there are; and how many were left aside, since they lack seeds that others have, and
        may owe their mean to those that failed.
    """
    candidates: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        candidates.setdefault(values_of(run, keys), []).append(run)
    seeds = max(len({run.seed for run in members}) for members in candidates.values())
    whole = [members for members in candidates.values() if len({run.seed for run in members}) == seeds]
    sign = 1 if runs[0].result.get("mode", "max") == "max" else -1

    def score(members: Sequence[Run]) -> float:
        return sign * fmean(value for run in members if (value := run.value(validation(run))) is not None)

    return max(whole, key=score), len(candidates), len(candidates) - len(whole)


def tried(run: Run, tuning: Sequence[Run], keys: Sequence[str]) -> int:
    """Return how many configurations tuning tried for a run's arm: those that share its values of `keys`.

    The optimizer's and the trainer's keys are no part of an arm, and neither is the seed.
    """
    own: list[Any] = [key for key in keys if key.partition(".")[0] not in ("optimizer", "trainer")]
    mine = [other for other in tuning if values_of(other, own) == values_of(run, own)]
    return len({fingerprint(other.config, ignore=["seed"]) for other in mine})
