"""Location scores: from the query alone."""

from __future__ import annotations

from torch import nn

from attnbench import Register, ScoringFunction, UsageError, hookimpl
from attnbench.shapes import Keys, Queries, ScoreMatrix


class Location(ScoringFunction):
    """A score for each position, from the query alone (Luong, Pham, Manning 2015, arXiv:1508.04025, there "location").

    score(q, k_j) = (W q)_j, W of shape [max_keys, Dq]

    What a key holds does not matter, only where it stands.

    Args:
        max_keys: how many positions can be scored.

    Raises ValueError when max_keys is not positive, and UsageError when called with more keys than that.
    """

    excused = {"permutation": "it scores positions, so that order is the point"}

    def __init__(self, query_dim: int, key_dim: int, *, max_keys: int = 512) -> None:
        super().__init__()
        if max_keys < 1:
            raise ValueError(f"max_keys is at least 1, not {max_keys}")
        self.W = nn.Linear(query_dim, max_keys, bias=False)

    def forward(self, query: Queries, key: Keys) -> ScoreMatrix:
        """Score the positions of the keys."""
        K, most = key.shape[-2], self.W.out_features
        if most < K:
            raise UsageError(f"scoring=location scores {most} positions, and there are {K} keys; scoring.max_keys={K}")
        scores = nn.functional.linear(query, self.W.weight[:K])
        return scores + scores.new_zeros(*key.shape[:-2], 1, 1)


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `location`."""
    register("location", Location)
