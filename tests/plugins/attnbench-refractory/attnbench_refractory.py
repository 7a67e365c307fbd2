"""Attention that tires of where it looked."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnbench import Attention, MakeScore, Register, hide_masked, hookimpl, masked_softmax


class Refractory(Attention):
    """Softmax that looks less where it looked a step ago, as an eye does (inhibition of return, Posner 1984).

    w_t     = softmax(score(query_t, key) - β w_{t-1}),  β = softplus(b), trained
    context = w_t · value

    It goes one query at a time: `previous` is w_{t-1}, None at the first.

    Args:
        query_dim: Dq, the width of a query.
        key_dim: Dk, the width of a key.
        value_dim: Dv, the width of a value, and of the context.
        score: makes the scoring function.
        inhibition: β, where training begins.
    """

    recurrent = True

    def __init__(
        self, query_dim: int, key_dim: int, value_dim: int, score: MakeScore, *, inhibition: float = 1.0
    ) -> None:
        super().__init__()
        self.widths = query_dim, key_dim, value_dim
        if inhibition <= 0:
            raise ValueError(f"inhibition is greater than 0, not {inhibition}")
        self.out_dim = value_dim
        self.score = score(query_dim, key_dim)
        self.b = nn.Parameter(torch.tensor(inhibition).expm1().log())

    def forward(
        self,
        query: Float[Tensor, "B 1 Dq"],
        key: Float[Tensor, "B K Dk"],
        value: Float[Tensor, "B K Dv"],
        mask: Bool[Tensor, "B 1 K"] | None = None,
        *,
        causal: bool = False,
        need_weights: bool = True,
        previous: Float[Tensor, "B 1 1 K"] | None = None,
    ) -> tuple[Float[Tensor, "B 1 Dv"], Float[Tensor, "B 1 1 K"] | None]:
        """Attend, one query."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths, previous=previous)
        scores = self.score(query, key)
        if previous is not None:
            scores = scores - F.softplus(self.b) * previous.squeeze(1)
        weights = masked_softmax(scores, mask)
        return weights @ value, weights.unsqueeze(1) if need_weights else None


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `refractory`."""
    register("refractory", Refractory)
