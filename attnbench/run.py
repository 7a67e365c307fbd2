"""A composed config -> prepare -> begin -> fit -> finish: a run folder that explains itself."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

import attnbench
from attnbench import run_folder
from attnbench.answers import AttentionMap, Prediction
from attnbench.config import Accelerator, OptimizerConfig, Part, Precision, TrainerConfig, check_numbers, mechanism
from attnbench.errors import Interrupted, UsageError, first_line
from attnbench.interfaces import Task
from attnbench.loading import plugin_line
from attnbench.measure import kept_threads, peak_memory, reset_peak_memory
from attnbench.registry import Registry
from attnbench.reports.alignment import Alignment
from attnbench.reports.attention import Pictures
from attnbench.reports.progress import Bar
from attnbench.reports.tensorboard import EventLog, rewind
from attnbench.streams import lossy
from attnbench.training.batches import TrainSampler, chunk_loader, data_mark, eval_sampler, loader, plan, train_size
from attnbench.training.callbacks import Checkpoints, TrainingRecord, TrainMetrics
from attnbench.training.experiment import Diverged, Experiment
from attnbench.training.optimizer import refuse_sparse_gradients
from attnbench.training.process import flush_denormals, is_rank_zero, quiet, quiet_threads, shared, stop_on_signals
from attnbench.training.trainer import load_weights, make_trainer, no_exit, refuse_missing_gpu, test

log = logging.getLogger("attnbench")


@dataclass(frozen=True)
class Prepared:
    """A run that can begin.

    Attributes:
        settings: the config's `trainer`.
        experiment: task, model, optimizer; with the checkpoint's weights, if there is one.
        data: what tells the task's data from others.
        sampler: the training batches.
        checkpoint: what the run goes on from; None from the start.
        done: the steps that it has done.
        trainer: Lightning's, with the record, the checkpoints and the logger among its callbacks.
    """

    settings: TrainerConfig
    experiment: Experiment
    data: str
    sampler: TrainSampler
    checkpoint: Path | None
    done: int
    trainer: pl.Trainer
    record: TrainingRecord
    checkpoints: Checkpoints
    logger: EventLog


@kept_threads()
def run(config: DictConfig, folder: Path, registry: Registry, overrides: list[str], *, resume: bool = False) -> None:
    """Train, test, and leave a run folder that explains itself.

    Args:
        config: a composed, typed config (see `RunConfig`).
        folder: the run folder; it exists.
        registry: where the names in the config are looked up.
        overrides: what was typed, for the record.
        resume: go on from the folder's `last.ckpt`.

    Raises:
        UsageError: the config cannot be run, or the folder cannot be written.
        Interrupted: Ctrl-C, or a signal to stop.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    prepared: Prepared | None = None
    begun = False  # until then the folder is as it was, or another run's

    def write(status: str, **outcome: Any) -> None:
        result = {"status": status, **run_folder.identity(config), "overrides": overrides}
        result["fingerprint"] = run_folder.fingerprint(run_folder.flat(run_folder.plain(config)))
        if prepared is not None:
            result |= facts(prepared) if status == "running" else facts(prepared) | cost_summary(prepared)
        if is_rank_zero():
            try:
                run_folder.write_result(folder, result | outcome)
            except OSError:
                if status == "failed":
                    run_folder.mark_failed(folder)
                raise

    if not resume:
        run_folder.refuse_claimed(folder)
    alone = run_folder.lock(folder, wanted=is_rank_zero())
    with stop_on_signals(), lossy(), alone, run_log(folder), flush_denormals(), quiet_threads():
        try:
            prepared = prepare(config, folder, registry, resume=resume)
            begin(config, folder, resume=resume)
            begun = True
            write("running")
            metrics = fit(prepared, config, folder, resume=resume)
            write(
                "completed",
                metrics=metrics,
                seconds=round(time.perf_counter() - started, 3),
                cpu_seconds=round(time.process_time() - cpu_started, 3),
                finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
            )
            if is_rank_zero():
                print(last_line(config, prepared.experiment.task, metrics, folder))
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            if isinstance(error, OSError) and error.errno and error.filename is None:
                error.filename = str(folder)
            if isinstance(error, Exception) and not isinstance(error, UsageError):
                name_plugins(error, config, registry)
            with contextlib.suppress(OSError, UsageError):  # what made it fail may be that nothing can be written
                if not begun and not resume:
                    begin(config, folder, resume=False)
                    begun = True
                if begun:
                    log.error("%s", "".join(traceback.format_exception(error)))
                    write("interrupted" if stopped else "failed", error=f"{type(error).__name__}: {error}")
                elif is_rank_zero() and (before := run_folder.read_result(folder)).get("status") == "running":
                    run_folder.write_result(folder, before | {"status": "interrupted"})  # whoever said so was killed
            if stopped:
                raise Interrupted(str(folder)) from error
            raise


def last_line(config: DictConfig, task: Task, metrics: dict[str, float], folder: Path) -> str:
    """Return "test/accuracy 0.9700 (chance 0.0312)  runs/recall/..."."""
    primary = f"{'val' if config.part is Part.tuning else 'test'}/{task.primary}"
    chance = "" if task.floor is None else f" (chance {task.floor:.4g})"
    where = folder if folder == Path.cwd() else os.path.relpath(folder)
    return f"{primary} {metrics[primary]:.4f}{chance}  {where}"


class Log(logging.FileHandler):
    """A log that fails no run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Go without the line that a full disk has no room for."""


@contextlib.contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Keep what is logged in the folder's run.log; of several processes, one does."""
    handler = Log(folder / "run.log" if is_rank_zero() else os.devnull, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def prepare(config: DictConfig, folder: Path, registry: Registry, *, resume: bool) -> Prepared:
    """Make all that a run needs, and write nothing; UsageError where the config or its checkpoint cannot be run."""
    check_numbers(config)
    settings: TrainerConfig = OmegaConf.to_object(config.trainer)  # type: ignore[assignment]
    refuse_missing_gpu(settings)
    optimizer: OptimizerConfig = OmegaConf.to_object(config.optimizer)  # type: ignore[assignment]
    torch.set_num_threads(settings.threads)
    quiet()
    on_gpu = settings.accelerator is not Accelerator.cpu and torch.cuda.is_available()
    reset_peak_memory(torch.device("cuda" if on_gpu else "cpu"))
    if settings.precision is Precision.float16 and not on_gpu:
        print("attnbench: trainer.precision=float16 is for GPUs: bfloat16 on this processor", file=sys.stderr)
        settings = replace(settings, precision=Precision.bfloat16)
    last = folder / "checkpoints" / "last.ckpt"
    saved = run_folder.read_checkpoint(last) if resume and last.exists() else None
    done = 0 if saved is None else saved["global_step"]
    if saved is not None and TrainingRecord.state_key not in saved.get("callbacks", ()):
        raise UsageError(f"{last}: an earlier version wrote it, which counted otherwise; start a new run")
    pl.seed_everything(config.seed, workers=True, verbose=False)
    several_gpus = settings.devices > 1 and on_gpu
    sparse = optimizer.lazy or not several_gpus
    task, model = build(config, registry, None if saved is None else folder, sparse=sparse)
    for split in ("val", "test") if task.fresh else ("train", "val", "test"):
        if not len(task.data(split)):  # type: ignore[arg-type]
            raise UsageError(f"task={config.task.name}: its {split} split is empty")
    data, known = data_mark(task), run_folder.read_result(folder).get("data")
    if saved is not None and known not in (data, None):
        raise UsageError(f"{folder}: its data were others ({known}; here {data}); give it those, or start a new run")
    sampler, total = plan(task, settings, config.seed, done)
    if done > total:
        cure = f"it is to have {total} now: ask for more, such as trainer.max_steps={2 * done}, or start a new run"
        raise UsageError(f"{folder}: the run has done {done} steps already, and {cure}")
    if several_gpus:
        refuse_sparse_gradients(model, optimizer)
    fused = settings.precision is not Precision.float16
    experiment = Experiment(task, model, optimizer, total, clip=settings.gradient_clip, fused=fused)
    if saved is not None:
        load_weights(experiment, saved, last)
    record, checkpoints = TrainingRecord(settings, total, train_size(task)), Checkpoints(folder / "checkpoints")
    logger = EventLog(folder)
    chosen = run_folder.identity(config)
    name = f"{chosen['task']} {mechanism(chosen['attention'], chosen['scoring'])} seed {config.seed}"
    callbacks = [Alignment(), TrainMetrics(settings), record, Bar(record, name, settings.progress_bar), checkpoints]
    trainer = make_trainer(settings, logger, [*callbacks, Pictures(settings.images)])
    start = last if saved else None
    return Prepared(settings, experiment, data, sampler, start, done, trainer, record, checkpoints, logger)


def begin(config: DictConfig, folder: Path, *, resume: bool) -> None:
    """Take the folder, or write the config of a run that goes on, as one process; UsageError if it is another run's."""
    if is_rank_zero():
        run_folder.write_config(folder, config, new=not resume)
        (folder / "run.log").touch()


def fit(prepared: Prepared, config: DictConfig, folder: Path, *, resume: bool) -> dict[str, float]:
    """Train, and, but in a tuning run, read the test split from the best checkpoint; UsageError if training diverges.

    Returns what the validation measured that chose the checkpoint, and what the test did.
    """
    settings, experiment, trainer, logger = prepared.settings, prepared.experiment, prepared.trainer, prepared.logger
    task, checkpoints = experiment.task, prepared.checkpoints
    if is_rank_zero() and prepared.checkpoint is None:  # one that goes on keeps what it has
        task.save(folder)
    logger.describe(task)
    if not resume:
        logger.layout(task.metrics())
    elif is_rank_zero():
        rewind(folder, prepared.done)
    training = chunk_loader(task, prepared.sampler, settings, experiment.total_steps)
    validation = loader(task, "val", eval_sampler(task, "val", settings))
    with shared(folder, settings):
        try:
            with no_exit():
                trainer.fit(experiment, training, validation, ckpt_path=prepared.checkpoint, weights_only=True)
        except Diverged as error:
            good = checkpoints.last if checkpoints.last.exists() else "none yet"
            cure = "try a lower optimizer.lr, or trainer.gradient_clip"
            if not experiment.steps:
                cure = "no update was made yet: `python -m attnbench check NAME` tries the mechanism"
            raise UsageError(
                f"training stopped: {error}; seed={config.seed} and the step give its batch; last good checkpoint: "
                f"{good}; {cure}"
            ) from error
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if prepared.checkpoint is None or prepared.record.trained:
                raise
            reason = f"{type(error).__name__}: {first_line(error)}; {folder / 'run.log'} has more"
            raise UsageError(f"{prepared.checkpoint}: training cannot go on from it: {reason}") from error
        finally:
            logger.save()
        metrics = {}
        if config.part is Part.reported:
            load_weights(experiment, run_folder.read_checkpoint(checkpoints.best), checkpoints.best)
            metrics = test(trainer, experiment, settings)
    if is_rank_zero():
        if metrics:
            logger.hyperparameters(
                run_folder.flat(run_folder.plain(config)),
                task.primary,
                metrics[f"test/{task.primary}"],
                experiment.steps,
            )
        logger.experiment.close()
    return {**checkpoints.metrics, **metrics}


def name_plugins(error: Exception, config: DictConfig, registry: Registry) -> None:
    """Note with an error the run's components that did not ship, of which one may be its cause."""
    for kind in ("attention", "scoring", "task"):
        component = registry.components.get((kind, str((config[kind] or {}).get("name"))))
        if component is not None and not component.origin.endswith("(shipped)"):
            chosen = f"{kind}={component.name}"
            error.add_note(f"{chosen} is {component.origin}: `python -m attnbench check {chosen}` shows what it breaks")


def facts(prepared: Prepared) -> dict[str, Any]:
    """Say what is trained, and towards what."""
    task, model = prepared.experiment.task, prepared.experiment.model
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    primary = {"primary": f"test/{task.primary}", "mode": task.mode, "floor": task.floor, "goal": task.goal}
    return {"parameters": parameters, "data": prepared.data, **primary}


def cost_summary(prepared: Prepared) -> dict[str, Any]:
    """Say what the training cost; seconds, and CPU seconds of this process, are without validation."""
    record = prepared.record
    return {
        "epochs": None if record.pass_size is None else round(record.examples / record.pass_size, 3),
        "steps": record.steps,
        "examples_seen": record.examples,
        "train_seconds": round(record.seconds, 3),
        "train_cpu_seconds": round(record.cpu_seconds, 3),
        "examples_per_second": round(record.examples / record.seconds, 1) if record.seconds else None,
        "peak_memory_bytes": peak_memory(prepared.trainer.strategy.root_device),
        "versions": {"attnbench": attnbench.__version__, "torch": torch.__version__},
        "curve": record.curve,
        "skipped_updates": prepared.experiment.skipped,
    }


def build(
    config: DictConfig, registry: Registry, folder: Path | None = None, *, data: bool = True, sparse: bool = True
) -> tuple[Task, Any]:
    """Make the task, prepared, and its host with the chosen attention in its slot; UsageError if they do not fit.

    Args:
        config: a composed, typed config.
        registry: where its names are looked up.
        folder: the run folder whose saved state the task restores.
        data: whether the task prepares its data.
        sparse: whether embeddings may have sparse gradients.
    """
    task: Task = registry.build("task", config.task)
    task.seed, task.sparse = config.seed, sparse
    if folder is not None:
        task.restore(folder)
    if data:
        task.prepare()
    try:
        return task, task.model(partial(registry.build_attention, config.attention, config.scoring))
    except ValueError as error:
        raise UsageError(f"task={config.task.name}: {first_line(error)}{plugin_line(error)}") from error


def resume(folder: Path, registry: Registry, overrides: list[str]) -> None:
    """Go on with the run of a folder; UsageError where it is none, or an override asks for another run."""
    for override in overrides:
        key = override.partition("=")[0]
        if key in ("optimizer.name", "optimizer.lazy") or key.split(".")[0] in ("attention", "scoring", "seed"):
            raise UsageError(f"{override}: a run that goes on keeps its {key}; start a new run for another")
    config = run_folder.load(folder, registry, overrides)
    before = run_folder.read_result(folder)
    if before.get("status") == "completed" and not overrides:
        print(f"{folder}: already completed; nothing to resume", file=sys.stderr)
        return
    earlier = before.get("overrides")
    run(config, folder, registry, [*(earlier if isinstance(earlier, list) else []), *overrides], resume=True)


@kept_threads()
def evaluate(folder: Path, registry: Registry, overrides: list[str]) -> dict[str, float]:
    """Measure a run's best checkpoint on the test split of its data, or of other data by overrides.

    Raises UsageError where it is no run folder, has no checkpoint, or the overrides change the model.
    """
    config, checkpoint = run_folder.load(folder, registry, overrides), run_folder.best_checkpoint(folder)
    check_numbers(config)
    settings: TrainerConfig = OmegaConf.to_object(config.trainer)  # type: ignore[assignment]
    refuse_missing_gpu(settings)
    settings = replace(settings, devices=1, strategy="auto")  # however many it was trained on
    torch.set_num_threads(settings.threads)
    quiet()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    task, model = build(config, registry, folder)
    if not len(task.data("test")):  # type: ignore[arg-type]
        raise UsageError(f"task={config.task.name}: its test split is empty; nothing to measure")
    experiment = Experiment(task, model, OptimizerConfig(), total_steps=1)
    load_weights(experiment, run_folder.read_checkpoint(checkpoint), checkpoint)
    with stop_on_signals():
        return test(make_trainer(settings, False, []), experiment, settings)


def look(folder: Path, registry: Registry) -> AttentionMap | None:
    """Return where a run's best checkpoint looks for the first example of validation, at the queries that have truth.

    All queries where the task knows none; None where the task or the mechanism has no weights.
    """
    config, checkpoint = run_folder.load(folder, registry, []), run_folder.best_checkpoint(folder)
    task, model = build(config, registry, folder)
    load_weights(
        Experiment(task, model, OptimizerConfig(), total_steps=1), run_folder.read_checkpoint(checkpoint), checkpoint
    )
    with torch.no_grad():
        examples = task.maps(model.eval(), task.data("val")[[0]])
    if not examples:
        return None
    example = examples[0]
    rows = range(len(example.rows)) if example.truth is None else example.truth.any(dim=1).nonzero().flatten().tolist()
    kept = torch.tensor(list(rows))
    return replace(
        example,
        weights=example.weights[:, kept],
        rows=[example.rows[row] for row in rows],
        mask=None if example.mask is None else example.mask[kept],
        truth=None if example.truth is None else example.truth[kept],
    )


def predict(folder: Path, registry: Registry, text: str) -> Prediction:
    """Let a run's best checkpoint answer for a text.

    Raises UsageError where it is no run folder, has no checkpoint, or its task answers no texts.
    """
    config, checkpoint = run_folder.load(folder, registry, []), run_folder.best_checkpoint(folder)
    able = [c.name for c in registry.of("task") if c.cls.predict is not Task.predict]
    if config.task.name not in able:
        instead = f"`evaluate {folder}` measures it, TensorBoard has its pictures; tasks that answer: {', '.join(able)}"
        raise UsageError(f"task={config.task.name} answers no texts: {instead}")
    task, model = build(config, registry, folder, data=False)
    experiment = Experiment(task, model, OptimizerConfig(), total_steps=1)
    load_weights(experiment, run_folder.read_checkpoint(checkpoint), checkpoint)
    with torch.no_grad():
        return task.predict(model.eval(), text)
