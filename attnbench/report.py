"""What `tune` and `suite` found, as a card, beside what ships with the suite: cost too, and where each arm looked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from attnbench.answers import AttentionMap
from attnbench.bench import Ours, forward_backward
from attnbench.contract.findings import Finding
from attnbench.measure import kept_threads, processor, time_in_turn
from attnbench.registry import Registry
from attnbench.reports import references
from attnbench.reports.card import MULTIHEAD, Card, join
from attnbench.reports.cells import Cell
from attnbench.reports.references import References
from attnbench.run_folder import load
from attnbench.suite import Plan, Suite, settings

#: Of the sequences whose cost is measured; and how many of them, each token how wide.
LENGTHS, BATCH, WIDTH = (128, 512, 2048), 2, 64


def read_references(suite: Suite, registry: Registry) -> tuple[References, list[str]]:
    """Return the results that lie beside a suite's file, of the tasks that are as they were; and what is left out."""
    if suite.path is None:
        return References(), []
    return references.read(suite.path.with_suffix(".json"), settings(suite, registry))


def card(
    plan: Plan,
    command: str,
    found: References | None = None,
    laws: Mapping[str, Sequence[Finding]] | None = None,
    notes: Sequence[str] = (),
) -> Card:
    """Put together what a plan found; beside references also the costs, and where each arm looked.

    Args:
        plan: that was followed.
        command: what was typed.
        found: what ships with the suite; None of `tune`, which has a task of its own.
        laws: what became of the laws of the arms' components.
        notes: what the reader has to know besides.
    """
    cells, suite = plan.cells, plan.suite
    made = Card(
        suite.name,
        list(suite.tasks),
        suite.seeds,
        suite.tuning_seeds,
        cells,
        notes=[*notes, *plan.notes],
        laws=laws or {},
        command=command,
        when=time.strftime("%Y-%m-%d"),
        versions=cells[0].versions,
        processor=processor(),
    )
    if found is None:
        return made
    settings = {cell.task: cell.setting for cell in cells}  # an option on the command line may have changed it
    beside = [cell for cell in found.cells if settings.get(cell.task, cell.setting) == cell.setting]
    gone = dict.fromkeys(cell.task for cell in found.cells if cell not in beside)
    others = [f"{task}: the references are left out: they ran with other options than these arms" for task in gone]
    others += unequal(cells, beside)
    folders = {cell.arm: Path(cell.folders[0]) for cell in cells}
    tasks = {cell.task: str(load(Path(cell.folders[0]), plan.registry, []).task.name) for cell in cells}
    return replace(
        made,
        notes=[*made.notes, *others],
        references=beside,
        costs={**found.costs, **costs(folders, plan.registry)},
        looks={**found.looks, **looks(cells, plan.registry)},
        published=[(t, row) for t, name in tasks.items() for row in plan.registry.get("task", name).cls.published],
    )


def unequal(cells: Sequence[Cell], beside: Sequence[Cell]) -> list[str]:
    """Say where references tried other learning rates, or ran on other seeds, than the arms that they stand beside."""
    rates = {cell.task: {lr for lr, _ in cell.tried} for cell in cells}
    seeds = {cell.task: cell.seeds for cell in cells}
    tried = dict.fromkeys(c.task for c in beside if rates.get(c.task) not in (None, {lr for lr, _ in c.tried}))
    ran = dict.fromkeys(c.task for c in beside if seeds.get(c.task) not in (None, c.seeds))
    found = {"tried other learning rates": tried, "ran on other seeds": ran}
    return [f"{join(tasks)}: the references {what} than these arms" for what, tasks in found.items() if tasks]


@kept_threads()
def costs(folders: Mapping[str, Path], registry: Registry) -> dict[str, dict[int, float]]:
    """Time arms forward and backward, causal, in turn with multihead.

    Args:
        folders: of each arm, a run with its options.
        registry: the components there are.

    Returns:
        Of each arm, by length: its seconds as a ratio to multihead's.
    """
    torch.set_num_threads(1)
    widths = dict.fromkeys(("query_dim", "key_dim", "value_dim"), WIDTH)
    modules = {"": registry.build_attention({"name": "multihead"}, {"name": "scaled_dot"}, **widths)}
    for arm, folder in folders.items():
        config = load(folder, registry, [])
        modules[arm] = registry.build_attention(config.attention, config.scoring, **widths)
    ratios: dict[str, dict[int, float]] = {arm: {} for arm in folders}
    for length in LENGTHS:
        x = torch.randn(BATCH, length, WIDTH, requires_grad=True)
        calls = {arm: forward_backward(Ours(module, False, True), x) for arm, module in modules.items()}
        times = time_in_turn(calls, 5, x.device)
        for arm, of_length in ratios.items():
            of_length[length] = float(f"{median(times[arm]) / median(times['']):.3g}")
    return ratios


def looks(cells: Sequence[Cell], registry: Registry) -> dict[tuple[str, str], AttentionMap]:
    """Return where the arms look, for one example of each task."""
    from attnbench.run import look

    found = {(cell.task, cell.arm): look(Path(cell.folders[0]), registry) for cell in cells}
    return {key: example for key, example in found.items() if example is not None}


def write_references(path: Path, plan: Plan, before: References) -> None:
    """Write what came of a plan, to stand beside later arms: of multihead also where it looked.

    Args:
        path: of the file.
        plan: that was followed.
        before: what is known of other arms and tasks, and kept.
    """
    folders = {cell.arm: Path(cell.folders[0]) for cell in plan.cells}
    shown = looks([cell for cell in plan.cells if cell.arm == MULTIHEAD], plan.registry)
    references.write(path, before.updated(References(plan.cells, costs(folders, plan.registry), shown)))
