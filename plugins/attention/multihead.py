"""Multi-head attention with any scoring function."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import (
    UNNORMALISED,
    Attention,
    MakeScore,
    Normaliser,
    Register,
    append,
    attend,
    causal_mask,
    hide_masked,
    hookimpl,
    prepare,
)
from attnbench.heads import head_width, merge_heads, split_heads
from attnbench.shapes import BKD, BKV, BQD, Context, Look, Mask, State


class MultiHead(Attention):
    """Several attentions side by side, each on its own projections (Vaswani et al. 2017, arXiv:1706.03762).

    head_h = normaliser(score(Wq_h query, Wk_g key)) · Wv_g value,   g the group of head h
    context = Wo [head_1; ...; head_H]

    With scoring=scaled_dot this is `torch.nn.MultiheadAttention`, but for this: a mask is True where a query may attend
    (torch: where it may not), a row that may attend nothing is zeros (torch: NaN), weights keep their heads, there is
    no dropout, and projections begin each as `nn.Linear` (torch: three in one, Xavier's). One scoring function serves
    all heads. Fewer `kv_heads` than heads are grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), one is
    multi-query attention (Shazeer 2019, arXiv:1911.02150). A gate multiplies each head, or each of its entries, by
    sigmoid(Wg query) before Wo (Qiu et al. 2025, arXiv:2505.06708).

    Args:
        num_heads: H; divides embed_dim.
        embed_dim: E, the width of all heads together and of the context; null takes the query's.
        kv_heads: how many heads keys and values have; divides num_heads; null takes as many.
        bias: whether the four projections have one.
        gate: none, one number for each head, or one for each element of it.
        normaliser: softmax; sparsemax or entmax15, with many zeros; softmax1 or sigmoid, which need not sum to one.

    Raises ValueError when num_heads does not divide embed_dim, or kv_heads does not divide num_heads.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        num_heads: int = 4,
        embed_dim: int | None = None,
        kv_heads: int | None = None,
        bias: bool = True,
        gate: Literal["none", "head", "element"] = "none",
        normaliser: Normaliser = "softmax",
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.out_dim = query_dim if embed_dim is None else embed_dim
        width = head_width(self.out_dim, num_heads)
        if kv_heads is not None and (kv_heads < 1 or num_heads % kv_heads):
            raise ValueError(f"kv_heads={kv_heads} does not divide num_heads={num_heads}; 1 is multi-query attention")
        self.num_heads, self.kv_heads = num_heads, num_heads if kv_heads is None else kv_heads
        self.normaliser, self.signed, self.gate = normaliser, normaliser in UNNORMALISED, gate
        self.score = score(width, width)
        self.positional = self.score.positional
        self.q_proj = nn.Linear(query_dim, self.out_dim, bias=bias)
        self.k_proj, self.v_proj = (nn.Linear(w, self.kv_heads * width, bias=bias) for w in (key_dim, value_dim))
        self.out_proj = nn.Linear(self.out_dim, self.out_dim, bias=bias)
        if gate != "none":
            self.excused = {"mixing": "a gate follows weights · value"}
            self.g_proj = nn.Linear(query_dim, num_heads if gate == "head" else self.out_dim, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend; a scoring function that factors runs on a fused kernel when no weights are needed."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        fused = not need_weights and self.normaliser == "softmax"
        # The fused kernel takes the batch outermost in memory, the products with weights take time: so neither copies.
        first, order = (0, (0, 2, 1, 3)) if fused else (1, (1, 2, 0, 3))
        H, G, allowed = self.num_heads, self.kv_heads, None if mask is None else mask.unsqueeze(1)
        q, k, v = (  # [B, H, length, E / H]
            self._shared(project(x.transpose(0, first)).unflatten(-1, (n, -1)).permute(order))
            for project, x, n in ((self.q_proj, query, H), (self.k_proj, key, G), (self.v_proj, value, G))
        )
        heads, weights = attend(
            self.score, q, k, v, allowed, causal=causal, need_weights=need_weights, normaliser=self.normaliser
        )
        context = self._joined(heads, query)
        return self._emptied(context, causal_mask(mask, query, causal and mask is not None), key.shape[1]), weights

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Project the keys and values once."""
        key, value = hide_masked(None, key, value, mask, widths=self.widths)
        k, v = (
            self._shared(split_heads(x, self.kv_heads)).contiguous() for x in (self.k_proj(key), self.v_proj(value))
        )
        width, allowed = self.out_dim // self.num_heads, None if mask is None else mask.unsqueeze(1)
        look = prepare(self.score, width, k, v, allowed, normaliser=self.normaliser)

        def ask(query: Tensor, *, need_weights: bool = True) -> tuple[Tensor, Tensor | None]:
            heads, weights = look(split_heads(self.q_proj(query), self.num_heads), need_weights=need_weights)
            return self._emptied(self._joined(heads, query), mask, key.shape[1]), weights

        return ask

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Attend to all projected keys and values so far."""
        keys, values = append(state, self.k_proj(key), self.v_proj(value))
        q = split_heads(self.q_proj(query), self.num_heads)
        k, v = (self._shared(split_heads(x, self.kv_heads)) for x in (keys, values))
        now = torch.full((1,), keys.shape[1] - 1, device=query.device)
        heads, _ = attend(self.score, q, k, v, need_weights=False, normaliser=self.normaliser, query_places=now)
        return self._joined(heads, query), (keys, values)

    def state_size(self, length: int) -> int:
        """Return 2 L E kv_heads / H: every projected key and value."""
        return 2 * length * self.kv_heads * (self.out_dim // self.num_heads)

    def _shared(self, x: Float[Tensor, "B heads L d"]) -> Float[Tensor, "B H L d"]:
        """Return keys or values once for each query head: heads side by side share."""
        return x if x.shape[1] == self.num_heads else x.repeat_interleave(self.num_heads // self.kv_heads, dim=1)

    def _emptied(self, context: Context, allowed: Mask, keys: int) -> Context:
        """Zero the rows that attend nothing, which the bias of the output projection has filled."""
        if allowed is None:
            return context if keys else context * 0.0
        return context.masked_fill(~allowed.any(dim=-1, keepdim=True), 0.0)

    def _joined(self, heads: Float[Tensor, "B H Q d"], query: BQD) -> Context:
        """Gate the heads, and project them side by side."""
        if self.gate != "none":
            heads = heads * torch.sigmoid(split_heads(self.g_proj(query), self.num_heads))
        return self.out_proj(merge_heads(heads))  # type: ignore[no-any-return]


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `multihead`."""
    register("multihead", MultiHead)
