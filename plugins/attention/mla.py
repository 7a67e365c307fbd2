"""Multi-head latent attention: keys and values of all heads from one narrow vector a token."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, Register, append, attend, hide_masked, hookimpl, masked_softmax
from attnbench.heads import head_width, merge_heads, split_heads
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, State

BASE = 10_000.0  # a plane turns by 1 to about 1 / BASE radians from one token to the next


class MLA(Attention):
    """Keys and values are made of one latent vector a token (MLA, DeepSeek-AI 2024, arXiv:2405.04434).

    c_j = RMSNorm(Wc [key_j; value_j]),   r_j = R_j Wr key_j               all that decoding keeps of a token
    k_h = Wk_h c,   v_h = Wv_h c,   q_h = Wq_h query,   s_h = Ws_h query   of each head h
    score_h(i, j) = (q_h,i · k_h,j + (R_i s_h,i) · r_j) / sqrt(D + rope_dim)
    context = Wo [softmax(score) · v of each head]

    R_m turns planes by angles that grow with the place m, as rotary positions do (arXiv:2104.09864). `step` never makes
    k and v: it scores the latents by Wk_hᵀ q_h, and maps their weighted mean by Wv_h. Rotary keys made of c would stand
    in the way of that, so that all heads share r beside it.

    The paper compresses one vector a token; key and value are two here, and where a task's are one, Wc is the sum of
    its halves. The query is not compressed, as in the authors' Lite model: that saves memory in training alone.
    Projections begin as PyTorch's; the default widths are the paper's, in proportion to D.

    Args:
        num_heads: H; divides embed_dim.
        embed_dim: E, the width of all heads together and of the context; null takes the query's. D = E / H.
        latent_dim: the width of c; null takes 4 D.
        rope_dim: the width of r, which is even; null takes D / 2, or what is even above it.

    Raises ValueError when num_heads does not divide embed_dim, latent_dim is below 1, or rope_dim is odd or below 2.
    State: latent_dim + rope_dim numbers a token.
    """

    positional = True
    excused = {
        "permutation": "rotary keys tell places, so that order is the point",
        "mixing": "values are made of a normalised latent of key and value",
    }

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        num_heads: int = 4,
        embed_dim: int | None = None,
        latent_dim: int | None = None,
        rope_dim: int | None = None,
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.out_dim = query_dim if embed_dim is None else embed_dim
        width = head_width(self.out_dim, num_heads)
        self.latent_dim = 4 * width if latent_dim is None else latent_dim
        self.rope_dim = 2 * -(-width // 4) if rope_dim is None else rope_dim
        if self.latent_dim < 1 or self.rope_dim < 2 or self.rope_dim % 2:
            raise ValueError(
                f"latent_dim is at least 1, not {self.latent_dim}; rope_dim even and at least 2, not {self.rope_dim}"
            )
        self.num_heads, self.scale = num_heads, (width + self.rope_dim) ** -0.5
        self.q_proj = nn.Linear(query_dim, self.out_dim + num_heads * self.rope_dim, bias=False)
        self.c_proj = nn.Linear(key_dim + value_dim, self.latent_dim, bias=False)
        self.r_proj = nn.Linear(key_dim, self.rope_dim, bias=False)
        self.norm = nn.Parameter(torch.ones(self.latent_dim))
        self.k_proj = nn.Linear(self.latent_dim, self.out_dim, bias=False)
        self.v_proj = nn.Linear(self.latent_dim, self.out_dim, bias=False)
        self.out_proj = nn.Linear(self.out_dim, self.out_dim, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend, on a fused kernel when no weights are needed."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        q, s = self.queries(query, 0)
        c, r = self.kept(key, value, 0)
        k, v = split_heads(self.k_proj(c), self.num_heads), split_heads(self.v_proj(c), self.num_heads)
        k = torch.cat([k, r.unsqueeze(1).expand(-1, self.num_heads, -1, -1)], dim=-1)
        heads, weights = attend(
            None,
            torch.cat([q, s], dim=-1),
            k,
            v,
            None if mask is None else mask.unsqueeze(1),
            causal=causal,
            need_weights=need_weights,
        )
        return self.out_proj(merge_heads(heads)), weights

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Attend to the latents so far, by the products of the projections that stand before and after them."""
        now = 0 if state is None else state[0].shape[1]
        q, s = self.queries(query, now)
        c, r = append(state, *self.kept(key, value, now))
        k_HDc, v_HDc = (p.weight.view(self.num_heads, -1, self.latent_dim) for p in (self.k_proj, self.v_proj))
        weights = masked_softmax(q @ k_HDc @ c.mT.unsqueeze(1) + s @ r.mT.unsqueeze(1))
        return self.out_proj(merge_heads(weights @ c.unsqueeze(1) @ v_HDc.mT)), (c, r)

    def state_size(self, length: int) -> int:
        """Return L (latent_dim + rope_dim)."""
        return length * (self.latent_dim + self.rope_dim)

    def queries(self, query: BQD, first: int) -> tuple[Float[Tensor, "B H Q D"], Float[Tensor, "B H Q R"]]:
        """Return q and the turned s of queries that stand at the places from `first` on, both scaled."""
        both = split_heads(self.scale * self.q_proj(query), self.num_heads)
        return both[..., : -self.rope_dim], self.turn(both[..., -self.rope_dim :], first)

    def kept(self, key: BKD, value: BKV, first: int) -> tuple[Float[Tensor, "B K C"], Float[Tensor, "B K R"]]:
        """Return c and r of tokens that stand at the places from `first` on."""
        c = F.rms_norm(self.c_proj(torch.cat([key, value], dim=-1)), (self.latent_dim,), eps=1e-6)
        return self.norm * c, self.turn(self.r_proj(key), first)

    def turn(self, x: Float[Tensor, "*B L R"], first: int) -> Float[Tensor, "*B L R"]:
        """Turn the planes of the coordinates i and i + R/2 by the angles m BASE^(-2i/R), m the place."""
        wide, half = torch.promote_types(x.dtype, torch.float32), self.rope_dim // 2
        places = torch.arange(x.shape[-2], device=x.device, dtype=wide).unsqueeze(-1) + first
        angles = places * BASE ** (-torch.arange(half, device=x.device, dtype=wide) / half)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        return torch.cat([x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin], dim=-1)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `mla`."""
    register("mla", MLA)
