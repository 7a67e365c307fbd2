"""Components that each break one law of attention modules, and good ones that break none."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnbench import Attention, ScoringFunction, causal_mask, hide_masked, masked_softmax
from attnbench.contract.harness import BilinearScore


class Good(Attention):
    """A weighted mean that obeys every law; each broken component below differs from it in one thing."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.widths = query_dim, key_dim, value_dim
        self.W = nn.Linear(query_dim, key_dim, bias=False)
        self.out_dim = value_dim

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return self.W(query) @ key.mT

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        return masked_softmax(scores, mask)

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        mask = causal_mask(mask, query, causal)
        weights = self.weigh(self.scores(query, key), mask)
        return self.mix(weights, value, query), weights.unsqueeze(1) if need_weights else None

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return weights @ value


class Undeclared(Good):
    excused: ClassVar[Mapping[str, str]] = {"gravity": "it floats"}


class Unnamed(Good):
    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        if query_dim > 64:
            raise ValueError("these widths do not fit")
        super().__init__(query_dim, key_dim, value_dim)


class Squeezed(Good):
    def forward(self, *given, **options):  # type: ignore[no-untyped-def]
        context, weights = super().forward(*given, **options)
        return context, None if weights is None else weights.squeeze(1)


class Unnormalised(Good):
    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        return 0.9 * masked_softmax(scores, mask)


class D2l(Good):
    """The masked softmax of "Dive into Deep Learning": no float16 holds -1e6, and an empty row attends all alike."""

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        return scores.softmax(-1) if mask is None else scores.masked_fill(~mask, -1e6).softmax(-1)


class Strict(Good):
    """It meets what was computed in one number type with what comes in another."""

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return torch.lerp(super().mix(weights, value, query), torch.zeros_like(value[:, :1]), 0.1)


class Unmasked(Good):
    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        return super().forward(query, key, value, None, need_weights=need_weights)


class Unhidden(Good):
    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        weights = self.weigh(self.scores(query, key), mask)
        return weights @ value, weights.unsqueeze(1) if need_weights else None


class Counting(Good):
    """It divides by the number of keys, padding included."""

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return weights @ value / value.shape[1]


class Ordered(Good):
    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query, key) + torch.arange(key.shape[1], device=key.device)


class Batched(Good):
    """It takes the mean over the batch from the queries."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query - query.mean(dim=0, keepdim=True), key)


class Ahead(Good):
    """What it returns depends on the mean of all queries."""

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return (weights @ value) * query.mean(dim=(1, 2), keepdim=True)


class Silent(Good):
    def forward(self, *given, **options):  # type: ignore[no-untyped-def]
        return super().forward(*given, **options)[0], None


class Forked(Good):
    """The path without weights forgets something."""

    def forward(self, *given, need_weights=True, **options):  # type: ignore[no-untyped-def]
        context, weights = super().forward(*given, **options)
        return (context, weights) if need_weights else (1.01 * context, None)


class Detached(Good):
    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query, key.detach())


class Idle(Good):
    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.unused = nn.Parameter(torch.ones(3))


class Overwriting(Good):
    def forward(self, query, *given, **options):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            query += 1
        return super().forward(query, *given, **options)


class Overflowing(Good):
    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        powers = scores.exp() if mask is None else scores.exp() * mask
        total = powers.sum(dim=-1, keepdim=True)
        return powers / total.masked_fill(total == 0, 1.0)


class Lenient(Good):
    def forward(self, query, key, value, mask=None, **options):  # type: ignore[no-untyped-def]
        return super().forward(query, key, value, None if mask is None else mask != 0, **options)


class Chancy(Good):
    calls = 0

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        Chancy.calls += 1
        return super().scores(query, key) * Chancy.calls


class Forgetful(Good):
    """What it begins with is no parameter and no buffer."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.scale = float(torch.rand(()))

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return self.scale * super().scores(query, key)


class Stashing(Good):
    """Weights kept on self, with their graph: a deep copy is refused."""

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        self.weights = super().weigh(scores, mask)
        return self.weights


class Branching(Good):
    """It looks at numbers in Python."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        found = super().scores(query, key)
        return found if float(found.detach().sum()) > 0 else 1 * found


class Poisonous(Good):
    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return super().scores(query, key) * float("nan")


class Peaking(Good):
    """It looks for the largest of no weights."""

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return weights @ value + 0.0 * weights.amax(dim=-1, keepdim=True)


class Squaring(Good):
    """The weights that it shows are not those that it uses."""

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        return weights.square() @ value


class Deaf(Good):
    """It takes causal=True, and does nothing with it."""

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        return super().forward(query, key, value, mask, need_weights=need_weights)


class Unclean(Good):
    """Under causality NaN at a later place reaches all by 0 * NaN."""

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        mask = causal_mask(mask, query, causal)
        if mask is not None:
            hidden = ~mask.any(dim=1).unsqueeze(-1)
            key, value = key.masked_fill(hidden, 0.0), value.masked_fill(hidden, 0.0)
        weights = self.weigh(self.scores(query, key), mask)
        return weights @ value, weights.unsqueeze(1) if need_weights else None


class Chunked(Good):
    """Under causality it forgets what stands before a chunk of 16."""

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        if causal:
            chunk = torch.arange(query.shape[1], device=query.device) // 16
            same = chunk.unsqueeze(-1) == chunk
            mask = same.expand(len(query), -1, -1) if mask is None else mask & same
        return super().forward(query, key, value, mask, causal=causal, need_weights=need_weights)


class Stale(Good):
    """Of keys that are prepared it forgets which are masked."""

    def prepare(self, key, value, mask=None):  # type: ignore[no-untyped-def]
        return super().prepare(key, value)


class Boasting(Good):
    """It says that it holds one number, and holds every key and value."""

    def state_size(self, length: int) -> int:
        return 1


class Once(torch.autograd.Function):
    """x², whose derivative is right and no function of x any more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return x.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.x * grad


class Constant(Good):
    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return Once.apply(super().scores(query, key))  # type: ignore[no-untyped-call,no-any-return]


class Slanted(torch.autograd.Function):
    """x, of which forward mode takes another slope than backward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 2 * tangent


class Sloping(Good):
    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        return Slanted.apply(super().scores(query, key))  # type: ignore[no-untyped-call,no-any-return]


class Accepting(Good):
    """It says that it takes padding and causality alone, and takes anything."""

    masks = "prefix"


class Fined(Good):
    def penalty(self, weights: Tensor) -> Tensor:
        return weights.detach().square().sum()


class Picky(Attention):
    """It goes wrong with some scoring functions alone: it takes the path of the factors for the score."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: Any) -> None:
        super().__init__()
        self.score, self.out_dim = score(query_dim, key_dim), value_dim

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
        key, value = hide_masked(query, key, value, mask, causal=causal)
        mask = causal_mask(mask, query, causal)
        factored = self.score.factor(query, key)
        scores = self.score(query, key)
        if factored is None and not need_weights:
            scores = 2 * scores
        weights = masked_softmax(scores, mask)
        return weights @ value, weights.unsqueeze(1) if need_weights else None


class Unbroadcast(BilinearScore):
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return torch.bmm(query @ self.W, key.mT) if query.dim() == 3 else query @ self.W @ key.mT


class Misfactored(BilinearScore):
    def factor(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * query @ self.W, key


class Ignoring(Good):
    """It takes a temperature, and does nothing with it."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, *, temperature: float = 1.0) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.temperature = temperature


class Strided(Good):
    """It reads the numbers of the values as they lie in memory, as if they lay side by side."""

    def mix(self, weights: Tensor, value: Tensor, query: Tensor) -> Tensor:
        B, K, Dv = value.shape
        return weights @ value.as_strided((B, K, Dv), (K * Dv, Dv, 1))


class Unprepared(BilinearScore):
    """Of keys that are prepared it takes another score."""

    factor = ScoringFunction.factor

    def prepare(self, key: Tensor) -> Any:
        return lambda query: super(Unprepared, self).forward(query, 2 * key)


class Placeless(BilinearScore):
    """It goes by the places of queries, and takes 0, 1, ... for them whatever it is told."""

    positional = True
    excused: ClassVar[Mapping[str, str]] = {"permutation": "it goes by places"}

    def forward(self, query: Tensor, key: Tensor, query_places: Any = None, key_places: Any = None) -> Tensor:
        i, j = (torch.arange(x.shape[-2], dtype=x.dtype, device=x.device) for x in (query, key))
        return super().forward(query, key) - 0.1 * (i.unsqueeze(-1) - j).abs()

    factor = ScoringFunction.factor  # type: ignore[assignment]


BROKEN: Mapping[str, type[Any]] = {
    "declarations": Undeclared,
    "widths": Unnamed,
    "shapes": Squeezed,
    "dtypes": D2l,
    "autocast": Strict,
    "rows": Unnormalised,
    "empty_rows": D2l,
    "masked_keys": Unmasked,
    "masked_nan": Unhidden,
    "padding": Counting,
    "permutation": Ordered,
    "examples": Batched,
    "runs": Poisonous,
    "nothing": Peaking,
    "misfits": Unhidden,
    "causal": Deaf,
    "later": Ahead,
    "prefix": Chunked,
    "prepared": Stale,
    "decoding": Boasting,
    "mixing": Squaring,
    "prefix_masks": Accepting,
    "second_derivatives": Constant,
    "forward_mode": Sloping,
    "meta": Branching,
    "need_weights": Forked,
    "gradients": Detached,
    "parameters": Idle,
    "inputs_unwritten": Overwriting,
    "layout": Strided,
    "options": Ignoring,
    "extremes": Overflowing,
    "bad_masks": Lenient,
    "seed": Chancy,
    "state_dict": Forgetful,
    "copies": Stashing,
    "compiles": Branching,
    "exports": Branching,
    "penalty": Fined,
    "scorings": Picky,
}
BROKEN_SCORES: Mapping[str, type[Any]] = {
    "broadcasting": Unbroadcast,
    "factors": Misfactored,
    "places": Placeless,
    "prepared": Unprepared,
}
