"""Gated linear attention: a state each of whose channels forgets by its own gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import PrefixAttention, Register, hookimpl
from attnbench.chunkwise import decayed_linear
from attnbench.heads import split_heads
from attnbench.prefix import join_heads, normalise_heads, share_width, widen
from attnbench.shapes import BKD, BKV, BQD, Pad, State


class GLA(PrefixAttention):
    """Gated linear attention (Yang, Wang, Shen, Panda, Kim 2023, arXiv:2312.06635).

    S_t = diag(α_t) S_{t-1} + k_t v_tᵀ,    α_t = sigmoid(W2 W1 key_t + b)^(1/16), a gate for each channel of k
    head_t = norm(S_tᵀ q_t / sqrt(Dk)) * silu(Wg query_t)
    context = Wo [head_1; ...; head_H]

    q, k: H heads of width Dk = expand_k Dq / H, v: of Dv = expand_v Dq / H, both rounded down. The gates come from the
    keys, the output gate from the query. Not causal, every query reads the last state. Weights are
    q_t·(α_{j+1} ... α_t k_j), divided by the norm: a mixing matrix. The state is H Dk Dv numbers, whatever the length.

    As in the paper: widths, the low rank of 16 and the exponent 1/16 of the gates, RMSNorm for each head. Linear
    layers begin as torch's do, as in fla's layer. A context of nothing is 0: no layer but W2 has a bias.

    Args:
        query_dim: Dq, the width of a query, and of the context.
        num_heads: H.
        expand_k: how wide all heads' keys are together, in widths of the query.
        expand_v: how wide all heads' values are together.
        gate: whether the heads pass an output gate.

    Raises ValueError when there are no heads, or more than there is width for.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        num_heads: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate: bool = True,
    ) -> None:
        super().__init__()
        self.widths, self.out_dim = (query_dim, key_dim, value_dim), query_dim
        self.num_heads = num_heads
        self.head_k = share_width("gla", expand_k * query_dim, num_heads)
        self.head_v = share_width("gla", expand_v * query_dim, num_heads)
        k_dim, v_dim = num_heads * self.head_k, num_heads * self.head_v
        self.q_proj = nn.Linear(query_dim, k_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, k_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, v_dim, bias=False)
        self.a_proj = nn.Sequential(nn.Linear(key_dim, 16, bias=False), nn.Linear(16, k_dim))
        self.g_proj = nn.Linear(query_dim, v_dim, bias=False) if gate else None
        if gate:
            self.excused = {**self.excused, "mixing": "an output gate follows weights · value"}
        self.norm = nn.Parameter(torch.ones(self.head_v))
        self.out_proj = nn.Linear(v_dim, query_dim, bias=False)

    def mix(
        self, query: BQD, key: BKD, value: BKV, *, causal: bool, padding: Pad, state: State | None, need_weights: bool
    ) -> tuple[Float[Tensor, "B Q Dq"], Float[Tensor, "B H Q K"] | None, State]:
        """Gate, mix, norm, gate the output."""
        q, k, v, a = (
            split_heads(x, self.num_heads)
            for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value), self.a_proj(key))
        )
        mixed = normalise_heads(
            decayed_linear(
                q * self.head_k**-0.5,
                k,
                widen(v),
                F.logsigmoid(a) / 16,
                causal=causal,
                padding=padding,
                state=None if state is None else state[0],
                need_weights=need_weights,
            )
        )
        heads = join_heads(mixed.context * self.norm, value.dtype)
        if self.g_proj is not None:
            heads = heads * F.silu(self.g_proj(query))
        return self.out_proj(heads), mixed.weights, (mixed.state,)

    def state_size(self, length: int) -> int:
        """Return H Dk Dv."""
        return self.num_heads * self.head_k * self.head_v


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `gla`."""
    register("gla", GLA)
