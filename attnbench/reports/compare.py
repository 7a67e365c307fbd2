"""Comparing runs: seeds grouped, differences tested, costs beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import Any

from attnbench.errors import UsageError, nearest
from attnbench.reports import statistics
from attnbench.reports.runs import LeftOut, Run, number
from attnbench.run_folder import DISPLAY_OPTIONS, fingerprint
from attnbench.schema import format_value

BUDGETS = {"epochs": "epochs", "examples_seen": "examples", "parameters": "parameters"}
COSTS = (*BUDGETS, "train_seconds", "train_cpu_seconds", "examples_per_second", "peak_memory_bytes")
TARGETS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)  # of a share, as accuracy is
LOWER = (
    "loss",
    "perplexity",
    "error",
    "wrong",
    "bits",
    "seconds",
    "bytes",
    "parameters",
    "entropy",
    "skipped",
    "steps",
    "epochs",
)  # words of what is better low


@dataclass
class Row:
    """A group of runs that differ in their seed only, or as `--by` has it.

    Attributes:
        label: says what differs from the other groups.
        values: the metric of each seed; of several runs with one seed, their mean.
        costs: the means of `COSTS`; None where no run tells it.
        target: the table's, of the validation metric: reached in `reached` of the runs,
            after `target_seconds` of training, a mean over those.
        difference: to the reference, and its p corrected for the number of comparisons; None in the reference's row.
    """

    label: str
    runs: list[Run]
    values: dict[int, float]
    costs: dict[str, float | None]
    target: float | None = None
    target_seconds: float | None = None
    reached: int = 0
    difference: statistics.Difference | None = None
    p: float | None = None
    verdict: str = "reference"
    #: budgets that differ from the reference's by over 10%, as shares: {"parameters": 0.25}
    excess: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sample = list(self.values.values())
        self.mean, self.sd, self.interval = fmean(sample), statistics.spread(sample), statistics.interval(sample)

    def record(self) -> dict[str, Any]:
        """Return the row as plain values, in the units that its keys say."""
        low, high = self.interval or (None, None)
        difference = self.difference
        return {
            "group": self.label,
            "n": len(self.values),
            "mean": self.mean,
            "sd": self.sd,
            "low95": low,
            "high95": high,
            "difference": None if difference is None else difference.mean,
            "common_seeds": None if difference is None else difference.seeds,
            "p": None if difference is None else difference.p,
            "p_holm": self.p,
            "verdict": self.verdict,
            **self.costs,
            "target": self.target,
            "target_reached": self.reached,
            "target_seconds": self.target_seconds,
            "seeds": sorted(self.values),
            "runs": [str(run.folder) for run in self.runs],
        }


@dataclass
class Table:
    """The groups of one task, best first."""

    task: str
    metric: str
    mode: str
    rows: list[Row]
    reference: str
    notes: list[str]
    comparisons: str = ""  # what p is corrected for


def tabulate(
    runs: Sequence[Run],
    *,
    by: Sequence[str] = (),
    metric: str | None = None,
    baseline: str | None = None,
    target: float | None = None,
) -> tuple[list[Table], list[LeftOut]]:
    """Group the runs of each task and compare the groups.

    Args:
        runs: what to compare.
        by: keys of the flattened config whose values make a group; without, runs that differ in their seed only.
        metric: a metric, or a number of result.json such as `train_seconds`; without, each task's primary one.
        baseline: the group that the others are compared with; without, the best.
        target: of the validation metric, for the time to it; without, the highest of `TARGETS` that all runs of a
            table reached.

    Returns:
        A table for each task, and the runs that are in none, each with the reason.

    Raises:
        UsageError: no run can be compared, or there is no such key, metric or baseline.
    """
    if not runs:
        raise UsageError("no completed run here; a run leaves its folder under runs/")
    for key in by:
        if not any(key in run.config for run in runs):
            raise UsageError(f"--by {key}: no run has it; {nearest(key, {k for run in runs for k in run.config})}")
    if target is not None and not math.isfinite(target):
        raise UsageError(f"--target {target}: a value of the validation metric is expected, such as 0.9")
    latest, left_out = _latest(runs)
    if metric is not None and all(run.value(metric) is None for run in latest):
        known = {tag for run in latest for tag in (*run.result["metrics"], *COSTS) if run.value(tag) is not None}
        raise UsageError(f"--metric {metric}: no run has it; {nearest(metric, known)}")
    tables = []
    for task in sorted({run.task for run in latest}):
        entered = [run for run in latest if run.task == task]
        chosen = metric or str(entered[0].result["primary"])
        usable = [run for run in entered if run.value(chosen) is not None]
        left_out += [LeftOut(run.folder, f"it has no finite {chosen}") for run in entered if run.value(chosen) is None]
        if usable:
            tables.append(_table(task, usable, by, chosen, target))
    if not tables:
        raise UsageError("no run here has a finite metric to compare")
    _refer(tables, baseline)
    return tables, left_out


def _latest(runs: Iterable[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Keep one run of each configuration and seed: the one that finished last."""
    latest: dict[str, Run] = {}
    repeated = []
    for run in sorted(runs, key=lambda run: (str(run.result.get("finished", "")), run.folder.name, str(run.folder))):
        key = fingerprint(run.config)
        if key in latest:
            repeated.append(LeftOut(latest[key].folder, f"repeated by {printable(run.folder)}"))
        latest[key] = run
    return sorted(latest.values(), key=lambda run: str(run.folder)), repeated


def _table(task: str, runs: list[Run], by: Sequence[str], metric: str, target: float | None) -> Table:
    mode = _mode(runs[0], metric)
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        key = tuple(format_value(run.config.get(k)) for k in by) if by else fingerprint(run.config, ignore=["seed"])
        groups.setdefault(key, []).append(run)
    firsts = [members[0].config for members in groups.values()]
    varying = by or [key for key in _varying(firsts) if key not in ("seed", "attention", "scoring", *DISPLAY_OPTIONS)]
    rows: list[Row] = []
    for members in groups.values():
        values: dict[int, list[float]] = {}
        for run in members:
            value = run.value(metric)
            assert value is not None
            values.setdefault(run.seed, []).append(value)
        means = {seed: fmean(sample) for seed, sample in sorted(values.items())}
        label = _label(members[0], varying, named=bool(by))
        same_label = sum(row.label == label or row.label.startswith(f"{label} #") for row in rows)
        rows.append(Row(label + (f" #{same_label + 1}" if same_label else ""), members, means, _costs(members)))
    _time_to_target(rows, metric, mode, target)
    rows.sort(key=lambda row: ((-row.mean if mode == "max" else row.mean), row.label))
    return Table(task, metric, mode, rows, rows[0].label, _notes(rows))


def _mode(run: Run, metric: str) -> str:
    primary, name = (tag.rpartition("/")[2] for tag in (str(run.result["primary"]), metric))
    if name == primary or name.startswith(f"{primary}_"):
        return str(run.result.get("mode", "max"))
    return "min" if any(word in metric for word in LOWER) and "per_second" not in metric else "max"


def _varying(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that have more than one value among those configs that have them."""
    values: dict[str, set[str]] = {}
    for config in configs:
        for key, value in config.items():
            values.setdefault(key, set()).add(format_value(value))
    return [key for key, distinct in values.items() if len(distinct) > 1]


def _label(run: Run, keys: Sequence[str], *, named: bool) -> str:
    names = [key for key in ("attention", "scoring") if key in keys] if named else ["attention", "scoring"]
    mechanism = "-".join(format_value(run.config[key]) for key in names if run.config.get(key) is not None)
    options = [f"{key}={format_value(run.config[key])}" for key in keys if key in run.config and key not in names]
    return printable(" ".join(part for part in (mechanism, *options) if part))


def printable(text: object) -> str:
    """Show what cannot be printed as a mark: names come from run folders, which may be anybody's."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text))


def _costs(runs: Sequence[Run]) -> dict[str, float | None]:
    known = {cost: [v for run in runs if (v := number(run.result.get(cost))) is not None] for cost in COSTS}
    return {cost: fmean(values) if values else None for cost, values in known.items()}


def _time_to_target(rows: Sequence[Row], metric: str, mode: str, target: float | None) -> None:
    tag = metric.replace("test/", "val/", 1)
    drawn = [(row, curves) for row in rows if all(curves := [curve(run, tag) for run in row.runs])]
    best = [max(v for _, _, v in points) for _, curves in drawn for points in curves]
    if target is None and mode == "max" and best and max(best) <= 1.0:
        target = max((step for step in TARGETS if step <= min(best)), default=None)
    if target is None:
        return
    for row, curves in drawn:
        times = []
        for points in curves:
            times += [s for _, s, v in points if (v >= target if mode == "max" else v <= target)][:1]
        row.target, row.reached, row.target_seconds = target, len(times), fmean(times) if times else None


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


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    for cost, word in BUDGETS.items():
        spent = [(value, row.label) for row in rows if (value := row.costs[cost]) is not None]
        (least, who), (most, other) = min(spent, default=(0.0, "")), max(spent, default=(0.0, ""))
        if most > 1.1 * least:
            notes.append(f"{word} differ by over 10%: from {least:,.6g} ({who}) to {most:,.6g} ({other})")
    for row in rows:
        mixed = [key for key in _varying([run.config for run in row.runs]) if key not in ("seed", *DISPLAY_OPTIONS)]
        if mixed:
            notes.append(printable(f"{row.label}: its runs differ in more than their seed: {', '.join(mixed)}"))
    versions = _varying([run.result["versions"] for row in rows for run in row.runs if _has_versions(run)])
    if versions:
        notes.append(printable(f"made by different versions of {', '.join(versions)}"))
    return notes


def _has_versions(run: Run) -> bool:
    return isinstance(run.result.get("versions"), dict)


def _refer(tables: Sequence[Table], baseline: str | None) -> None:
    """Compare the rows of each table with its reference."""
    references = [_find(table.rows, baseline) for table in tables]
    if baseline is not None and not any(references):
        labels = {row.label for table in tables for row in table.rows}
        raise UsageError(f"--baseline {baseline}: no such group; {nearest(baseline, labels)}")
    for table, reference in zip(tables, references, strict=True):
        base = reference or table.rows[0]
        if baseline is not None and reference is None:
            table.notes.append(f"no group is {baseline} here: compared with the best")
        table.reference = base.label
        others = [row for row in table.rows if row is not base]
        for row in others:
            row.difference = statistics.compare(row.values, base.values)
        tested = [row for row in others if row.difference is not None and row.difference.p is not None]
        count, chosen = len(tested), ""
        if reference is None:  # any two groups might have come to be compared
            count = sum(len(a.values.keys() & b.values.keys()) > 1 for a, b in combinations(table.rows, 2))
            chosen = ", each group with each, since the best is chosen on the same data"
        table.comparisons = f"{count} comparison{'' if count == 1 else 's'}{chosen}"
        corrected = statistics.holm([row.difference.p for row in tested], count)  # type: ignore[union-attr, misc]
        for row, p in zip(tested, corrected, strict=True):
            row.p = p
        for row in others:
            row.verdict = _verdict(row, table.mode)
        for row in others:
            for cost in BUDGETS:
                here, there = row.costs[cost], base.costs[cost]
                if here and there and max(here, there) > 1.1 * min(here, there):
                    row.excess[cost] = here / there - 1


def _find(rows: Sequence[Row], baseline: str | None) -> Row | None:
    if baseline is None:
        return None
    names = [(row, (row.label, row.runs[0].mechanism, row.runs[0].config["attention"])) for row in rows]
    for kind in range(3):
        matching = [row for row, known in names if known[kind] == baseline]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise UsageError(f"--baseline {baseline}: which of {', '.join(repr(row.label) for row in matching)}?")
    return None


def _verdict(row: Row, mode: str) -> str:
    assert row.difference is not None
    if row.p is None:
        return f"not tested: {('no seed', 'one seed')[row.difference.seeds]} in common"
    if row.p >= statistics.LEVEL:
        return "cannot be distinguished"
    return "better" if (row.difference.mean > 0) == (mode == "max") else "worse"
