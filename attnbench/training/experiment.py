"""The one LightningModule: it trains any task with any attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from attnbench.answers import AttentionMap
from attnbench.config import OptimizerConfig
from attnbench.errors import UsageError
from attnbench.interfaces import Attention, Task
from attnbench.kernels import sparse_rows
from attnbench.training.batches import batch_size, first_examples
from attnbench.training.optimizer import dense_gradient, lr_factor, make_optimizer

MOST_SKIPPED = 20  # updates in a row whose gradient is not finite, before a run gives up


class Diverged(UsageError):  # noqa: N818 (as `Interrupted`)
    """The loss, or the gradients of many steps in a row, are not finite."""


def penalizes(module: nn.Module) -> bool:
    """Whether it is an attention module that has a penalty."""
    return isinstance(module, Attention) and module.penalized


@contextmanager
def penalties(model: nn.Module) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """Collect, of each attention module that has a penalty, that of every call within."""
    collected: dict[nn.Module, list[Tensor]] = {}

    def ask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "need_weights": True}

    def collect(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        assert isinstance(module, Attention)
        if (penalty := module.penalty(output[1])) is not None:
            collected.setdefault(module, []).append(penalty)

    with ExitStack() as hooks:
        for module in model.modules():
            if penalizes(module):
                hooks.enter_context(module.register_forward_pre_hook(ask, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(collect))
        yield collected


class Experiment(pl.LightningModule):
    """A task's host with its slot filled, its loss, its metrics, and the optimizer.

    Validation and test metrics are logged as `val/<metric>` and `test/<metric>`, the loss among them.

    Args:
        task: what is to be learned.
        model: its host.
        optimizer: the update rule.
        total_steps: of the run.
        clip: the gradient's largest norm.
        fused: whether an update is one kernel; not in float16, whose gradients have to be unscaled before it.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: OptimizerConfig,
        total_steps: int,
        *,
        clip: float | None = None,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # a batch of Lightning's is several steps
        self.task, self.model = task, model
        self.penalized = any(penalizes(module) for module in model.modules())
        self.optimizer, self.total_steps, self.clip, self.fused = optimizer, total_steps, clip, fused
        self.stages = nn.ModuleDict(
            {stage: nn.ModuleDict({"loss": MeanMetric(), **task.metrics()}) for stage in ("val", "test")}
        )
        self.steps = 0  # updates done, those before a resume included; Lightning counts its own, of some of them
        self.examples = 0  # that this process trained on, since it was started
        self.values: dict[str, Any] = {}  # of the last validation's or test's metrics, by name
        self._rng: dict[str, Any] | None = None
        self._first: Any = None  # the first examples of the validation at work, decoded
        self._loss = torch.tensor(0.0)  # of the last step
        self._penalty: Tensor | None = None  # likewise
        self.skipped, self._in_a_row = 0, 0  # updates whose gradient was not finite

    def training_step(self, batches: Iterator[Any], index: int) -> dict[str, Any]:
        """Do a chunk of steps: of each the loss, its gradient, the update, and the next rate."""
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        alone = type(self.trainer.strategy) is SingleDeviceStrategy
        directly = alone and getattr(self.trainer.precision_plugin, "scaler", None) is None
        for batch in batches:
            optimizer.zero_grad()
            loss = self.loss(self.transfer_batch_to_device(batch, self.device, 0))
            if directly:  # Lightning's hooks, which nothing here uses, would cost a fifth of a millisecond
                loss.backward()  # type: ignore[no-untyped-call]
                self.on_before_optimizer_step(optimizer.optimizer)
                optimizer.optimizer.step()
            else:
                self.manual_backward(loss)
                optimizer.step()
            schedule.step()
            self.steps += 1
            self.examples += batch_size(batch)
        return {"loss": self._loss, "penalty": self._penalty}

    def loss(self, batch: Any) -> Tensor:
        """Return the task's loss plus the attention's penalties (see `Attention.penalty`): of each module the mean."""
        if not self.penalized:
            loss = self.task.loss(self.model, batch)
        else:
            with penalties(self.model) as collected:
                loss = self.task.loss(self.model, batch)
            of_modules = [torch.stack(calls).mean() for calls in collected.values()]
            penalty = torch.stack(of_modules).sum() if of_modules else torch.zeros_like(loss)
            self._penalty = penalty.detach()
            loss = loss + penalty
        self._loss = loss.detach()
        return loss

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a batch where it is on a CPU; looking through it for something to move costs time at each step."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient's norm; drop a gradient that is not finite, so that the update changes nothing.

        Raises Diverged where the loss is not finite, or no gradient has been for `MOST_SKIPPED` steps.
        """
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.clip is None:  # a sum is finite where a norm is, and takes half its time
            size = float(sum(sparse_rows(p.grad)[1].sum() if p.grad.is_sparse else p.grad.sum() for p in trained))
        else:
            values = [dense_gradient(parameter) for parameter in trained]
            size = float(torch.nn.utils.get_total_norm(values, foreach=True))
        if math.isfinite(size):
            self._in_a_row = 0
            if self.clip is not None and size > self.clip:
                torch._foreach_mul_(values, self.clip / size)
            return
        step = self.steps + 1
        if not self._loss.isfinite():
            raise Diverged(f"the loss of step {step} is {float(self._loss)}")
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        if self._in_a_row == MOST_SKIPPED:
            raise Diverged(f"the gradients of {MOST_SKIPPED} steps in a row, up to step {step}, were not finite")
        for parameter in trained:
            parameter.grad = None

    def _update(self, stage: str, batch: Any) -> None:
        metrics: Any = self.stages[stage]
        loss = self.task.evaluate(self.model, batch, metrics)
        terms = self.task.terms(batch)
        metrics["loss"].update(loss, batch_size(batch) if terms is None else terms)

    def _log(self, stage: str) -> None:
        metrics: Any = self.stages[stage]
        self.values = {name: metric.compute() for name, metric in metrics.items()}
        values = {f"{stage}/{name}": value for name, value in self.values.items() if is_single(value)}
        self.log_dict(values, logger=False)  # Lightning would count its own steps, and draw its own epochs
        if self.logger is not None:
            self.logger.log_metrics({tag: float(value) for tag, value in values.items()}, self.steps)
        for metric in metrics.values():
            metric.reset()

    def on_validation_epoch_start(self) -> None:
        """Forget what the last validation decoded."""
        self._first = None

    def validation_step(self, batch: Any, index: int) -> None:
        """Update the validation metrics; the first batch is decoded before, and kept for `first_examples`."""
        if index == 0 and self.trainer.world_size == 1:
            batch = self._first = self.task.decode(self.model, batch)
        self._update("val", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log("val")

    def test_step(self, batch: Any, index: int) -> None:
        """Update the test metrics."""
        self._update("test", batch)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log("test")

    def first_examples(self, count: int) -> Any:
        """Return the first validation examples, at most `count`; of a task that decodes, as this validation did."""
        data: Any = self.task.data("val")
        count = min(count, len(data))
        decodes = type(self.task).decode is not Task.decode
        if not decodes or self._first is None or batch_size(self._first) < count:
            batch = self.transfer_batch_to_device(data[list(range(count))], self.device, 0)
            if not decodes:
                return batch
            self._first = self.task.decode(self.model, batch)
        return first_examples(self._first, count)

    def maps(self, examples: int) -> list[AttentionMap]:
        """Return the attention maps of the first validation examples, at most `examples`."""
        with torch.no_grad(), torch.random.fork_rng():  # measuring changes nothing that follows
            return self.task.maps(self.model, self.first_examples(examples))

    def configure_optimizers(self) -> Any:
        """Make the optimizer; its rate is a function of the step alone, so that it survives a resume."""
        optimizer = make_optimizer(self.model, self.optimizer, fused=self.fused)
        schedule = LambdaLR(optimizer, lambda step: lr_factor(step, self.total_steps, self.optimizer))
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the step, and the random state: dropout after a resume is the dropout that would have been."""
        checkpoint["global_step"] = self.steps  # Lightning's own count leaves out the updates done without its hooks
        checkpoint["rng"] = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        checkpoint["skipped"] = self.skipped, self._in_a_row

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the random state until training starts: setting up draws from it."""
        self.steps, self._rng = checkpoint["global_step"], checkpoint["rng"]
        self.skipped, self._in_a_row = checkpoint.get("skipped", (0, 0))

    def on_train_start(self) -> None:
        """Restore the checkpoint's random state, and set the config's rate and decay, which may be new."""
        if self._rng is None:
            return
        torch.set_rng_state(self._rng["cpu"].cpu())
        torch.cuda.set_rng_state_all([state.cpu() for state in self._rng["cuda"]])
        torch.empty((), dtype=torch.int64).random_()  # as the loader did when the round after the checkpoint began
        schedule: Any = self.lr_schedulers()
        schedule.base_lrs = [settings["initial_lr"] for settings in self._settings]
        share = lr_factor(self.steps, self.total_steps, self.optimizer)
        for group, settings in zip(schedule.optimizer.param_groups, self._settings, strict=True):
            group.update(settings, lr=settings["initial_lr"] * share)


def is_single(value: Any) -> bool:
    """Whether a metric's value is a single number, which can be logged; not so of a slice without examples."""
    return isinstance(value, Tensor) and value.dim() == 0
