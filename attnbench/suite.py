"""A fair comparison: every arm is tuned alike on each task, and its best rate run anew on seeds that chose nothing."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from attnbench import conf  # type: ignore[attr-defined]
from attnbench.config import OptimizerConfig, TrainerConfig, refuse_expressions
from attnbench.errors import UsageError, first_line, nearest
from attnbench.loading import conf_folders
from attnbench.registry import Registry
from attnbench.reports.aggregate import normalise, scale
from attnbench.reports.cells import Cell, from_runs
from attnbench.reports.runs import Run, read
from attnbench.run_folder import fingerprint, flat, load, plain, typed
from attnbench.sampling import Draws
from attnbench.sweep import say
from attnbench.tokens import TokenTask

#: Of rates whose validation differs by less than this share of the way from chance to the goal, the middle one is best.
ALIKE = 0.01
RATES, TUNING_SEEDS, SEEDS = (3e-3, 1e-2, 3e-2), (100,), (0, 1, 2, 3, 4)
#: What a suite's words for a task may set; the rest is the protocol's.
SETTING = ("task", "trainer", "optimizer")


@dataclass(frozen=True)
class Suite:
    """What arms are tried on.

    Attributes:
        name: of the file, without `.yaml`.
        tasks: of each, by its label, the words of its runs: {"parity": ["task=state_tracking"]}.
        rates: the learning rates that every arm tries.
        tuning_seeds: on which the best is chosen; none, and there is one rate.
        seeds: on which it is reported.
        references: the words of the arms whose results ship with it.
        path: of the file that has the tasks; results of the same name lie beside it.
    """

    name: str
    tasks: Mapping[str, Sequence[str]]
    rates: Sequence[float] = RATES
    tuning_seeds: Sequence[int] = TUNING_SEEDS
    seeds: Sequence[int] = SEEDS
    references: Sequence[str] = ()
    path: Path | None = None

    def __post_init__(self) -> None:
        if not self.tasks or not self.seeds or not self.rates:
            raise UsageError(f"suite {self.name}: it needs tasks, rates and seeds")
        if shared := set(self.seeds) & set(self.tuning_seeds):
            raise UsageError(f"suite {self.name}: seed {min(shared)} both chooses the rate and reports it")
        if len(self.rates) > 1 and not self.tuning_seeds:
            raise UsageError(f"suite {self.name}: {len(self.rates)} rates need tuning_seeds to choose by")
        for lr in self.rates:
            if not 0 < lr < math.inf:
                raise UsageError(f"suite {self.name}: {lr}: a learning rate is above 0 and finite")
        for task, words in self.tasks.items():
            if not words:
                raise UsageError(f"suite {self.name}: {task}: expected the words of its runs, such as task=recall")
        for word in itertools.chain.from_iterable(self.tasks.values()):
            if word.partition("=")[0].partition(".")[0] not in SETTING or "=" not in word:
                raise UsageError(f"suite {self.name}: '{word}': expected task=, trainer.OPTION= or optimizer.OPTION=")


def folders() -> list[Path]:
    """Return where suites are: those of one's own, and what ships."""
    return [*(folder / "suite" for folder in conf_folders()), Path(conf.__file__).parent / "suite"]


def find_suite(name: str, within: Sequence[Path] = ()) -> Suite:
    """Read a suite by its name, or the path of its file.

    Args:
        name: of the suite.
        within: the files of the suites that take tasks from it.

    Raises:
        UsageError: there is none, or it is not one.
    """
    places = [Path(name)] if name.endswith((".yaml", ".yml")) else [f / f"{name}.yaml" for f in folders()]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        known = [p.stem for f in folders() for p in sorted(f.glob("*.yaml"))]
        raise UsageError(f"suite={name}: no such suite; {nearest(name, known)}")
    if path in within:
        raise UsageError(f"{path}: it takes tasks from itself; write the words of a task's runs, such as task=recall")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read: {first_line(error)}") from error
    refuse_expressions(path, values)
    try:
        tasks = {task: str(words).split() for task, words in values.pop("tasks").items()}
        names = {words[0] for words in tasks.values() if words and "=" not in words[0]}
        others = {name: find_suite(name, (*within, path)) for name in names}
        for task, words in tasks.items():  # the words of a task, or the suite that has them, and results of it
            tasks[task] = list(others[words[0]].tasks[task]) if names.intersection(words[:1]) else words
        numbers = {"rates": float, "tuning_seeds": int, "seeds": int}
        values |= {key: [kind(value) for value in values[key]] for key, kind in numbers.items() if key in values}
        return Suite(path.stem, tasks, **values, path=next((other.path for other in others.values()), path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: a suite has tasks, rates, tuning_seeds and seeds; {first_line(error)}") from error


def read_suite(words: Sequence[str]) -> tuple[Suite, list[str]]:
    """Return the suite that the words of `suite` choose, and the words of its arms.

    `suite=NAME` is the suite, else the standard one; `task=recall,parity` are those of its tasks that count.
    """
    chosen, rest = _taken(words, "suite", "task")
    suite = find_suite(chosen.get("suite", "standard"))
    if not any(word.startswith(("attention=", "scoring=")) for word in rest):
        raise UsageError("suite: which mechanism? attention=NAME, with a scoring=NAME if it takes one")
    names = chosen["task"].split(",") if "task" in chosen else list(suite.tasks)
    for name in names:
        if name not in suite.tasks:
            raise UsageError(f"task={name}: not in suite={suite.name}; {nearest(name, suite.tasks)}")
    return replace(suite, tasks={name: suite.tasks[name] for name in names}), rest


def read_tuning(words: Sequence[str]) -> tuple[Suite, list[str]]:
    """Return what the words of `tune` make, tasks, rates and seeds with commas between them; and the arms' words."""
    chosen, rest = _taken(words, "task", "optimizer.lr", "seed")
    if "task" not in chosen:
        raise UsageError("tune: which task? task=recall, or several with commas")
    try:
        rates = [float(rate) for rate in chosen["optimizer.lr"].split(",")] if "optimizer.lr" in chosen else RATES
        seeds = [int(seed) for seed in chosen["seed"].split(",")] if "seed" in chosen else SEEDS
    except ValueError as error:
        raise UsageError(f"tune: {error}; such as optimizer.lr=1e-3,1e-2 seed=0,1,2") from error
    return Suite("tune", {name: [f"task={name}"] for name in chosen["task"].split(",")}, rates, seeds=seeds), rest


def _taken(words: Sequence[str], *keys: str) -> tuple[dict[str, str], list[str]]:
    """Return the values of some keys, and the other words."""
    chosen = {key: value for key, _, value in (word.partition("=") for word in words) if key in keys}
    return chosen, [word for word in words if word.partition("=")[0] not in keys]


@dataclass
class Plan:
    """What a suite does with the arms of a command line, and what came of it.

    Attributes:
        suite: which tasks, rates and seeds.
        registry: the components there are.
        grids: the rates that references have tried, by task: where they are wider, every arm tries them.
        cells: what came of each task and arm.
        missing: why an arm has no cell of a task: (task, words, reason).
        widened: by task, the rates that were added since the best one lay at the grid's edge.
    """

    suite: Suite
    registry: Registry
    grids: Mapping[str, Sequence[float]] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    missing: list[tuple[str, str, str]] = field(default_factory=list)
    widened: dict[str, list[float]] = field(default_factory=dict)

    def follow(self, arms: Sequence[Sequence[str]], launch: Callable[[list[list[str]]], list[str | None]]) -> None:
        """Tune every arm on every task, and run the best rates on the reported seeds.

        Args:
            arms: the words of each.
            launch: runs jobs, each given by its words, and returns their folders; None of one that failed.
        """
        suite = self.suite

        def train(jobs: list[list[str]]) -> Iterator[Run | None]:
            done = launch([[*job, "trainer.progress_bar=false", "trainer.images=0"] for job in jobs])
            return iter([None if folder is None else read(Path(folder)) for folder in done])

        grids = {task: list(self.grids.get(task, suite.rates)) for task in suite.tasks}
        pairs = [(task, arm) for task in suite.tasks for arm in range(len(arms))]
        tried: dict[tuple[str, int], dict[float, float | None]] = {pair: {} for pair in pairs}
        scales: dict[str, tuple[float, float]] = {}  # floor and goal of each task

        def tune(added: Mapping[str, Sequence[float]]) -> None:
            trials = [(task, arm, lr) for task, arm in pairs for lr in added.get(task, ())]
            jobs = [
                [*suite.tasks[task], *arms[arm], f"optimizer.lr={lr:g}", f"seed={seed}", "part=tuning"]
                for task, arm, lr in trials
                for seed in suite.tuning_seeds
            ]
            done = train(jobs)
            for task, arm, lr in trials:
                runs = [next(done) for _ in suite.tuning_seeds]
                values = [v for run in runs if run is not None and (v := validation(run)) is not None]
                tried[task, arm][lr] = fmean(values) if len(values) == len(runs) else None
                for run in runs:
                    if run is not None and task not in scales:
                        scales[task] = scale(run.result["floor"], run.result["goal"])

        chosen: dict[tuple[str, int], float | None] = dict.fromkeys(pairs, suite.rates[0])
        if suite.tuning_seeds:
            tune(grids)
            chosen = {pair: best(tried[pair], *scales.get(pair[0], (0.0, 1.0))) for pair in pairs}
            self.widened = {task: wider(grids[task], {chosen[p] for p in pairs if p[0] == task}) for task in grids}
            for task, rates in self.widened.items():
                if rates:
                    say(
                        f"{task}: a best rate lies at the grid's edge: all try {', '.join(f'{r:g}' for r in rates)} too"
                    )
            tune(self.widened)
            chosen = {pair: best(tried[pair], *scales.get(pair[0], (0.0, 1.0))) for pair in pairs}
        reported = [pair for pair in pairs if chosen[pair] is not None]
        done = train(
            [
                [*suite.tasks[task], *arms[arm], f"optimizer.lr={chosen[task, arm]:g}", f"seed={seed}"]
                for task, arm in reported
                for seed in suite.seeds
            ]
        )
        for task, arm in pairs:
            runs = [next(done) for _ in suite.seeds] if chosen[task, arm] is not None else []
            whole = [run for run in runs if run is not None]
            if len(whole) < len(suite.seeds):
                reason = "a run failed" if runs else "no rate could be trained with"
                self.missing.append((task, " ".join(arms[arm]), reason))
            if whole:
                self.cells.append(self._cell(task, arms[arm], whole, tried[task, arm]))

    @property
    def notes(self) -> list[str]:
        """What the reader of its report has to know: cells that are missing, rates that were added."""
        missing = [f"{task}: {words or 'the arm'}: {reason}" for task, words, reason in self.missing]
        return missing + [
            f"{task}: a best rate lay at the grid's edge, so all tried {', '.join(f'{rate:g}' for rate in rates)} too"
            for task, rates in self.widened.items()
            if rates
        ]

    def _cell(self, task: str, words: Sequence[str], runs: list[Run], tried: Mapping[float, float | None]) -> Cell:
        options = [word.partition(".")[2] for word in words if word.startswith(("attention.", "scoring."))]
        facts = of_setting(load(runs[0].folder, self.registry, []), self.registry)
        label = " ".join([runs[0].mechanism, *(re.sub("=(True|False)$", lambda m: m[0].lower(), o) for o in options)])
        return from_runs(runs, task=task, arm=label, words=words, tried=tried, **facts)


def validation(run: Run) -> float | None:
    """Return the primary metric of validation."""
    return run.value(str(run.result["primary"]).replace("test/", "val/", 1))


def best(tried: Mapping[float, float | None], floor: float, goal: float) -> float | None:
    """Return the rate with the best validation; of those that are as good, the one nearest to the grid's middle.

    None where no rate could be trained with.
    """
    known = {rate: normalise(value, floor, goal) for rate, value in tried.items() if value is not None}
    if not known:
        return None
    near = [rate for rate, value in known.items() if value >= max(known.values()) - ALIKE]
    middle = fmean(math.log(rate) for rate in tried)
    return min(near, key=lambda rate: (round(abs(math.log(rate) - middle), 6), rate))


def wider(grid: Sequence[float], chosen: Container[float | None]) -> list[float]:
    """Return the rates one step beyond those edges of a grid that are some arm's best."""
    if len(grid) < 2:
        return []
    low, high = min(grid), max(grid)
    step = (high / low) ** (1 / (len(grid) - 1))
    return [float(f"{low / step:.1g}")] * (low in chosen) + [float(f"{high * step:.1g}")] * (high in chosen)


def of_setting(config: DictConfig, registry: Registry) -> dict[str, Any]:
    """Return what a run's setting is: its hash, whatever the arm, rate and seed; chance; and the mechanism's state.

    The hash is of the task's options, of what the trainer and optimizer do otherwise than by default, and of the data
    that the task draws.
    """
    task = registry.build("task", config.task)
    usual = flat(plain(OmegaConf.create({"trainer": TrainerConfig(), "optimizer": OptimizerConfig()})))
    chosen = {k: v for k, v in flat(plain(config)).items() if k.split(".")[0] in SETTING and v != usual.get(k)}
    marks = [fingerprint(chosen, ignore=["optimizer.lr"])]
    size = None
    if isinstance(task, TokenTask):
        task.prepare()
        variants = [variant.generate(Draws(0, range(4), stream=1)) for variant in task.prepared_variants()]
        marks += [str(task.test_examples)]
        marks += [repr((made.tokens.tolist(), made.targets.tolist(), made.scored.tolist())) for made in variants]
        widths = dict.fromkeys(("query_dim", "key_dim", "value_dim"), task.width)
        module = registry.build_attention(config.attention, config.scoring, **widths)
        one = module.state_size(variants[0].tokens.shape[1])
        size = None if one is None else task.layers * one
    digest = hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]
    return {"setting": digest, "floor": task.floor, "state_size": size}


def settings(suite: Suite, registry: Registry) -> dict[str, str]:
    """Return the hash of each task's setting, as the suite's words make it today."""
    registry.store(check_options=False)
    marks = {}
    for task, words in suite.tasks.items():
        with initialize_config_module("attnbench.conf", version_base="1.3"):
            composed = plain(compose("config", [*words, "attention=uniform"]))
        config = typed(registry, {**composed, "scoring": None}, [])
        marks[task] = of_setting(config, registry)["setting"]
    return marks
