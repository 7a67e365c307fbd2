"""What laws are tried with: plain mechanisms to combine with, and a component, made and called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from inspect import getfile
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.contract.cases import MASKS, SAID, SIZES, Case, Inputs, cases, mask_of
from attnbench.contract.requirements import DTYPES, Broken, Skipped, first_words, line_in, trying
from attnbench.errors import UsageError
from attnbench.interfaces import Attention, MakeScore, ScoringFunction, Task
from attnbench.kernels import attend, prepare
from attnbench.loading import Component
from attnbench.masking import causal_mask, hide_masked, masked_softmax
from attnbench.registry import Registry
from attnbench.schema import constructor_arguments, fill, node, takes_score
from attnbench.shapes import BKD, BKV, BQD, Look, Mask

Widths = tuple[int, int, int]
#: Widths of query, key and value that are tried, all different first.
WIDTHS: tuple[Widths, ...] = ((8, 12, 6), (8, 8, 6), (8, 8, 8), (64, 64, 64))
Law = Callable[["Subject"], str | None]


class PlainAttention(Attention):
    """The plainest attention, in which scoring functions are held to the laws."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: MakeScore) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.score = score(query_dim, key_dim)
        self.positional = self.score.positional

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, on a fused kernel where the scoring function factors and no weights are needed."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        context, weights = attend(self.score, query, key, value, mask, causal=causal, need_weights=need_weights)
        return context, None if weights is None else weights.unsqueeze(1)

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Prepare the keys' part of the scores."""
        key, value = hide_masked(None, key, value, mask, widths=self.widths)
        look = prepare(self.score, self.widths[0], key, value, mask)

        def ask(query: Tensor, *, need_weights: bool = True) -> tuple[Tensor, Tensor | None]:
            context, weights = look(query, need_weights=need_weights)
            return context, None if weights is None else weights.unsqueeze(1)

        return ask


class WeightlessAttention(Attention):
    """An attention without weights, to fill a host's slot: the mean."""

    has_weights = False

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return the mean of the values."""
        if need_weights:
            raise ValueError("there are no weights to return: call it with need_weights=False")
        key, value = hide_masked(query, key, value, mask, causal=causal)
        allowed = causal_mask(mask, query, causal)
        rows = 1 if allowed is None else allowed.shape[1]
        alike = masked_softmax(value.new_zeros(value.shape[0], rows, key.shape[1]), allowed)
        return (alike @ value).expand(-1, query.shape[1], -1), None


class ByPlace(Attention):
    """An attention that goes by places alone, to fill a host's slot: a query sees most of the key at its own place."""

    positional = True

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Attend by distance."""
        key, value = hide_masked(query, key, value, mask, causal=causal)
        i, j = (torch.arange(x.shape[1], device=x.device, dtype=query.dtype) for x in (query, key))
        scores = -(i.unsqueeze(-1) - j).abs().expand(len(query), -1, -1)
        weights = masked_softmax(scores, causal_mask(mask, query, causal))
        return weights @ value, weights.unsqueeze(1) if need_weights else None


class Recalling(Attention):
    """A recurrent attention, to fill the slot of a host that is stepwise: it moves away from its last weights."""

    recurrent = True

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)

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
        key, value = hide_masked(query, key, value, mask, causal=causal, previous=previous)
        before = query.new_zeros(query.shape[0], 1, key.shape[1]) if previous is None else previous[:, 0]
        weights = masked_softmax(-before, mask)
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
class Subject:
    """A component under the law.

    Attributes:
        component: the component.
        registry: what it is combined with.
        device: where.
        without: kinds of mask that it is excused from.
        only: kinds of mask that are tried; None for all.
        options: of the component; its defaults else.
    """

    component: Component
    registry: Registry
    device: str = "cpu"
    without: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The options as the constructor takes them; UsageError for one that there is not, or of a wrong type."""
        if not self.options:
            return {}
        name, kind, cls = self.component.name, self.component.kind, self.component.cls
        return constructor_arguments(fill(kind, node(name, cls), {"name": name, **self.options}), cls)

    @cached_property
    def cls(self) -> type[Attention]:
        """The attention class that is tried: the component's own, or the one that its scores are tried in."""
        return PlainAttention if self.component.kind == "scoring" else self.component.cls

    @cached_property
    def made(self) -> Any:
        """What says whether its weights are signed and what it is excused from: one made with its options.

        Its class where none can be made, and for a task, which would read its data.
        """
        if self.component.kind == "task":
            return self.component.cls
        try:
            with self.own_draws():
                module = self.make()
        except Exception:  # a law says so
            return self.component.cls
        return module.score if self.component.kind == "scoring" else module

    def own_draws(self) -> AbstractContextManager[None]:
        """Return what leaves torch's random state as it was."""
        devices = range(torch.cuda.device_count()) if self.device != "cpu" else ()
        return torch.random.fork_rng(devices)

    def seed(self, number: int) -> None:
        """Seed what torch draws: on a CPU its generator alone, without the call stacks that torch keeps for a GPU."""
        if self.device == "cpu":
            torch.default_generator.manual_seed(number)
        else:
            torch.manual_seed(number)

    @cached_property
    def takes_score(self) -> bool:
        """Whether the class is made with a scoring function."""
        return takes_score(self.cls)

    @property
    def signed(self) -> bool:
        """Whether its weights are no distributions; those of a scoring function, in a softmax, are."""
        return self.component.kind == "attention" and self.made.signed

    @property
    def prefix(self) -> bool:
        """Whether it takes padding and causality alone."""
        return self.cls.masks == "prefix"

    @property
    def file(self) -> str:
        """Where the class stands; "" for one of a notebook."""
        try:
            return getfile(self.component.cls)
        except (OSError, TypeError):
            return ""

    def cases(self, masks: Sequence[str] = MASKS, sizes: Sequence[tuple[int, int, int]] = SIZES) -> list[Case]:
        """Return the cases of these kinds of mask that the component is to hold in, the smallest first."""
        kinds = [m for m in masks if m not in self.without and (self.only is None or m in self.only)]
        if self.cls.recurrent:  # it is called with one query at a time, so that causality is spelled out for it
            kinds = [m for m in kinds if m not in SAID]
        if not self.prefix:
            return cases(kinds, sizes)
        square = [Case(c.B, c.K, c.K, c.mask) if c.mask == "causal" else c for c in cases(kinds, sizes)]
        return [c for c in dict.fromkeys(square) if c.mask != "random"]

    @cached_property
    def fitting(self) -> tuple[Widths, str]:
        """The first widths that it works with, and what is wrong with widths that its constructor took before."""
        refused, failed = "", ""
        for widths in WIDTHS:
            try:
                module = self.make(torch.float32, widths=widths)
            except (ValueError, UsageError) as error:
                refused = str(error)
                continue
            try:
                self.attend(module, self.inputs(Case(1, 1, 2, "none"), torch.float32, widths))
            except Exception as error:
                place = line_in(self.file, error)
                failed = failed or (
                    f"its constructor takes query_dim={widths[0]}, key_dim={widths[1]}, value_dim={widths[2]}, and "
                    f"called with those it fails: {first_words(error)}{place and f' ({place})'}; raise ValueError in "
                    "the constructor where widths do not fit"
                )
                last = error
            else:
                return widths, failed
        if failed:
            raise Broken(f"called at any widths it fails: {first_words(last)}") from last
        raise Broken(f"it takes none of the widths tried, the last 64, 64 and 64: {refused}")

    @property
    def widths(self) -> Widths:
        """Widths of query, key and value that the class takes, all different if it can."""
        return self.fitting[0]

    @cached_property
    def all_widths(self) -> list[Widths]:
        """Return `widths`, and all alike if it takes that: which kernel torch chooses depends on it."""
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

    @cached_property
    def lacking(self) -> list[str]:
        """Why the task's data cannot be prepared here, once that has been tried: a download is not tried again."""
        return []

    def prepared(self) -> Task:
        """Make the task anew and prepare its data."""
        if self.lacking:
            raise Skipped(self.lacking[0])
        task: Task = self.component.cls(**self.arguments)
        try:
            task.prepare()
        except (UsageError, OSError) as error:
            self.lacking.append(f"its data cannot be prepared here: {first_words(error)}")
            raise Skipped(self.lacking[0]) from error
        return task

    def construct(self, widths: Widths, score: MakeScore | None = None) -> Attention:
        """Make the module, with bilinear scores unless told others."""
        kind: Any = self.cls
        own = self.component.kind == "scoring"
        used: Any = self.component.cls if own else score or BilinearScore
        used = partial(used, **self.arguments) if own else used
        options = {} if own else self.arguments
        module: Attention = kind(*widths, used, **options) if self.takes_score else kind(*widths, **options)
        return module

    def make(
        self, dtype: torch.dtype = torch.float64, seed: int = 0, score: MakeScore | None = None, widths: Any = None
    ) -> Attention:
        """Make the module, in evaluation mode."""
        self.seed(seed)
        return self.construct(widths or self.widths, score).to(self.device, dtype).eval()

    def inputs(self, case: Case, dtype: torch.dtype = torch.float64, widths: Any = None) -> Inputs:
        """Make a case's inputs: the same each time, in every dtype."""
        self.seed(1)
        query, key, value = (
            torch.randn(case.B, length, width, dtype=torch.float64).to(self.device, dtype)
            for length, width in zip((case.Q, case.K, case.K), widths or self.widths, strict=True)
        )
        mask = mask_of(case, self.prefix)
        return Inputs(query, key, value, None if mask is None else mask.to(self.device), case.said)

    @cached_property
    def dtypes(self) -> list[torch.dtype]:
        """The number types that the component's operations exist in on this device; float32 is demanded."""
        existing, case = [], Case(1, 1, 2, "none")
        for dtype in DTYPES:
            with trying(f"{case} {dtype}"):
                try:
                    self.attend(self.make(dtype), self.inputs(case, dtype))
                except RuntimeError as error:  # NotImplementedError is one
                    if dtype is torch.float32 or "not implemented for" not in str(error):
                        raise
                else:
                    existing.append(dtype)
        return existing

    def attend(self, module: Attention, inputs: Inputs, need_weights: bool | None = None) -> tuple[Tensor, Any]:
        """Call the module: a recurrent one query by query; by default with weights, if it has any."""
        need_weights = self.cls.has_weights if need_weights is None else need_weights
        query, key, value, mask = inputs.query, inputs.key, inputs.value, inputs.mask
        if not self.cls.recurrent:
            if not inputs.causal:  # said only where it is so: what knows no causality is told that by one law
                return module(query, key, value, mask, need_weights=need_weights)
            return module(query, key, value, mask, causal=True, need_weights=need_weights)
        contexts, rows = [], []
        previous: Tensor | None = None
        for t in range(query.shape[1]):
            now, seen = query[:, t : t + 1], mask if mask is None or mask.shape[1] == 1 else mask[:, t : t + 1]
            context, weights = module(now, key, value, seen, previous=previous, need_weights=need_weights)
            if weights is None:
                _, previous = module(now, key, value, seen, previous=previous)
            else:
                previous = weights
                rows.append(weights)
            contexts.append(context)
        return torch.cat(contexts, dim=1), torch.cat(rows, dim=2) if rows else None

    @property
    def paths(self) -> tuple[bool, ...]:
        """The values of need_weights that the class answers to."""
        return (True, False) if self.cls.has_weights else (False,)


def derivatives(subject: Subject, module: Attention, inputs: Inputs, need_weights: bool | None = None) -> list[Tensor]:
    """Return the gradients of the sum of squares of the context: to query, key, value and the parameters."""
    return differentiated(subject, module, inputs, need_weights)[2]


def differentiated(
    subject: Subject,
    module: Attention,
    inputs: Inputs,
    need_weights: bool | None = None,
    call: Callable[..., tuple[Tensor, Any]] | None = None,
) -> tuple[Tensor, Any, list[Tensor]]:
    """Return the context, the weights and, as `derivatives`, the gradients, all of one call.

    The call is that of `subject.attend`, or of another such function, `call`.
    """
    tracked = inputs.tracked()
    context, weights = (call or subject.attend)(module, tracked, need_weights)
    leaves = [tracked.query, tracked.key, tracked.value, *module.parameters()]
    if not context.requires_grad:
        return context, weights, [torch.zeros_like(leaf) for leaf in leaves]
    grads = torch.autograd.grad(context.square().sum(), leaves, allow_unused=True)
    slopes = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)]
    return context, weights, slopes
