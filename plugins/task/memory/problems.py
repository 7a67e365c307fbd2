"""The five problems of the Neural Turing Machine's paper, drawn on the fly (Graves et al. 2014, arXiv:1410.5401, §4).

What the k-th random number of an example is depends on the seed, the example's index and k alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnbench.sampling import GAMMA, mix


class Batch(NamedTuple):
    """What is read and what is to be written, step by step.

    Attributes:
        inputs: [B, T, I].
        targets: [B, T, O], 0 or 1.
        mask: [B, T], True at the steps that are scored.
        group: [B], 0 for an example of the trained range, n for one of the n-th size that is tested by itself.
    """

    inputs: Float[Tensor, "B T I"]
    targets: Float[Tensor, "B T O"]
    mask: Bool[Tensor, "B T"]
    group: Int[Tensor, "B"]


class Size(NamedTuple):
    """How large an example is; `repeats` is 1 wherever nothing is repeated."""

    length: int
    repeats: int = 1

    def __str__(self) -> str:
        return str(self.length) if self.repeats == 1 else f"{self.length}x{self.repeats}"


def uniform(seed: int, indices: list[int], count: int) -> Float[Tensor, "B count"]:
    """Return the first `count` random numbers of each example, uniform between 0 and 1, in float64."""
    key = mix(np.array([seed], np.uint64) * GAMMA)
    rows = mix(key + np.array(indices, np.uint64)[:, None] * GAMMA)
    bits = mix(rows + np.arange(1, count + 1, dtype=np.uint64) * GAMMA) >> np.uint64(11)
    return torch.from_numpy((bits + 0.5) * 2.0**-53)


def _empty(examples: int, steps: int, inputs: int, outputs: int) -> Batch:
    return Batch(
        torch.zeros(examples, steps, inputs),
        torch.zeros(examples, steps, outputs),
        torch.zeros(examples, steps, dtype=torch.bool),
        torch.zeros(examples, dtype=torch.int64),
    )


class Problem(ABC):
    """What is to be learned.

    Attributes:
        inputs, outputs: channels read and written.
        low, high: the lengths to train on.
        least: the shortest there is.
        beyond: the sizes that are also tested each by itself.
    """

    inputs: ClassVar[int]
    outputs: ClassVar[int]
    low: ClassVar[int]
    high: ClassVar[int]
    least: ClassVar[int] = 1
    beyond: ClassVar[tuple[Size, ...]] = ()

    @classmethod
    def sizes(cls, low: int, high: int) -> list[Size]:
        """Return the sizes of the trained range."""
        return [Size(length) for length in range(low, high + 1)]

    @abstractmethod
    def draw(self, seed: int, indices: list[int], size: Size) -> Batch:
        """Draw the examples of these indices, all of one size."""


class Copy(Problem):
    """Read 8-bit vectors, then write them: vectors, an end mark, silence in which to write (§4.1).

    inputs   a b c | . . .
    targets          a b c
    """

    inputs, outputs, low, high = 9, 8, 1, 20
    beyond = tuple(map(Size, (10, 20, 30, 50, 80, 120)))

    def draw(self, seed: int, indices: list[int], size: Size) -> Batch:
        """Draw examples of 2 `length` + 1 steps."""
        length = size.length
        batch = _empty(len(indices), 2 * length + 1, self.inputs, self.outputs)
        vectors = (uniform(seed, indices, 8 * length) < 0.5).float().view(-1, length, 8)
        batch.inputs[:, :length, :8] = vectors
        batch.inputs[:, length, 8] = 1
        batch.targets[:, length + 1 :] = vectors
        batch.mask[:, length + 1 :] = True
        return batch


class RepeatCopy(Problem):
    """Read 8-bit vectors and how often to write them, write them so often, then an end mark (§4.2).

    inputs   a b |2 . . . . .
    targets         a b a b |

    The number of repeats stands on a channel of its own, scaled to mean 0 and variance 1 over 1..10.
    """

    inputs, outputs, low, high = 10, 9, 1, 10
    beyond = (Size(10, 10), Size(10, 20), Size(20, 10))
    MEAN, DEVIATION = 5.5, 8.25**0.5

    @classmethod
    def sizes(cls, low: int, high: int) -> list[Size]:
        """Lengths and repeats both take the trained range."""
        return [Size(length, repeats) for length in range(low, high + 1) for repeats in range(low, high + 1)]

    def draw(self, seed: int, indices: list[int], size: Size) -> Batch:
        """Draw examples of `length` + 1 + `length` x `repeats` + 1 steps."""
        length, repeats = size
        batch = _empty(len(indices), length * (repeats + 1) + 2, self.inputs, self.outputs)
        vectors = (uniform(seed, indices, 8 * length) < 0.5).float().view(-1, length, 8)
        batch.inputs[:, :length, :8] = vectors
        batch.inputs[:, length, 8] = 1
        batch.inputs[:, length, 9] = (repeats - self.MEAN) / self.DEVIATION
        batch.targets[:, length + 1 : -1, :8] = vectors.repeat(1, repeats, 1)
        batch.targets[:, -1, 8] = 1
        batch.mask[:, length + 1 :] = True
        return batch


class AssociativeRecall(Problem):
    """Read items, then one of them again, and write the item that came behind it (§4.3).

    inputs   :abc :def :ghi |def| . . .
    targets                       g h i

    An item is three 6-bit vectors behind a mark; the query stands between two marks of another channel.
    """

    inputs, outputs, low, high, least = 8, 6, 2, 6, 2
    beyond = tuple(map(Size, (6, 8, 10, 12, 15, 20)))

    def draw(self, seed: int, indices: list[int], size: Size) -> Batch:
        """Draw examples of 4 `length` + 8 steps."""
        items = size.length
        batch = _empty(len(indices), 4 * items + 8, self.inputs, self.outputs)
        noise = uniform(seed, indices, 1 + 18 * items)
        vectors = (noise[:, 1:] < 0.5).float().view(-1, items, 3, 6)
        queried = (noise[:, 0] * (items - 1)).long()
        examples = torch.arange(len(indices))
        listed = batch.inputs[:, : 4 * items].view(-1, items, 4, self.inputs)
        listed[:, :, 0, 6] = 1
        listed[:, :, 1:, :6] = vectors
        batch.inputs[:, (4 * items, 4 * items + 4), 7] = 1
        batch.inputs[:, 4 * items + 1 : 4 * items + 4, :6] = vectors[examples, queried]
        batch.targets[:, -3:] = vectors[examples, queried + 1]
        batch.mask[:, -3:] = True
        return batch


class NGrams(Problem):
    """Predict bits, each of which depends on the five before it (§4.4).

    inputs   1 0 0 1 1 0 1
    targets          0 1 1

    An example has a table of its own: for each of the 32 contexts the chance of a 1, drawn from Beta(1/2, 1/2). Its
    first five bits are fair coins and are not scored.
    """

    inputs, outputs, low, high, least = 1, 1, 200, 200, 6
    CONTEXT = 5

    def draw(self, seed: int, indices: list[int], size: Size) -> Batch:
        """Draw examples of `length` - 1 steps: each reads a bit, and predicts the next."""
        bits = self.bits(seed, indices, size.length)
        batch = _empty(len(indices), size.length - 1, 1, 1)
        batch.inputs[..., 0] = bits[:, :-1]
        batch.targets[..., 0] = bits[:, 1:]
        batch.mask[:, self.CONTEXT - 1 :] = True
        return batch

    def bits(self, seed: int, indices: list[int], length: int) -> Float[Tensor, "B length"]:
        """Draw the bits, one place after the other for all examples at once."""
        noise = uniform(seed, indices, 2**self.CONTEXT + length)
        table = torch.sin(noise[:, : 2**self.CONTEXT] * torch.pi / 2) ** 2  # Beta(1/2, 1/2): the arcsine law
        u = noise[:, 2**self.CONTEXT :]
        bits = u < 0.5
        context = torch.zeros(len(indices), 1, dtype=torch.int64)
        for place in range(length):
            if place >= self.CONTEXT:
                bits[:, place : place + 1] = u[:, place : place + 1] < table.gather(1, context)
            context = (2 * context + bits[:, place : place + 1]) % 2**self.CONTEXT
        return bits.float()


def bayes_bits(bits: Float[Tensor, "B L"], scored: Bool[Tensor, "B L"]) -> Float[Tensor, "B"]:
    """Return the bits of loss of the best estimator there is, over the scored places: from the sixth to the last.

    P(1 | context) = (N1 + 1/2) / (N0 + N1 + 1), N0 and N1 how often a 0 and a 1 followed it (Murphy 2012; §4.4).
    """
    counts = bits.new_zeros(len(bits), 2**NGrams.CONTEXT, 2)
    context = torch.zeros(len(bits), dtype=torch.int64, device=bits.device)
    examples, loss = torch.arange(len(bits), device=bits.device), bits.new_zeros(len(bits))
    for bit, counted in zip(bits.long().unbind(dim=1), scored.to(bits).unbind(dim=1), strict=True):
        seen = counts[examples, context]
        probability = (seen[examples, bit] + 0.5) / (seen.sum(dim=1) + 1)
        loss = loss - counted * probability.log2()
        counts[examples, context, bit] += counted
        context = (2 * context + bit) % 2**NGrams.CONTEXT
    return loss


class PrioritySort(Problem):
    """Read 8-bit vectors with priorities, then write those of the highest, the highest first (§4.5).

    inputs   a  b  c  d  e  | . . . .
             .3 -.8 .9 .1 -.2
    targets                   c a d e

    20 vectors, each with a priority between -1 and 1 on a channel of its own; 16 are to be written: four fifths.
    """

    inputs, outputs, low, high = 10, 8, 20, 20

    def draw(self, seed: int, indices: list[int], size: Size) -> Batch:
        """Draw examples of `length` + 1 + 4/5 `length` steps."""
        length, written = size.length, max(1, size.length * 4 // 5)
        batch = _empty(len(indices), length + 1 + written, self.inputs, self.outputs)
        noise = uniform(seed, indices, 9 * length)
        vectors = (noise[:, : 8 * length] < 0.5).float().view(-1, length, 8)
        priority = 2 * noise[:, 8 * length :] - 1
        batch.inputs[:, :length, :8] = vectors
        batch.inputs[:, :length, 9] = priority.float()
        batch.inputs[:, length, 8] = 1
        order = priority.argsort(dim=1, descending=True)[:, :written, None]
        batch.targets[:, length + 1 :] = vectors.gather(1, order.expand(-1, -1, 8))
        batch.mask[:, length + 1 :] = True
        return batch


PROBLEMS: dict[str, Problem] = {
    "copy": Copy(),
    "repeat_copy": RepeatCopy(),
    "associative_recall": AssociativeRecall(),
    "ngrams": NGrams(),
    "priority_sort": PrioritySort(),
}


def joined(batches: list[Batch]) -> Batch:
    """Return one batch of examples of several sizes, padded at the end: nothing is read or scored there."""
    steps = max(batch.inputs.shape[1] for batch in batches)
    padded = []
    for batch in batches:
        more = steps - batch.inputs.shape[1]
        wide = (0, 0, 0, more)
        padded.append(
            Batch(F.pad(batch.inputs, wide), F.pad(batch.targets, wide), F.pad(batch.mask, (0, more)), batch.group)
        )
    return Batch(*map(torch.cat, zip(*padded, strict=True)))
