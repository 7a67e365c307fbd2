import math

import pytest
import torch
from attnbench_ard import RelevanceKernel

import attnbench


def test_the_score_is_minus_half_the_squared_distance_in_length_scales():
    score = RelevanceKernel(2, 2, length_scale=2.0)
    with torch.no_grad():
        score.log_scale[1] = math.log(0.5)
    # (3-1)²/2² = 1 and (1-2)²/0.5² = 4
    assert float(score(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]]))) == pytest.approx(-2.5)


def test_training_finds_the_dimension_that_counts():
    torch.manual_seed(0)
    attention = attnbench.build("attention", "soft", query_dim=2, key_dim=2, value_dim=1, scoring="ard")
    optimizer = torch.optim.Adam(attention.parameters(), lr=0.05)
    for _ in range(150):
        query, key = torch.randn(32, 1, 2), torch.randn(32, 16, 2)
        value = key[..., :1].sin()  # the second dimension is noise
        context, _ = attention(query, key, value)
        loss = (context - query[..., :1].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    counts, noise = attention.score.log_scale.exp().tolist()
    assert counts < 0.5
    assert noise > 2


def test_a_length_scale_of_0_is_refused_in_a_line():
    with pytest.raises(attnbench.UsageError, match="scoring=ard: length_scale is greater than 0, not 0"):
        attnbench.build("scoring", "ard", query_dim=2, key_dim=2, length_scale=0)
