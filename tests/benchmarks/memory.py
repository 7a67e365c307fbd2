"""Sequences a second in training, `task=memory` on copy: memory 128x20, controller of 100, one head each.

    python tests/benchmarks/memory.py

Lengths are drawn as in training, 1 to 20. The batch sizes take turns, so that the machine's changes of speed hit all
alike. Printed: for each batch size the median over the turns, its first and third quartile, and the best.
"""

import statistics
import time
from typing import Any

import torch

import attnbench

TURN, TURNS = 10, 12
BATCHES = (1, 4, 16, 32)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = attnbench.build("task", "memory")
    data = task.data("train")

    def attention(query_dim: int, key_dim: int, value_dim: int) -> Any:
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", "ntm", scoring="cosine", **widths)

    model = task.model(attention)
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

    rates: dict[int, list[float]] = {size: [] for size in BATCHES}
    for number in range(TURNS + 1):
        for size in BATCHES:
            rate = turn(size, number)
            if number:  # the first warms up
                rates[size].append(rate)
    for size, found in rates.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"batch {size:2}: {middle:5.0f} sequences/s  ({low:.0f} to {high:.0f}, best {max(found):.0f})")


if __name__ == "__main__":
    main()
