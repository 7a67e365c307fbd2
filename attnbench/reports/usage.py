"""What a command line may say: `--help`, and the options of a run as tables."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from typing import Any, get_type_hints

from rich.console import Console
from rich.table import Table

from attnbench.config import OptimizerConfig, RunConfig, TrainerConfig
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.schema import KINDS, format_value, options, type_name

#: The groups of a run's own options.
SETTINGS: Mapping[str, type] = {"trainer": TrainerConfig, "optimizer": OptimizerConfig}
#: The number of a paper, which `list NAME` shows, and a list has no room for.
PAPER_ID = re.compile(r",? (arXiv:)?\d{4}\.\d{4,5}")
#: Its authors and year besides, which a narrow terminal has no room for.
CITATION = re.compile(r" \([^()]*\b(19|20)\d\d\b[^()]*\)")
#: A field of a dataclass, and the comment behind it.
COMMENTED = re.compile(r"^    (\w+): [^#]*#\s*(.+)$", re.MULTILINE)

USAGE = """\
attnbench trains any attention mechanism on any task, and shows where it looked.

  python -m attnbench [GROUP=NAME ...] [GROUP.OPTION=VALUE ...]    one run
  python -m attnbench -m GROUP=NAME,NAME seed=0,1,2                a sweep: one run for each combination
  python -m attnbench resume=RUN_FOLDER [OPTION=VALUE ...]         go on with an interrupted run
  python -m attnbench COMMAND ...                                  {commands}
  tensorboard --logdir runs                                        look at the runs
"""


def show_help(registry: Registry, commands: Iterable[str]) -> None:
    """Print every group with its names, every option with its default, shipped and third-party."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(USAGE.format(commands=", ".join(commands)), markup=False)
    for kind in KINDS:
        width = max((len(component.name) for component in registry.of(kind)), default=0)
        for component in registry.of(kind):
            start = f"  {kind}={component.name:{width}}  "
            console.print(start + summary_line(component, console, len(start)), markup=False)
            _print_options(console, [f"{kind}.{option}" for option in options(component.cls)], len(start))
        console.print()
    for group, config in SETTINGS.items():
        console.print(f"  {group}={'|'.join(_presets(group))}", markup=False)
        _print_options(console, [f"{group}.{setting.name}={setting.default}" for setting in settings(config)], 4)
    console.print(f"  experiment={'|'.join(_presets('experiment'))}", markup=False)
    console.print(f"  seed={format_value(RunConfig().seed)}", markup=False)
    console.print("\nA task's recipe sets some of these; the command line wins. --cfg job prints the composed config,")
    console.print("--hydra-help what else the command line can do, `list NAME` all about a component.", markup=False)


def summary_line(component: Component, console: Console, start: int) -> str:
    """Return what a component is, in a line: on a terminal without what there is no room for behind `start` columns."""
    summary, room = PAPER_ID.sub("", component.summary), console.width - start
    if not console.is_terminal or len(summary) <= room:
        return summary
    summary = CITATION.sub("", summary)
    return summary if len(summary) <= room else summary[: room - 1] + "…"


def _print_options(console: Console, words: list[str], start: int) -> None:
    """Print `group.option=default` words in lines that begin at column `start`."""
    width = max(console.width, 80) - start
    for line in textwrap.wrap(" ".join(words), width, break_long_words=False, break_on_hyphens=False):
        console.print(" " * start + line, style="dim", markup=False)


def _presets(group: str) -> list[str]:
    folder = files("attnbench.conf") / group
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@dataclass(frozen=True)
class Setting:
    """An option of a run: its name, its type or the words it may be, its default, and what it sets."""

    name: str
    type: str
    default: str
    description: str


def settings(config: type) -> list[Setting]:
    """Return the options of a configuration dataclass; the comment behind a field describes it."""
    descriptions, types = dict(COMMENTED.findall(inspect.getsource(config))), get_type_hints(config)
    return [
        Setting(name, _words(types[name]), format_value(default), descriptions.get(name, ""))
        for name, default in vars(config()).items()
    ]


def _words(kind: Any) -> str:
    """Return a type's name, or the words of an enum."""
    return " | ".join(kind.__members__) if isinstance(kind, type) and issubclass(kind, Enum) else type_name(kind)


def show_settings(group: str) -> None:
    """Print the options of `trainer` or `optimizer`: default, type, and what each sets."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    for setting in settings(SETTINGS[group]):
        table.add_row(f"{group}.{setting.name}={setting.default}", f"{setting.description} [dim]({setting.type})[/dim]")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\npresets: {group}={'|'.join(_presets(group))}", markup=False)
