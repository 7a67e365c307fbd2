"""Structured self-attention: several learned hops over a sequence, and a penalty that keeps them apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, Register, causal_mask, hide_masked, hookimpl, masked_softmax
from attnbench.prefix import widen
from attnbench.shapes import BKD, BKV, BQD, Context, Look, Mask, State


class Structured(Attention):
    """r hops of learned queries over the keys (Lin et al. 2017, arXiv:1703.03130).

    A = softmax over the keys of W2 tanh(W1 key), [r, K]
    context = A · value, the r rows side by side
    penalty = coefficient · |A Aᵀ - I|²: hops that look at the same place cost; none by default

    As in the paper, without the two layers that it puts behind the context, and without a penalty by default. What is
    asked does not matter: each query gets the same context, unless the mask differs between queries. The hops stand
    where other mechanisms have heads.

    Args:
        query_dim: Dq, not used.
        value_dim: Dv, the width of a value; the context is r times as wide.
        hops: r.
        hidden_dim: the width of W1's layer; null takes the key's.
        coefficient: the weight of the penalty. The paper has 1.0 for Age and Yelp, 0.3 for SNLI; A Aᵀ is I only
            where each hop looks at one place, so that it also works against hops that spread over a text.

    Raises ValueError when hops or hidden_dim is not positive, or coefficient is negative.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        hops: int = 4,
        hidden_dim: int | None = None,
        coefficient: float = 0.0,
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        width = key_dim if hidden_dim is None else hidden_dim
        if min(hops, width) < 1:
            raise ValueError(f"hops and hidden_dim are at least 1, not {hops} and {width}")
        if not coefficient >= 0:
            raise ValueError(f"coefficient is at least 0, not {coefficient}")
        self.W1 = nn.Linear(key_dim, width, bias=False)
        self.W2 = nn.Linear(width, hops, bias=False)
        self.coefficient = coefficient
        self.out_dim = hops * value_dim

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dout"], Float[Tensor, "B r Q K"] | None]:
        """Look r times."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        mask = causal_mask(mask, query, causal)
        scores = self.W2(torch.tanh(self.W1(key))).mT.unsqueeze(2)
        if mask is None:
            A = masked_softmax(scores)
        else:
            A = masked_softmax(scores.expand(-1, -1, mask.shape[1], -1), mask.unsqueeze(1))
        context = (A @ value.unsqueeze(1)).transpose(1, 2).flatten(-2)
        Q = query.shape[1]
        return context.expand(-1, Q, -1), A.expand(-1, -1, Q, -1) if need_weights else None

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Look once: what is asked does not matter."""
        context, A = self(key.new_empty(len(key), 1, self.widths[0]), key, value, mask)
        assert A is not None
        return lambda query, need_weights=True: (
            context.expand(-1, query.shape[1], -1),
            A.expand(-1, -1, query.shape[1], -1) if need_weights else None,
        )

    @property
    def penalized(self) -> bool:
        """Whether the coefficient is more than 0."""
        return self.coefficient > 0

    def penalty(self, weights: Float[Tensor, "B r Q K"]) -> Float[Tensor, ""] | None:
        """Return coefficient · |A Aᵀ - I|², squared Frobenius norm, the mean over examples and queries; 0 of none."""
        if not self.penalized:
            return None
        if not weights.numel():
            return weights.sum()
        A = weights.transpose(1, 2)
        excess = A @ A.mT - torch.eye(A.shape[-2], dtype=A.dtype, device=A.device)
        return self.coefficient * excess.square().sum(dim=(-2, -1)).mean()

    def state_size(self, length: int) -> int:
        """Return r (Dv + 2): of each hop the weighted sum of the values, the sum of its weights, its largest score."""
        return self.out_dim + 2 * self.W2.out_features

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Add one key to the softmax of each hop."""
        score_BrK, wide = widen(self.W2(torch.tanh(self.W1(key)))).mT, widen(value)
        if state is None:
            summed, total, largest = wide.expand(-1, score_BrK.shape[1], -1), torch.ones_like(score_BrK), score_BrK
        else:
            largest = torch.maximum(state[2], score_BrK)
            old, new = torch.exp(state[2] - largest), torch.exp(score_BrK - largest)
            summed, total = old * state[0] + new * wide, old * state[1] + new
        return (summed / total).to(value.dtype).flatten(1).unsqueeze(1), (summed, total, largest)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `structured`."""
    register("structured", Structured)
