"""Grouped keys, gates, and normalisers whose rows need not sum to one."""

import math

import pytest
import torch

import attnbench
from attnbench import masked_sigmoid, masked_softmax1


def multihead(**options):
    torch.manual_seed(0)
    given = {"query_dim": 8, "key_dim": 8, "value_dim": 8, "scoring": "scaled_dot", **options}
    return attnbench.build("attention", "multihead", **given).double()


X = torch.randn(2, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("need_weights", [True, False])
def test_grouped_keys_are_keys_repeated_for_each_head_of_the_group(kv_heads, need_weights):
    grouped, whole = multihead(kv_heads=kv_heads), multihead()
    whole.load_state_dict(
        {
            name: p.unflatten(0, (kv_heads, 2)).repeat_interleave(4 // kv_heads, dim=0).flatten(0, 1)
            if name[0] in "kv"
            else p
            for name, p in grouped.state_dict().items()
        }
    )

    torch.testing.assert_close(
        grouped(X, X, X, causal=True, need_weights=need_weights), whole(X, X, X, causal=True, need_weights=need_weights)
    )
    assert grouped.state_size(10) == 2 * 10 * 2 * kv_heads < whole.state_size(10)


@pytest.mark.parametrize("gate", ["head", "element"])
def test_a_gate_multiplies_the_heads_before_the_output_projection(gate):
    gated, plain = multihead(gate=gate, bias=False), multihead(bias=False)
    with torch.no_grad():
        gated.g_proj.weight.zero_()
    torch.testing.assert_close(gated(X, X, X)[0], plain(X, X, X)[0] / 2)  # sigmoid(0)

    with torch.no_grad():
        gated.g_proj.weight[0] = 100 * X[0, 0] / X[0, 0].square().sum()  # opens what the first row stands for
        gated.out_proj.weight.copy_(torch.eye(8))
        plain.out_proj.weight.copy_(torch.eye(8))
    opened = gated(X, X, X)[0][0, 0] / plain(X, X, X)[0][0, 0]
    torch.testing.assert_close(
        opened,
        torch.tensor([1.0] * (2 if gate == "head" else 1) + [0.5] * (6 if gate == "head" else 7), dtype=torch.float64),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"kv_heads": 1},
        {"kv_heads": 2, "gate": "head"},
        {"gate": "element"},
        {"normaliser": "softmax1"},
        {"normaliser": "sigmoid", "scoring": "rope"},
    ],
)
def test_a_step_at_a_time_is_all_at_once(options):
    module, state = multihead(**options), None
    together = module(X, X, X, causal=True)[0]

    for t in range(7):
        token = X[:, t : t + 1]
        context, state = module.step(token, token, token, state)
        torch.testing.assert_close(context, together[:, t : t + 1])
        assert sum(part[0].numel() for part in state) == module.state_size(t + 1)


def test_kv_heads_that_do_not_divide_are_refused():
    with pytest.raises(attnbench.UsageError, match="kv_heads=3 does not divide num_heads=4"):
        multihead(kv_heads=3)


SCORES = torch.tensor([[0.0, math.log(2), math.log(5)]], dtype=torch.float64)
MASK = torch.tensor([[True, False, True]])


def test_softmax1_leaves_a_share_for_nowhere():
    # 1 + 1 + 2 + 5 = 9; without the masked key 1 + 1 + 5 = 7
    torch.testing.assert_close(masked_softmax1(SCORES), torch.tensor([[1, 2, 5]], dtype=torch.float64) / 9)
    torch.testing.assert_close(masked_softmax1(SCORES, MASK), torch.tensor([[1, 0, 5]], dtype=torch.float64) / 7)
    torch.testing.assert_close(masked_softmax1(SCORES - 800), torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(masked_softmax1(SCORES + 800), SCORES.softmax(dim=-1))


def test_sigmoid_weighs_each_key_by_itself_less_the_log_of_their_number():
    # sigmoid(log s - log n) = s / (s + n)
    torch.testing.assert_close(masked_sigmoid(SCORES), torch.tensor([[1 / 4, 2 / 5, 5 / 8]], dtype=torch.float64))
    torch.testing.assert_close(masked_sigmoid(SCORES, MASK), torch.tensor([[1 / 3, 0, 5 / 7]], dtype=torch.float64))


@pytest.mark.parametrize("normalise", [masked_softmax1, masked_sigmoid])
def test_masked_scores_reach_neither_weights_nor_gradients(normalise):
    scores = torch.tensor([[1.0, math.nan, 2.0], [math.inf, 1.0, math.nan]], requires_grad=True)
    weights = normalise(scores, torch.tensor([[True, False, True], [False, False, False]]))
    weights.sum().backward()

    assert weights[1].tolist() == [0, 0, 0]
    assert weights[0, 1] == 0
    assert scores.grad.isfinite().all()
    assert scores.grad[1].tolist() == [0, 0, 0]
