"""Kimi delta attention: a state that is corrected key by key, each of whose channels forgets by its own gate."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import PrefixAttention, Register, hookimpl
from attnbench.chunkwise import delta_rule
from attnbench.heads import split_heads
from attnbench.prefix import join_heads, normalise_heads, share_width, unit, widen
from attnbench.shapes import BKD, BKV, BQD, Pad, State


class KDA(PrefixAttention):
    """Kimi delta attention, of Kimi Linear (Kimi Team 2025, arXiv:2510.26692).

    S_t = (I - β_t k_t k_tᵀ) diag(α_t) S_{t-1} + β_t k_t v_tᵀ
    head_t = norm(S_tᵀ q_t / sqrt(D)) * sigmoid(W4 W3 query_t + b)
    context = Wo [head_1; ...; head_H]

    q = silu(Wq query) and k = silu(Wk key) are divided by their lengths, v = Wv value: H heads of width D = Dq / H,
    rounded down. From the keys come α_t = exp(-A softplus(W2 W1 key + c)), a gate for each channel of k, and
    β_t = sigmoid(Wβ key); from the query the output gate. Not causal, every query reads the last state. Weights are a
    mixing matrix, divided by the norm. The state is H D² numbers, whatever the length.

    As fla's layer: gates of rank D, RMSNorm for each head, A from 1 to 16, softplus(c) from 0.001 to 0.1, linear layers
    as torch's begin. Left out is the short convolution of q, k and v, which is the host's, and with it the SiLU of v
    that follows it. With `gate=false` there is no output gate.

    Args:
        query_dim: Dq, the width of a query, and of the context.
        num_heads: H.
        negative: β is between 0 and 2, not 0 and 1 (arXiv:2411.12537).
        gate: whether the heads pass an output gate.

    Raises ValueError when there are no heads, or more than there is width.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        num_heads: int = 4,
        negative: bool = False,
        gate: bool = True,
    ) -> None:
        super().__init__()
        self.widths, self.out_dim = (query_dim, key_dim, value_dim), query_dim
        self.num_heads, self.negative = num_heads, negative
        self.head_dim = share_width("kda", query_dim, num_heads)
        inner = num_heads * self.head_dim
        self.q_proj = nn.Linear(query_dim, inner, bias=False)
        self.k_proj = nn.Linear(key_dim, inner, bias=False)
        self.v_proj = nn.Linear(value_dim, inner, bias=False)
        self.b_proj = nn.Linear(key_dim, num_heads, bias=False)
        self.a_proj = nn.Sequential(
            nn.Linear(key_dim, self.head_dim, bias=False), nn.Linear(self.head_dim, inner, bias=False)
        )
        self.log_A = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        dt = torch.empty(inner).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.dt_bias = nn.Parameter(dt.expm1().log())  # softplus of it is dt
        low_rank = (nn.Linear(query_dim, self.head_dim, bias=False), nn.Linear(self.head_dim, inner))
        self.g_proj = nn.Sequential(*low_rank) if gate else None
        if gate:
            self.excused = {**self.excused, "mixing": "an output gate follows weights · value"}
        self.norm = nn.Parameter(torch.ones(self.head_dim))
        self.out_proj = nn.Linear(inner, query_dim, bias=False)

    def mix(
        self, query: BQD, key: BKD, value: BKV, *, causal: bool, padding: Pad, state: State | None, need_weights: bool
    ) -> tuple[Float[Tensor, "B Q Dq"], Float[Tensor, "B H Q K"] | None, State]:
        """Gate and correct the state for each key, read it, norm, gate the output."""
        q, k = (unit(split_heads(F.silu(x), self.num_heads)) for x in (self.q_proj(query), self.k_proj(key)))
        steps = split_heads(F.softplus(widen(self.a_proj(key)) + self.dt_bias), self.num_heads)
        mixed = normalise_heads(
            delta_rule(
                q * self.head_dim**-0.5,
                k,
                widen(split_heads(self.v_proj(value), self.num_heads)),
                widen(self.b_proj(key)).sigmoid().mT * (2 if self.negative else 1),
                -widen(self.log_A).exp().view(-1, 1, 1) * steps,
                causal=causal,
                padding=padding,
                state=None if state is None else state[0],
                need_weights=need_weights,
            )
        )
        heads = join_heads(mixed.context * self.norm, value.dtype)
        if self.g_proj is not None:
            heads = heads * self.g_proj(query).sigmoid()
        return self.out_proj(heads), mixed.weights, (mixed.state,)

    def state_size(self, length: int) -> int:
        """Return H D²."""
        return self.num_heads * self.head_dim**2


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `kda`."""
    register("kda", KDA)
