"""Soft attention: any scoring function, a softmax, a weighted sum."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from attnbench import (
    NORMALISERS,
    Attention,
    MakeScore,
    Normaliser,
    Register,
    check_mask,
    fused_attention,
    hide_masked,
    hookimpl,
    masked_softmax,
)


class Soft(Attention):
    """A weighted mean of the values, without projections (Bahdanau, Cho, Bengio 2014, arXiv:1409.0473).

    weights = softmax over the keys of score(query, key)
    context = weights · value

    With scoring=dot and one query this is the Attention of "Deep Learning from Scratch 2" (ch. 8), and with all the
    decoder's queries at once its TimeAttention.

    Args:
        query_dim: Dq, the width of a query.
        key_dim: Dk, the width of a key.
        value_dim: Dv, the width of a value and of the context.
        score: makes the scoring function.
        normaliser: softmax, or sparsemax or entmax15, which give most keys no weight at all.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        normaliser: Normaliser = "softmax",
    ) -> None:
        super().__init__()
        self.score = score(query_dim, key_dim)
        self.normaliser = normaliser
        self.out_dim = value_dim

    def forward(
        self,
        query: Float[Tensor, "B Q Dq"],
        key: Float[Tensor, "B K Dk"],
        value: Float[Tensor, "B K Dv"],
        mask: Bool[Tensor, "B #Q K"] | None = None,
        *,
        previous: Float[Tensor, "B 1 Q K"] | None = None,
        need_weights: bool = True,
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend; a scoring function that factors runs on a fused kernel when no weights are needed."""
        check_mask(mask, query.shape[-2], key.shape[-2])
        key, value = hide_masked(mask, key, value)
        factors = self.score.factor(query, key) if self.normaliser == "softmax" else None
        if factors is not None and not need_weights:
            return fused_attention(*factors, value, mask), None
        if factors is not None:
            weights = masked_softmax(factors[0] @ factors[1].mT, mask, overwrite=True)
        else:
            weights = NORMALISERS[self.normaliser](self.score(query, key), mask)
        return weights @ value, weights.unsqueeze(1) if need_weights else None


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `soft`."""
    register("soft", Soft)
