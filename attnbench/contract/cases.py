"""The cases that a component is called in: sizes, kinds of mask, inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """What an attention module is called with."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    causal: bool = False

    def allowed(self) -> Tensor:
        """Return who sees what as [B, Q, K], causality spelled out."""
        B, Q, K = self.query.shape[0], self.query.shape[1], self.key.shape[1]
        whole = torch.ones(B, Q, K, dtype=torch.bool, device=self.query.device)
        seen = whole if self.mask is None else self.mask.expand(B, Q, K)
        return seen.tril() if self.causal else seen

    def spelled(self) -> Inputs:
        """Return the same with a mask [B, Q, K] in place of what says the same in fewer numbers."""
        return replace(self, mask=self.allowed(), causal=False)

    def first(self, count: int) -> Inputs:
        """Return the first tokens alone, queries and keys."""
        query, key, value = (x[:, :count] for x in (self.query, self.key, self.value))
        mask = None if self.mask is None else self.mask[:, :count, :count]
        return Inputs(query, key, value, mask, self.causal)

    def tracked(self) -> Inputs:
        """Copy, with gradients to be computed."""
        query, key, value = (x.detach().clone().requires_grad_() for x in (self.query, self.key, self.value))
        return Inputs(query, key, value, self.mask, self.causal)


def one_batch(several: Sequence[Inputs]) -> Inputs:
    """Return inputs of the same lengths, one after the other in a batch."""
    masks = [inputs.mask for inputs in several if inputs.mask is not None]
    query, key, value = (torch.cat(parts) for parts in zip(*((x.query, x.key, x.value) for x in several), strict=True))
    return Inputs(query, key, value, torch.cat(masks) if masks else None, several[0].causal)


@dataclass(frozen=True)
class Case:
    """A shape and a kind of mask, of `KINDS`."""

    B: int
    Q: int
    K: int
    mask: str

    def __str__(self) -> str:
        return f"B={self.B} Q={self.Q} K={self.K} mask={self.mask}"

    @property
    def said(self) -> bool:
        """Whether causality is said, by causal=True, and not spelled out in the mask."""
        return self.mask.startswith("causal=True")


#: The smallest first, so that the first that fails is the smallest that fails.
SIZES = ((1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 3), (2, 3, 5), (3, 6, 4))
MASKS = ("none", "padding", "causal", "random")
#: Causality said with causal=True, alone, with padding, and with padding in which early queries see nothing.
SAID = ("causal=True", "causal=True+padding", "causal=True+empty")
KINDS = (*MASKS, "empty", *SAID)
#: Lengths within, at and across the chunks of what goes through a sequence in chunks of 16 or 64.
LENGTHS = (1, 17, 65, 130)


def cases(masks: Sequence[str] = MASKS, sizes: Sequence[tuple[int, int, int]] = SIZES) -> list[Case]:
    """Return all cases of these kinds of mask, the smallest first."""
    every = [Case(*size, mask) for size in sizes for mask in masks]
    return list(dict.fromkeys(replace(case, Q=case.K) if case.said else case for case in every))


def mask_of(case: Case, prefix: bool = False) -> Tensor | None:
    """Make a case's mask; each row may attend something, except where the kind is empty.

    Args:
        case: the sizes and the kind.
        prefix: what is empty is empty for all queries of an example, as a state along the keys takes it.
    """
    B, Q, K = case.B, case.Q, case.K
    if case.mask in ("none", "causal=True"):
        return None
    if case.mask.endswith("padding"):  # the last example is the shortest
        lengths = torch.tensor([max(1, K - b - (B == 1)) for b in range(B)])
        return (torch.arange(K) < lengths.unsqueeze(1)).unsqueeze(1)
    if case.mask == "causal":
        return torch.ones(Q, K, dtype=torch.bool).tril().expand(B, Q, K)
    random = torch.rand(B, Q, K) < 0.5
    if case.mask == "random":
        return random | F.one_hot(torch.randint(K, (B, Q)), K).bool()
    if prefix or case.said:
        random = random[:, :1].clone()
        random[..., 0] = False
    random[0, 0] = False
    random[-1] = False
    return random
