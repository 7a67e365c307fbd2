"""More components that each break one law, each of another kind than those of broken.py."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from broken import Good
from torch import Tensor, nn

from attnbench import ScoringFunction
from attnbench.contract.harness import BilinearScore


class Reseeding(Good):
    """Its constructor seeds torch: all seeds of a run have the same draws from there on."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        torch.manual_seed(0)
        super().__init__(query_dim, key_dim, value_dim)


class Hasty(Good):
    """In training its queries are divided by their deviation over time, the future included."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        by = query.std(dim=1, keepdim=True) + 0.1 if self.training and query.shape[1] > 1 else 1.0
        return super().scores(query / by, key)


class Losing(Good):
    """A running mean of its keys is not saved."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.register_buffer("mean", torch.zeros(key_dim), persistent=False)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(key.detach().mean(dim=(0, 1)), 0.1)
        return super().scores(query, key - self.mean).square()


class Hoarding(Good):
    """Without gradients, scores of a key tensor that it has seen are taken from its memory, new weights or not."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().scores(query, key)
        if getattr(self, "seen", (None,))[0] is not key:
            self.seen = key, super().scores(query, key)
        return self.seen[1]


class Summing(Good):
    """A running mean of all values so far, whose sum `step` adds to in its place."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return 0.0 * super().scores(query, key)

    def step(self, query: Tensor, key: Tensor, value: Tensor, state: Any = None) -> Any:
        total, count = (value.clone(), torch.ones_like(value[..., :1])) if state is None else state
        if state is not None:
            total += value
            count += 1
        return total / count, (total, count)


class Redrawing(Good):
    """It draws in evaluation too."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query + torch.randn_like(query), key)


class Cutting(Good):
    """Of a width it takes the largest multiple of 16, where there is one."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        kept = torch.arange(key.shape[-1], device=key.device) < max(key.shape[-1] // 16, 1) * 16
        return super().scores(query, key * kept)


class Parting(Good):
    """It takes 16 examples at a time, and the mask of the first of them for all."""

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and len(scores) > 16:
            mask = torch.cat([mask[:16].expand(16, -1, -1), mask[: len(scores) - 16].expand(len(scores) - 16, -1, -1)])
        return super().weigh(scores, mask)


class Centring(Good):
    """In training the mean over the batch is taken from the queries."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query - query.mean(dim=0, keepdim=True) if self.training else query, key)


class Growing(Good):
    """Its `step` adds up in the number type of the values: bfloat16 counts to 256."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return 0.0 * super().scores(query, key)

    def step(self, query: Tensor, key: Tensor, value: Tensor, state: Any = None) -> Any:
        one = value.new_ones(len(value), 1, 1)
        total, count = (value, one) if state is None else (state[0] + value, state[1] + one)
        return total / count, (total, count)


class Counting(Good):
    """It divides by the number of keys so far, counted in the number type of its scores."""

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        allowed = torch.ones_like(scores) if mask is None else mask.to(scores.dtype).expand_as(scores)
        count = allowed.new_zeros(*allowed.shape[:2], 1)
        for part in allowed.split(1, dim=-1):
            count = count + part
        return allowed / count.clamp(min=1.0)


class Holding(Good):
    """Its `step` goes on from the state that it holds, whatever it is handed."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return 0.0 * super().scores(query, key)

    def step(self, query: Tensor, key: Tensor, value: Tensor, state: Any = None) -> Any:
        one = value.new_ones(len(value), 1, 1)
        self.state = (value, one) if state is None else (self.state[0] + value, self.state[1] + one)
        return self.state[0] / self.state[1], self.state


class Quiet(Good):
    """Its `step` puts it into evaluation, and leaves it there."""

    def step(self, *given: Any, **options: Any) -> Any:
        self.eval()
        return super().step(*given, **options)


class Turned(Good):
    """It goes by the places of queries, and does not say so."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        i, j = (torch.arange(x.shape[1], device=x.device) for x in (query, key))
        return super().scores(query, key) - 0.1 * (i.unsqueeze(-1) - j).abs().to(query.dtype)


class Sharing(Good):
    """The keys that it prepared last answer for all."""

    def prepare(self, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        self.prepared = super().prepare(key, value, mask)

        def ask(query: Tensor, **options: Any) -> Any:
            return self.prepared(query, **options)

        return ask


class Lazy(Good):
    """It makes a parameter when it is first called."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(query.new_ones(()))
        return self.scale * super().scores(query, key)


class Ticking(Good):
    """It counts its calls in a buffer, in evaluation too."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.register_buffer("calls", torch.zeros(()))

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        self.calls += 1
        return super().scores(query, key)


class Loose(Good):
    """Its features are a tensor, and no buffer."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.features = torch.randn(key_dim)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query, key * self.features.to(key))


class Tiled(torch.autograd.Function):
    """A product whose backward pass works on tiles of 64 keys, and keeps the last tile's gradient of the query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:
        ctx.save_for_backward(query, key)
        return query @ key.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key = ctx.saved_tensors
        last = (key.shape[1] - 1) // 64 * 64
        return grad[..., last:] @ key[:, last:], grad.mT @ query


class Tiling(Good):
    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return Tiled.apply(self.W(query), key)  # type: ignore[no-untyped-call,no-any-return]


class Fining(Good):
    """Its penalty is a sum over the batch."""

    def penalty(self, weights: Tensor) -> Tensor:
        return weights.square().sum()


class Adding(Good):
    """What is masked is lowered by 10,000: a score above that shines through."""

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return scores.softmax(-1)
        lowered = (scores - 1e4 * (~mask).to(scores.dtype)).softmax(-1)
        return lowered.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)


class Sinking(Good):
    """Its exponentials are scaled by the largest score of all, the future's too: those of the past may vanish."""

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        largest = scores.amax(dim=-1, keepdim=True).detach() if scores.shape[-1] else 0.0
        powers = (scores - largest).exp()
        powers = powers if mask is None else powers.masked_fill(~mask, 0.0)
        total = powers.sum(dim=-1, keepdim=True)
        return powers / total.masked_fill(total == 0, 1.0)


class Choosing(Good):
    """One choice of its option forgets the mask."""

    def __init__(
        self, query_dim: int, key_dim: int, value_dim: int, *, form: Literal["softmax", "relu"] = "softmax"
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.form = form

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if self.form == "softmax":
            return super().weigh(scores, mask)
        powers = scores.relu() + 1e-3
        return powers / powers.sum(dim=-1, keepdim=True)


class Near(BilinearScore):
    """It goes by places as it is told them, the same for all blocks."""

    positional = True
    excused: ClassVar[Mapping[str, str]] = {"permutation": "it goes by places"}

    def forward(self, query: Tensor, key: Tensor, query_places: Any = None, key_places: Any = None) -> Tensor:
        told = zip((query, key), (query_places, key_places), strict=True)
        i, j = (torch.arange(x.shape[-2], device=x.device) if p is None else p for x, p in told)
        i, j = (p.flatten(0, -2)[0] if p.dim() > 1 else p for p in (i, j))
        return super().forward(query, key) - 0.1 * (i.unsqueeze(-1) - j).abs().to(query.dtype)

    factor = ScoringFunction.factor  # type: ignore[assignment]


class First(Near):
    """Of keys that are prepared each query stands at place 0."""

    def prepare(self, key: Tensor) -> Any:
        return lambda query, query_places=None, key_places=None: self(query, key)


#: What each law must catch besides; where a word is said, its detail says it.
ALSO_BROKEN: tuple[tuple[str, type[Any], str], ...] = (
    ("seed", Reseeding, ""),
    ("later", Hasty, ""),
    ("state_dict", Losing, ""),
    ("state_dict", Hoarding, ""),
    ("decoding", Summing, ""),
    ("runs", Redrawing, "a second call in evaluation"),
    ("widths", Cutting, r"coordinates \[16, 17, 18, 19\] of a key change nothing"),
    ("examples", Parting, "B=33"),
    ("examples", Centring, "in training"),
    ("decoding", Growing, "in float32"),
    ("dtypes", Counting, "in float32"),
    ("decoding", Holding, "keep none in the module"),
    ("decoding", Quiet, "leaves the module in evaluation"),
    ("prefix", Turned, "say positional = True"),
    ("prepared", Sharing, "once other keys are prepared"),
    ("parameters", Lazy, "scale comes with the first call"),
    ("inputs_unwritten", Ticking, "calls is written to"),
    ("state_dict", Loose, "features: a tensor neither saved"),
    ("gradients", Tiling, "K=130"),
    ("penalty", Fining, "of a batch twice over"),
    ("masked_keys", Adding, ""),
    ("later", Sinking, ""),
    ("options", Choosing, "form=relu"),
)
ALSO_BROKEN_SCORES: tuple[tuple[str, type[Any], str], ...] = (
    ("places", Near, "two blocks"),
    ("places", First, "that are prepared"),
)
