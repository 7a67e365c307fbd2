"""Sequences a second in training, `task=memory` on copy: memory 128x20, controller of 100, one head each.

    python tests/benchmarks/memory.py

Lengths are drawn as in training, 1 to 20. Batch sizes, eager and compiled, take turns, so that the machine's changes of
speed hit all alike. Printed: for each the median over the turns, its first and third quartile, and the best; and where
it is known, the median over the rate of pytorch-ntm.
"""

import statistics
import time
from typing import Any

import torch

import attnbench

TURN, TURNS = 10, 12
BATCHES = (1, 4, 16, 32)
COMPILE = {"eager": False, "compiled": True}
#: Of github.com/loudinthecloud/pytorch-ntm at these sizes, by batch size; measured on two cores of another machine.
PYTORCH_NTM = {1: 23, 32: 142}


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)

    def attention(query_dim: int, key_dim: int, value_dim: int) -> Any:
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", "ntm", scoring="cosine", **widths)

    def trainer(compiled: bool) -> Any:
        task = attnbench.build("task", "memory", compile=compiled)
        data, model = task.data("train"), task.model(attention)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)

        def turn(batch_size: int, number: int) -> float:
            start = time.perf_counter()
            for step in range(TURN):
                first = (number * TURN + step) * batch_size
                optimizer.zero_grad()
                task.loss(model, data[list(range(first, first + batch_size))]).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            return TURN * batch_size / (time.perf_counter() - start)

        return turn

    turns = {name: trainer(compiled) for name, compiled in COMPILE.items()}
    rates: dict[tuple[int, str], list[float]] = {(size, name): [] for size in BATCHES for name in turns}
    for number in range(TURNS + 1):
        for (size, name), found in rates.items():
            rate = turns[name](size, number)
            if number:  # the first compiles, and warms up
                found.append(rate)
    for (size, name), found in rates.items():
        low, middle, high = statistics.quantiles(found, n=4)
        line = f"batch {size:2} {name:8}: {middle:5.0f} sequences/s  ({low:.0f} to {high:.0f}, best {max(found):.0f})"
        print(line + (f", {middle / PYTORCH_NTM[size]:.1f} times pytorch-ntm" if size in PYTORCH_NTM else ""))


if __name__ == "__main__":
    main()
