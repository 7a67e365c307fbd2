"""A report card for papers and programs: LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from attnbench.reports.card import Card, telling, verdict
from attnbench.reports.card_tables import NONE, digits, method, print_markdown, show, slice_name
from attnbench.reports.compare import printable
from attnbench.reports.export import tex
from attnbench.reports.statistics import spread


def latex_table(card: Card) -> str:
    """Return the mechanisms as booktabs: scores, mean ± sd over seeds; the best in bold only where distinguishable."""
    alone = {task: card.alone(task) for task in card.tasks}
    rows = [
        [
            tex(row.arm),
            digits(row.score, 2),
            *(
                _bold(_mean_sd(list(row.scores[task].values()), 2), alone[task] == row.arm)
                if task in row.cells
                else NONE
                for task in card.tasks
            ),
            *(NONE if ratio is None else f"{ratio:.2g}" for ratio in (row.state, row.cost and row.cost[1])),
        ]
        for row in card.standings
    ]
    return _booktabs(["mechanism", "score", *map(tex, card.tasks), "state", "cost"], rows)


def latex_tuned(card: Card, task: str) -> str:
    """Return the arms of a task as booktabs: the score as above, the rate, and the metric of the test by slice."""
    cells = card.on(task)
    slices = list(dict.fromkeys(name for cell in cells.values() for name in cell.slices))
    rows = [
        [
            tex(arm),
            _bold(_mean_sd(list(cell.scores.values()), 2), card.alone(task) == arm),
            f"{cell.lr:g}",
            *(_mean_sd(cell.slices[name], 3) if name in cell.slices else NONE for name in slices),
            f"{cell.reached} of {len(cell.seeds)}",
            f"{cell.parameters:,}",
            NONE if cell.state_size is None else f"{cell.state_size:,}",
        ]
        for arm, cell in cells.items()
    ]
    names = [tex(slice_name(name)) for name in slices]
    return _booktabs(["arm", "score", "rate", *names, "goal reached", "parameters", "state"], rows)


def _booktabs(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" & ".join(row) + r" \\" for row in (headings, *rows)]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"])


def _mean_sd(values: Sequence[float], places: int) -> str:
    sd = spread(values)
    return digits(fmean(values), places) + ("" if sd is None else rf" $\pm$ {digits(sd, places)}")


def _bold(text: str, whether: bool) -> str:
    return rf"\textbf{{{text}}}" if whether else text


def print_latex(card: Card) -> None:
    """Print the card as LaTeX, with how it came about as a comment."""
    print(f"% mean and sd over seeds; bold: distinguishable from all others; {printable(method(card))}")
    if card.suite == "tune":
        print("\n\n".join(f"% {printable(task)}\n{latex_tuned(card, task)}" for task in card.tasks))
    else:
        print(latex_table(card))


def records(card: Card) -> list[dict[str, Any]]:
    """Return a record for each arm, task, seed and slice."""
    return [
        {
            "arm": arm,
            "shipped": arm not in card.mine,
            "task": task,
            "slice": slice_name(name),
            "seed": seed,
            "metric": cell.metric,
            "value": value,
            "score": cell.score(value),
            "lr": cell.lr,
            "floor": cell.floor,
            "goal": cell.goal,
            "parameters": cell.parameters,
            "state_size": cell.state_size,
            "cpu_seconds": None if math.isnan(seconds) else seconds,
            "words": " ".join(cell.words),
        }
        for arm, cells in card.arms.items()
        for task, cell in cells.items()
        for name, values in cell.slices.items()
        for seed, value, seconds in zip(cell.seeds, values, cell.cpu_seconds, strict=True)
    ]


def print_csv(card: Card) -> None:
    """Print a line for each arm, task, seed and slice."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    found = records(card)
    writer.writerow(found[0] if found else [])
    writer.writerows(record.values() for record in found)


def print_json(card: Card) -> None:
    """Print everything as JSON."""
    standing = [
        {"arm": row.arm, "mine": row.mine, "score": row.score, "interval": row.interval, "reached": row.reached,
         "runs": row.runs, "state_ratio": row.state, "cost": row.cost}
        for row in card.standings
    ]  # fmt: skip
    compared = [{"arm": one, "other": other, **asdict(pair)} for (one, other), pair in card.pairs.items()]
    tasks = [
        {"task": task, "separation": None if (ratio := telling(card, task)[0]) is None or math.isinf(ratio) else ratio,
         "says": telling(card, task)[1], "alone_at_the_top": card.alone(task),
         "pairs": [{"arm": one, "other": other, **asdict(pair)} for (one, other), pair in card.pairs_on[task].items()]}
        for task in card.tasks
    ]  # fmt: skip
    everything = {
        "suite": card.suite, "command": card.command, "when": card.when, "versions": dict(card.versions),
        "processor": card.processor, "seeds": list(card.seeds), "tuning_seeds": list(card.tuning_seeds),
        "verdict": {arm: verdict(card, arm) for arm in card.mine}, "notes": list(card.notes),
        "standings": standing, "pairs": compared, "tasks": tasks, "values": records(card),
    }  # fmt: skip
    print(json.dumps(everything, indent=2, ensure_ascii=False, allow_nan=False))


FORMS: Mapping[str, Callable[[Card], None]] = {
    "terminal": show,
    "csv": print_csv,
    "json": print_json,
    "latex": print_latex,
    "markdown": print_markdown,
}
