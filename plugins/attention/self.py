"""Self-attention with projections in and none out."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, Register, attend, hide_masked, hookimpl
from attnbench.shapes import BKD, BKV, BQD, Mask


class SelfAttention(Attention):
    """One head of scaled dot products between projections of one input (Vaswani et al. 2017, arXiv:1706.03762).

    weights = softmax(scale · (Wq query)·(Wk key))
    context = weights · Wv value

    No biases and no output projection: 3 x 128 x 128 = 49,152 parameters at width 128. Self-attention is a host that
    gives one input as query, key and value; the projections make any three inputs comparable. For another scoring
    function than the dot product: attention=multihead attention.num_heads=1.

    Args:
        dim: D, the width of the projections and of the context; null takes the query's.
        scale: multiplies the dot products; null takes 1/sqrt(D).
        init: how the projections begin: xavier (Glorot's uniform), or uniform over [-0.05, 0.05), Keras's default.

    Raises ValueError when dim is not positive.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        dim: int | None = None,
        scale: float | None = None,
        init: Literal["xavier", "uniform"] = "xavier",
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.out_dim = query_dim if dim is None else dim
        if self.out_dim < 1:
            raise ValueError(f"dim is at least 1, not {dim}")
        self.scale = self.out_dim**-0.5 if scale is None else scale
        self.q_proj = nn.Linear(query_dim, self.out_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, self.out_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, self.out_dim, bias=False)
        for project in (self.q_proj, self.k_proj, self.v_proj):
            if init == "uniform":
                nn.init.uniform_(project.weight, -0.05, 0.05)
            else:
                nn.init.xavier_uniform_(project.weight)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend, on a fused kernel when no weights are needed.

        With one head and no biases products may be taken in any order, here in one of few operations: keys as wide as
        their projections are compared with (scale Wkᵀ Wq) query, and the context of one query is projected, not every
        value.
        """
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        to_query = self.scale * self.q_proj.weight
        if key.shape[-1] == self.out_dim:
            q, k = F.linear(query, self.k_proj.weight.mT @ to_query), key
        else:
            q, k = F.linear(query, to_query), self.k_proj(key)
        late = query.shape[-2] == 1
        v = value if late else self.v_proj(value)
        context, weights = attend(None, q, k, v, mask, causal=causal, need_weights=need_weights)
        return self.v_proj(context) if late else context, None if weights is None else weights.unsqueeze(1)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `self`."""
    register("self", SelfAttention)
