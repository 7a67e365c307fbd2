"""What happens beside the steps of a run: counting, stopping, checkpoints, metrics of training examples."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
from torch import Tensor

from attnbench.config import TrainerConfig
from attnbench.training.batches import EvalSampler, train_size
from attnbench.training.experiment import Experiment, is_single

MEASURED = ("val/", "attention/")  # what the tags of a validation begin with
SAVED = ("steps", "examples", "seconds", "cpu_seconds", "perfect", "curve")  # of a record, in a checkpoint


@dataclass
class TrainingRecord(pl.Callback):
    """Counts what a run costs, draws its curves, and ends it.

    The curves of training are written here, a point every `trainer.log_every` steps, and at the end of a round.

    Attributes:
        total_steps: after how many steps training ends.
        pass_size: how many examples the training split has; None of data without end.
        steps, examples: how many were trained on.
        seconds, cpu_seconds: spent training, without validation: on the clock, and by all threads of this process.
        curve: what each validation measured, {"step", "examples", "seconds", "val/<metric>", "attention/<what>"}.
    """

    #: The name of this callback's state in a checkpoint.
    state_key: ClassVar[str] = "training_record"

    config: TrainerConfig
    total_steps: int
    pass_size: int | None
    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    last_loss: float = float("nan")
    perfect: int = 0  # validations in a row with nothing left to gain
    curve: list[dict[str, float]] = field(default_factory=list)
    trained: bool = False  # in this process
    _since: tuple[float, float] | None = None
    _counted: int = 0  # of the experiment's examples
    _logged: tuple[int, float] = field(default=(0, 0.0))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on counting from."""
        self._stop_clock()
        return {name: getattr(self, name) for name in SAVED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        for name in SAVED:
            setattr(self, name, state[name])

    @property
    def _perfected(self) -> bool:
        return self.config.stop_at_goal and self.perfect >= 2

    def _start_clock(self) -> None:
        if self._since is None:
            self._since = time.perf_counter(), time.process_time()

    def _stop_clock(self) -> None:
        if self._since is not None:
            clock, cpu = self._since
            self.seconds += time.perf_counter() - clock
            self.cpu_seconds += time.process_time() - cpu
            self._since = None

    def _count(self, trainer: pl.Trainer, experiment: Experiment) -> None:
        self.steps = experiment.steps
        self.examples += (experiment.examples - self._counted) * trainer.world_size
        self._counted = experiment.examples

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a run at once that was resumed at its end."""
        trainer.should_stop = self.steps >= self.total_steps or self._perfected

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start_clock()
        self._logged = (self.examples, self.seconds)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a chunk of steps; draw a point of the curves; stop after the last step."""
        assert isinstance(pl_module, Experiment)
        self._count(trainer, pl_module)
        self.trained = True
        if self.steps >= self.total_steps:
            trainer.should_stop = True
        self._stop_clock()
        self.last_loss = float(trainer.strategy.reduce(outputs["loss"], reduce_op="mean"))
        self._draw(trainer, outputs["penalty"], pl_module.skipped)
        self._start_clock()

    def _draw(self, trainer: pl.Trainer, penalty: Tensor | None, skipped: int) -> None:
        if not isinstance(trainer.logger, pl.loggers.TensorBoardLogger) or not trainer.is_global_zero:
            return
        examples, seconds = self._logged
        values = {"train/loss": self.last_loss, "train/skipped_updates": skipped}
        values["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        if penalty is not None:  # part of the loss
            values["train/penalty"] = float(penalty)
        if self.seconds > seconds:
            values["train/examples_per_second"] = (self.examples - examples) / (self.seconds - seconds)
        trainer.logger.log_metrics(values, self.steps)
        self._logged = (self.examples, self.seconds)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what was measured; stop when the primary metric has had nothing left to gain twice in a row."""
        assert isinstance(pl_module, Experiment)
        task = pl_module.task
        measured = {t: float(v) for t, v in trainer.callback_metrics.items() if t.startswith(MEASURED)}
        spent = {"step": self.steps, "examples": self.examples, "seconds": round(self.seconds, 3)}
        self.curve.append({**spent, **measured})
        value = float(trainer.callback_metrics[f"val/{task.primary}"])
        reached = value >= task.goal if task.mode == "max" else value <= task.goal
        self.perfect = self.perfect + 1 if reached else 0
        if self._perfected:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the clock; count the steps of the chunk that was cut short."""
        self._stop_clock()
        assert isinstance(pl_module, Experiment)
        self._count(trainer, pl_module)


class Checkpoints(pl.Callback):
    """Keep `last.ckpt`, and `best.ckpt`, by the validation's primary metric; of equals, the later."""

    #: The name of this callback's state in a checkpoint.
    state_key: ClassVar[str] = "checkpoints"

    def __init__(self, folder: Path) -> None:
        self.best, self.last = folder / "best.ckpt", folder / "last.ckpt"
        self.metrics: dict[str, float] = {}  # of the validation that chose best.ckpt

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far."""
        return {"metrics": self.metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the best so far."""
        self.metrics = state["metrics"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, after the validation that ends each round."""
        assert isinstance(pl_module, Experiment)
        task = pl_module.task
        metrics = {tag: float(value) for tag, value in trainer.callback_metrics.items() if tag.startswith(MEASURED)}
        tag, sign = f"val/{task.primary}", 1 if task.mode == "max" else -1
        best = self.metrics.get(tag, math.nan)
        if math.isnan(best) or sign * metrics[tag] >= sign * best:
            self.metrics = metrics
            self._save(trainer, self.best)
        self._save(trainer, self.last)

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        """Write a checkpoint whole or not at all: a full disk, or a kill, leaves the one that was there."""
        partial = path.with_name(f".{path.name}.partial")
        try:
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                partial.replace(path)
        finally:
            if trainer.is_global_zero:
                partial.unlink(missing_ok=True)


class TrainMetrics(pl.Callback):
    """Read the task's metrics on the first training examples at each validation: `train/<metric>`, without dropout."""

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics; each process measures the same examples."""
        assert isinstance(pl_module, Experiment)
        if not self.config.eval_train:
            return
        task, metrics = pl_module.task, {name: m.to(pl_module.device) for name, m in pl_module.task.metrics().items()}
        data, size = task.data("train"), train_size(task)
        lengths = None if size is None else task.lengths("train")
        count = self.config.eval_train if size is None else min(self.config.eval_train, size)
        for indices in EvalSampler(count, self.config.eval_batch_size, None, lengths).batches:
            batch = pl_module.transfer_batch_to_device(data[indices], pl_module.device, 0)
            task.evaluate(pl_module.model, batch, metrics)
        if trainer.logger is not None:
            values = {f"train/{name}": metric.compute() for name, metric in metrics.items()}
            trainer.logger.log_metrics({t: float(v) for t, v in values.items() if is_single(v)}, pl_module.steps)
