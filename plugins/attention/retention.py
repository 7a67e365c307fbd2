"""Retention: a state that forgets at a fixed rate, another for each head."""

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


class Retention(PrefixAttention):
    """Multi-scale retention, RetNet (Sun et al. 2023, arXiv:2307.08621).

    S_t = γ S_{t-1} + k_t v_tᵀ,    γ = 1 - 2^(-5-h) in head h = 0, 1, ...
    head_t = norm(S_tᵀ q_t / sqrt(Dk)) * silu(Wg query_t)
    context = Wo [head_1; ...; head_H]

    q and k, H heads of width Dk = Dq / H, are rotated by their places, as in RoPE, so that q_t·k_j depends on t - j; v
    has width Dv = expand_v Dq / H; both are rounded down. Not causal, every query reads the last state, from the last
    key's place. Weights are γ^(t-j) q_t·k_j, divided by the norm: a mixing matrix. The state is H Dk Dv numbers and the
    count of keys.

    As in the paper's code (torchscale): widths, angles, RMSNorm without weight for each head, and how linear layers
    begin (Glorot, by 2^(-2.5) all but the last). It also divides rows of weights, and states, by their sums, which the
    norm undoes up to its epsilon: left out. A padded key has no place.

    Args:
        query_dim: Dq, the width of a query, and of the context.
        num_heads: H.
        expand_v: how wide all heads' values are together, in widths of the query.
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
        expand_v: float = 2.0,
        gate: bool = True,
    ) -> None:
        super().__init__()
        self.widths, self.out_dim = (query_dim, key_dim, value_dim), query_dim
        self.num_heads = num_heads
        self.head_k = share_width("retention", query_dim, num_heads)
        self.head_v = share_width("retention", expand_v * query_dim, num_heads)
        k_dim, v_dim = num_heads * self.head_k, num_heads * self.head_v
        self.q_proj = nn.Linear(query_dim, k_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, k_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, v_dim, bias=False)
        self.g_proj = nn.Linear(query_dim, v_dim, bias=False) if gate else None
        if gate:
            self.excused = {**self.excused, "mixing": "an output gate follows weights · value"}
        self.out_proj = nn.Linear(v_dim, query_dim, bias=False)
        for name, layer in self.named_children():
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight, gain=1.0 if name == "out_proj" else 2**-2.5)

    def mix(
        self, query: BQD, key: BKD, value: BKV, *, causal: bool, padding: Pad, state: State | None, need_weights: bool
    ) -> tuple[Float[Tensor, "B Q Dq"], Float[Tensor, "B H Q K"] | None, State]:
        """Rotate, mix, norm, gate the output."""
        q, k, v = (
            widen(split_heads(x, self.num_heads)) for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        shown = k.new_ones(k.shape[0], k.shape[2]) if padding is None else padding.to(k.dtype)
        count = shown.cumsum(dim=1) + (0 if state is None else state[1])
        last = count[:, -1:] if count.shape[1] else count.new_zeros(count.shape[0], 1)
        q = self._rotate(q, count if causal else last) * self.head_k**-0.5
        heads = torch.arange(self.num_heads, dtype=k.dtype, device=k.device)
        mixed = normalise_heads(
            decayed_linear(
                q,
                self._rotate(k, count),
                v,
                torch.log1p(-(2.0 ** (-5 - heads))).view(1, -1, 1).expand(k.shape[:3]),
                causal=causal,
                padding=padding,
                state=None if state is None else state[0],
                need_weights=need_weights,
            )
        )
        context = join_heads(mixed.context, value.dtype)
        if self.g_proj is not None:
            context = context * F.silu(self.g_proj(query))
        return self.out_proj(context), mixed.weights, (mixed.state, last)

    def _rotate(self, x: Float[Tensor, "B H T D"], places: Float[Tensor, "B #T"]) -> Float[Tensor, "B H T D"]:
        """Turn pairs of neighbours by place times 10000^(-i / (D/2 - 1)), i = 0, 1, ...; an odd one out stays."""
        pairs = x.shape[-1] // 2
        angle = 10_000.0 ** -torch.linspace(0, 1, pairs, dtype=x.dtype, device=x.device) * places[:, None, :, None]
        even, odd = x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
        cos, sin = angle.cos(), angle.sin()
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
        return torch.cat((turned, x[..., 2 * pairs :]), dim=-1)

    def state_size(self, length: int) -> int:
        """Return H Dk Dv, and one for the count of keys."""
        return self.num_heads * self.head_k * self.head_v + 1


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `retention`."""
    register("retention", Retention)
