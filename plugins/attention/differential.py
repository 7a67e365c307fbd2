"""The Differential Transformer: one map of attention less another."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, MakeScore, Register, attend, hide_masked, hookimpl, prepare
from attnbench.heads import head_width, merge_heads, split_heads
from attnbench.shapes import BKD, BKV, BQD, Look, Mask


class Differential(Attention):
    """What two softmax maps have in common, noise, cancels (Ye et al. 2024, arXiv:2410.05258).

    weights = softmax(score(q1, k1)) - λ softmax(score(q2, k2)),   q1, q2, k1, k2: projections as wide as D = E / 2H
    λ = exp(λq1 · λk1) - exp(λq2 · λk2) + lambda_init,             λq1, ...: learned vectors of D, of all heads
    context = Wo [(1 - lambda_init) RMSNorm(weights · v) of each head],   v: as wide as 2D

    Rows of `weights` sum to 1 - λ and may be negative; `signed` says so. The paper's lambda_init rises with the depth,
    0.8 - 0.6 exp(-0.3 (layer - 1)); a module does not know its layer, so that it is an option here, and 0.8 the
    constant that the paper tried beside it. λq1, ... begin as in the authors' code, normal with deviation 0.1.

    Args:
        score: makes the scoring function, for the width D; one serves both maps of all heads.
        num_heads: H; 2H divides embed_dim.
        embed_dim: E, the width of the context; null takes the query's.
        lambda_init: how much of the second map is subtracted at first.

    Raises ValueError when 2 num_heads does not divide embed_dim. State: 2 E numbers a token.
    """

    signed = True
    excused = {"mixing": "each head's weights · v is normalised before the output projection"}

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        num_heads: int = 2,
        embed_dim: int | None = None,
        lambda_init: float = 0.8,
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.out_dim = query_dim if embed_dim is None else embed_dim
        if self.out_dim % 2:
            raise ValueError(f"embed_dim is even, two maps a head, not {self.out_dim}; try {self.out_dim + 1}")
        width = head_width(self.out_dim // 2, num_heads)
        self.num_heads, self.lambda_init = num_heads, lambda_init
        self.score = score(width, width)
        self.positional = self.score.positional
        self.q_proj = nn.Linear(query_dim, self.out_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, self.out_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, self.out_dim, bias=False)
        self.out_proj = nn.Linear(self.out_dim, self.out_dim, bias=False)
        self.lambdas = nn.Parameter(0.1 * torch.randn(4, width))
        self.norm = nn.Parameter(torch.ones(2 * width))

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend twice, and take the difference."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        k, v = self.project(key, value)
        allowed = None if mask is None else mask.unsqueeze(1)
        return self.subtract(
            *attend(self.score, self.queries(query), k, v, allowed, causal=causal, need_weights=need_weights)
        )

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Project the keys and values once."""
        k, v = (x.contiguous() for x in self.project(*hide_masked(None, key, value, mask, widths=self.widths)))
        look = prepare(self.score, k.shape[-1], k, v, None if mask is None else mask.unsqueeze(1))
        return lambda query, need_weights=True: self.subtract(*look(self.queries(query), need_weights=need_weights))

    def queries(self, query: BQD) -> Float[Tensor, "B H2 Q D"]:
        """Project the queries: of head h q1 at 2h, q2 at 2h + 1."""
        return split_heads(self.q_proj(query), 2 * self.num_heads)

    def project(self, key: BKD, value: BKV) -> tuple[Float[Tensor, "B H2 K D"], Float[Tensor, "B H2 K D2"]]:
        """Project keys and values: both maps of a head share its values."""
        k = split_heads(self.k_proj(key), 2 * self.num_heads)
        return k, split_heads(self.v_proj(value), self.num_heads).repeat_interleave(2, dim=1)

    def subtract(
        self, both: Float[Tensor, "B H2 Q D2"], maps: Float[Tensor, "B H2 Q K"] | None
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Take the difference of both maps, and of what each sees."""
        share = self.share()
        heads = both[:, ::2] - share * both[:, 1::2]
        weights = None if maps is None else maps[:, ::2] - share * maps[:, 1::2]
        normed = self.norm * F.rms_norm(heads, heads.shape[-1:], eps=1e-5)
        return self.out_proj((1 - self.lambda_init) * merge_heads(normed)), weights

    def share(self) -> Float[Tensor, ""]:
        """Return λ."""
        q1, k1, q2, k2 = self.lambdas
        return torch.exp((q1 * k1).sum()) - torch.exp((q2 * k2).sum()) + self.lambda_init


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `differential`."""
    register("differential", Differential)
