"""Linear scores."""

from __future__ import annotations

from torch import nn

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.heads import one_width
from attnbench.shapes import Keys, Queries, ScoreMatrix


class Linear(ScoringFunction):
    """One vector over query, key and their product (Seo et al. 2016, arXiv:1611.01603; AllenNLP's LinearAttention).

    score(q, k) = wᵀ [q; k; q∘k], w of length 3 D

    AllenNLP adds a bias, which is the same for all keys: softmax cancels it.

    Raises ValueError when query and key differ in width: q∘k is entry by entry.
    """

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        one_width("linear", query_dim, key_dim)
        self.w = nn.Linear(3 * key_dim, 1, bias=False)

    def forward(self, query: Queries, key: Keys) -> ScoreMatrix:
        """Score every query against every key."""
        w_query, _, _ = self.w.weight.chunk(3, dim=-1)
        q, k = self.factor(query, key)
        return q @ k.mT + query @ w_query.mT

    def factor(self, query: Queries, key: Keys) -> tuple[Queries, Keys]:
        """q' = w_k + w_qk∘q, k' = k. The term in q alone is the same for all keys: softmax cancels it."""
        _, w_key, w_product = self.w.weight.chunk(3, dim=-1)
        return w_key + w_product * query, key


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `linear`."""
    register("linear", Linear)
