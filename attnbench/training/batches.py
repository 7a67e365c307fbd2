"""Which examples a step holds, and which an evaluation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from attnbench.config import TrainerConfig
from attnbench.interfaces import Task

BUCKET = 50  # steps whose examples are sorted by length together


def batch_size(batch: Any) -> int:
    """Count the examples of a batch: the first dimension of its first tensor."""
    first = batch if isinstance(batch, Tensor) else batch[0]
    return int(first.shape[0])


def _rank() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class TrainSampler(Sampler[list[int]]):
    """The training batches, pass after pass, cut into rounds of `round_steps`, each ended by a validation.

    To Lightning a round is an epoch, and a chunk of its steps a batch (see `StepChunks`). Which examples step s holds
    is a function of (seed, s) alone, so that a resumed run sees what it would have seen. Processes share out the
    examples of each step.

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


def chunk_loader(task: Task, batches: TrainSampler, config: TrainerConfig, total: int) -> DataLoader[Any]:
    """Load the training batches, as many at a time as lie between two points of a curve."""
    chunks = StepChunks(batches, config.log_every, total)
    return DataLoader(LazyBatches(task.data("train")), sampler=chunks, batch_size=None)


def eval_sampler(task: Task, split: Any, config: TrainerConfig) -> EvalSampler:
    """Lay out the batches of an evaluation."""
    size = len(task.data(split))  # type: ignore[arg-type]
    return EvalSampler(size, config.eval_batch_size, config.eval_batches, task.lengths(split))


def plan(task: Task, config: TrainerConfig, seed: int, done: int = 0) -> tuple[TrainSampler, int]:
    """Lay out the training batches from the first step that is not `done`, and count the steps of the run."""
    size = len(task.data("train"))  # type: ignore[arg-type]
    rounds = TrainSampler(size, config.batch_size, config.devices, seed, config.val_every, task.lengths("train"), done)
    total = config.max_epochs * rounds.steps_per_pass if config.max_steps is None else config.max_steps
    rounds.round_steps = max(1, min(rounds.round_steps, total))
    return rounds, total
