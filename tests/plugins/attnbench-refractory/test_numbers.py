import math

import pytest
import torch

import attnbench


def make():
    return attnbench.build(
        "attention", "refractory", query_dim=2, key_dim=2, value_dim=1, scoring="dot", inhibition=math.log(3)
    )


def test_where_it_looked_counts_a_third_at_most():
    query, key, value = torch.zeros(1, 1, 2), torch.randn(1, 2, 2), torch.tensor([[[1.0], [5.0]]])
    _, first = make()(query, key, value)
    assert first.flatten().tolist() == pytest.approx([0.5, 0.5])
    context, weights = make()(query, key, value, previous=torch.tensor([[[[1.0, 0.0]]]]))
    assert weights.flatten().tolist() == pytest.approx([0.25, 0.75])  # exp(-ln 3) : 1
    assert context.item() == pytest.approx(4.0)


def test_the_inhibition_is_trained():
    attention = make()
    _, weights = attention(
        torch.zeros(1, 1, 2), torch.randn(1, 2, 2), torch.zeros(1, 2, 1), previous=torch.eye(2)[None, None, :1]
    )
    weights[..., 0].sum().backward()
    assert float(attention.b.grad) < 0  # more inhibition, less weight where it looked
