"""The update, its learning rate, and tables whose gradients are rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.config import OptimizerConfig, Schedule
from attnbench.errors import UsageError
from attnbench.kernels import sparse_rows

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def lr_factor(step: int, total: int, config: OptimizerConfig) -> float:
    """Return the learning rate at a step, as a share of its peak.

    It rises linearly from 0 over the share `warmup` of the run, then follows the schedule: to 0 at `total`, or, of
    inverse_time, 1 / (1 + decay * step).
    """
    warmup_steps, schedule = config.warmup * total, config.schedule
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule is Schedule.inverse_time:
        return 1 / (1 + config.decay * step)
    remaining = max(0.0, (total - step) / max(1.0, total - warmup_steps))
    if schedule is Schedule.constant:
        return 1.0
    return remaining if schedule is Schedule.linear else 0.5 - 0.5 * math.cos(math.pi * remaining)


def make_optimizer(model: nn.Module, config: OptimizerConfig, *, fused: bool = True) -> torch.optim.Optimizer:
    """Make the optimizer.

    The gradients of embeddings made with `sparse=True` are rows. With `optimizer.lazy` only rows that a step has seen
    are updated: they follow Adam with the moments that they had when they were last seen, and do not decay. Without it
    the update is that of any parameter.
    """
    kind = OPTIMIZERS[config.name.value]
    tables = list(dict.fromkeys(module.weight for module in sparse_tables(model)))
    lazy = tables if config.lazy else []
    others = [p for p in model.parameters() if not any(p is table for table in lazy)]
    dense: torch.optim.Optimizer = kind(others, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
    if not tables:
        return dense
    if not lazy:
        return CombinedOptimizer([dense], tables)
    by_rows = torch.optim.SGD if kind is torch.optim.SGD else torch.optim.SparseAdam
    return CombinedOptimizer([dense, by_rows(lazy, lr=config.lr)], [])


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimizers as one; before their steps, the sparse gradients of `tables` are made dense.

    The dense gradient of a table is one tensor for the whole run, zero except during an update: allocating and clearing
    one at each step would cost as much as a small model.
    """

    def __init__(self, parts: list[torch.optim.Optimizer], tables: list[Tensor]) -> None:
        self.parts, self.tables = parts, tables
        self.dense: dict[Tensor, Tensor] = {}
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> Any:
        """Step each optimizer."""
        loss = None if closure is None else closure()
        seen = {}
        with torch.no_grad():
            for table in self.tables:
                if table.grad is not None and table.grad.is_sparse:
                    rows = table.grad if table.grad.is_cpu else table.grad.coalesce()  # a GPU adds in any order
                    if table not in self.dense:
                        self.dense[table] = torch.zeros_like(table)
                    seen[table], values = sparse_rows(rows)
                    table.grad = self.dense[table].index_add_(0, seen[table], values)
            for part in self.parts:
                part.step()
            for table, index in seen.items():
                self.dense[table].index_fill_(0, index, 0.0)
                table.grad = None
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each optimizer."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of each optimizer."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def dense_gradient(parameter: nn.Parameter) -> Tensor:
    """Return a gradient's values, to be read or scaled in place; of a sparse gradient, each row once."""
    assert parameter.grad is not None
    if not parameter.grad.is_sparse:
        return parameter.grad
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad.values()


def sparse_tables(model: nn.Module) -> list[nn.Embedding | nn.EmbeddingBag]:
    """Return the embeddings made with `sparse=True`."""
    return [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]


def refuse_sparse_gradients(model: nn.Module, config: OptimizerConfig) -> None:
    """Raise UsageError where embeddings have sparse gradients: NCCL all-reduces dense gradients only."""
    if sparse_tables(model):
        cure = "try optimizer.lazy=false" if config.lazy else "make the task's embeddings with sparse=self.sparse"
        raise UsageError(f"optimizer.lazy: several GPUs cannot exchange sparse gradients; {cure}")
