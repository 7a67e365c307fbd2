"""Gated DeltaNet: a state that is corrected key by key, and forgets."""

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


class GatedDeltaNet(PrefixAttention):
    """Gated DeltaNet (Yang, Kautz, Hatamizadeh 2024, arXiv:2412.06464).

    S_t = α_t (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ
    head_t = norm(S_tᵀ q_t / sqrt(Dk)) * silu(Wg query_t)
    context = Wo [head_1; ...; head_H]

    q = silu(Wq query) and k = silu(Wk key) are divided by their lengths, v = Wv value: H heads, of width
    Dk = expand_k Dq / H and Dv = expand_v Dq / H, rounded down. From the keys come α_t = exp(-A softplus(Wα key + b)),
    as in Mamba-2, and β_t = sigmoid(Wβ key); from the query the output gate. Not causal, every query reads the last
    state. Weights are a mixing matrix, divided by the norm. The state is H Dk Dv numbers, whatever the length.

    As in the paper: 0.75 and 1.5 times the query's width, RMSNorm for each head; A and b begin as in fla's layer, A
    between 0 and 16, softplus(b) between 0.001 and 0.1, linear layers as torch's do. Left out is the short convolution
    of q, k and v, which is the host's, and with it the SiLU of v that follows it.

    Args:
        query_dim: Dq, the width of a query, and of the context.
        num_heads: H.
        expand_k: how wide all heads' keys are together, in widths of the query.
        expand_v: how wide all heads' values are together.
        negative: β is between 0 and 2, not 0 and 1 (arXiv:2411.12537).
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
        expand_k: float = 0.75,
        expand_v: float = 1.5,
        negative: bool = False,
        gate: bool = True,
    ) -> None:
        super().__init__()
        self.widths, self.out_dim = (query_dim, key_dim, value_dim), query_dim
        self.num_heads, self.negative = num_heads, negative
        self.head_k = share_width("gated_deltanet", expand_k * query_dim, num_heads)
        self.head_v = share_width("gated_deltanet", expand_v * query_dim, num_heads)
        k_dim, v_dim = num_heads * self.head_k, num_heads * self.head_v
        self.q_proj = nn.Linear(query_dim, k_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, k_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, v_dim, bias=False)
        self.a_proj = nn.Linear(key_dim, num_heads, bias=False)
        self.b_proj = nn.Linear(key_dim, num_heads, bias=False)
        self.log_A = nn.Parameter(torch.empty(num_heads).uniform_(0, 16).clamp(min=1e-4).log())
        dt = torch.empty(num_heads).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.dt_bias = nn.Parameter(dt.expm1().log())  # softplus of it is dt
        self.g_proj = nn.Linear(query_dim, v_dim, bias=False) if gate else None
        if gate:
            self.excused = {**self.excused, "mixing": "an output gate follows weights · value"}
        self.norm = nn.Parameter(torch.ones(self.head_v))
        self.out_proj = nn.Linear(v_dim, query_dim, bias=False)

    def mix(
        self, query: BQD, key: BKD, value: BKV, *, causal: bool, padding: Pad, state: State | None, need_weights: bool
    ) -> tuple[Float[Tensor, "B Q Dq"], Float[Tensor, "B H Q K"] | None, State]:
        """Gate and correct the state for each key, read it, norm, gate the output."""
        q, k = (unit(split_heads(F.silu(x), self.num_heads)) for x in (self.q_proj(query), self.k_proj(key)))
        beta = widen(self.b_proj(key)).sigmoid() * (2 if self.negative else 1)
        log_decay = -widen(self.log_A).exp() * F.softplus(widen(self.a_proj(key)) + self.dt_bias)
        mixed = normalise_heads(
            delta_rule(
                q * self.head_k**-0.5,
                k,
                widen(split_heads(self.v_proj(value), self.num_heads)),
                beta.mT,
                log_decay.mT,
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
    """Contribute `gated_deltanet`."""
    register("gated_deltanet", GatedDeltaNet)
