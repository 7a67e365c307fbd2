"""Which examples a step holds, and which an evaluation."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from attnbench.config import TrainerConfig
from attnbench.errors import UsageError
from attnbench.interfaces import Split, Task
from attnbench.training.process import rank_and_world_size

BUCKET = 50  # steps whose examples are sorted by length together


def batch_size(batch: Any) -> int:
    """Count the examples of a batch: the first dimension of its first tensor."""
    first = batch if isinstance(batch, Tensor) else batch[0]
    return int(first.shape[0])


def first_examples(part: Any, count: int) -> Any:
    """Return the first examples of a batch, or of a part of one."""
    if isinstance(part, Tensor | list) or part is None:
        return None if part is None else part[:count]
    inner = [first_examples(field, count) for field in part]
    return type(part)(*inner) if hasattr(part, "_fields") else tuple(inner)


class TrainSampler(Sampler[list[int]]):
    """The training batches, pass after pass, cut into rounds of `round_steps`, each ended by a validation.

    To Lightning a round is an epoch, and a chunk of its steps a batch (see `StepChunks`). Which examples step s holds
    is a function of (seed, s) alone, so that a resumed run sees what it would have seen. Processes share out the
    examples of each step.

    Args:
        size: the number of examples; None of data without end (`Task.fresh`), which is read in order.
        batch_size: examples in a step, in each process; a pass ends with a smaller one.
        processes: how many share a step.
        seed: shuffles.
        round_steps: steps between validations; None for a pass.
        lengths: of the examples, [size]: those of a step are then alike, drawn by sorting BUCKET steps at a time.
        done: steps that were done before, in a run that is resumed.

    Raises:
        ValueError: without size and round_steps, a round would not end.
    """

    def __init__(
        self,
        size: int | None,
        batch_size: int,
        processes: int,
        seed: int,
        round_steps: int | None,
        lengths: Tensor | None = None,
        done: int = 0,
    ) -> None:
        self.size, self.step_size, self.seed, self.lengths = size, batch_size * processes, seed, lengths
        if (steps := round_steps or self.steps_per_pass) is None:
            raise ValueError("data without end needs round_steps")
        self.round_steps = steps
        self.done, self.first, self.round = done, 0 if done == 0 else None, 0

    @property
    def steps_per_pass(self) -> int | None:
        """The steps in which each example is seen once; None of data without end."""
        return None if self.size is None else math.ceil(self.size / self.step_size)

    def set_epoch(self, epoch: int) -> None:
        """Move to a round; Lightning calls this, first with the round that a resumed run begins with."""
        self.first = epoch if self.first is None else self.first
        self.round = epoch

    @property
    def start(self) -> int:
        """The number of steps before this round."""
        return self.done + (self.round - (self.first or 0)) * self.round_steps

    def __len__(self) -> int:
        return self.round_steps

    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = rank_and_world_size()
        steps = range(self.start, self.start + self.round_steps)
        for examples in self._in_order(steps) if self.size is None else self._shuffled(steps, self.size):
            yield examples[rank::processes] or examples[:1]

    def _in_order(self, steps: range) -> Iterator[list[int]]:
        for step in steps:
            yield list(range(step * self.step_size, (step + 1) * self.step_size))

    def _shuffled(self, steps: range, size: int) -> Iterator[list[int]]:
        order: list[int] = []
        for step in steps:
            number, place = divmod(step, math.ceil(size / self.step_size))
            if not order or place == 0:
                order = self._order(number, size).tolist()
            yield order[place * self.step_size : (place + 1) * self.step_size]

    def _order(self, number: int, size: int) -> Tensor:
        """Shuffle a pass: examples, and where they have lengths, steps of examples of like length."""
        # the hash of a pair of integers, unlike that of a text, is the same in every process and Python from 3.8 on
        generator = torch.Generator().manual_seed(hash((self.seed, number)) % 2**63)
        order = torch.randperm(size, generator=generator)
        if self.lengths is None:
            return order
        buckets = torch.split(order, BUCKET * self.step_size)
        order = torch.cat([bucket[self.lengths[bucket].argsort(stable=True)] for bucket in buckets])
        whole = size // self.step_size
        steps = order[: whole * self.step_size].view(whole, self.step_size)
        return torch.cat([steps[torch.randperm(whole, generator=generator)].flatten(), order[steps.numel() :]])


class StepChunks(Sampler[list[list[int]]]):
    """The steps of a round, several at a time, up to the last of the run.

    Lightning receives several steps as one batch, because its per-batch overhead exceeds a small model's step.
    """

    def __init__(self, batches: TrainSampler, size: int, total: int) -> None:
        self.batches, self.size, self.total = batches, size, total

    def set_epoch(self, epoch: int) -> None:
        """Move to a round."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.size)

    def __iter__(self) -> Iterator[list[list[int]]]:
        steps = itertools.islice(self.batches, max(0, self.total - self.batches.start))
        while chunk := list(itertools.islice(steps, self.size)):
            yield chunk


class LazyBatches(Dataset[Iterator[Any]]):
    """The batches of a chunk, each loaded when its step comes."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, chunk: list[list[int]]) -> Iterator[Any]:
        return (self.data[indices] for indices in chunk)


class EvalSampler(Sampler[list[int]]):
    """Every example once, in order, or by length behind the first batch; processes share out a batch's examples."""

    def __init__(self, size: int, batch_size: int, limit: int | None, lengths: Tensor | None = None) -> None:
        size = size if limit is None else min(size, limit * batch_size)
        order = torch.arange(size)
        if lengths is not None:
            first, rest = order[:batch_size], order[batch_size:]  # the first examples are those that are pictured
            order = torch.cat([first, rest[lengths[rest].argsort(stable=True)]])
        self.batches = [batch.tolist() for batch in torch.split(order, batch_size) if len(batch)]

    def _shares(self) -> list[list[int]]:
        rank, processes = rank_and_world_size()
        return [share for batch in self.batches if (share := batch[rank::processes])]

    def __len__(self) -> int:
        return len(self._shares())

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._shares())


def loader(task: Task, split: Any, batches: Sampler[list[int]]) -> DataLoader[Any]:
    """Load whole batches: a dataset gives the batch of a list of indices."""
    return DataLoader(task.data(split), sampler=batches, batch_size=None)


def chunk_loader(task: Task, batches: TrainSampler, config: TrainerConfig, total: int) -> DataLoader[Any]:
    """Load the training batches, as many at a time as lie between two points of a curve."""
    chunks = StepChunks(batches, config.log_every, total)
    return DataLoader(LazyBatches(task.data("train")), sampler=chunks, batch_size=None)


def eval_sampler(task: Task, split: Any, config: TrainerConfig) -> EvalSampler:
    """Lay out the batches of an evaluation."""
    size = len(task.data(split))  # type: ignore[arg-type]
    return EvalSampler(size, config.eval_batch_size, config.eval_batches, task.lengths(split))


def plan(task: Task, config: TrainerConfig, seed: int, done: int = 0) -> tuple[TrainSampler, int]:
    """Lay out the training batches from the first step that is not `done`, and count the steps of the run.

    Raises UsageError where training data have no end, and no number of steps is set.
    """
    size = train_size(task)
    lengths = None if size is None else task.lengths("train")
    if config.max_steps is not None:
        total = config.max_steps
    elif size is None:
        raise UsageError(
            "trainer.max_steps=null: this task draws its training data without end; say how many steps, such as "
            "trainer.max_steps=1000"
        )
    else:
        total = config.max_epochs * math.ceil(size / (config.batch_size * config.devices))
    steps_per_pass = total if size is None else math.ceil(size / (config.batch_size * config.devices))
    round_steps = max(1, min(config.val_every or steps_per_pass, total))
    return TrainSampler(size, config.batch_size, config.devices, seed, round_steps, lengths, done), total


def data_mark(task: Task) -> str:
    """Return what tells a task's data from others: sizes, and a hash of the first training and validation examples."""
    sizes, digest = [], hashlib.blake2b(digest_size=8)
    splits: tuple[Split, ...] = ("val",) if task.fresh else ("train", "val")
    for split in splits:
        data: Any = task.data(split)
        sizes.append(f"{len(data)} {split}")
        _hash(data[list(range(min(len(data), 20)))], digest)
    return f"{', '.join(sizes)}, {digest.hexdigest()}"


def _hash(part: Any, digest: Any) -> None:
    """Hash a batch, or a part of one."""
    if isinstance(part, tuple | list):
        for inner in part:
            _hash(inner, digest)
    elif part is not None:
        digest.update(repr(part.tolist() if isinstance(part, Tensor) else part).encode())


def train_size(task: Task) -> int | None:
    """Return the number of training examples; None of data without end."""
    return None if task.fresh else len(task.data("train"))  # type: ignore[arg-type]
