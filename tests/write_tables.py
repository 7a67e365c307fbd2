"""Write the tables of the documentation that come from the code: python tests/write_tables.py

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; a test fails when one is stale.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import attnbench
from attnbench.bench import BenchConfig
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.reports import card_tables, references
from attnbench.reports.card import Card, telling
from attnbench.reports.catalogue import families
from attnbench.reports.statistics import interval, wilson
from attnbench.reports.usage import SETTINGS, settings
from attnbench.schema import format_value
from attnbench.suite import find_suite

ROOT = Path(__file__).parent.parent
ESCAPED = "\\|"  # within a table's cell
SUITES = ("standard", "capacity")  # whose results ship
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def option_table(config: type, prefix: str = "") -> str:
    """Return a row for each option of a configuration dataclass."""
    rows = []
    for option in settings(config):
        words = option.type.replace("|", ESCAPED)
        rows.append(f"| `{prefix}{option.name}` | `{words}` | `{option.default}` | {option.description} |")
    return "\n".join(["| option | type | default | what it sets |", "|---|---|---|---|", *rows])


def component_table() -> str:
    """Return a row for each family of components that ships."""
    rows = []
    for heading, components in families(Registry.load()).items():
        names = ", ".join(f"`{component.name}`" for component in components if component.shipped)
        chosen, _, what = heading.partition(",")
        rows.append(f"| `{chosen}`{what and f',{what}'} | {names} |")
    return "\n".join(["| choose by | what ships |", "|---|---|", *rows])


def probes() -> list[Component]:
    """Return the next-token tasks that ship."""
    return [task for task in Registry.load().of("task") if task.shipped and issubclass(task.cls, attnbench.TokenTask)]


def probe_table() -> str:
    """Return a row for each next-token task: metric, floor and goal, slices, length of training."""
    rows = []
    for component in probes():
        task = attnbench.build("task", component.name)
        slices = "; ".join(f"{name}: {_changes(changes)}" for name, changes in task.slices().items())
        steps = task.recipe["trainer"]["max_steps"]
        floor = "known with its data" if task.floor is None else f"{task.floor:.3g}"
        rows.append(f"| {component.name} | {task.primary} | {floor} | {task.goal:.3g} | {slices} | {steps} |")
    return "\n".join(["| task | metric | chance | goal | slices of the test | steps |", f"|{'---|' * 6}", *rows])


def published_table() -> str:
    """Return a row for each published figure that a next-token task names."""
    rows = [
        f"| {component.name} | {row.setting} | {row.number} | {row.source} | {row.differs} |"
        for component in probes()
        for row in component.cls.published
    ]
    return "\n".join(["| task | what | published | source | what differs |", "|---|---|---|---|---|", *rows])


def shipped(name: str) -> Card:
    """Return the card of the results that ship with a suite."""
    suite = find_suite(name)
    assert suite.path is not None
    path = suite.path.with_suffix(".json")
    settings = {cell["task"]: cell["setting"] for cell in json.loads(path.read_text())["cells"]}
    found, _ = references.read(path, settings)
    return Card(name, list(suite.tasks), suite.seeds, suite.tuning_seeds, (), found.cells, costs=found.costs)


def standings_table() -> str:
    """Return a row for each mechanism on the standard suite, best first."""
    card = shipped("standard")
    sheet = card_tables.standings(card)
    kept = [i for i, heading in enumerate(sheet.headings) if heading != "not told apart"]
    return _table([[row[i] for i in kept] for row in (sheet.headings, *sheet.rows)])


def task_table(suite: str, task: str) -> str:
    """Return a row for each mechanism on a task of a suite, best first: each slice of the test across."""
    card = shipped(suite)
    cells = card.on(task)
    first = next(iter(cells.values()))
    rows = [["mechanism", *map(card_tables.slice_name, first.slices), "goal reached", "rate", "CPU s", "state"]]
    for arm, cell in cells.items():
        low, high = wilson(cell.reached, len(cell.seeds))
        reached = f"{cell.reached}/{len(cell.seeds)} [{low:.2f}, {high:.2f}]"
        state = "-" if cell.state_size is None else f"{cell.state_size:,}"
        slices = [_interval(values) for values in cell.slices.values()]
        rows.append([arm, *slices, reached, f"{cell.lr:g}", f"{fmean(cell.cpu_seconds):.1f}", state])
    rates = sorted({rate for cell in cells.values() for rate, _ in cell.tried})
    tried = ", ".join(f"{rate:g}" for rate in rates)
    return f"{_table(rows)}\n\nRates tried by every arm: {tried}. {telling(card, task)[1]}"


def _interval(values: Sequence[float]) -> str:
    low, high = interval(values) or (values[0], values[0])
    return f"{fmean(values):.3f} [{low:.3f}, {high:.3f}]"


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([heading, "| --- " * len(rows[0]) + "|", *others])


def _changes(changes: Mapping[str, object]) -> str:
    return ", ".join(f"`{option}={format_value(value)}`" for option, value in changes.items())


TABLES: Mapping[str, Callable[[], str]] = {
    **{group: partial(option_table, config, f"{group}.") for group, config in SETTINGS.items()},
    "bench": partial(option_table, BenchConfig),
    "components": component_table,
    "probes": probe_table,
    "published": published_table,
    "standard": standings_table,
    **{task: partial(task_table, suite, task) for suite in SUITES for task in find_suite(suite).tasks},
}
PAGES = tuple(
    ROOT / name for name in ("README.md", "attnbench/README.md", "plugins/task/README.md", "conf/suite/README.md")
)


def filled(text: str) -> str:
    """Return a page with its tables written anew."""
    return BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[4]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
