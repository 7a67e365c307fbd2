"""The Forgetting Transformer: softmax attention with a forget gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnbench import (
    Attention,
    MakeScore,
    Register,
    causal_mask,
    fused_attention,
    hide_masked,
    hookimpl,
    masked_softmax,
)
from attnbench.heads import head_width, merge_heads, split_heads
from attnbench.shapes import BKD, BKV, BQD, Mask


class Forgetting(Attention):
    """Softmax attention whose scores fade by a gate of each token (FoX, Lin et al. 2025, arXiv:2503.02130).

    f_j = sigmoid(w_h · key_j + b_h)                 the forget gate of token j, head by head
    c_i = log f_0 + ... + log f_i                    a masked key's log f is 0
    weights_ij = softmax over j of score(q_i, k_j) + c_i - c_j
    context = Wo [head_1; ...; head_H]

    c_i is the same for all keys of a row, and softmax cancels it: what is added is -c_j, a number of each key, so that
    the fused kernel takes it as one more coordinate of q and k, under any mask. Without a causal mask each query sees
    the keys as the last place does: the last ones the least faded.

    The paper's "LLaMA" variant, in which no position embedding is needed; its "Pro" variant adds an output gate,
    normalised outputs, queries and keys, and shifts of keys and values, which are left out. Initialisation is PyTorch's
    for the projections, and as in the authors' code b = 0, so that tokens fade to half at each step at first.

    Args:
        num_heads: H; divides embed_dim.
        embed_dim: E, the width of all heads together and of the context; null takes the query's.

    Raises ValueError when num_heads does not divide embed_dim. State: 2 E numbers and H gates a token.
    """

    excused = {
        "permutation": "gates add up along the keys, so that order is the point",
        "masked_keys:random": "a gate fades what stands before it for all queries, though some may not see its key",
    }

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
        self.f_proj = nn.Linear(key_dim, num_heads)
        nn.init.zeros_(self.f_proj.bias)
        self.out_proj = nn.Linear(self.out_dim, self.out_dim, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend; a scoring function that factors runs on a fused kernel when no weights are needed."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        q = split_heads(self.q_proj(query), self.num_heads)
        k = split_heads(self.k_proj(key), self.num_heads)
        v = split_heads(self.v_proj(value), self.num_heads)
        fade = -self.cumulated(key, mask)
        factors = None if need_weights or q.dtype in (torch.float16, torch.bfloat16) else self.score.factor(q, k)
        if factors is not None:
            one = torch.ones_like(q[..., :1])
            q, k = torch.cat([factors[0], one], dim=-1), torch.cat([factors[1], fade.unsqueeze(-1)], dim=-1)
            heads = fused_attention(q, k, v, None if mask is None else mask.unsqueeze(1), causal=causal)
            return self.out_proj(merge_heads(heads)), None
        mask = causal_mask(mask, query, causal)
        scores = self.score(q, k)
        most = torch.finfo(scores.dtype).max  # float16's is soon exceeded
        faded = scores.clamp(-most, most).to(fade.dtype) + fade.unsqueeze(-2)
        weights = masked_softmax(faded, None if mask is None else mask.unsqueeze(1)).to(v.dtype)
        return self.out_proj(merge_heads(weights @ v)), weights if need_weights else None

    def cumulated(self, key: Float[Tensor, "B K Dk"], mask: Bool[Tensor, "B #Q K"] | None) -> Float[Tensor, "B H K"]:
        """Return c less its last value, in float32 at least: what is added to the last keys' scores is then near 0."""
        wide = torch.promote_types(key.dtype, torch.float32)
        log_f = F.logsigmoid(self.f_proj(key).to(wide)).mT
        if mask is not None:
            log_f = log_f.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
        c = log_f.cumsum(dim=-1)
        return c - c[..., -1:]


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `forgetting`."""
    register("forgetting", Forgetting)
