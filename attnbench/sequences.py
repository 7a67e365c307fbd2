"""Generated sequences of tokens as a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset

from attnbench.sampling import Draws

BLOCK = 1024  # examples that are drawn at once
NOWHERE = -1  # the truth of a place whose answer stands nowhere


class Sequences(NamedTuple):
    """What a generator returns; B sequences of L tokens.

    Attributes:
        tokens: what is read.
        targets: what is to be written at each place; any token where nothing is scored.
        scored: which places count, in training and in evaluation.
        truth: the place that holds each target, -1 where none does; None where the task does not know.
    """

    tokens: Int[Tensor, "B L"]
    targets: Int[Tensor, "B L"]
    scored: Bool[Tensor, "B L"]
    truth: Int[Tensor, "B L"] | None = None


class TokenBatch(NamedTuple):
    """Sequences as `Sequences` has them, padded behind with tokens 0; and of which slice each is, [B], 0 the task's."""

    tokens: Int[Tensor, "B L"]
    targets: Int[Tensor, "B L"]
    scored: Bool[Tensor, "B L"]
    truth: Int[Tensor, "B L"]
    slice: Int[Tensor, " B"]


class Generated(Dataset[TokenBatch]):
    """Examples made when asked for: `size` of each part, one part after the other.

    Neighbours are drawn in blocks, for less than batch by batch; an example is the same in any batch or block.

    Args:
        parts: what generates each: of a test, the task and its slices.
        size: how many examples of each.
        seed: of the draws.
        stream: of the first part's draws; the next part has the next.
    """

    def __init__(self, parts: Sequence[Callable[[Draws], Sequences]], size: int, *, seed: int, stream: int) -> None:
        self.parts, self.size, self.seed, self.stream = parts, size, seed, stream
        self.held: tuple[tuple[int, int], TokenBatch] | None = None  # the block drawn last: its part and number

    def __len__(self) -> int:
        return self.size * len(self.parts)

    def __getitem__(self, indices: list[int]) -> TokenBatch:
        numbers = [index // self.size for index in indices]
        if min(numbers) == max(numbers):
            return self._of(numbers[0], indices)
        places = {number: [i for i, n in enumerate(numbers) if n == number] for number in dict.fromkeys(numbers)}
        made = [self._of(number, [indices[i] for i in own]) for number, own in places.items()]
        longest = max(batch.tokens.shape[1] for batch in made)
        fields = zip(*(_padded(batch, longest) for batch in made), strict=True)
        order = torch.tensor([i for own in places.values() for i in own]).argsort()
        return TokenBatch(*(torch.cat(field)[order] for field in fields))

    def _of(self, number: int, indices: list[int]) -> TokenBatch:
        own = [index - number * self.size for index in indices]
        block, place = divmod(own[0], BLOCK)
        if place + len(own) <= BLOCK and own == list(range(own[0], own[0] + len(own))):
            if self.held is None or self.held[0] != (number, block):
                whole = range(block * BLOCK, min((block + 1) * BLOCK, self.size))
                self.held = (number, block), self._made(number, whole)
            return TokenBatch(*(field[place : place + len(own)] for field in self.held[1]))
        return self._made(number, own)

    def _made(self, number: int, own: Sequence[int]) -> TokenBatch:
        made = self.parts[number](Draws(self.seed, own, stream=self.stream + number))
        truth = torch.full_like(made.tokens, NOWHERE) if made.truth is None else made.truth
        return TokenBatch(made.tokens, made.targets, made.scored, truth, torch.full((len(own),), number))


def _padded(batch: TokenBatch, length: int) -> TokenBatch:
    behind = (0, length - batch.tokens.shape[1])
    tokens, targets = (F.pad(field, behind) for field in (batch.tokens, batch.targets))
    return TokenBatch(
        tokens, targets, F.pad(batch.scored, behind), F.pad(batch.truth, behind, value=NOWHERE), batch.slice
    )
