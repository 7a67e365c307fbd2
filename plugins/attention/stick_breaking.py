"""Stick-breaking attention: the newest key that fits takes its share first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, MakeScore, Register, causal_mask, hide_masked, hookimpl
from attnbench.heads import head_width, merge_heads, split_heads
from attnbench.shapes import BKD, BKV, BQD, Look, Mask


class StickBreaking(Attention):
    """Each key, from the newest back, takes a share of what is left (Tan et al. 2024, arXiv:2410.17980).

    β_ij = sigmoid(score(q_i, k_j))
    weights_ij = β_ij Π (1 - β_il) over the keys l behind j that i may see
    context = Wo [weights · v of each head]

    In logarithms, log weights_ij = log σ(s_ij) - Σ_l softplus(s_il): no exponent is positive. Position is in the order
    in which the stick is broken, so that no position embedding is needed. Rows sum to at most 1, and what is left of
    the stick goes nowhere; `signed` says that they are no distributions. The paper lets token i see only those before
    it; here, as under any causal mask of this bench, it sees itself too (the authors' `attend_current=True`).

    Args:
        num_heads: H; divides embed_dim.
        embed_dim: E, the width of all heads together and of the context; null takes the query's.

    Raises ValueError when num_heads does not divide embed_dim. State: 2 E numbers a token.
    """

    signed = True
    excused = {"permutation": "the stick is broken from the last key on, so that order is the point"}

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        num_heads: int = 4,
        embed_dim: int | None = None,
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.out_dim = query_dim if embed_dim is None else embed_dim
        width = head_width(self.out_dim, num_heads)
        self.num_heads = num_heads
        self.score = score(width, width)
        self.positional = self.score.positional
        self.q_proj = nn.Linear(query_dim, self.out_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, self.out_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, self.out_dim, bias=False)
        self.out_proj = nn.Linear(self.out_dim, self.out_dim, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        k, v = (split_heads(x, self.num_heads) for x in (self.k_proj(key), self.v_proj(value)))
        return self.attend(partial(self.score, key=k), v, causal_mask(mask, query, causal), query, need_weights)

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Project the keys and values once."""
        key, value = hide_masked(None, key, value, mask, widths=self.widths)
        k, v = (split_heads(x, self.num_heads).contiguous() for x in (self.k_proj(key), self.v_proj(value)))
        return partial(self.attend, self.score.prepare(k), v, mask)

    def attend(
        self,
        score: Callable[..., Tensor],
        v: Float[Tensor, "B H K D"],
        mask: Mask,
        query: BQD,
        need_weights: bool = True,
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend with projected values; `score` knows the projected keys."""
        scores = score(split_heads(self.q_proj(query), self.num_heads))
        hidden = None if mask is None else ~mask.unsqueeze(1)
        if hidden is not None:
            scores = scores.masked_fill(hidden, 0.0)
        left = -F.softplus(scores).clamp(max=torch.finfo(scores.dtype).max)  # log(1 - β), an overflown score's too
        if hidden is not None:
            left = left.masked_fill(hidden, 0.0)
        behind = left.flip(-1).cumsum(dim=-1).flip(-1) - left
        weights = (F.logsigmoid(scores) + behind).exp()
        if hidden is not None:
            weights = weights.masked_fill(hidden, 0.0)
        return self.out_proj(merge_heads(weights @ v)), weights if need_weights else None


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `stick_breaking`."""
    register("stick_breaking", StickBreaking)
