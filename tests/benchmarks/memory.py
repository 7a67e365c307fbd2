"""Sequences a second in training, `task=memory` on copy: memory 128x20, controller of 100, one head each.

    python tests/benchmarks/memory.py [BATCH ...]

Ours, by its modules and in C, and a plain machine take turns at each batch size, on the same
batches, so that the machine's changes of speed hit all alike. Lengths are drawn as in training, 1 to 20. Printed: of
each the median over the turns, and for ours the ratio to the plain machine turn by turn: median and quartiles.

The plain machine does what github.com/loudinthecloud/pytorch-ntm does, operation by operation: an `nn.LSTM` fed one
step at a time, `cosine_similarity`, shifts as one `conv1d` an example, outer products to erase and add, a loss of
probabilities, RMSprop.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import attnbench

TURN, TURNS, WARM_UP = 6, 12, 1
BATCHES = (1, 4, 16, 32)
ROWS, WIDTH, HIDDEN = 128, 20, 100


class PlainHead(nn.Module):
    """Content, gate, shift, sharpen; of a write head also erase and add."""

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.parts = [WIDTH, 1, 1, 3, 1] + [WIDTH, WIDTH] * writes
        self.project = nn.Linear(HIDDEN, sum(self.parts))

    def forward(self, h: Tensor, memory: Tensor, before: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the weights, and what to erase and add."""
        key, beta, g, s, gamma, *change = self.project(h).split(self.parts, dim=1)
        similarity = F.cosine_similarity(memory + 1e-16, key.unsqueeze(1) + 1e-16, dim=-1)
        content = torch.softmax(F.softplus(beta) * similarity, dim=1)
        g, s, gamma = torch.sigmoid(g), torch.softmax(s, dim=1), 1 + F.softplus(gamma)
        gated = g * content + (1 - g) * before
        shifted = torch.zeros_like(gated)
        for number, (row, by) in enumerate(zip(gated, s, strict=True)):
            ring = torch.cat([row[-1:], row, row[:1]])
            shifted[number] = F.conv1d(ring.view(1, 1, -1), by.view(1, 1, -1)).view(-1)
        sharp = shifted**gamma
        return sharp / (sharp.sum(dim=1, keepdim=True) + 1e-16), change


class Plain(nn.Module):
    """The textbook's machine."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(9 + WIDTH, HIDDEN)
        self.start = nn.Parameter(0.05 * torch.randn(2, 1, 1, HIDDEN))
        self.reader, self.writer = PlainHead(writes=False), PlainHead(writes=True)
        self.out = nn.Linear(HIDDEN + WIDTH, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the probability of each bit."""
        batch = len(inputs)
        memory = torch.empty(ROWS, WIDTH).uniform_(-0.1, 0.1).repeat(batch, 1, 1)
        read, state = torch.zeros(batch, WIDTH), tuple(part.repeat(1, batch, 1) for part in self.start)
        reading = writing = torch.zeros(batch, ROWS)
        written = []
        for x in inputs.unbind(dim=1):
            h, state = self.lstm(torch.cat([x, read], dim=1).unsqueeze(0), state)
            h = h.squeeze(0)
            reading, _ = self.reader(h, memory, reading)
            read = torch.matmul(reading.unsqueeze(1), memory).squeeze(1)
            writing, (erase, add) = self.writer(h, memory, writing)
            places = writing.unsqueeze(-1)
            erased = torch.matmul(places, torch.sigmoid(erase).unsqueeze(1))
            memory = memory * (1 - erased) + torch.matmul(places, add.unsqueeze(1))
            written.append(torch.sigmoid(self.out(torch.cat([h, read], dim=1))))
        return torch.stack(written, dim=1)


def attention(query_dim: int, key_dim: int, value_dim: int) -> Any:
    """Fill a head's slot."""
    widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
    return attnbench.build("attention", "ntm", scoring="cosine", **widths)


def ours(compiled: bool) -> Callable[[Any], None]:
    """Return a training step."""
    task = attnbench.build("task", "memory", compile=compiled)
    model = task.model(attention)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def plain() -> Callable[[Any], None]:
    """Return a training step of the plain machine."""
    model = Plain()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4, momentum=0.9, alpha=0.95)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        F.binary_cross_entropy(model(batch.inputs)[batch.mask], batch.targets[batch.mask]).backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = attnbench.build("task", "memory").data("train")
    for size in map(int, sys.argv[1:] or BATCHES):
        steps = {"plain": plain(), "modules": ours(compiled=False), "C": ours(compiled=True)}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(WARM_UP + TURNS):
            numbers = range(turn * TURN, (turn + 1) * TURN)
            batches = [data[list(range(number * size, (number + 1) * size))] for number in numbers]
            for name, step in steps.items():
                start = time.perf_counter()
                for batch in batches:
                    step(batch)
                times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            rate = TURN * size / statistics.median(seconds[WARM_UP:])
            ratios = [slow / fast for slow, fast in zip(times["plain"], seconds, strict=True)][WARM_UP:]
            low, middle, high = statistics.quantiles(ratios, n=4)
            line = f"batch {size:2} {name:8}: {rate:5.0f} sequences/s"
            print(line + (f", {middle:.1f} times plain ({low:.1f} to {high:.1f})" if name != "plain" else ""))


if __name__ == "__main__":
    main()
