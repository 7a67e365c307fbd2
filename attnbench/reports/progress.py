"""What a run shows in the terminal: one bar over all its steps, and a line for each validation."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from attnbench.training.callbacks import TrainingRecord
from attnbench.training.experiment import Experiment


class Bar(pl.Callback):
    """Draw the bar in a terminal; elsewhere print only the lines. Without `show` they begin with the run's name."""

    def __init__(self, record: TrainingRecord, name: str, show: bool) -> None:
        self.record, self.name = record, name
        self.whose = "" if show else f"{name}: "
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=1,
            transient=True,
            disable=not (show and self.console.is_terminal),
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        if trainer.is_global_zero:
            self.bar = self.progress.add_task(
                self.name, total=self.record.total_steps, completed=self.record.steps, loss=""
            )
            self.progress.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, as often as the curves get a point."""
        if trainer.is_global_zero:
            self.progress.update(self.bar, completed=self.record.steps, loss=f"loss {self.record.last_loss:.4f}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the validation's primary metric and loss."""
        if trainer.is_global_zero:
            assert isinstance(pl_module, Experiment)
            values = {name: float(trainer.callback_metrics[f"val/{name}"]) for name in (pl_module.task.primary, "loss")}
            listed = "  ".join(f"val/{name} {value:.4f}" for name, value in values.items())
            done = f"{self.record.steps:>{len(str(self.record.total_steps))}}/{self.record.total_steps}"
            self.progress.console.print(f"{self.whose}step {done}  {listed}", soft_wrap=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Take the bar away."""
        self.progress.stop()
