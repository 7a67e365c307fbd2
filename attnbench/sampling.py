"""Random numbers of example i that are a function of (seed, i) alone: data made when asked for, the same everywhere.

No state is carried from one example to the next, so that order, batch size, workers and resumed runs change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

GAMMA = np.uint64(0x9E3779B97F4A7C15)
FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
STREAMS, EXAMPLES, NUMBERS = 6, 34, 24  # bits of a counter: which stream, which example, which of its numbers
MOST_SORTED = 256  # of how many items `choose` draws by sorting them all

Words = np.ndarray[Any, np.dtype[np.uint64]]


class Draws:
    """Random numbers for a batch of examples: row b is a function of the seed, the stream and index b alone.

    SplitMix64 (Steele, Lea, Flood 2014) in counter mode: number j of example i is mix(key(seed) + γ · counter), where
    the counter is made of the stream, i and j. The map is one to one, so that no two numbers of one seed are the same
    64 bits: streams (splits, slices) never overlap. Each call takes the next numbers of every row.

    Args:
        seed: of the data.
        indices: which examples; B of them, each at least 0 and below 2^34.
        stream: which of the seed's 64 separate streams: one for each split or slice.

    Raises ValueError when an index or a stream is out of range, or a row is asked for more than 2^24 numbers.
    """

    def __init__(self, seed: int, indices: Sequence[int], *, stream: int = 0) -> None:
        rows = np.asarray(indices, np.int64).reshape(-1)
        if not 0 <= stream < 1 << STREAMS or (len(rows) and not 0 <= rows.min() <= rows.max() < 1 << EXAMPLES):
            raise ValueError(f"a stream is in 0..63 and an index in 0..2^34 - 1, not {stream} and {rows.tolist()[:5]}")
        first = (stream << EXAMPLES | rows) << NUMBERS
        self.rows = first.view(np.uint64)[:, None] * GAMMA + np.uint64(mixed(seed))
        self.used = 0

    def __len__(self) -> int:
        return len(self.rows)

    def uniform(self, *shape: int) -> Float[Tensor, "B *shape"]:
        """Draw uniform numbers in (0, 1), float64: float32 would repeat itself."""
        count = math.prod(shape)
        if self.used + count > 1 << NUMBERS:
            raise ValueError(f"an example has at most 2^{NUMBERS} random numbers")
        counters = np.arange(self.used + 1, self.used + count + 1, dtype=np.uint64) * GAMMA
        self.used += count
        bits = mix(self.rows + counters) >> SHIFTS[3]
        return torch.from_numpy((bits.astype(np.float64) + 0.5) * 2.0**-53).view(len(self), *shape)

    def integers(self, high: int | Tensor, *shape: int) -> Int[Tensor, "B *shape"]:
        """Draw whole numbers in 0..high - 1; a tensor of bounds is broadcast against [B, *shape]."""
        return (self.uniform(*shape) * high).long()

    def bernoulli(self, p: float | Tensor, *shape: int) -> Bool[Tensor, "B *shape"]:
        """Draw True with probability p; a tensor of probabilities is broadcast against [B, *shape]."""
        return self.uniform(*shape) < p

    def categorical(self, probabilities: Float[Tensor, "*#B C"], *shape: int) -> Int[Tensor, "B *shape"]:
        """Draw 0..C - 1 with these probabilities, which need not be normalised: [C], or broadcast to [B, *shape, C]."""
        cumulative = probabilities.double().cumsum(dim=-1)
        aim = self.uniform(*shape) * cumulative[..., -1]
        if cumulative.dim() == 1:
            return torch.searchsorted(cumulative, aim, right=True).clamp(max=len(cumulative) - 1)
        return (aim.unsqueeze(-1) >= cumulative[..., :-1]).sum(dim=-1)

    def permutation(self, n: int) -> Int[Tensor, "B n"]:
        """Draw an order of 0..n - 1."""
        return self.uniform(n).argsort(dim=1)

    def choose(self, n: int, k: int) -> Int[Tensor, "B k"]:
        """Draw k different numbers of 0..n - 1, in random order.

        Raises:
            ValueError: there are not so many.
        """
        if not 0 <= k <= n:
            raise ValueError(f"{k} of {n} cannot be chosen without replacement")
        if n <= MOST_SORTED:
            return self.uniform(n).topk(k, dim=1).indices
        # Floyd's algorithm (Bentley, Floyd 1987): the cost is that of k numbers, not of n
        aims = (self.uniform(k) * torch.arange(n - k + 1, n + 1)).long().numpy()
        chosen = np.full_like(aims, -1)
        for i in range(k):
            repeated = (chosen[:, :i] == aims[:, i : i + 1]).any(axis=1)
            chosen[:, i] = np.where(repeated, n - k + i, aims[:, i])
        return torch.from_numpy(chosen).gather(1, self.permutation(k))


def numpy_generator(seed: int, index: int = 0) -> np.random.Generator:
    """Return a generator of NumPy, seeded by (seed, index)."""
    return np.random.default_rng([seed, index])


def mixed(number: int) -> int:
    """Return 64 bits that depend on each bit of a number, one to one (taken modulo 2^64)."""
    return int(mix(np.array([(number + 1) * int(GAMMA) % 2**64], np.uint64))[0])


def mix(x: Words) -> Words:
    """Return SplitMix64's output function of each element (variant 13 of Stafford's)."""
    x = (x ^ (x >> SHIFTS[0])) * FACTORS[0]
    x = (x ^ (x >> SHIFTS[1])) * FACTORS[1]
    mixed_x: Words = x ^ (x >> SHIFTS[2])
    return mixed_x
