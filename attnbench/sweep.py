"""One run, or the many of a sweep: what Hydra calls, here or in the processes that its launchers start."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from attnbench.errors import IncompatibleError, Interrupted, UsageError, first_line
from attnbench.loading import plugin_line
from attnbench.registry import Registry
from attnbench.run_folder import DISPLAY_OPTIONS, find, fingerprint, flat, plain, typed
from attnbench.schema import takes_score
from attnbench.startup import end_imports

#: Where the jobs of a sweep find its journal; the processes of launchers inherit it.
JOURNAL = "ATTNBENCH_SWEEP"


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        kind: completed, failed or interrupted; `incompatible`, of a combination that no run can have; `existing`, of a
            completed run that was under the sweep's folder before; or `completed before`, of a job that asks for such.
        overrides: the job's.
        reason: why it failed or is incompatible.
        folder: the run folder.
        fingerprint: of its configuration.
    """

    kind: str
    overrides: list[str]
    reason: str = ""
    folder: str = ""
    fingerprint: str = ""


class Journal(Callback):
    """A file in the sweep's folder to which each job, in whatever process, adds a line: what became of it.

    Hydra makes one (see conf/config.yaml) and calls it before the first job; what had been completed before stands
    in it first.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin it."""
        folder = Path(config.hydra.sweep.dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[JOURNAL] = str(folder / f".sweep-{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}.jsonl")
        expect(math.prod(len(values) for values in swept(config.hydra.overrides.task)))
        for run_folder in find([folder]):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
                if result["status"] == "completed":
                    note(Outcome("existing", [], folder=str(run_folder), fingerprint=result["fingerprint"]))


def swept(words: Iterable[str], config_loader: Any = None) -> list[list[str]]:
    """Return the values of each word, `attention=gla,deltanet`: their product is a sweep's jobs.

    Args:
        words: of the command line.
        config_loader: Hydra's, for `glob(...)`; without it such a word counts as none.
    """
    values = []
    for override in OverridesParser.create(config_loader).parse_overrides(list(words)):
        key = override.get_key_element()
        if override.is_sweep_override() and (config_loader or not isinstance(override.value(), Glob)):
            values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            values.append([] if override.is_sweep_override() else [f"{key}={override.get_value_element_as_str()}"])
    return values


def note(outcome: Outcome) -> None:
    """Add a line to the journal; one write, so that processes do not mix theirs."""
    with Path(os.environ[JOURNAL]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def expect(jobs: int) -> None:
    """Let the jobs know how many they are; 0 where that is not known."""
    _expected().write_text(str(jobs), encoding="utf-8")


def _expected() -> Path:
    return Path(os.environ[JOURNAL]).with_suffix(".jobs")


def noted() -> list[Outcome]:
    """Read the journal."""
    path = Path(os.environ[JOURNAL])
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


class Job:
    """What Hydra calls for each run; in another process it loads the plugins there.

    Attributes:
        error: why the only run of a command failed.
    """

    def __init__(self, registry: Registry, *, worker: bool = False) -> None:
        self.registry, self.worker = registry, worker
        self.error: Exception | None = None
        self.began, self.ran = time.monotonic(), 0

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _in_a_worker, ()

    def __call__(self, config: DictConfig) -> str | None:
        """Run a composed config; of a sweep's return the folder of the completed run, None where there is none."""
        chosen = HydraConfig.get()
        overrides, folder = list(chosen.overrides.task), Path(chosen.runtime.output_dir)
        if chosen.mode is RunMode.MULTIRUN:
            return self._one_of_many(config, folder, overrides)
        try:
            self._run(self._typed(config, folder, overrides), folder, overrides)
        except Exception as error:  # Hydra would print it its own way
            self.error = error
        return None

    def _typed(self, config: DictConfig, folder: Path, overrides: list[str]) -> DictConfig:
        """Return the run's config; without a scoring function where none is used, and none was asked for.

        Raises:
            UsageError: see `attnbench.run_folder.typed`; Hydra's folder is gone then.
        """
        unused = not takes_score(self.registry.get("attention", config.attention.name).cls)
        asked = any(override.startswith(("scoring=", "scoring.")) for override in overrides)
        if config.scoring.name is None or (unused and not asked):
            config.scoring = None
        try:
            return typed(self.registry, plain(config), [], Path(HydraConfig.get().runtime.cwd))
        except UsageError:
            _remove(folder)
            raise

    def _run(self, config: DictConfig, folder: Path, overrides: list[str]) -> None:
        from attnbench.run import run

        end_imports()
        if self.worker:
            config.trainer.progress_bar = False  # several would write over each other
        run(config, folder, self.registry, overrides)

    def _one_of_many(self, composed: DictConfig, folder: Path, overrides: list[str]) -> str | None:
        name = _shown(overrides)
        try:
            config = self._typed(composed, folder, overrides)
        except IncompatibleError as error:
            say(f"skipped: {name}: {error}")
            note(Outcome("incompatible", overrides, str(error)))
            return None
        except UsageError as error:
            self._fail(error, folder, overrides)
            return None
        mark = fingerprint(flat(plain(config)))
        before = next((o for o in noted() if o.fingerprint == mark and o.kind in ("existing", "completed")), None)
        if before is not None:
            _remove(folder)
            say(f"already completed: {name}: {os.path.relpath(before.folder)}")
            note(Outcome("completed before", overrides, folder=before.folder))
            return before.folder
        self._tell(HydraConfig.get().job.num, overrides)
        try:
            self._run(config, folder, overrides)
        except Interrupted as error:
            note(Outcome("interrupted", overrides, "interrupted", str(folder)))
            raise KeyboardInterrupt from error
        except Exception as error:
            self._fail(error, folder, overrides)
        else:
            note(Outcome("completed", overrides, folder=str(folder), fingerprint=mark))
            return str(folder)
        return None

    def _tell(self, number: int, overrides: list[str]) -> None:
        """Say which job begins, and how long the rest takes if it takes as long as what was run."""
        total = int(_expected().read_text(encoding="utf-8"))
        left = ""
        if self.ran and total:
            seconds = (time.monotonic() - self.began) / self.ran * (total - number)
            left = f"; {seconds / 60:.0f} min left" if seconds >= 90 else f"; {seconds:.0f} s left"
        self.ran += 1
        say(f"job {number + 1}{f' of {total}' if total else ''}: {_shown(overrides)}{left}")

    def _fail(self, error: Exception, folder: Path, overrides: list[str]) -> None:
        reason = first_line(error)
        if not isinstance(error, UsageError) and str(error).strip():
            reason = f"{type(error).__name__}: {reason}{plugin_line(error)}"
        say(f"failed: {_shown(overrides)}: {reason}")
        note(Outcome("failed", overrides, reason, str(folder)))


def _shown(overrides: Iterable[str]) -> str:
    return " ".join(override for override in overrides if override.partition("=")[0] not in DISPLAY_OPTIONS)


#: Runs jobs, each given by its words, and returns the folders of the runs; None of one that failed.
Launch = Callable[[list[list[str]]], list[str | None]]


def follow(registry: Registry, plan: Callable[[list[list[str]], Launch], None], words: Sequence[str]) -> None:
    """Run what a plan asks for, as a sweep does: resumable, by the launcher that is chosen, `hydra/launcher=joblib`.

    Args:
        registry: the components there are.
        plan: called with the arms, each given by its words, and what runs jobs.
        words: of the command line; the product of their values makes the arms.

    Raises:
        UsageError: a run failed that was to be reported.
    """
    registry.store(check_options=False)
    chosen = ["hydra.mode=MULTIRUN", *(word for word in words if word.startswith("hydra"))]
    with initialize_config_module("attnbench.conf", version_base="1.3"):
        composer = GlobalHydra.instance().hydra
        assert composer is not None
        config = composer.compose_config("config", chosen, RunMode.MULTIRUN, with_log_configuration=False)
        callbacks = Callbacks(config)
        callbacks.on_multirun_start(config=config, config_name="config")
        context = HydraContext(composer.config_loader, callbacks)
        launcher = Plugins.instance().instantiate_launcher(context, Job(registry), config)
        expected = 0

        def launch(jobs: list[list[str]]) -> list[str | None]:
            nonlocal expected
            first, expected = expected, expected + len(jobs)
            expect(expected)
            return [done.return_value for done in launcher.launch(jobs, initial_job_idx=first)] if jobs else []

        values = swept([word for word in words if word not in chosen], composer.config_loader)
        try:
            plan([list(arm) for arm in itertools.product(*values)], launch)
        finally:
            outcomes = sum_up()
    refuse_failures(outcomes)


def sweep_folder(words: Iterable[str]) -> Path:
    """Return the folder of a sweep's runs."""
    return Path(next((word.partition("=")[2] for word in words if word.startswith("hydra.sweep.dir=")), "runs"))


def _remove(folder: Path) -> None:
    """Remove the folder that Hydra made for a run, if there is nothing in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _in_a_worker() -> Job:
    registry = Registry.load()
    registry.store(check_options=False)
    return Job(registry, worker=True)


def say(line: str) -> None:
    """Tell the user something at once."""
    print(f"attnbench: {line}", file=sys.stderr, flush=True)


def sum_up() -> list[Outcome]:
    """Return what became of the jobs of the sweep that this process ran, if it ran one, and print it."""
    if JOURNAL not in os.environ:
        return []
    outcomes = [outcome for outcome in noted() if outcome.kind != "existing"]
    _expected().unlink(missing_ok=True)
    Path(os.environ.pop(JOURNAL)).unlink(missing_ok=True)
    if not outcomes:
        return []
    kinds = ("completed", "completed before", "incompatible", "interrupted", "failed")
    counts = {kind: sum(outcome.kind == kind for outcome in outcomes) for kind in kinds}
    say(f"{len(outcomes)} jobs: " + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count))
    failed = [outcome for outcome in outcomes if outcome.kind == "failed"]
    if failed:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("failed job", "why", "see"):
            table.add_column(heading, overflow="fold")
        for outcome in failed:
            log = Path(outcome.folder) / "run.log"
            see = os.path.relpath(log) if log.exists() else ""
            table.add_row(*map(Text, (" ".join(outcome.overrides), outcome.reason, see)))
        Console(stderr=True, highlight=False).print(table)
    return outcomes


def refuse_failures(outcomes: list[Outcome]) -> None:
    """Refuse a sweep in which a job failed, or none could be run.

    Raises:
        UsageError: the line says which.
    """
    failed = sum(o.kind == "failed" and "part=tuning" not in o.overrides for o in outcomes)  # a rate may be too high
    if failed:
        raise UsageError(f"{failed} of {len(outcomes)} jobs failed; started again, the sweep runs only what is missing")
    if not outcomes:
        raise UsageError("-m: 0 jobs: a pattern, glob(...), names nothing that there is; see python -m attnbench list")
    if all(outcome.kind == "incompatible" for outcome in outcomes):
        raise UsageError(f"none of {len(outcomes)} jobs can be run: {outcomes[0].reason}")
