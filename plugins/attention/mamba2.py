"""Mamba-2: a state space whose state forgets by one gate for each head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import PrefixAttention, Register, hookimpl
from attnbench.chunkwise import decayed_linear
from attnbench.heads import split_heads
from attnbench.prefix import join_heads, share_width, widen
from attnbench.shapes import BKD, BKV, BQD, Pad, State


class Mamba2(PrefixAttention):
    """Mamba-2, structured state space duality (Dao, Gu 2024, arXiv:2405.21060), as attention.

    S_t = exp(-A dt_t) S_{t-1} + dt_t B_t x_tᵀ
    head_t = S_tᵀ C_t
    context = Wo norm([head_1; ...; head_H] * silu(Wz query))

    C = silu(Wc query) is the query, B = silu(Wb key) the key, both of width N and the same for all heads, x = Wx value
    is the value, H heads of width P = expand Dq / H, rounded down; dt_t = softplus(Wdt key + b) for each head. Not
    causal, every query reads the last state. Weights are C_t·B_j exp(-A (dt_{j+1} + ... + dt_t)) dt_j, a mixing matrix.
    The state is H N P numbers, whatever the length.

    As in the paper: A begins between 1 and 16, dt between 0.001 and 0.1, linear layers as torch's do; RMSNorm of all
    heads together, behind the gate. Left out are the convolution of x, B and C, which is the host's, and with it the
    SiLU of x that follows it; and the skip D x_t, which is for a query that is a key, and which the host's residual is.

    Args:
        query_dim: Dq, the width of a query, and of the context.
        num_heads: H.
        state_dim: N; the paper's models have 64 to 256.
        expand: how wide all heads' values are together, in widths of the query.

    Raises ValueError when there are no heads, more than there is width for, or the state has no width.
    """

    excused = {
        **PrefixAttention.excused,
        "mixing": "a gate and a norm of all heads together follow: before them a head is weights · value",
    }

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        num_heads: int = 4,
        state_dim: int = 64,
        expand: float = 2.0,
    ) -> None:
        super().__init__()
        if state_dim < 1:
            raise ValueError(f"mamba2 needs state_dim of at least 1, not {state_dim}")
        self.widths, self.out_dim = (query_dim, key_dim, value_dim), query_dim
        self.num_heads, self.state_dim = num_heads, state_dim
        self.head_dim = share_width("mamba2", expand * query_dim, num_heads)
        inner = num_heads * self.head_dim
        self.q_proj = nn.Linear(query_dim, state_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, state_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, inner, bias=False)
        self.dt_proj = nn.Linear(key_dim, num_heads, bias=False)
        self.log_A = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        dt = torch.empty(num_heads).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.dt_bias = nn.Parameter(dt.expm1().log())  # softplus of it is dt
        self.g_proj = nn.Linear(query_dim, inner, bias=False)
        self.norm = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, query_dim, bias=False)

    def mix(
        self, query: BQD, key: BKD, value: BKV, *, causal: bool, padding: Pad, state: State | None, need_weights: bool
    ) -> tuple[Float[Tensor, "B Q Dq"], Float[Tensor, "B H Q K"] | None, State]:
        """Run the state space, gate, norm."""
        C, B = (widen(F.silu(x)).unsqueeze(1) for x in (self.q_proj(query), self.k_proj(key)))
        dt = F.softplus(widen(self.dt_proj(key)) + self.dt_bias).mT
        mixed = decayed_linear(
            C.expand(-1, self.num_heads, -1, -1),
            B * dt.unsqueeze(-1),
            widen(split_heads(self.v_proj(value), self.num_heads)),
            -widen(self.log_A).exp().unsqueeze(-1) * dt,
            causal=causal,
            padding=padding,
            state=None if state is None else state[0],
            need_weights=need_weights,
        )
        heads = join_heads(mixed.context, mixed.context.dtype) * F.silu(self.g_proj(query))
        heads = heads * (heads.square().mean(dim=-1, keepdim=True) + 1e-5).rsqrt() * self.norm
        return self.out_proj(heads.to(value.dtype)), mixed.weights, (mixed.state,)

    def state_size(self, length: int) -> int:
        """Return H N P."""
        return self.num_heads * self.state_dim * self.head_dim


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `mamba2`."""
    register("mamba2", Mamba2)
