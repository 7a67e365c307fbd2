"""Linear attention: cost linear in length."""

from __future__ import annotations

import copy

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, causal_mask, full_precision, hide_masked
from attnbench.chunkwise import decayed_linear
from attnbench.heads import split_heads
from attnbench.prefix import by_examples, join_heads, share_width, widen
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, Pad, State

from .maps import FEATURE_MAPS, FeatureMap


class LinearAttention(Attention):
    """Attention as a product of feature maps (Katharopoulos et al. 2020, arXiv:2006.16236).

    weights = φ(query)·φ(key) / sum over the keys of φ(query)·φ(key)
    context = φ(query) · (sum over the keys of φ(key) valueᵀ) / φ(query)·(sum over the keys of φ(key))

    The sums over the keys are the same for all queries; with `causal=True` they run along the keys, in chunks: no array
    of Q x K is made. Asked for weights, or given another mask that differs between queries, it computes the Q x K
    weights, to the same context. φ is elu(x) + 1; `maps.py` has the equations of `taylor`, `hedgehog`
    and `performer`. With F features, decoding keeps F (Dv + 1) numbers for each head, whatever the length.

    Args:
        feature_map: φ.
        num_heads: heads that each project queries, keys and values, as in `multihead` without biases, to the query's
            width over their number, rounded down; null: one head that takes them as they are, the first paper's
            equation (only `taylor` projects, to its 16 dimensions).

    Raises ValueError when query and key differ in width and are not projected, or there are no heads, or more than
    there is width for.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        feature_map: FeatureMap = "elu",
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.widths, self.num_heads = (query_dim, key_dim, value_dim), 1 if num_heads is None else num_heads
        map_type = FEATURE_MAPS[feature_map]
        width = map_type.takes or share_width("linear_attention", query_dim, self.num_heads)
        projects = num_heads is not None or map_type.takes is not None
        if query_dim != key_dim and not projects:
            raise ValueError(
                f"linear_attention needs query and key of one width, not {query_dim} and {key_dim}; "
                "attention.num_heads=4 projects them"
            )
        inner = self.num_heads * width
        self.q_proj, self.k_proj = (
            nn.Linear(dim, inner, bias=False) if projects else nn.Identity() for dim in (query_dim, key_dim)
        )
        self.q_map = map_type(width)
        self.k_map = copy.deepcopy(self.q_map)  # the same random features; learned ones go their own ways
        self.head_v, self.out_dim = value_dim, value_dim
        self.v_proj: nn.Module = nn.Identity()
        self.out_proj: nn.Module = nn.Identity()
        if num_heads is not None:
            self.head_v, self.out_dim = share_width("linear_attention", query_dim, num_heads), query_dim
            self.v_proj = nn.Linear(value_dim, num_heads * self.head_v, bias=False)
            self.out_proj = nn.Linear(num_heads * self.head_v, query_dim, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dout"], Float[Tensor, "B H Q K"] | None]:
        """Attend, in linear time when no weights are needed and no mask differs between queries."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        if not need_weights and (mask is None or mask.shape[1] == 1):
            padding = None if mask is None else mask[:, 0]
            return by_examples(lambda *part: self._by_sums(*part, causal=causal), query, key, value, padding), None
        q, k, v = self._features(query, key, value)
        with full_precision(v):  # float16 ends at 65,504, which the sums soon exceed
            allowed, products = causal_mask(mask, query, causal), q @ k.mT
            if allowed is not None:
                products = products.masked_fill(~allowed.unsqueeze(1), 0.0)
            weights = divide(products, products.sum(dim=-1, keepdim=True))
            context = weights @ v
        context = self.out_proj(join_heads(context, value.dtype))
        return context, weights.to(value.dtype) if need_weights else None

    def _by_sums(self, query: BQD, key: BKD, value: BKV, padding: Pad, *, causal: bool) -> Float[Tensor, "B Q Dout"]:
        """Attend in linear time."""
        q, k, v = self._features(query, key, value)
        with full_precision(v):
            if causal:
                context = self._run(q, k, v, padding)[0]
            else:
                if padding is not None:
                    k = k.masked_fill(~padding[:, None, :, None], 0.0)
                context = divide(q @ (k.mT @ v), q @ k.sum(dim=-2).unsqueeze(-1))
        projected: Tensor = self.out_proj(join_heads(context, value.dtype))
        return projected

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Decode one token from the running sums, in constant time."""
        context, sums = self._run(*self._features(query, key, value), state=None if state is None else state[0])
        return self.out_proj(join_heads(context, value.dtype)), (sums,)

    def state_size(self, length: int) -> int:
        """Return H F (Dv + 1)."""
        return self.num_heads * self.q_map.features * (self.head_v + 1)

    def _features(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            split_heads(project(x), self.num_heads)
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        return self.q_map(q, False), self.k_map(k, True), widen(v)

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the sums along the keys; a last value of 1 makes them the divisor too."""
        mixed = decayed_linear(q, k, F.pad(v, (0, 1), value=1.0), padding=padding, state=state)
        return divide(mixed.context[..., :-1], mixed.context[..., -1:]), mixed.state


def divide(sums: Float[Tensor, "*B D"], total: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B D"]:
    """Divide by the total, or by 1e-36 where it is less: gradients would soon be beyond float32, and 0 stays 0."""
    return sums / total.clamp(min=1e-36)
