"""Log-linear attention: Mamba-2 that keeps a state for each of log T stretches of the past, and weighs them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import PrefixAttention, Register, full_precision, hookimpl
from attnbench.heads import split_heads
from attnbench.prefix import join_heads, share_width, widen
from attnbench.shapes import BKD, BKV, BQD, Context, Pad, State


class LogLinear(PrefixAttention):
    """Log-linear attention on Mamba-2 (Guo, Yang, Goel, Xing, Dao, Kim 2025, arXiv:2506.04761).

    weights[t, j] = λ_t[level(t, j)] C_t·B_j exp(-A (dt_{j+1} + ... + dt_t)) dt_j,    j <= t
    level(t, j) = the bits of t xor j: 0 for j = t, otherwise that of the 2^(level - 1) places which hold j
    head_t = weights · x = Σ_l λ_t[l] S_t[l]ᵀ C_t,    S_t[l] the state of a level, as in a Fenwick tree
    context = Wo norm([head_1; ...; head_H] * silu(Wz query))

    λ = softplus(L * Wl query) for each head and level; all else, and what is left out, as in `mamba2`. Places count
    keys that are no padding. Not causal, every query stands at the last. It takes time T log T where causal without
    padding, otherwise Q K. The state is H N P numbers for each of 1 + log2 T levels, and a count of keys. As the
    authors' code: L begins at 1, 15 levels; beyond their 16,384 keys what is far away shares the last λ.

    Args:
        num_heads: H.
        state_dim: N, the width of B and C, which all heads share.
        expand: how wide all heads' x are together, H P, in widths of the query; P is rounded down.
        levels: how many λ a head has for a query.

    Raises ValueError when there are no heads or levels, more heads than width, or the state has no width.
    """

    excused = {**PrefixAttention.excused, "mixing": "a gate and a norm follow: before them a head is weights · value"}

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        num_heads: int = 4,
        state_dim: int = 64,
        expand: float = 2.0,
        levels: int = 15,
    ) -> None:
        super().__init__()
        if state_dim < 1 or levels < 1:
            raise ValueError(f"log_linear needs state_dim and levels of at least 1, not {state_dim} and {levels}")
        self.widths, self.out_dim = (query_dim, key_dim, value_dim), query_dim
        self.head_dim = share_width("log_linear", expand * query_dim, num_heads)
        self.num_heads, self.state_dim, inner = num_heads, state_dim, num_heads * self.head_dim
        self.q_proj, self.k_proj = (nn.Linear(width, state_dim, bias=False) for width in (query_dim, key_dim))
        self.v_proj, self.dt_proj = nn.Linear(value_dim, inner, bias=False), nn.Linear(key_dim, num_heads, bias=False)
        self.log_A = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        dt = torch.empty(num_heads).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.dt_bias = nn.Parameter(dt.expm1().log())  # softplus of it is dt
        self.l_proj = nn.Linear(query_dim, num_heads * levels, bias=False)
        self.L = nn.Parameter(torch.ones(num_heads, 1, levels))
        self.g_proj = nn.Linear(query_dim, inner, bias=False)
        self.norm, self.out_proj = nn.Parameter(torch.ones(inner)), nn.Linear(inner, query_dim, bias=False)

    def mix(
        self, query: BQD, key: BKD, value: BKV, *, causal: bool, padding: Pad, state: State | None, need_weights: bool
    ) -> tuple[Context, Float[Tensor, "B H Q K"] | None, State]:
        """Mix all keys at once; ValueError where there is a state, which `step` alone keeps."""
        if state is not None:
            raise ValueError("log_linear mixes all keys at once; `step` goes on from a state, token by token")
        K, most = key.shape[1], torch.finfo(value.dtype).max
        q, k, v, a, scale = self.project(query, key, value)
        place = torch.arange(K, device=key.device)
        if padding is not None:
            place, a = padding.cumsum(dim=1).unsqueeze(1) - 1, a.masked_fill(~padding[:, None, :, None], 0.0)
        fast = causal and padding is None and not need_weights and not isinstance(K, torch.SymInt)
        with full_precision(query):
            weights = None if fast else mixing(q, k, a, scale, place, causal)
            heads = in_halves(q, k, v, a, scale)[0] if weights is None else weights @ v
        weights = None if weights is None or not need_weights else weights.clamp(-most, most)
        return self.out_proj(self.gate(heads, query, value)), weights, ()

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Decode one token: the states of small blocks merge into one twice as large, as digits carry."""
        q, k, v, a, scale = self.project(query, key, value)
        levels, n = (k.mT * v).unsqueeze(2), 0  # [B, H, levels, N, P]
        if state is not None:
            n, before = int(state[1][:1].sum()), state[0] * a.exp().unsqueeze(-1)
            low = (n & -n).bit_length()  # the level that all below it merge into
            merged = F.pad(before[:, :, :low].sum(dim=2, keepdim=True), (0, 0, 0, 0, low - 1, 0))
            levels = torch.cat((levels, merged, before[:, :, low + 1 :]), dim=2)
        last = torch.arange(levels.shape[2], device=key.device).clamp(max=scale.shape[-1] - 1)
        heads = (scale[..., last].mT.unsqueeze(-1) * q.mT.unsqueeze(2) * levels).sum(dim=(2, 3)).unsqueeze(2)
        count = torch.full((len(key),), n + 1, device=key.device)
        return self.out_proj(self.gate(heads, query, value)), (levels, count)

    def state_size(self, length: int) -> int:
        """Return H N P (1 + the bits of length - 1) + 1."""
        return self.num_heads * self.state_dim * self.head_dim * (1 + max(length - 1, 0).bit_length()) + 1

    def project(self, query: BQD, key: BKD, value: BKV) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return C [B, 1, Q, N], dt B [B, H, K, N], x [B, H, K, P], -A dt [B, H, K, 1] and λ [B, H, Q, levels]."""
        dt = F.softplus(widen(self.dt_proj(key)) + self.dt_bias).mT.unsqueeze(-1)
        C, B = (widen(F.silu(x)).unsqueeze(1) for x in (self.q_proj(query), self.k_proj(key)))
        x, scale = (split_heads(widen(y), self.num_heads) for y in (self.v_proj(value), self.l_proj(query)))
        return C, B * dt, x, -widen(self.log_A).exp().view(-1, 1, 1) * dt, F.softplus(widen(self.L) * scale)

    def gate(self, heads: Float[Tensor, "B H Q P"], query: BQD, value: BKV) -> Float[Tensor, "B Q HP"]:
        """Gate, and divide by the root mean square of all heads together."""
        gated = join_heads(heads, heads.dtype) * F.silu(self.g_proj(query))
        return (gated * (gated.square().mean(dim=-1, keepdim=True) + 1e-5).rsqrt() * self.norm).to(value.dtype)


def mixing(q: Tensor, k: Tensor, a: Tensor, scale: Tensor, place: Tensor, causal: bool) -> Tensor:
    """Return the mixing matrix [..., Q, K] of keys at `place` and queries that stand there, or at the last of them."""
    stands = place if causal else place[..., -1:].sum(dim=-1, keepdim=True)  # of no keys 0
    level = torch.frexp((stands.unsqueeze(-1) ^ place.unsqueeze(-2)).float()).exponent.long()
    weights = (q @ k.mT) * scale.gather(-1, level.clamp(max=scale.shape[-1] - 1).expand(*scale.shape[:-1], -1))
    if not causal:
        return weights * after(a).mT
    return (weights * a.expand(*a.shape[:-1], a.shape[-2]).tril(-1).cumsum(dim=-2).exp()).tril()


def in_halves(q: Tensor, k: Tensor, v: Tensor, a: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return causal weights · v, and the state after the last key: the second half reads the state of the first."""
    T = a.shape[-2]
    if T <= 64:  # where one product of matrices is faster
        return mixing(q, k, a, scale, torch.arange(T, device=a.device), True) @ v, (k * after(a)).mT @ v
    half = 1 << (T - 1).bit_length() - 1
    first, second = zip(*(torch.split(x, [half, T - half], dim=-2) for x in (q, k, v, a, scale)), strict=True)
    (context1, state1), (context2, state2) = in_halves(*first), in_halves(*second)
    q2, _, _, a2, scale2 = second
    decay, level = a2.cumsum(dim=-2).exp(), min(half.bit_length(), scale.shape[-1] - 1)
    context2 = context2 + scale2[..., level, None] * ((q2 * decay) @ state1)
    return torch.cat((context1, context2), dim=-2), decay[..., -1:, :] * state1 + state2


def after(a: Tensor) -> Tensor:
    """Return the product of the gates behind each key, [..., K, 1]."""
    return F.pad(a, (0, 0, 0, 1))[..., 1:, :].flip(-2).cumsum(dim=-2).flip(-2).exp()


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `log_linear`."""
    register("log_linear", LogLinear)
