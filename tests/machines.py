"""Machines of task=memory that are small enough for tests."""

from typing import Any

import torch
from attnbench.plugins.task.memory.problems import PROBLEMS, Size
from attnbench.plugins.task.memory.task import Memory
from torch import Tensor

import attnbench

MACHINES = [("ntm", "cosine"), ("soft", "additive"), ("uniform", None), ("location_aware", None), ("multihead", "dot")]


def attend(attention: str = "ntm", scoring: str | None = "cosine", **options: Any) -> Any:
    def make(query_dim: int, key_dim: int, value_dim: int) -> Any:
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", attention, scoring=scoring, **widths, **options)

    return make


def machine(attention: str = "ntm", scoring: str | None = "cosine", **options: Any) -> Any:
    torch.manual_seed(0)
    return Memory(**{"controller_dim": 12, "rows": 6, "width": 4, **options}).model(attend(attention, scoring))


def draw(problem: str, seed: int, length: int, repeats: int = 1) -> Any:
    return PROBLEMS[problem].draw(seed, [seed, seed + 7], Size(length, repeats))


def gradients(model: Any, length: int = 4, examples: int = 3) -> dict[str, Tensor]:
    batch, dtype = PROBLEMS["copy"].draw(0, list(range(examples)), Size(length)), next(model.parameters()).dtype
    model.zero_grad()
    torch.nn.functional.mse_loss(model(batch.inputs.to(dtype)), batch.targets.to(dtype)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
