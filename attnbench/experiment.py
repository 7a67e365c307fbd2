"""The one LightningModule: it trains any task with any attention."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler
from torchmetrics import MeanMetric

from attnbench.config import OptimizerConfig, Schedule, TrainerConfig
from attnbench.errors import UsageError
from attnbench.interfaces import Attention, AttentionMap, Task

BUCKET = 50  # steps whose examples are sorted by length together
MEASURED = ("val/", "attention/")  # what the tags of a validation begin with
MOST_SKIPPED = 20  # updates in a row whose gradient is not finite, before a run gives up
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class Diverged(UsageError):  # noqa: N818 (as `Interrupted`)
    """Training has left the numbers that can be computed with."""


def batch_size(batch: Any) -> int:
    """Count the examples of a batch: the first dimension of its first tensor."""
    first = batch if isinstance(batch, Tensor) else batch[0]
    return int(first.shape[0])


def _rank() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class TrainBatches(Sampler[list[int]]):
    """The training batches, pass after pass, cut into rounds of `round_steps`, each ended by a validation.

    Lightning takes a round for an epoch, and a stride of it for a batch (see `Strides`). Which examples step s holds is
    a function of (seed, s) alone, so that a resumed run sees what it would have seen. Processes share out the examples
    of each step.

    Args:
        size: the number of examples.
        batch_size: examples in a step, in each process; a pass ends with a smaller one.
        processes: how many share a step.
        seed: shuffles.
        round_steps: steps between validations; None for a pass.
        lengths: of the examples, [size]: a step's are then alike, drawn by sorting BUCKET steps at a time.
        done: steps that were done before, in a run that is resumed.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        processes: int,
        seed: int,
        round_steps: int | None,
        lengths: Tensor | None = None,
        done: int = 0,
    ) -> None:
        self.size, self.step_size, self.seed, self.lengths = size, batch_size * processes, seed, lengths
        self.steps_per_pass = math.ceil(size / self.step_size)
        self.round_steps = round_steps or self.steps_per_pass
        self.done, self.first, self.round = done, 0 if done == 0 else None, 0

    def set_epoch(self, epoch: int) -> None:
        """Move to a round; Lightning calls this, first with the round that a resumed run begins with."""
        self.first = epoch if self.first is None else self.first
        self.round = epoch

    @property
    def start(self) -> int:
        """Count the steps before this round."""
        return self.done + (self.round - (self.first or 0)) * self.round_steps

    def __len__(self) -> int:
        return self.round_steps

    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = _rank()
        order: list[int] = []
        for step in range(self.start, self.start + self.round_steps):
            number, place = divmod(step, self.steps_per_pass)
            if not order or place == 0:
                order = self._order(number).tolist()
            chosen = order[place * self.step_size : (place + 1) * self.step_size]
            yield chosen[rank::processes] or chosen[:1]

    def _order(self, number: int) -> Tensor:
        """Shuffle a pass: examples, and where they have lengths, steps of like ones."""
        generator = torch.Generator().manual_seed(hash((self.seed, number)) % 2**63)
        order = torch.randperm(self.size, generator=generator)
        if self.lengths is None:
            return order
        buckets = torch.split(order, BUCKET * self.step_size)
        order = torch.cat([bucket[self.lengths[bucket].argsort(stable=True)] for bucket in buckets])
        whole = self.size // self.step_size
        steps = order[: whole * self.step_size].view(whole, self.step_size)
        return torch.cat([steps[torch.randperm(whole, generator=generator)].flatten(), order[steps.numel() :]])


class Strides(Sampler[list[list[int]]]):
    """The steps of a round, several at a time, up to the last of the run.

    Lightning is handed a stride for a batch: between two batches it spends longer than a small model on a step.
    """

    def __init__(self, batches: TrainBatches, size: int, total: int) -> None:
        self.batches, self.size, self.total = batches, size, total

    def set_epoch(self, epoch: int) -> None:
        """Move to a round."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.size)

    def __iter__(self) -> Iterator[list[list[int]]]:
        steps = itertools.islice(self.batches, max(0, self.total - self.batches.start))
        while stride := list(itertools.islice(steps, self.size)):
            yield stride


class InTurn(Dataset[Iterator[Any]]):
    """The batches of a stride, each loaded when it is its turn."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, stride: list[list[int]]) -> Iterator[Any]:
        return (self.data[indices] for indices in stride)


class EvalBatches(Sampler[list[int]]):
    """Every example once, in order, or by length; processes share out the examples of each batch."""

    def __init__(self, size: int, batch_size: int, limit: int | None, lengths: Tensor | None = None) -> None:
        size = size if limit is None else min(size, limit * batch_size)
        order = list(range(size)) if lengths is None else lengths[:size].argsort(stable=True).tolist()
        self.batches = [order[start : start + batch_size] for start in range(0, size, batch_size)]

    def _shares(self) -> list[list[int]]:
        rank, processes = _rank()
        return [share for batch in self.batches if (share := batch[rank::processes])]

    def __len__(self) -> int:
        return len(self._shares())

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._shares())


def loader(task: Task, split: Any, batches: Sampler[list[int]]) -> DataLoader[Any]:
    """Load whole batches: a dataset gives the batch of a list of indices."""
    return DataLoader(task.data(split), sampler=batches, batch_size=None)


def stride_loader(task: Task, batches: TrainBatches, config: TrainerConfig, total: int) -> DataLoader[Any]:
    """Load the training batches, as many at a time as lie between two points of a curve."""
    return DataLoader(InTurn(task.data("train")), sampler=Strides(batches, config.log_every, total), batch_size=None)


def every(task: Task, split: Any, config: TrainerConfig) -> EvalBatches:
    """Lay out the batches of an evaluation."""
    size = len(task.data(split))  # type: ignore[arg-type]
    return EvalBatches(size, config.eval_batch_size, config.eval_batches, task.lengths(split))


def penalizes(module: nn.Module) -> bool:
    """Whether it is an attention module that has a penalty."""
    return isinstance(module, Attention) and module.penalized


@contextmanager
def penalties(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the penalty of every call, within, of an attention module that has one."""
    found: list[Tensor] = []

    def ask(module: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, {**options, "need_weights": True}

    def collect(module: nn.Module, given: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        assert isinstance(module, Attention)
        if (penalty := module.penalty(output[1])) is not None:
            found.append(penalty)

    with ExitStack() as hooks:
        for module in model.modules():
            if penalizes(module):
                hooks.enter_context(module.register_forward_pre_hook(ask, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(collect))
        yield found


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
        self.values: dict[str, Any] = {}  # of the last validation's or test's metrics, by name
        self._rng: dict[str, Any] | None = None
        self._loss = torch.tensor(0.0)  # of the last step
        self._penalty: Tensor | None = None  # likewise
        self.skipped, self._in_a_row = 0, 0  # updates whose gradient was not finite

    def training_step(self, batches: Iterator[Any], index: int) -> dict[str, Any]:
        """Do a stride of steps: of each the loss, its gradient, the update, and the next rate."""
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        alone = type(self.trainer.strategy) is SingleDeviceStrategy
        directly = alone and getattr(self.trainer.precision_plugin, "scaler", None) is None
        steps = examples = 0
        for batch in batches:
            optimizer.zero_grad()
            loss = self.loss(self.transfer_batch_to_device(batch, self.device, 0))
            if directly:  # without the hooks of Lightning, that nothing here hangs on: a fifth of a millisecond
                loss.backward()  # type: ignore[no-untyped-call]
                self.on_before_optimizer_step(optimizer.optimizer)
                optimizer.optimizer.step()
                progress.increment_ready()
                progress.increment_completed()
            else:
                self.manual_backward(loss)
                optimizer.step()
            schedule.step()
            steps, examples = steps + 1, examples + batch_size(batch)
            if self.trainer.received_sigterm:  # which Lightning heeds between two batches of its own
                break
        return {"loss": self._loss, "penalty": self._penalty, "steps": steps, "examples": examples}

    def loss(self, batch: Any) -> Tensor:
        """Give the task's loss, and what the attention adds to it (see `Attention.penalty`)."""
        if not self.penalized:
            loss = self.task.loss(self.model, batch)
        else:
            with penalties(self.model) as found:
                loss = self.task.loss(self.model, batch)
            penalty = torch.stack(found).sum() if found else torch.zeros_like(loss)
            self._penalty = penalty.detach()
            loss = loss + penalty
        self._loss = loss.detach()
        return loss

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a batch where it is on a CPU; looking through it for something to move costs time at each step."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient's norm; take a gradient that is not finite away, so that the update changes nothing.

        Raises:
            Diverged: the loss is not finite, or no gradient has been for `MOST_SKIPPED` steps.
        """
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.clip is None:  # a sum is finite where a norm is, and takes half its time
            size = float(sum(p.grad._values().sum() if p.grad.is_sparse else p.grad.sum() for p in trained))
        else:
            values = [gradient(parameter) for parameter in trained]
            size = float(torch.nn.utils.get_total_norm(values, foreach=True))
        if math.isfinite(size):
            self._in_a_row = 0
            if self.clip is not None and size > self.clip:
                torch._foreach_mul_(values, self.clip / size)
            return
        step = self.trainer.global_step + 1
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
        metrics["loss"].update(loss, batch_size(batch))

    def _log(self, stage: str) -> None:
        metrics: Any = self.stages[stage]
        self.values = {name: metric.compute() for name, metric in metrics.items()}
        values = {f"{stage}/{name}": value for name, value in self.values.items() if _single(value)}
        self.log_dict(values, logger=False)  # Lightning would count its own steps, and draw its own epochs
        if self.logger is not None:
            self.logger.log_metrics({tag: float(value) for tag, value in values.items()}, self.trainer.global_step)
        for metric in metrics.values():
            metric.reset()

    def validation_step(self, batch: Any, index: int) -> None:
        """Update the validation metrics."""
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

    def maps(self, examples: int) -> list[AttentionMap]:
        """Give the attention maps of the first validation examples, at most `examples`."""
        data = self.task.data("val")
        batch = data[list(range(min(examples, len(data))))]  # type: ignore[arg-type]
        with torch.no_grad(), torch.random.fork_rng():  # measuring changes nothing that follows
            return self.task.maps(self.model, self.transfer_batch_to_device(batch, self.device, 0))

    def configure_optimizers(self) -> Any:
        """Make the optimizer; its rate is a function of the step alone, so that it survives a resume."""
        given = self.optimizer
        optimizer = make_optimizer(self.model, given, fused=self.fused)
        schedule = LambdaLR(optimizer, lambda step: rate(step, self.total_steps, given))
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state: dropout after a resume is the dropout that would have been."""
        checkpoint["rng"] = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        checkpoint["skipped"] = self.skipped, self._in_a_row

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the random state until training starts: setting up draws from it."""
        self._rng = checkpoint["rng"]
        self.skipped, self._in_a_row = checkpoint.get("skipped", (0, 0))

    def on_train_start(self) -> None:
        """Take up the random state of the checkpoint; and the config's rate and decay, which may be new."""
        if self._rng is None:
            return
        torch.set_rng_state(self._rng["cpu"].cpu())
        torch.cuda.set_rng_state_all([state.cpu() for state in self._rng["cuda"]])
        torch.empty((), dtype=torch.int64).random_()  # as the loader did when the round after the checkpoint began
        schedule: Any = self.lr_schedulers()
        schedule.base_lrs = [settings["initial_lr"] for settings in self._settings]
        share = rate(self.trainer.global_step, self.total_steps, self.optimizer)
        for group, settings in zip(schedule.optimizer.param_groups, self._settings, strict=True):
            group.update(settings, lr=settings["initial_lr"] * share)


def _single(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


class Parts(torch.optim.Optimizer):
    """Optimizers as one; before them the gradients of `tables` that are rows are laid out whole.

    The tensor that a table's are laid out in is kept, and zero but for the time of an update: to make one at each step,
    and to read it through, costs as much as a small model.
    """

    def __init__(self, parts: list[torch.optim.Optimizer], tables: list[Tensor]) -> None:
        self.parts, self.tables = parts, tables
        self.whole: dict[Tensor, Tensor] = {}
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> Any:
        """Step with all."""
        loss = None if closure is None else closure()
        seen = {}
        with torch.no_grad():
            for table in self.tables:
                if table.grad is not None and table.grad.is_sparse:
                    rows = table.grad if table.grad.is_cpu else table.grad.coalesce()  # a GPU adds in any order
                    if table not in self.whole:
                        self.whole[table] = torch.zeros_like(table)
                    seen[table] = rows._indices()[0]
                    table.grad = self.whole[table].index_add_(0, seen[table], rows._values())
            for part in self.parts:
                part.step()
            for table, index in seen.items():
                self.whole[table].index_fill_(0, index, 0.0)
                table.grad = None
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Give the states of all."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the states of all."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def gradient(parameter: nn.Parameter) -> Tensor:
    """Give a gradient's numbers, to be read or written over; of a sparse one, each row once."""
    assert parameter.grad is not None
    if not parameter.grad.is_sparse:
        return parameter.grad
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad.values()


def sparse_tables(model: nn.Module) -> list[nn.Embedding | nn.EmbeddingBag]:
    """Give the embeddings that were made with `sparse=True`."""
    return [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]


def make_gradients_whole(model: nn.Module, given: OptimizerConfig) -> None:
    """Let no embedding have sparse gradients: GPUs exchange whole ones alone.

    Raises:
        UsageError: lazy updates are asked for, which go by sparse ones.
    """
    tables = sparse_tables(model)
    if tables and given.lazy:
        raise UsageError("optimizer.lazy=true: several GPUs cannot exchange sparse gradients; try optimizer.lazy=false")
    for table in tables:
        table.sparse = False


def make_optimizer(model: nn.Module, given: OptimizerConfig, *, fused: bool = True) -> torch.optim.Optimizer:
    """Make the optimizer.

    The gradients of embeddings made with `sparse=True` are rows. With `optimizer.lazy` only rows that a step has seen
    are updated: they follow Adam with the moments that they had when they were last seen, and do not decay. Without it
    the update is that of any parameter.
    """
    kind = OPTIMIZERS[given.name.value]
    tables = list(dict.fromkeys(module.weight for module in sparse_tables(model)))
    lazy = tables if given.lazy else []
    others = [p for p in model.parameters() if not any(p is table for table in lazy)]
    dense: torch.optim.Optimizer = kind(others, lr=given.lr, weight_decay=given.weight_decay, fused=fused)
    if not tables:
        return dense
    if not lazy:
        return Parts([dense], tables)
    by_rows = torch.optim.SGD if kind is torch.optim.SGD else torch.optim.SparseAdam
    return Parts([dense, by_rows(lazy, lr=given.lr)], [])


def rate(step: int, total: int, given: OptimizerConfig) -> float:
    """Give the learning rate at a step, as a share of its peak.

    It rises linearly from 0 over the share `warmup` of the run, then follows the schedule: to 0 at `total`, or, of
    inverse_time, 1 / (1 + decay * step).
    """
    rising, schedule = given.warmup * total, given.schedule
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule is Schedule.inverse_time:
        return 1 / (1 + given.decay * step)
    left = max(0.0, (total - step) / max(1.0, total - rising))
    if schedule is Schedule.constant:
        return 1.0
    return left if schedule is Schedule.linear else 0.5 - 0.5 * math.cos(math.pi * left)


class OnTraining(pl.Callback):
    """Read the task's metrics on the first training examples at each validation: `train/<metric>`, without dropout."""

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics; each process measures the same examples."""
        assert isinstance(pl_module, Experiment)
        if not self.config.eval_train:
            return
        task, metrics = pl_module.task, {name: m.to(pl_module.device) for name, m in pl_module.task.metrics().items()}
        data, lengths = task.data("train"), task.lengths("train")
        size = min(self.config.eval_train, len(data))  # type: ignore[arg-type]
        for indices in EvalBatches(size, self.config.eval_batch_size, None, lengths).batches:
            batch = pl_module.transfer_batch_to_device(data[indices], pl_module.device, 0)
            task.evaluate(pl_module.model, batch, metrics)
        if trainer.logger is not None:
            values = {f"train/{name}": metric.compute() for name, metric in metrics.items()}
            trainer.logger.log_metrics({t: float(v) for t, v in values.items() if _single(v)}, trainer.global_step)


@dataclass
class Ledger(pl.Callback):
    """Counts what a run costs, draws its curves, and ends it.

    The curves of training are written here, a point every `trainer.log_every` steps, and at the end of a round.

    Attributes:
        total_steps: after how many steps training ends.
        pass_size: how many examples the training split has.
        steps, examples: how many were trained on.
        seconds: spent training, without validation.
        curve: what each validation measured, {"step", "examples", "seconds", "val/<metric>", "attention/<what>"}.
    """

    config: TrainerConfig
    total_steps: int
    pass_size: int
    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    last_loss: float = float("nan")
    perfect: int = 0  # validations in a row with nothing left to gain
    curve: list[dict[str, float]] = field(default_factory=list)
    _since: float | None = None
    _logged: tuple[int, float] = field(default=(0, 0.0))

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint."""
        return "ledger"

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run goes on counting from."""
        self._stop_clock()
        return {name: getattr(self, name) for name in ("steps", "examples", "seconds", "perfect", "curve")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def _perfected(self) -> bool:
        return self.config.stop_at_goal and self.perfect >= 2

    def _start_clock(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def _stop_clock(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

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
        """Count a stride; draw a point of the curves; stop after the last step."""
        self.steps += outputs["steps"]
        self.examples += outputs["examples"] * trainer.world_size
        if self.steps >= self.total_steps:
            trainer.should_stop = True
        self._stop_clock()
        self.last_loss = float(trainer.strategy.reduce(outputs["loss"], reduce_op="mean"))
        assert isinstance(pl_module, Experiment)
        self._draw(trainer, outputs["penalty"], pl_module.skipped)
        self._start_clock()

    def _draw(self, trainer: pl.Trainer, penalty: Tensor | None, skipped: int) -> None:
        if not isinstance(trainer.logger, pl.loggers.TensorBoardLogger) or not trainer.is_global_zero:
            return
        examples, seconds = self._logged
        writer = trainer.logger.experiment
        writer.add_scalar("train/loss", self.last_loss, self.steps)
        if penalty is not None:  # part of the loss
            writer.add_scalar("train/penalty", float(penalty), self.steps)
        writer.add_scalar("train/skipped_updates", skipped, self.steps)
        writer.add_scalar("train/learning_rate", trainer.optimizers[0].param_groups[0]["lr"], self.steps)
        if self.seconds > seconds:
            speed = (self.examples - examples) / (self.seconds - seconds)
            writer.add_scalar("train/examples_per_second", speed, self.steps)
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
        """Stop the clock."""
        self._stop_clock()


def plan(task: Task, config: TrainerConfig, seed: int, done: int = 0) -> tuple[TrainBatches, int]:
    """Lay out the training batches from the first step that is not `done`, and count the steps of the run."""
    size = len(task.data("train"))  # type: ignore[arg-type]
    rounds = TrainBatches(size, config.batch_size, config.devices, seed, config.val_every, task.lengths("train"), done)
    total = config.max_epochs * rounds.steps_per_pass if config.max_steps is None else config.max_steps
    rounds.round_steps = max(1, min(rounds.round_steps, total))
    return rounds, total


def count_parameters(model: nn.Module) -> int:
    """Count what is trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
