"""Multi-head attention with any scoring function."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnbench import Attention, MakeScore, Normaliser, Register, append, attend, causal_mask, hide_masked, hookimpl


class MultiHead(Attention):
    """Several attentions side by side, each on its own projections (Vaswani et al. 2017, arXiv:1706.03762).

    head_h = normaliser(score(Wq_h query, Wk_h key)) · Wv_h value
    context = Wo [head_1; ...; head_H]

    With scoring=scaled_dot this is `torch.nn.MultiheadAttention`. One scoring function serves all heads: they differ
    by their projections.

    Args:
        query_dim: Dq, the width of a query.
        key_dim: Dk, the width of a key.
        value_dim: Dv, the width of a value.
        score: makes the scoring function, for the width of a head.
        num_heads: H; divides embed_dim.
        embed_dim: E, the width of all heads together and of the context; null takes the query's.
        bias: whether the four projections have one.
        normaliser: softmax, or sparsemax or entmax15, which give most keys no weight at all.

    Raises ValueError when embed_dim is not positive, or num_heads does not divide it.
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
        bias: bool = True,
        normaliser: Normaliser = "softmax",
    ) -> None:
        super().__init__()
        self.widths = query_dim, key_dim, value_dim
        self.out_dim = query_dim if embed_dim is None else embed_dim
        if self.out_dim < 1:
            raise ValueError(f"embed_dim is at least 1, not {embed_dim}")
        if num_heads < 1 or self.out_dim % num_heads:
            divisors = [n for n in range(1, self.out_dim + 1) if self.out_dim % n == 0]
            close = min(divisors, key=lambda n: abs(n - num_heads))
            raise ValueError(
                f"num_heads={num_heads} does not divide the width {self.out_dim}; try num_heads={close}, "
                "or another embed_dim"
            )
        self.num_heads, self.normaliser = num_heads, normaliser
        head_dim = self.out_dim // num_heads
        self.score = score(head_dim, head_dim)
        self.positional = self.score.positional
        self.q_proj = nn.Linear(query_dim, self.out_dim, bias=bias)
        self.k_proj = nn.Linear(key_dim, self.out_dim, bias=bias)
        self.v_proj = nn.Linear(value_dim, self.out_dim, bias=bias)
        self.out_proj = nn.Linear(self.out_dim, self.out_dim, bias=bias)

    def forward(
        self,
        query: Float[Tensor, "B Q Dq"],
        key: Float[Tensor, "B K Dk"],
        value: Float[Tensor, "B K Dv"],
        mask: Bool[Tensor, "B #Q K"] | None = None,
        *,
        causal: bool = False,
        need_weights: bool = True,
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend; a scoring function that factors runs on a fused kernel when no weights are needed."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        fused = not need_weights and self.normaliser == "softmax"
        # The fused kernel takes the batch outermost in memory, the products with weights take time: so neither copies.
        first, order = (0, (0, 2, 1, 3)) if fused else (1, (1, 2, 0, 3))
        q_BHQd, k_BHKd, v_BHKd = (
            project(x.transpose(0, first)).unflatten(-1, (self.num_heads, -1)).permute(order)
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        heads_BHQd, weights = attend(
            self.score,
            q_BHQd,
            k_BHKd,
            v_BHKd,
            None if mask is None else mask.unsqueeze(1),
            causal=causal,
            need_weights=need_weights,
            normaliser=self.normaliser,
        )
        context = self.out_proj(heads_BHQd.transpose(1, 2).flatten(-2))
        if mask is None:
            return context if key.shape[1] else context * 0.0, weights
        # the bias of the output projection must not fill a row that attends nothing
        allowed = causal_mask(mask, query, causal)
        assert allowed is not None
        return context.masked_fill(~allowed.any(dim=-1, keepdim=True), 0.0), weights

    def step(
        self,
        query: Float[Tensor, "B 1 Dq"],
        key: Float[Tensor, "B 1 Dk"],
        value: Float[Tensor, "B 1 Dv"],
        state: tuple[Tensor, ...] | None = None,
    ) -> tuple[Float[Tensor, "B 1 Dout"], tuple[Tensor, ...]]:
        """Attend to all projected keys and values so far."""
        keys, values = append(state, self.k_proj(key), self.v_proj(value))
        q_BHQd, k_BHKd, v_BHKd = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (self.q_proj(query), keys, values)
        )
        now = torch.full((1,), keys.shape[1] - 1, device=query.device)
        heads_BHQd, _ = attend(
            self.score, q_BHQd, k_BHKd, v_BHKd, need_weights=False, normaliser=self.normaliser, query_places=now
        )
        return self.out_proj(heads_BHQd.transpose(1, 2).flatten(-2)), (keys, values)

    def state_size(self, length: int) -> int:
        """Return 2 L E: every projected key and value."""
        return 2 * length * self.out_dim


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `multihead`."""
    register("multihead", MultiHead)
