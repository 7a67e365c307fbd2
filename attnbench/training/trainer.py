"""Lightning's trainer: made from a run's config, and left by an exception, never by the end of the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import Logger

from attnbench.config import Accelerator, TrainerConfig
from attnbench.errors import UsageError, first_line
from attnbench.training.batches import eval_sampler, loader
from attnbench.training.experiment import Experiment


def refuse_missing_gpu(settings: TrainerConfig) -> None:
    """Raise UsageError where a GPU is asked for and there is none."""
    if settings.accelerator is Accelerator.gpu and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        advice = "leave trainer=gpu out, or say trainer.accelerator=auto"
        raise UsageError(f"trainer.accelerator=gpu: torch finds no GPU here; {advice}")


def make_trainer(settings: TrainerConfig, logger: Logger | bool, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Make Lightning's trainer; `TrainingRecord` ends the run, rounds stand for its epochs.

    Raises UsageError where the requested accelerator, devices, strategy or precision are not available.
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
    except (MisconfigurationException, ValueError, ImportError) as error:
        option = "trainer.strategy" if "strategy" in first_line(error) else "trainer"
        raise UsageError(f"{option}: {first_line(error)}") from error


@contextmanager
def no_exit() -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning, on Ctrl-C or a signal to stop, would leave the process."""
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt("told to stop") from error


def load_weights(experiment: Experiment, saved: dict[str, Any], path: Path) -> None:
    """Load the weights of a checkpoint that was read from a path; UsageError where they are another model's."""
    try:
        experiment.load_state_dict(saved["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise UsageError(f"{path}: does not hold this model's weights: {' '.join(str(error).split())}") from error


def test(trainer: pl.Trainer, experiment: Experiment, settings: TrainerConfig) -> dict[str, float]:
    """Read the test split: `test/<metric>`; KeyboardInterrupt on Ctrl-C, or a signal to stop."""
    task = experiment.task
    with no_exit():
        trainer.test(experiment, loader(task, "test", eval_sampler(task, "test", settings)), verbose=False)
    return {tag: float(value) for tag, value in trainer.callback_metrics.items() if tag.startswith("test/")}
