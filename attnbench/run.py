"""A composed config -> fit -> test -> result.json."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml  # type: ignore[import-untyped]
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import nn

import attnbench
from attnbench.config import Accelerator, OptimizerConfig, Precision, TrainerConfig, check_numbers, mechanism
from attnbench.errors import Interrupted, UsageError, first_line
from attnbench.interfaces import Prediction, Task
from attnbench.measure import peak_memory, reset_peak_memory
from attnbench.registry import Registry
from attnbench.reports.alignment import Alignment
from attnbench.reports.attention import Pictures
from attnbench.reports.progress import Bar
from attnbench.reports.tensorboard import EventLog
from attnbench.run_folder import (
    claim,
    fingerprint,
    flat,
    identity,
    load,
    plain,
    read_checkpoint,
    write_result,
    write_text,
)
from attnbench.training.batches import chunk_loader, eval_sampler, loader, plan
from attnbench.training.callbacks import Checkpoints, TrainingRecord, TrainMetrics
from attnbench.training.experiment import Diverged, Experiment
from attnbench.training.optimizer import use_dense_gradients
from attnbench.training.process import flush_denormals, heeding_signals, is_rank_zero, quiet, shared

log = logging.getLogger("attnbench")


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
    # delayed: until the folder is claimed it may be another's
    handler = logging.FileHandler(folder / "run.log" if is_rank_zero() else os.devnull, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    result: dict[str, Any] = {"status": "running", **identity(config), "overrides": overrides}
    result["fingerprint"] = fingerprint(flat(plain(config)))
    begun = False  # until then the folder is as it was, or another run's

    def begin() -> None:
        nonlocal begun
        if is_rank_zero():
            if not resume:
                claim(folder)
            write_text(folder / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
            (folder / "run.log").touch()
            write_result(folder, result)
        begun = True

    try:
        if not resume:
            begin()
        check_numbers(config)
        _fit_and_test(config, folder, registry, result, begin if resume else None)
        result["seconds"] = round(time.perf_counter() - started, 3)
        result["cpu_seconds"] = round(time.process_time() - cpu_started, 3)
        result["finished"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        result["status"] = "completed"
        if is_rank_zero():
            write_result(folder, result)
            print(f"{result['primary']} {result['metrics'][result['primary']]:.4f}  {os.path.relpath(folder)}")
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | Interrupted)
        result["status"] = "interrupted" if stopped else "failed"
        result["error"] = f"{type(error).__name__}: {error}"
        if begun and is_rank_zero():
            log.error("%s", "".join(traceback.format_exception(error)))
            with contextlib.suppress(OSError):  # what made the run fail may be that nothing can be written here
                write_result(folder, result)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(str(folder)) from error
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def evaluate(folder: Path, registry: Registry, overrides: list[str]) -> dict[str, float]:
    """Measure a run's best checkpoint on the test split of its data, or of other data by overrides.

    Raises:
        UsageError: it is not a run folder, it has no checkpoint, or the overrides change the model.
    """
    config = load(folder, registry, overrides)
    checkpoint = folder / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        raise UsageError(f"{folder}: no checkpoints/best.ckpt yet; resume={folder} trains on")
    check_numbers(config)
    settings: TrainerConfig = OmegaConf.to_object(config.trainer)  # type: ignore[assignment]
    settings.devices, settings.strategy = 1, "auto"  # however many it was trained on
    torch.set_num_threads(settings.threads)
    quiet()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    task, model = build(config, registry, folder)
    if not len(task.data("test")):  # type: ignore[arg-type]
        raise UsageError(f"task={config.task.name}: its test split is empty; nothing to measure")
    experiment = Experiment(task, model, OptimizerConfig(), total_steps=1)
    return test(make_trainer(settings, False, []), experiment, task, settings, checkpoint)


def predict(folder: Path, registry: Registry, text: str) -> Prediction:
    """Let a run's best checkpoint answer for a text.

    Raises:
        UsageError: it is not a run folder, it has no checkpoint, or its task answers no texts.
    """
    config = load(folder, registry, [])
    checkpoint = folder / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        raise UsageError(f"{folder}: no checkpoints/best.ckpt yet; resume={folder} trains on")
    able = [c.name for c in registry.of("task") if c.cls.predict is not Task.predict]
    if config.task.name not in able:
        raise UsageError(f"task={config.task.name} answers no texts; a run of task={' or '.join(able)} does")
    task, model = build(config, registry, folder, data=False)
    _take_weights(Experiment(task, model, OptimizerConfig(), total_steps=1), checkpoint)
    with torch.no_grad():
        return task.predict(model.eval(), text)


def build(config: DictConfig, registry: Registry, folder: Path | None = None, *, data: bool = True) -> tuple[Task, Any]:
    """Make the task, prepared, and its host with the chosen attention in its slot.

    Args:
        config: a composed, typed config.
        registry: where its names are looked up.
        folder: the run folder that the task takes up what it saved from.
        data: whether the task is to be prepared.

    Raises:
        UsageError: the components do not fit each other, or one refuses its options (see `Task.model`).
    """
    if (reason := registry.incompatibility(config.attention.name, task=config.task.name)) is not None:
        raise UsageError(f"{reason}; choose another attention")
    task: Task = registry.build("task", config.task)
    task.seed = config.seed
    if folder is not None:
        task.restore(folder)
    if data:
        task.prepare()

    def make_attention(query_dim: int, key_dim: int, value_dim: int) -> Any:
        return registry.build_attention(
            config.attention, config.scoring, query_dim=query_dim, key_dim=key_dim, value_dim=value_dim
        )

    try:
        return task, task.model(make_attention)
    except ValueError as error:
        raise UsageError(f"task={config.task.name}: {first_line(error)}") from error


@flush_denormals()
def _fit_and_test(
    config: DictConfig, folder: Path, registry: Registry, result: dict[str, Any], go_on: Callable[[], None] | None
) -> None:
    """Train, from the folder's checkpoint if there is a `go_on` to call once it is known to fit; and test."""
    settings: TrainerConfig = OmegaConf.to_object(config.trainer)  # type: ignore[assignment]
    optimizer: OptimizerConfig = OmegaConf.to_object(config.optimizer)  # type: ignore[assignment]
    torch.set_num_threads(settings.threads)
    quiet()
    reset_peak_memory()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    last = folder / "checkpoints" / "last.ckpt" if go_on else None
    last = last if last and last.exists() else None
    task, model = build(config, registry, folder if last else None)
    if settings.devices > 1 and settings.accelerator is not Accelerator.cpu:
        use_dense_gradients(model, optimizer)
    experiment = Experiment(
        task, model, optimizer, 0, clip=settings.gradient_clip, fused=settings.precision is not Precision.float16
    )
    done = _take_weights(experiment, last)["global_step"] if last else 0
    if go_on:
        go_on()
    if is_rank_zero():
        task.save(folder)
    for split in ("train", "val", "test"):
        if not (split == "train" and task.fresh) and not len(task.data(split)):  # type: ignore[arg-type]
            raise UsageError(f"task={config.task.name}: its {split} split is empty")
    batches, total = plan(task, settings, config.seed, done)
    experiment.total_steps = total
    record, checkpoints = TrainingRecord(settings, total, batches.size), Checkpoints(folder / "checkpoints")
    chosen = identity(config)
    name = f"{chosen['task']} {mechanism(chosen['attention'], chosen['scoring'])} seed {config.seed}"
    result.update(parameters=count_parameters(model), primary=f"test/{task.primary}", mode=task.mode, goal=task.goal)
    logger = EventLog(folder, done if go_on else None)
    if not go_on:
        logger.layout(task.metrics())
    shown = Bar(record, name, settings.progress_bar), checkpoints, Pictures(settings.images)
    trainer = make_trainer(settings, logger, [Alignment(), TrainMetrics(settings), record, *shown])
    training = chunk_loader(task, batches, settings, total)
    loaders = training, loader(task, "val", eval_sampler(task, "val", settings))
    with shared(folder, settings):
        try:
            with heeding_signals():
                trainer.fit(experiment, *loaders, ckpt_path=last, weights_only=True)
        except Diverged as error:
            good = checkpoints.last if checkpoints.last.exists() else "none yet"
            raise UsageError(
                f"training stopped: {error}; seed={config.seed} and the step give its batch; last good checkpoint: "
                f"{good}; try a lower optimizer.lr, or trainer.gradient_clip"
            ) from error
        finally:
            result.update(cost_summary(record), skipped_updates=experiment.skipped)
            logger.save()
        metrics = test(trainer, experiment, task, settings, checkpoints.best)
    result["metrics"] = {**checkpoints.metrics, **metrics}
    if trainer.is_global_zero:
        looked = {tag: value for tag, value in checkpoints.metrics.items() if tag.startswith("attention/")}
        logger.hyperparameters(flat(plain(config)), {**metrics, **looked})
        logger.experiment.close()


def make_trainer(settings: TrainerConfig, logger: EventLog | bool, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Make Lightning's trainer; `TrainingRecord` ends the run, rounds stand for its epochs.

    Raises:
        UsageError: this machine has not what the settings ask for.
    """
    try:
        return pl.Trainer(
            accelerator=settings.accelerator.value,
            devices=settings.devices,
            strategy=settings.strategy,
            precision=settings.precision.value,
            max_epochs=-1,
            detect_anomaly=settings.detect_anomaly,
            logger=logger,
            callbacks=callbacks,
            num_sanity_val_steps=0,
            log_every_n_steps=settings.log_every,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
    except MisconfigurationException as error:
        raise UsageError(f"trainer: {first_line(error)}") from error


def test(
    trainer: pl.Trainer, experiment: Experiment, task: Task, settings: TrainerConfig, checkpoint: Path
) -> dict[str, float]:
    """Read the test split with a checkpoint's weights: `test/<metric>`.

    Raises:
        UsageError: the checkpoint cannot be read, or its weights are another model's.
        KeyboardInterrupt: Ctrl-C, or a signal to stop.
    """
    _take_weights(experiment, checkpoint)
    with heeding_signals():
        trainer.test(experiment, loader(task, "test", eval_sampler(task, "test", settings)), verbose=False)
    return {tag: float(value) for tag, value in trainer.callback_metrics.items() if tag.startswith("test/")}


def _take_weights(experiment: Experiment, checkpoint: Path) -> dict[str, Any]:
    """Load a checkpoint's weights; give the checkpoint."""
    found = read_checkpoint(checkpoint)
    try:
        experiment.load_state_dict(found["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise UsageError(f"{checkpoint}: does not hold this model's weights: {' '.join(str(error).split())}") from error
    return found


def cost_summary(record: TrainingRecord) -> dict[str, Any]:
    """Say what the training cost."""
    return {
        "epochs": None if record.pass_size is None else round(record.examples / record.pass_size, 3),
        "steps": record.steps,
        "examples_seen": record.examples,
        "train_seconds": round(record.seconds, 3),
        "train_cpu_seconds": round(record.cpu_seconds, 3),
        "examples_per_second": round(record.examples / record.seconds, 1) if record.seconds else None,
        "peak_memory_bytes": peak_memory(),
        "versions": {"attnbench": attnbench.__version__, "torch": torch.__version__},
        "curve": record.curve,
    }


def count_parameters(model: nn.Module) -> int:
    """Count what is trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def resume(folder: Path, registry: Registry, overrides: list[str]) -> None:
    """Go on with the run of a folder.

    Raises:
        UsageError: it is not a run folder, or an override asks for another run.
        Interrupted: see `run`.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if key in ("optimizer.name", "optimizer.lazy") or key.split(".")[0] in ("attention", "scoring", "seed"):
            raise UsageError(f"{override}: a run that goes on keeps its {key}; start a new run for another")
    config = load(folder, registry, overrides)
    before: Any = None
    with contextlib.suppress(OSError, ValueError):  # it is written anew
        before = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if not isinstance(before, dict):
        before = {}
    if before.get("status") == "completed" and not overrides:
        print(f"{folder}: already completed; nothing to resume", file=sys.stderr)
        return
    run(config, folder, registry, [*before.get("overrides", []), *overrides], resume=True)
