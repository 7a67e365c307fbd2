"""The report card of a suite: where each mechanism stands, and what these seeds can tell of it.

A score is 0 at chance and 1 at a task's goal, the mean over the task and each slice of its test (`Cell.scores`).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from statistics import fmean, median
from typing import Protocol

from attnbench.answers import AttentionMap
from attnbench.interfaces import Published
from attnbench.reports import statistics
from attnbench.reports.aggregate import bootstrap, improvement, interquartile_mean, samples
from attnbench.reports.cells import Cell

#: What costs and states are ratios to.
MULTIHEAD = "multihead-scaled_dot"
#: A score below it, on the task as it is trained, counts as chance; from `LEARNED` on a task counts as learned.
CHANCE, LEARNED = 0.05, 0.95


class Finding(Protocol):
    """What became of a law, as `attnbench.contract` says it."""

    @property
    def law(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    def told(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Pair:
    """Two arms by their scores, seed by seed.

    Attributes:
        mean: of the differences.
        p: of the paired t-test, corrected for all that were made beside it (Holm); None where there is nothing to test.
        smallest: the smallest difference that these seeds could have shown beside as many tests; None below two.
        needed: with how many seeds the difference seen could be shown; None where a thousand would not do.
    """

    mean: float
    p: float | None
    smallest: float | None
    needed: int | None

    @property
    def distinct(self) -> bool:
        """Whether the two can be distinguished."""
        return self.p is not None and self.p < statistics.LEVEL


def compare_pairs(scores: Mapping[str, Mapping[int, float]], focus: Container[str]) -> dict[tuple[str, str], Pair]:
    """Compare the pairs of arms of which one is in focus, {arm: {seed: score}}; a pair stands in both orders."""
    pairs = [pair for pair in combinations(scores, 2) if pair[0] in focus or pair[1] in focus]
    differences = [statistics.compare(scores[one], scores[other]) for one, other in pairs]
    tested = [difference.p for difference in differences if difference.p is not None]
    corrected, level = iter(statistics.holm(tested, len(tested))), statistics.LEVEL / max(1, len(tested))
    compared = {}
    for (one, other), difference in zip(pairs, differences, strict=True):
        both = scores[one], scores[other]
        p = None if difference.p is None else next(corrected)
        smallest, needed = statistics.smallest_difference(*both, level), statistics.seeds_needed(*both, level=level)
        pair = Pair(difference.mean, p, smallest, needed)
        compared[one, other], compared[other, one] = pair, replace(pair, mean=-pair.mean)
    return compared


@dataclass(frozen=True)
class Standing:
    """A mechanism over the tasks of a suite.

    Attributes:
        arm: its label.
        mine: whether it was on the command line; else it is a reference that ships.
        cells: by task.
        score: the interquartile mean over the tasks that count and their seeds; None where it lacks one of them.
        interval: 95%, by a bootstrap over seeds within each task; None below two seeds.
        state: of the numbers that it keeps to go on decoding, the ratio to multihead's: the median over tasks.
        cost: (length, ratio of its seconds forward and backward to multihead's) at the largest length.
    """

    arm: str
    mine: bool
    cells: Mapping[str, Cell]
    score: float | None
    interval: tuple[float, float] | None
    state: float | None
    cost: tuple[int, float] | None

    @property
    def reached(self) -> int:
        """In how many runs the test reached its task's goal."""
        return sum(cell.reached for cell in self.cells.values())

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return sum(len(cell.seeds) for cell in self.cells.values())

    @property
    def scores(self) -> dict[str, dict[int, float]]:
        """Of each task and seed."""
        return {task: cell.scores for task, cell in self.cells.items()}


@dataclass(frozen=True)
class Card:
    """What a suite found.

    Attributes:
        suite: its name; "tune" of the command.
        tasks: their labels, in order.
        seeds: that are reported.
        tuning_seeds: on which rates were chosen.
        cells: of the arms on the command line.
        references: of mechanisms that ship, on the same tasks; an arm on the command line replaces that of its label.
        notes: what the reader has to know: cells that are missing, grids that were widened, references left out.
        laws: what became of the laws of the components on the command line, "attention=gla".
        costs: seconds forward and backward by arm and length, as a ratio to multihead's in the same run.
        looks: by task and arm, the weights of one example.
        published: numbers of papers, with the task that they belong to.
        command: what was typed.
        when: the date.
        versions: of attnbench and torch.
        processor: what it was measured on.
    """

    suite: str
    tasks: Sequence[str]
    seeds: Sequence[int]
    tuning_seeds: Sequence[int]
    cells: Sequence[Cell]
    references: Sequence[Cell] = ()
    notes: Sequence[str] = ()
    laws: Mapping[str, Sequence[Finding]] = field(default_factory=dict)
    costs: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    looks: Mapping[tuple[str, str], AttentionMap] = field(default_factory=dict)
    published: Sequence[tuple[str, Published]] = ()
    command: str = ""
    when: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    processor: str = ""

    @cached_property
    def mine(self) -> list[str]:
        """The arms on the command line."""
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    @cached_property
    def arms(self) -> dict[str, dict[str, Cell]]:
        """All cells, by arm and task; the command line's first."""
        table: dict[str, dict[str, Cell]] = {arm: {} for arm in self.mine}
        for cell in [*self.cells, *(reference for reference in self.references if reference.arm not in self.mine)]:
            table.setdefault(cell.arm, {})[cell.task] = cell
        return table

    def on(self, task: str) -> dict[str, Cell]:
        """Return the cells of a task by arm, best first."""
        cells = {arm: cells[task] for arm, cells in self.arms.items() if task in cells}
        return dict(sorted(cells.items(), key=lambda item: -fmean(item[1].scores.values())))

    @cached_property
    def counted(self) -> list[str]:
        """The tasks that the score is made of: those that over half of the mechanisms have."""
        return [task for task in self.tasks if 2 * sum(task in cells for cells in self.arms.values()) > len(self.arms)]

    @cached_property
    def standings(self) -> list[Standing]:
        """The mechanisms, best first; those without a score last."""
        rows = [self._standing(arm, cells) for arm, cells in self.arms.items()]
        return sorted(rows, key=lambda row: (row.score is None, -(row.score or 0.0)))

    def _standing(self, arm: str, cells: Mapping[str, Cell]) -> Standing:
        score = interval = None
        if self.counted and all(task in cells for task in self.counted):
            runs = samples({task: cells[task].scores for task in self.counted})
            score = interquartile_mean(runs)
            interval = bootstrap(interquartile_mean, runs) if all(len(seeds) > 1 for seeds in runs) else None
        ratios = [
            own / whole
            for task, cell in cells.items()
            if (own := cell.state_size) is not None
            and (reference := self.arms.get(MULTIHEAD, {}).get(task))
            and (whole := reference.state_size)
        ]
        costs = self.costs.get(arm, {})
        cost = max(costs.items()) if costs else None
        return Standing(arm, arm in self.mine, cells, score, interval, median(ratios) if ratios else None, cost)

    @cached_property
    def pairs(self) -> dict[tuple[str, str], Pair]:
        """An arm of the command line with each other one, by the mean score over the tasks that count."""
        means = {}
        for row in self.standings:
            if row.score is not None:
                parts = [row.scores[task] for task in self.counted]
                common = set.intersection(*map(set, parts))
                means[row.arm] = {seed: fmean(part[seed] for part in parts) for seed in sorted(common)}
        return compare_pairs({arm: values for arm, values in means.items() if values}, self.mine)

    @cached_property
    def improvements(self) -> dict[tuple[str, str], tuple[float, tuple[float, float]]]:
        """How probably a run of an arm of the command line is better than one of each other, and the 95% interval."""
        found = {}
        for one in self.mine:
            for other in self.arms:
                common = [task for task in self.arms[one] if task in self.arms[other]]
                if common and one != other:
                    both = [samples({task: self.arms[arm][task].scores for task in common}) for arm in (one, other)]
                    found[one, other] = improvement(*both), bootstrap(improvement, *both, resamples=1000)
        return found

    @cached_property
    def pairs_on(self) -> dict[str, dict[tuple[str, str], Pair]]:
        """The same on each task."""
        return {
            task: compare_pairs({arm: c.scores for arm, c in self.on(task).items()}, self.mine) for task in self.tasks
        }

    def alone(self, task: str) -> str | None:
        """Return the arm that is best on a task and can be distinguished from each other one, of all pairs; or None."""
        cells = self.on(task)
        if len(cells) < 2:
            return None
        first, *others = cells
        pairs = compare_pairs({arm: cell.scores for arm, cell in cells.items()}, cells)
        return first if all(pairs[first, other].distinct for other in others) else None


def width(cell: Cell) -> tuple[float, float] | None:
    """Return the lowest and highest rate of those around the best whose validation score is within 95% of its.

    None where no rate was tried, or at none more than chance was learned.
    """
    scores = [(lr, None if value is None else cell.score(value)) for lr, value in sorted(cell.tried)]
    known = [score for _, score in scores if score is not None]
    if not known or max(known) < CHANCE:
        return None
    good = [score is not None and score >= 0.95 * max(known) for _, score in scores]
    low = high = next(i for i, (_, score) in enumerate(scores) if score == max(known))
    while low > 0 and good[low - 1]:
        low -= 1
    while high < len(good) - 1 and good[high + 1]:
        high += 1
    return scores[low][0], scores[high][0]


def at_chance(cell: Cell) -> bool:
    """Whether an arm has learned nothing of a task as it is trained; never where chance is not known."""
    return cell.floor is not None and cell.score(fmean(cell.values.values())) < CHANCE


def telling(card: Card, task: str) -> tuple[float | None, str]:
    """Return a task's spread between mechanisms over its spread between seeds, and in words what it tells."""
    groups = [list(cell.scores.values()) for cell in card.on(task).values()]
    means = [fmean(group) for group in groups]
    ratio = statistics.separation(groups)
    if len(groups) < 2:
        return ratio, "One mechanism alone: nothing to tell apart."
    if min(means) >= LEARNED:
        return ratio, "It tells nothing here: all mechanisms learn it."
    if max(means) < CHANCE:
        return ratio, "It tells nothing here: no mechanism learns more than chance."
    if ratio is None:
        return ratio, "What it tells is not known: one seed says nothing of the spread between seeds."
    if math.isinf(ratio):
        return ratio, "Mechanisms differ, and seeds do not at all."
    says = f"Mechanisms differ {ratio:.1f} times as much as seeds do"
    return ratio, f"It tells nothing here. {says}." if ratio < 1 else f"{says}{': it tells little' * (ratio < 2)}."


def join(items: Iterable[str]) -> str:
    """Return "a, b and c"."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def size_of(difference: float) -> str:
    """Write a difference of scores; one that is more than the way from chance to the goal is no score's."""
    return f"{difference:.2g}" if difference <= 1 else "over 1"


def range_of(differences: Sequence[float]) -> str:
    """Return "0.1 to 0.2", or the one size that all are."""
    low, high = size_of(min(differences)), size_of(max(differences))
    return low if low == high else f"{low} to {high}"


def times(ratio: float) -> str:
    """Write how often, before "as long as"."""
    return "just" if f"{ratio:.2g}" == "1" else f"{ratio:.2g} times"


def verdict(card: Card, arm: str) -> list[str]:
    """Say in sentences, made from the numbers, where an arm stands."""
    row = next(row for row in card.standings if row.arm == arm)
    ranked = [row.arm for row in card.standings if row.score is not None]
    others = [other for other in ranked if other != arm]
    told = []
    if row.score is None:
        lacking = [task for task in card.counted if task not in row.cells]
        told.append(f"{arm} has no score: it lacks {join(lacking)}." if lacking else f"{arm} has no score.")
    else:
        place = f"has place {ranked.index(arm) + 1} of {len(ranked)}" if others else "stands alone"
        spread = f" (95% interval {row.interval[0]:.2f} to {row.interval[1]:.2f})" if row.interval else ""
        on = join(card.counted) if len(card.counted) < 4 else f"{len(card.counted)} tasks"
        told.append(f"{arm} {place} with a score of {row.score:.2f}{spread} over {on}, 0 being chance and 1 the goal.")
    told += _on_tasks(card, row)
    told.append(f"It reaches the goal in {row.reached} of {row.runs} runs.")
    if row.cost and arm != MULTIHEAD:
        length, ratio = row.cost
        told.append(f"Forward and backward at {length:,} keys take {times(ratio)} as long as {MULTIHEAD}'s.")
    if row.state is not None and arm != MULTIHEAD:
        kept = f"{times(row.state)} as many numbers as {MULTIHEAD} does" if row.state else "nothing"
        told.append(f"To go on decoding it keeps {kept}.")
    alike = [other for other in others if (pair := card.pairs.get((arm, other))) and not pair.distinct]
    tested = [pair.smallest for other in others if (pair := card.pairs.get((arm, other))) and pair.smallest is not None]
    if alike:
        shown = f": what they could have shown, pair by pair, is a difference of {range_of(tested)}" if tested else ""
        told.append(f"Overall these seeds cannot tell it from {join(alike)}{shown}.")
    silent = [task for task in card.tasks if telling(card, task)[1].startswith("It tells nothing")]
    return [*told, f"Nothing is told apart by {join(silent)}."] if silent and others else told


def _on_tasks(card: Card, row: Standing) -> list[str]:
    """Say on which tasks an arm is the best, as good, worse, or at chance."""
    alone, ahead, even, below, behind = [], [], [], [], []
    for task in card.tasks:
        cells = card.on(task)
        if row.arm not in cells or len(cells) < 2:
            continue
        first, second = list(cells)[:2]
        pairs = card.pairs_on[task]
        if first == row.arm and all(pairs[row.arm, other].distinct for other in cells if other != row.arm):
            alone.append(task)
        elif first == row.arm:
            ahead.append(f"{task} ({second})")
        elif not pairs[row.arm, first].distinct:
            even.append(f"{task} ({first})")
        else:
            below.append(task)
            behind.append(-pairs[row.arm, first].mean)
    by = f", by {range_of(behind)}" if behind else ""
    parts = [
        ("It is the best on", alone),
        ("It is first, and cannot be distinguished from the next, on", ahead),
        ("It cannot be distinguished from the best on", even),
        ("It is worse than the best on", [*below[:-1], f"{below[-1]}{by}"] if below else []),
        ("It is at chance on", [task for task, cell in row.cells.items() if at_chance(cell)]),
    ]
    return [f"{says} {join(tasks)}." for says, tasks in parts if tasks]
