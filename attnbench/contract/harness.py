"""What laws are tried on, and with: a component, the cases that it is called in, what is required of its answers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from attnbench.errors import UsageError
from attnbench.interfaces import Attention, MakeScore, ScoringFunction, Task
from attnbench.kernels import attend
from attnbench.loading import Component
from attnbench.masking import hide_masked, masked_softmax
from attnbench.registry import Registry
from attnbench.schema import takes_score

Widths = tuple[int, int, int]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Of gradients by a GPU's fused kernels some differ by 3e-5 in float32.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.01}


class Broken(AssertionError):  # noqa: N818 (a law is broken; it says so)
    """A law does not hold; the message is the smallest failing case."""


class Skipped(Exception):  # noqa: N818
    """A law cannot be tried here; the message says why."""


Law = Callable[["Subject"], str | None]


def said(error: BaseException) -> str:
    """Give an error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def require(holds: object, otherwise: str) -> None:
    """Raise `Broken(otherwise)` unless it holds."""
    if not holds:
        raise Broken(otherwise)


@contextlib.contextmanager
def trying(where: object) -> Iterator[None]:
    """Name the case in what is raised within."""
    try:
        yield
    except Skipped:
        raise
    except Broken as broken:
        raise Broken(f"{where}: {broken}") from broken
    except Exception as error:
        raise Broken(f"{where}: {said(error)}") from error


class PlainAttention(Attention):
    """The plainest attention, in which scoring functions are held to the laws."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: MakeScore) -> None:
        super().__init__()
        self.score, self.out_dim = score(query_dim, key_dim), value_dim
        self.positional = self.score.positional

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        need_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, on a fused kernel where the scoring function factors and no weights are needed."""
        key, value = hide_masked(query, key, value, mask, causal=causal)
        context, weights = attend(self.score, query, key, value, mask, causal=causal, need_weights=need_weights)
        return context, None if weights is None else weights.unsqueeze(1)


class WeightlessAttention(Attention):
    """An attention without weights, to fill a host's slot: the mean."""

    has_weights = False

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.out_dim = value_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        need_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Give the mean of all values."""
        if need_weights:
            raise ValueError("there are no weights to give: call it with need_weights=False")
        return value.mean(dim=1, keepdim=True).expand(-1, query.shape[1], -1), None


class Recalling(Attention):
    """A recurrent attention, to fill the slot of a host that is stepwise: it looks away from where it looked."""

    recurrent = True

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.out_dim = value_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        need_weights: bool = True,
        previous: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend for one query."""
        if query.shape[1] != 1:
            raise ValueError(f"a recurrent mechanism takes one query at a time, not {query.shape[1]}")
        seen = query.new_zeros(query.shape[0], 1, key.shape[1]) if previous is None else previous[:, 0]
        weights = masked_softmax(-seen, mask)
        return weights @ value, weights.unsqueeze(1)


class BilinearScore(ScoringFunction):
    """A bilinear form, which factors: what attention modules are checked with."""

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(query_dim, key_dim) / math.sqrt(query_dim * key_dim) ** 0.5)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Score every query against every key."""
        return query @ self.W @ key.mT

    def factor(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """q' = Wᵀ q, k' = k."""
        return query @ self.W, key


@dataclass(frozen=True)
class Inputs:
    """What an attention module is called with."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None

    def allowed(self) -> Tensor:
        """Give the mask as [B, Q, K]."""
        B, Q, K = self.query.shape[0], self.query.shape[1], self.key.shape[1]
        if self.mask is None:
            return torch.ones(B, Q, K, dtype=torch.bool, device=self.query.device)
        return self.mask.expand(B, Q, K)

    def tracked(self) -> Inputs:
        """Copy, with gradients to be computed."""
        query, key, value = (x.detach().clone().requires_grad_() for x in (self.query, self.key, self.value))
        return Inputs(query, key, value, self.mask)


@dataclass(frozen=True)
class Case:
    """A shape and a kind of mask."""

    B: int
    Q: int
    K: int
    mask: str

    def __str__(self) -> str:
        return f"B={self.B} Q={self.Q} K={self.K} mask={self.mask}"


#: The smallest first, so that the first that fails is the smallest that fails.
SIZES = ((1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 3), (2, 3, 5), (3, 6, 4))
MASKS = ("none", "padding", "causal", "random")


def cases(masks: Sequence[str] = MASKS, sizes: Sequence[tuple[int, int, int]] = SIZES) -> list[Case]:
    """Give all cases of these masks, the smallest first."""
    return [Case(*size, mask) for size in sizes for mask in masks]


def _mask(case: Case) -> Tensor | None:
    """Make a case's mask; each row may attend something, except with mask=empty."""
    B, Q, K = case.B, case.Q, case.K
    if case.mask == "none":
        return None
    if case.mask == "padding":  # the last example is the shortest
        lengths = torch.tensor([max(1, K - b - (B == 1)) for b in range(B)])
        return (torch.arange(K) < lengths.unsqueeze(1)).unsqueeze(1)
    if case.mask == "causal":
        return torch.ones(Q, K, dtype=torch.bool).tril().expand(B, Q, K)
    random = torch.rand(B, Q, K) < 0.5
    if case.mask == "random":
        return random | F.one_hot(torch.randint(K, (B, Q)), K).bool()
    random[0, 0] = False
    random[-1] = False
    return random


@dataclass(frozen=True)
class Subject:
    """A component under the law."""

    component: Component
    registry: Registry
    device: str = "cpu"

    @cached_property
    def cls(self) -> type[Attention]:
        """The attention class that is tried: the component's own, or the one that its scores are tried in."""
        return PlainAttention if self.component.kind == "scoring" else self.component.cls

    @cached_property
    def widths(self) -> Widths:
        """Widths of query, key and value that the class takes, all different if it can."""
        refused: Exception | None = None
        for widths in ((8, 12, 6), (8, 8, 6), (8, 8, 8), (64, 64, 64)):
            try:
                self.construct(widths)
            except (ValueError, UsageError) as error:
                refused = error
            else:
                return widths
        raise Broken(f"it takes none of the widths tried, the last 64, 64 and 64: {refused}")

    @cached_property
    def all_widths(self) -> list[Widths]:
        """Give `widths`, and all alike if it takes that: which kernel torch chooses depends on it."""
        alike = (self.widths[0],) * 3
        try:
            self.construct(alike)
        except (ValueError, UsageError):
            return [self.widths]
        return [self.widths] if alike == self.widths else [self.widths, alike]

    @cached_property
    def task(self) -> Task:
        """The task, with its data prepared."""
        return self.prepared()

    def prepared(self) -> Task:
        """Make the task anew and prepare its data."""
        task: Task = self.component.cls()
        try:
            task.prepare()
        except (UsageError, OSError) as error:
            raise Skipped(f"its data cannot be prepared here: {said(error)}") from error
        return task

    def construct(self, widths: Widths, score: MakeScore | None = None) -> Attention:
        """Make the module, with scores of the form that factors unless others are given."""
        kind: Any = self.cls
        used = self.component.cls if self.component.kind == "scoring" else score or BilinearScore
        made: Attention = kind(*widths, used) if takes_score(kind) else kind(*widths)
        return made

    def make(
        self, dtype: torch.dtype = torch.float64, seed: int = 0, score: MakeScore | None = None, widths: Any = None
    ) -> Attention:
        """Make the module, in evaluation mode."""
        torch.manual_seed(seed)
        return self.construct(widths or self.widths, score).to(self.device, dtype).eval()

    def inputs(self, case: Case, dtype: torch.dtype = torch.float64, widths: Any = None) -> Inputs:
        """Make a case's inputs: the same each time, in every dtype."""
        torch.manual_seed(1)
        query, key, value = (
            torch.randn(case.B, length, width, dtype=torch.float64).to(self.device, dtype)
            for length, width in zip((case.Q, case.K, case.K), widths or self.widths, strict=True)
        )
        mask = _mask(case)
        return Inputs(query, key, value, None if mask is None else mask.to(self.device))

    def dtypes(self) -> list[torch.dtype]:
        """Give the number types that the component's operations exist in on this device; float32 is demanded."""
        found, case = [], Case(1, 1, 2, "none")
        for dtype in DTYPES:
            with trying(f"{case} {dtype}"):
                try:
                    self.attend(self.make(dtype), self.inputs(case, dtype))
                except (RuntimeError, NotImplementedError) as error:
                    if dtype is torch.float32 or "not implemented for" not in str(error):
                        raise
                else:
                    found.append(dtype)
        return found

    def attend(self, module: Attention, given: Inputs, need_weights: bool | None = None) -> tuple[Tensor, Any]:
        """Call the module: a recurrent one query by query; by default with weights, if it has any."""
        need_weights = self.cls.has_weights if need_weights is None else need_weights
        if not self.cls.recurrent:
            return module(given.query, given.key, given.value, given.mask, need_weights=need_weights)
        contexts, looked = [], []
        previous: Tensor | None = None
        for t in range(given.query.shape[1]):
            query = given.query[:, t : t + 1]
            mask = given.mask if given.mask is None or given.mask.shape[1] == 1 else given.mask[:, t : t + 1]
            context, weights = module(query, given.key, given.value, mask, previous=previous, need_weights=need_weights)
            if weights is None:
                _, previous = module(query, given.key, given.value, mask, previous=previous)
            else:
                previous = weights
                looked.append(weights)
            contexts.append(context)
        return torch.cat(contexts, dim=1), torch.cat(looked, dim=2) if looked else None

    def paths(self) -> tuple[bool, ...]:
        """Give the values of need_weights that the class answers to."""
        return (True, False) if self.cls.has_weights else (False,)


def differ(a: Tensor, b: Tensor, dtype: torch.dtype = torch.float64) -> str | None:
    """Say by how much two tensors differ, None where they are the same to rounding."""
    if a.shape != b.shape:
        return f"shapes {list(a.shape)} and {list(b.shape)}"
    a, b, tolerance = a.detach().double(), b.detach().double(), TOLERANCE[dtype]
    if torch.allclose(a, b, rtol=tolerance, atol=tolerance):
        return None
    return f"they differ by {float((a - b).abs().max()):.3g}"


def agree(a: Tensor, b: Tensor, what: str, dtype: torch.dtype = torch.float64) -> None:
    """Require that two tensors are the same to rounding."""
    if (how := differ(a, b, dtype)) is not None:
        raise Broken(f"{what}: {how}")


def derivatives(subject: Subject, module: Attention, given: Inputs, need_weights: bool | None = None) -> list[Tensor]:
    """Give the gradients of the sum of squares of the context: to query, key, value and the parameters."""
    tracked = given.tracked()
    context, _ = subject.attend(module, tracked, need_weights)
    leaves = [tracked.query, tracked.key, tracked.value, *module.parameters()]
    if not context.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(context.square().sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]


def finite(tensors: Iterable[Tensor], what: str) -> None:
    """Require that no number is NaN or infinite."""
    require(all(bool(tensor.isfinite().all()) for tensor in tensors), f"{what} is NaN or infinite")


def distribution(weights: Tensor, allowed: Tensor, dtype: torch.dtype) -> None:
    """Require of weights [B, H, Q, K] a distribution over the keys that are allowed [B, Q, K], or zeros."""
    weights = weights.detach()
    allowed = allowed.unsqueeze(1).expand(weights.shape)
    require(bool((weights >= 0).all()), f"a weight is {float(weights.min()):.3g}")
    outside = weights.masked_fill(allowed, 0.0)
    require(bool((outside == 0).all()), f"a masked key has weight {float(outside.max()):.3g}")
    total = weights.double().sum(dim=-1)
    error = (total - allowed.any(dim=-1).double()).abs().max()
    require(float(error) <= TOLERANCE[dtype], f"a row sums to one give or take {float(error):.3g}")
