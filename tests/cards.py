"""Made-up cells of a report card, and a card of them."""

from attnbench.reports.card import Card
from attnbench.reports.cells import Cell


def cell(task, arm, values, *, longer=None, tried=(), floor=0.5, goal=1.0, state=100, curves=None):
    """Make a cell of an accuracy, by chance 0.5: (0.75 is a score of 0.5)."""
    metrics = {"test/accuracy": list(values)} | ({} if longer is None else {"test/accuracy_longer": list(longer)})
    return Cell(
        task=task,
        arm=arm,
        words=[f"attention={arm}"],
        setting="hash",
        metric="test/accuracy",
        mode="max",
        floor=floor,
        goal=goal,
        tried=list(tried),
        lr=0.01,
        seeds=list(range(len(values))),
        metrics=metrics,
        curves=[[(100, floor), (200, v)] for v in values] if curves is None else curves,
        cpu_seconds=[2.0, 4.0, *([3.0] * len(values))][: len(values)],
        parameters=1234,
        state_size=state,
        versions={"attnbench": "0.1.0", "torch": "2.13.0"},
    )


GOOD, MIDDLE, POOR = (1.0, 0.98, 0.99, 1.0, 0.97), (0.80, 0.79, 0.82, 0.81, 0.80), (0.51, 0.5, 0.52, 0.5, 0.51)


def card(mine, references=(), tasks=("recall", "parity"), **others):
    return Card("standard", list(tasks), range(5), [100], mine, references, **others)
