"""Comparing runs: seeds grouped, differences tested, costs beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean, median
from typing import Any

from attnbench.errors import UsageError, nearest
from attnbench.reports import statistics
from attnbench.reports.choice import best_on_validation, tried, validation, values_of
from attnbench.reports.runs import LeftOut, Run, curve, number, reached, reaches
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
        goal: of the validation metric, the task's or `--target`; what runs do not reach it are no success.
        target: the goal if any run of the table reached it, else what all did: reached in `reached` of the runs,
            after `target_steps` and `target_seconds` of training, medians over those.
        tried, lacking: from how many configurations it was chosen, None where nothing was; how many lacked seeds.
        difference: to the reference, and its p corrected for the number of comparisons; None in the reference's row.
        better: how often it is better than the reference on a common seed.
        smallest_difference, seeds_needed: what could have been told apart, where the two cannot.
    """

    label: str
    runs: list[Run]
    values: dict[int, float]
    costs: dict[str, float | None]
    goal: float | None = None
    target: float | None = None
    target_steps: float | None = None
    target_seconds: float | None = None
    reached: int = 0
    tried: int | None = None
    lacking: int = 0
    difference: statistics.Difference | None = None
    p: float | None = None
    better: statistics.Better | None = None
    smallest_difference: float | None = None
    seeds_needed: int | None = None
    verdict: str | None = None
    #: budgets that differ from the reference's by over 10%, as shares: {"parameters": 0.25}
    excess: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sample = list(self.values.values())
        self.mean, self.sd, self.interval = fmean(sample), statistics.spread(sample), statistics.interval(sample)

    @property
    def interval_name(self) -> str:
        """What the interval is: of t, or of its bootstrap."""
        return statistics.interval_name(len(self.values))

    @property
    def success(self) -> tuple[int, float, float] | None:
        """How many runs reached the goal, and the Wilson interval of that rate; None without a goal."""
        if self.goal is None:
            return None
        reached = self.reached if self.target == self.goal else 0
        return reached, *statistics.wilson(reached, len(self.runs))


@dataclass
class Table:
    """The groups of one task, best first.

    Attributes:
        chosen: the options whose values were chosen by validation, group by group (`--choose`).
        tuning: the runs that the groups were tuned by, none of them in a group.
        comparisons: what p is corrected for; "" where nothing is tested.
        stands_out: whether the best is distinguishable from every other group, all pairs corrected for.
    """

    task: str
    metric: str
    mode: str
    rows: list[Row]
    reference: str
    notes: list[str]
    chosen: Sequence[str] = ()
    tuning: Sequence[Run] = ()
    comparisons: str = ""
    stands_out: bool = False

    @property
    def separation(self) -> float | None:
        """The spread between groups over the spread between seeds."""
        return statistics.separation([list(row.values.values()) for row in self.rows])


def tabulate(
    runs: Sequence[Run],
    *,
    by: Sequence[str] = (),
    choose: Sequence[str] = (),
    metric: str | None = None,
    baseline: str | None = None,
    target: float | None = None,
) -> tuple[list[Table], list[LeftOut]]:
    """Group the runs of each task and compare the groups.

    Args:
        runs: what to compare; those that belong to tuning are counted, and are in no group.
        by: keys of the flattened config whose values make a group; without, runs that differ in their seed only.
        choose: keys of which each group keeps the values with the best validation.
        metric: a metric, or a number of result.json such as `train_seconds`; without, each task's primary one.
        baseline: the group that the others are compared with; without, the best.
        target: of the validation metric, for the time to it; without, the task's goal if any run of a table reached it,
            else the highest of `TARGETS` that all did.

    Returns:
        A table for each task, and the runs that are in none, each with the reason.

    Raises:
        UsageError: no run can be compared, or there is no such key, metric or baseline.
    """
    if not runs:
        raise UsageError("no completed run here; a run leaves its folder under runs/")
    for option, keys in (("by", by), ("choose", choose)):
        for key in keys:
            if not any(key in run.config for run in runs):
                raise UsageError(
                    f"--{option} {key}: no run has it; {nearest(key, {k for r in runs for k in r.config})}"
                )
    if target is not None and not math.isfinite(target):
        raise UsageError(f"--target {target}: a value of the validation metric is expected, such as 0.9")
    latest, left_out = _latest(runs)
    reported = [run for run in latest if not run.tuning]
    if not reported:
        raise UsageError("no run here but those of tuning, which are never compared")
    if metric is not None and all(run.value(metric) is None for run in reported):
        known = {tag for run in reported for tag in (*run.result["metrics"], *COSTS) if run.value(tag) is not None}
        raise UsageError(f"--metric {metric}: no run has it; {nearest(metric, known)}")
    tables = []
    for task in sorted({run.task for run in reported}):
        entered = [run for run in reported if run.task == task]
        chosen = metric or str(entered[0].result["primary"])
        needed = [chosen, *([validation(entered[0])] if choose else [])]
        for tag in needed:
            left_out += [LeftOut(run.folder, f"it has no finite {tag}") for run in entered if run.value(tag) is None]
            entered = [run for run in entered if run.value(tag) is not None]
        if entered:
            tuning = [run for run in latest if run.tuning and run.task == task]
            tables.append(_table(task, entered, tuning, by, choose, chosen, target))
    if not tables:
        raise UsageError("no run here has a finite metric to compare")
    _refer(tables, baseline)
    return tables, left_out


def _latest(runs: Iterable[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Keep one run of each configuration and seed: the one that finished last."""
    latest: dict[str, Run] = {}
    repeated = []
    for run in sorted(runs, key=lambda run: (str(run.result.get("finished", "")), run.folder.name, str(run.folder))):
        key = f"{run.tuning} {fingerprint(run.config, ignore=['part'])}"
        if key in latest:
            repeated.append(LeftOut(latest[key].folder, f"repeated by {printable(run.folder)}"))
        latest[key] = run
    return sorted(latest.values(), key=lambda run: str(run.folder)), repeated


def _table(
    task: str,
    runs: list[Run],
    tuning: list[Run],
    by: Sequence[str],
    choose: Sequence[str],
    metric: str,
    target: float | None,
) -> Table:
    mode = _mode(runs[0], metric)
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        key = values_of(run, by) if by else fingerprint(run.config, ignore=["seed", "part", *choose])
        groups.setdefault(key, []).append(run)
    candidates: dict[Any, int] = {}
    lacking: dict[Any, int] = {}
    if choose:
        for key, members in groups.items():
            groups[key], candidates[key], lacking[key] = best_on_validation(members, choose)
    firsts = [members[0].config for members in groups.values()]
    options = list(by) or varying(firsts, but=("seed", "part", "attention", "scoring"))
    options += [key for key in choose if key not in options]
    rows: list[Row] = []
    for key, members in groups.items():
        values: dict[int, list[float]] = {}
        for run in members:
            value = run.value(metric)
            assert value is not None
            values.setdefault(run.seed, []).append(value)
        means = {seed: fmean(sample) for seed, sample in sorted(values.items())}
        label = _label(members[0], options, named=bool(by))
        same_label = sum(row.label == label or row.label.startswith(f"{label} #") for row in rows)
        rows.append(Row(label + (f" #{same_label + 1}" if same_label else ""), members, means, _costs(members)))
        if choose:
            rows[-1].tried, rows[-1].lacking = candidates[key], lacking[key]
        elif tuning:
            rows[-1].tried = max(1, tried(members[0], tuning, by or ["attention", "scoring", *options]))
    _time_to_target(rows, metric, mode, target)
    rows.sort(key=lambda row: ((-row.mean if mode == "max" else row.mean), row.label))
    return Table(task, metric, mode, rows, rows[0].label, _notes(rows), choose, tuning)


def _mode(run: Run, metric: str) -> str:
    primary, name = (tag.rpartition("/")[2] for tag in (str(run.result["primary"]), metric))
    if name == primary or name.startswith(f"{primary}_"):
        return str(run.result.get("mode", "max"))
    return "min" if any(word in metric for word in LOWER) and "per_second" not in metric else "max"


def varying(configs: Sequence[Mapping[str, Any]], but: Sequence[str] = ()) -> list[str]:
    """Return the keys that have more than one value among those configs that have them; not `DISPLAY_OPTIONS`.

    What a component's option is in another component says nothing: values are compared within each.
    """
    values: dict[tuple[str, Any], set[str]] = {}
    for config in configs:
        for key, value in config.items():
            group, _, option = key.partition(".")
            values.setdefault((key, config.get(group) if option else None), set()).add(format_value(value))
    differing = dict.fromkeys(key for (key, _), some in values.items() if len(some) > 1)
    return [key for key in differing if key not in (*but, *DISPLAY_OPTIONS)]


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
    tag, first = metric.replace("test/", "val/", 1), rows[0].runs[0].result
    drawn = [(row, curves) for row in rows if all(curves := [curve(run, tag) for run in row.runs])]
    values = [[value for _, _, value in points] for _, curves in drawn for points in curves]
    best = [max(run) if mode == "max" else min(run) for run in values]
    goal = target
    if goal is None and metric == first["primary"]:
        goal = number(first.get("goal"))
    for row, _ in drawn:
        row.goal = goal
    if goal is not None and any(reaches(value, goal, mode) for value in best):
        target = goal
    if target is None and mode == "max" and best and max(best) <= 1.0:
        target = max((step for step in TARGETS if step <= min(best)), default=None)
    if target is None:
        return
    for row, curves in drawn:
        first_ones = [point for points in curves if (point := reached(points, target, mode)) is not None]
        row.target, row.reached = target, len(first_ones)
        if first_ones:
            row.target_steps, row.target_seconds = median(p[0] for p in first_ones), median(p[1] for p in first_ones)


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    for cost, word in BUDGETS.items():
        spent = [(value, row.label) for row in rows if (value := row.costs[cost]) is not None]
        (least, who), (most, other) = min(spent, default=(0.0, "")), max(spent, default=(0.0, ""))
        if most > 1.1 * least:
            notes.append(f"{word} differ by over 10%: from {least:,.6g} ({who}) to {most:,.6g} ({other})")
    for row in rows:
        mixed = varying([run.config for run in row.runs], but=("seed", "part"))
        if mixed:
            notes.append(printable(f"{row.label}: its runs differ in more than their seed: {', '.join(mixed)}"))
    most_tried = max((row.tried or 0 for row in rows), default=0)
    fewer = [f"{row.label} ({row.tried})" for row in rows if row.tried is not None and row.tried < most_tried]
    if fewer:
        notes.append(f"tried fewer configurations than the {most_tried} of others: {', '.join(fewer)}")
    lacking = [f"{row.label} ({row.lacking} of {row.tried})" for row in rows if row.lacking]
    if lacking:
        notes.append(f"configurations that lack seeds were not chosen: {', '.join(lacking)}")
    versions = varying([run.result["versions"] for row in rows for run in row.runs if _has_versions(run)])
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
        pairs = sum(len(a.values.keys() & b.values.keys()) > 1 for a, b in combinations(table.rows, 2))
        tested = [row for row in others if len(row.values.keys() & base.values.keys()) > 1]
        count, chosen = len(tested), ""
        if reference is None:  # any two groups might have come to be compared
            count, chosen = pairs, ", each group with each, since the best is chosen on the same data"
        if count:
            table.comparisons = f"{count} comparison{'' if count == 1 else 's'}{chosen}"
        if others:
            base.verdict = "reference"
        for row, difference, p in _against(base, others, count):
            row.difference, row.p, row.verdict = difference, p, _verdict(difference, p, table.mode)
            row.better = statistics.better(row.values, base.values, table.mode)
            if p is not None and p >= statistics.LEVEL:
                samples, level = (row.values, base.values), statistics.LEVEL / count
                row.smallest_difference = statistics.smallest_difference(*samples, level)
                row.seeds_needed = statistics.seeds_needed(*samples, level)
        best, *worse = table.rows
        ps = [p for _, _, p in _against(best, worse, pairs)]
        table.stands_out = bool(ps) and all(p is not None and p < statistics.LEVEL for p in ps)
        for row in others:
            for cost in BUDGETS:
                here, there = row.costs[cost], base.costs[cost]
                if here and there and max(here, there) > 1.1 * min(here, there):
                    row.excess[cost] = here / there - 1


def _against(base: Row, others: Sequence[Row], count: int) -> list[tuple[Row, statistics.Difference, float | None]]:
    """Compare rows with one of them: the differences, and p corrected for so many comparisons."""
    differences = [statistics.compare(row.values, base.values) for row in others]
    corrected = iter(statistics.holm([d.p for d in differences if d.p is not None], count))
    return [(row, d, None if d.p is None else next(corrected)) for row, d in zip(others, differences, strict=True)]


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


def _verdict(difference: statistics.Difference, p: float | None, mode: str) -> str:
    if p is None:
        return f"not tested: {('no seed', 'one seed')[difference.seeds]} in common"
    if p >= statistics.LEVEL:
        return "cannot be distinguished"
    return "better" if (difference.mean > 0) == (mode == "max") else "worse"
