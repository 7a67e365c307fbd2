"""The contracts between the bench and what plugs into it: a scoring function, an attention module, a task.

*Before `*`, the framework supplies; after `*`, the user configures.* A component's keyword-only constructor
arguments, each typed and with a default, are its configuration: the words on the command line, in `--help`, in the
run folder. Shapes: B examples, Q queries, K keys, H heads, Dq, Dk and Dv the widths of a query, a key and a value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench.answers import AttentionMap, Prediction
from attnbench.shapes import BKD, BKV, BQD, Context, Keys, Look, Mask, Queries, ScoreMatrix, State

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from torch.utils.data import Dataset
    from torchmetrics import Metric

Split = Literal["train", "val", "test"]


class ScoringFunction(nn.Module, ABC):
    """How well a query and a key match: `__init__(query_dim, key_dim, *, options...)`.

    A constructor raises ValueError when it cannot take these widths, and says which it could take.
    """

    #: True for a function that goes by places: `forward` and `factor` also take `query_places` and `key_places`,
    #: Int tensors [*, Q] and [*, K] whose leading dimensions broadcast; None means 0, 1, ..., so that
    #: `score(query, key)` is right wherever query i stands at place i and key j at place j.
    positional: bool = False
    #: Laws that it does not obey, each with the reason: {"permutation": "order is the point"}. An excuse may name a
    #: kind of mask, {"masked_keys:random": "..."}: the law is then tried on the others. Set in the constructor where
    #: that depends on the options.
    excused: Mapping[str, str] = {}

    @abstractmethod
    def forward(self, query: Queries, key: Keys) -> ScoreMatrix:
        """Score every query against every key. The leading dimensions broadcast."""

    def factor(
        self, query: Queries, key: Keys
    ) -> tuple[Float[Tensor, "*#batch Q D"], Float[Tensor, "*#batch K D"]] | None:
        """Return (q', k') with score = q'·k', so that a fused kernel can be used; None where there is no such pair.

        q' is made of the query alone, k' of the keys alone. A term of the query alone may be left out of the product:
        it is the same for all keys, and softmax cancels it.
        """
        return None

    def prepare(self, key: Keys) -> Callable[..., Tensor]:
        """Return `forward` with these keys: a function of the query, and of places where the function goes by them.

        What is of keys alone is done once. This one does nothing ahead; a function that projects its keys overrides it.
        """
        return partial(self, key=key)

    def kernel(self, name: str) -> Mapping[str, Any] | None:
        """Return the parameters for a compiled kernel called `name` that computes exactly this class's forward.

        None where there is none. A subclass inherits no offer: an override checks `type(self)`.
        """
        return None

    if TYPE_CHECKING:  # nn.Module.__call__ hides forward's types from a type checker

        def __call__(
            self,
            query: Tensor,
            key: Tensor,
            query_places: Tensor | None = None,
            key_places: Tensor | None = None,
        ) -> Tensor:
            """Call `forward`; places are for a positional function."""


@runtime_checkable
class MakeScore(Protocol):
    """Makes the chosen scoring function for given widths. A scoring class is one: `Soft(8, 8, 8, Dot)`."""

    def __call__(self, query_dim: int, key_dim: int) -> ScoringFunction:
        """Make it; raises ValueError when it cannot take these widths."""


class Attention(nn.Module, ABC):
    """Where to look, and what is seen there: `__init__(query_dim, key_dim, value_dim, score, *, options...)`.

    The widths are those of a query, a key and a value. `score` (a `MakeScore`) makes the scoring function; it is left
    out of the signature by a mechanism that uses none. A constructor hands the widths to this one, sets `out_dim`, the
    width of the context, where that is not a value's, and raises ValueError when it cannot take these widths.
    """

    #: True for a mechanism that moves from its last weights: it is called one query at a time, and its `forward`
    #: also takes `previous`, the weights that it returned at the last call, None at the first.
    recurrent: ClassVar[bool] = False
    #: True for a mechanism that goes by the place of a query among the queries (set in the constructor where that
    #: depends on the scoring function): a host that asks one query after the other hands it all of them so far.
    positional: bool = False
    #: False for a mechanism that does not look at keys one against the other: it has no weights to return, and raises
    #: ValueError when asked for them.
    has_weights: ClassVar[bool] = True
    #: True for a baseline, that what attention buys is measured against.
    baseline: ClassVar[bool] = False
    #: "prefix" for a mechanism whose state runs along the keys: it takes padding, the same row for all queries, and
    #: causality, and raises ValueError for any other mask.
    masks: ClassVar[Literal["any", "prefix"]] = "any"
    #: True for a mechanism whose weights are a mixing matrix: context = weights · value, yet a weight may be negative
    #: and a row need not sum to one. Set in the constructor where that depends on the options.
    signed: bool = False
    #: Laws that it does not obey, as of a scoring function.
    excused: Mapping[str, str] = {}

    out_dim: int
    #: The widths of query, key and value, where the constructor keeps them: `hide_masked` then holds inputs to them.
    widths: tuple[int, int, int]

    def __init__(self, *widths: int) -> None:
        super().__init__()
        if widths:
            query_dim, key_dim, value_dim = widths
            self.widths, self.out_dim = (query_dim, key_dim, value_dim), value_dim

    @abstractmethod
    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dout"], Float[Tensor, "B H Q K"] | None]:
        """Return the context and the weights, [B, H, Q, K], head by head.

        `mask` is True where a query may attend; with `causal=True` query i sees keys up to i, and Q = K. Both may be
        set. A row that may attend nothing is zeros, never NaN. With `need_weights=False` the weights are None, and a
        fused kernel may be used; the context is the same.

        Raises ValueError or TypeError in one line where the inputs do not fit together: `hide_masked` does.
        """

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Return `forward` with these keys and values, for a host that asks one query after the other.

        It is a function of `query`, `need_weights` and, if recurrent, `previous`; what is of keys and values alone is
        done once. This one does nothing ahead; a mechanism that projects its keys overrides it. `mask`, [B, 1, K], is
        the same for every query.
        """
        return partial(self, key=key, value=value, mask=mask)

    def state_size(self, length: int) -> int | None:
        """Return how many numbers per example `step` holds after `length` tokens; None where the class does not say.

        A class that keeps the `step` below, and its widths, need not say: it holds keys and values, and queries where
        it goes by places.
        """
        if not hasattr(self, "widths") or self.recurrent or type(self).step is not Attention.step:
            return None
        return length * sum(self.widths if self.positional else self.widths[1:])

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Decode one token: the last row of `forward(..., causal=True)` over all tokens so far, and the new state.

        `state` is what the last call returned, None at the first token: tensors whose first dimension is B. This one
        keeps every key and value (and query, where the mechanism goes by places) and calls `forward`; a mechanism with
        a running state overrides it.
        """
        token = (query, key, value) if self.positional else (key, value)
        tokens = append(state, *token)
        if self.recurrent:
            previous = None if state is None else F.pad(state[len(token)], (0, 1))
            context, weights = self(query, *tokens, previous=previous)
            assert weights is not None  # a recurrent mechanism moves from its weights, so that it has them
            return context, (*tokens, weights)
        if self.positional:
            return self(*tokens, causal=True, need_weights=False)[0][:, -1:], tokens
        return self(query, *tokens, need_weights=False)[0], tokens

    def penalty(self, weights: Float[Tensor, "B H Q K"]) -> Float[Tensor, ""] | None:
        """Return what these weights add to the training loss, a mean over the batch; None where they add nothing.

        Of a host's calls in a step, query after query as it may be, the mean counts.
        """
        return None

    @property
    def penalized(self) -> bool:
        """Whether there is a penalty: then this module is asked for its weights at each training step, in any task.

        True for a class that overrides `penalty`; one whose options may switch it off overrides this too.
        """
        return type(self).penalty is not Attention.penalty

    def kernel(self, name: str) -> Mapping[str, Any] | None:
        """Return the parameters for a compiled kernel called `name` that computes exactly this class's forward.

        None where there is none. A subclass inherits no offer: an override checks `type(self)`.
        """
        return None

    if TYPE_CHECKING:  # nn.Module.__call__ hides forward's types from a type checker

        def __call__(
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
            """Call `forward`; `previous` is for a recurrent mechanism."""


def append(state: tuple[Tensor, ...] | None, *token: Tensor) -> tuple[Tensor, ...]:
    """Append a token's tensors, [B, 1, width] each, to those that a `step` holds, [B, length, width]."""
    return token if state is None else tuple(torch.cat(pair, dim=1) for pair in zip(state, token, strict=False))


@runtime_checkable
class MakeAttention(Protocol):
    """Makes the chosen attention module for given widths: what a task's host fills its slot with."""

    def __call__(self, query_dim: int, key_dim: int, value_dim: int) -> Attention:
        """Make it; raises ValueError when it cannot take these widths."""


class Published(NamedTuple):
    """A number that others have measured on a task.

    Attributes:
        number: with its unit: "accuracy .79".
        source: authors, year, arXiv number, table.
        setting: of what mechanism, at which sizes.
        differs: what is different there.
    """

    number: str
    source: str
    setting: str
    differs: str


class Task(ABC):
    """Something to be solved with attention: data, a host model with a slot, metrics: `__init__(*, options...)`.

    A batch is a tuple of tensors whose first dimension is B (a NamedTuple reads best), and of lists of B strings, or of
    what else is no tensor.
    """

    #: What the task overrides in the run's config, as Hydra writes it: {"optimizer": {"lr": 1e-3}}, and under
    #: "defaults" what it chooses, [{"override /attention": "multihead"}]. The command line wins over it.
    recipe: ClassVar[Mapping[str, Any]] = {}
    #: The metric that chooses the checkpoint, a key of `metrics()`; whether more of it is better; and the value at
    #: which nothing is left to gain, so that training may stop.
    primary: str
    mode: ClassVar[Literal["max", "min"]] = "max"
    goal: ClassVar[float] = 1.0
    #: The primary metric's value by chance, or of a control without attention; None where it is not known.
    floor: float | None = None
    #: What others have measured on this task.
    published: ClassVar[tuple[Published, ...]] = ()
    #: True if the host calls attention one query at a time when it is recurrent, and hands it `previous`.
    stepwise: ClassVar[bool] = False
    #: True if training examples are drawn anew for every step: step s holds examples s·B to (s+1)·B - 1, in order, and
    #: trainer.max_steps says where it ends. The training split then needs no length.
    fresh: bool = False
    #: The run's seed, set before `restore` and `prepare`: a task may draw its training data from it.
    seed: int = 0
    #: Whether the host's embeddings may have sparse gradients, set before `model`: several GPUs cannot exchange them.
    sparse: bool = True
    #: Laws that this class does not obey, each with the reason: {"permutation": "order is the point"}.
    excused: ClassVar[Mapping[str, str]] = {}

    def prepare(self) -> None:  # noqa: B027 (nothing to prepare is the usual case)
        """Fetch and prepare what `data` reads. Called once on each machine, before anything else but `restore`."""

    def save(self, folder: Path) -> None:  # noqa: B027
        """Write what the weights mean nothing without, a vocabulary, into the run folder. Called after `prepare`."""

    def restore(self, folder: Path) -> None:  # noqa: B027
        """Read what `save` wrote. Called before `prepare` and `model` when a run is resumed, evaluated or used.

        Raises:
            UsageError: it cannot be read.
        """

    @abstractmethod
    def data(self, split: Split) -> Dataset[Any]:
        """Return a split: it has a length, and `data[[3, 1, 4]]` is the batch of those examples.

        `torch.utils.data.TensorDataset` is such a thing. Validation is never test data.
        """

    def question(self, batch: Any) -> Any:
        """Return what is asked of each example, without its answer, as a batch: no question stands in two splits."""
        return batch

    def lengths(self, split: Split) -> Tensor | None:
        """Return the length of each example, [N], where examples of one length belong in a batch; else None.

        The first batch of an evaluation stays as it is: its examples are those that are pictured.
        """
        return None

    @abstractmethod
    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the host, its slot filled by `make_attention(query_dim, key_dim, value_dim)`.

        Raises:
            ValueError: these options, or this attention, do not fit: what the user is told, in a line.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Float[Tensor, ""]:
        """Return the training loss, a mean over the batch's examples, or over its `terms`."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Return new, empty metrics by name; Lightning moves them and sums them over processes.

        One whose value is not a single number is not logged: it is for `figures`.
        """

    def terms(self, batch: Any) -> int | None:
        """Return how many terms the loss of a batch is the mean of, words say, where they are not its examples.

        The loss of a split is then the mean over all of its words, whatever the batches.
        """
        return None

    def decode(self, model: nn.Module, batch: Any) -> Any:
        """Return the batch with what the model writes for it, which `evaluate`, `maps` and `texts` share.

        Each of them is handed the batch as it is here, or as it was: a validation decodes once, and who calls one of
        them alone need not. What is added to a batch has B as its first dimension, too.
        """
        return batch

    @abstractmethod
    def evaluate(self, model: nn.Module, batch: Any, metrics: Mapping[str, Metric]) -> Float[Tensor, ""]:
        """Update the metrics with a validation or test batch; return its loss, a mean over the batch."""

    def maps(self, model: nn.Module, batch: Any) -> list[AttentionMap]:
        """Return the attention weights of each example of the batch, to be drawn."""
        return []

    def images(self, model: nn.Module) -> Mapping[str, Figure]:
        """Draw what the model makes of examples of the task's own choice: pictures by tag.

        They are written to TensorBoard at each validation. The model is on its device, and gradients are off.
        """
        return {}

    def texts(self, model: nn.Module, batch: Any) -> list[str]:
        """Say in a line what the model makes of each example of the batch."""
        return []

    def figures(self, values: Mapping[str, Any]) -> Mapping[str, Figure]:
        """Draw the test's metrics, given their values by name: pictures `test/<name>` in TensorBoard."""
        return {}

    def predict(self, model: nn.Module, text: str) -> Prediction:
        """Answer for one text of the user's own, without data: `restore` was called, `prepare` was not.

        Raises:
            NotImplementedError: the task has no answers for texts.
        """
        raise NotImplementedError
