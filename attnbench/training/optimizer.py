"""The update, its learning rate, and tables whose gradients are rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.config import OptimizerConfig, Schedule
from attnbench.errors import UsageError

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def lr_factor(step: int, total: int, given: OptimizerConfig) -> float:
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
        return CombinedOptimizer([dense], tables)
    by_rows = torch.optim.SGD if kind is torch.optim.SGD else torch.optim.SparseAdam
    return CombinedOptimizer([dense, by_rows(lazy, lr=given.lr)], [])


class CombinedOptimizer(torch.optim.Optimizer):
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


def dense_gradient(parameter: nn.Parameter) -> Tensor:
    """Give a gradient's numbers, to be read or written over; of a sparse one, each row once."""
    assert parameter.grad is not None
    if not parameter.grad.is_sparse:
        return parameter.grad
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad.values()


def sparse_tables(model: nn.Module) -> list[nn.Embedding | nn.EmbeddingBag]:
    """Give the embeddings that were made with `sparse=True`."""
    return [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]


def use_dense_gradients(model: nn.Module, given: OptimizerConfig) -> None:
    """Let no embedding have sparse gradients: GPUs exchange whole ones alone.

    Raises:
        UsageError: lazy updates are asked for, which go by sparse ones.
    """
    tables = sparse_tables(model)
    if tables and given.lazy:
        raise UsageError("optimizer.lazy=true: several GPUs cannot exchange sparse gradients; try optimizer.lazy=false")
    for table in tables:
        table.sparse = False
