"""Attention modules against numbers worked out by hand, torch's own, and references written here."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from by_hand import KEY, VALUE, close, exponents, make
from torch import nn

from attnbench import UsageError
from attnbench.config import OptimizerConfig
from attnbench.hosts import EncoderDecoder
from attnbench.registry import Registry
from attnbench.schema import takes_score
from attnbench.training.experiment import Experiment, penalties


def test_soft_by_hand() -> None:
    """Scores 0, ln 2, ln 2 give weights 1/5, 2/5, 2/5."""
    context, weights = make("soft", scoring="dot")(torch.tensor([[[0.0, math.log(2)]]]), KEY, VALUE)
    close(weights, [[[[0.2, 0.4, 0.4]]]])
    close(context, [[[0.2 + 0.8 + 1.6, 2 + 8 + 0]]])


def test_soft_is_the_books_attention_with_its_gradients() -> None:
    """Saito 2018, ch. 8: scores hs·h, softmax, weighted sum; the gradients as its layers write them by hand."""
    torch.manual_seed(0)
    hs, h, upstream = torch.randn(4, 3), torch.randn(3), torch.randn(3)
    a = torch.tensor(exponents(*(float(row @ h) for row in hs)))
    da = hs @ upstream  # WeightSum: dar summed over features
    ds = a * (da - (a * da).sum())  # Softmax
    dhs = a.unsqueeze(1) * upstream + ds.unsqueeze(1) * h  # both ways in which hs is used
    dh = (ds.unsqueeze(1) * hs).sum(dim=0)
    query, states = h.view(1, 1, 3).requires_grad_(), hs.view(1, 4, 3).requires_grad_()
    context, weights = make("soft", (3, 3, 3), scoring="dot")(query, states, states)
    close(weights[0, 0, 0], a)
    close(context[0, 0], a @ hs)
    (context[0, 0] * upstream).sum().backward()
    assert query.grad is not None and states.grad is not None
    close(states.grad[0], dhs)
    close(query.grad[0, 0], dh)


def torchs(ours: Any, width: int, heads: int) -> nn.MultiheadAttention:
    """Give torch's module our parameters."""
    theirs = nn.MultiheadAttention(width, heads, batch_first=True)
    projections = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.data = torch.cat([project.weight for project in projections]).detach()
    theirs.in_proj_bias.data = torch.cat([project.bias for project in projections]).detach()
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    return theirs


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_is_torchs_with_its_gradients(need_weights: bool) -> None:
    torch.manual_seed(0)
    ours = make("multihead", (8, 8, 8), scoring="scaled_dot", num_heads=2)
    theirs = torchs(ours, 8, 2)
    query, key, value = torch.randn(3, 4, 8), torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    valid = torch.arange(5) < torch.tensor([5, 2, 3]).unsqueeze(1)
    found = []
    for attend in (
        lambda q: ours(q, key, value, valid.unsqueeze(1), need_weights=need_weights),
        lambda q: theirs(q, key, value, key_padding_mask=~valid, need_weights=need_weights, average_attn_weights=False),
    ):
        q = query.clone().requires_grad_()
        context, weights = attend(q)
        context.square().sum().backward()
        found.append((context, weights, q.grad))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(ours.out_proj.weight.grad, theirs.out_proj.weight.grad)
    torch.testing.assert_close(ours.k_proj.weight.grad, theirs.in_proj_weight.grad[8:16])


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_row_with_nothing_to_attend_is_nan_in_torchs_multihead_and_zero_in_ours(need_weights: bool) -> None:
    """With need_weights=True torch's gives NaN, and every parameter's gradient is NaN with it; ours never."""
    torch.manual_seed(0)
    ours = make("multihead", (8, 8, 8), scoring="scaled_dot", num_heads=2)
    theirs = torchs(ours, 8, 2)
    x = torch.randn(2, 3, 8)
    valid = torch.tensor([[True, True, False], [False, False, False]])
    context, _ = theirs(x, x, x, key_padding_mask=~valid, need_weights=need_weights)
    context.sum().backward()
    assert bool(context.isnan().any()) == need_weights
    assert bool(theirs.in_proj_weight.grad.isnan().any()) == need_weights
    context, _ = ours(x, x, x, valid.unsqueeze(1), need_weights=need_weights)
    close(context[1], torch.zeros(3, 8))
    context.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in ours.parameters())


def test_self_has_three_projections_and_nothing_else() -> None:
    attend = make("self", (128, 128, 128))
    assert sum(parameter.numel() for parameter in attend.parameters()) == 49_152
    assert attend.out_dim == 128


def test_self_by_hand() -> None:
    """Wq = I, Wk = 2 I, Wv swaps the features; scale 1/4: scores are query·key / 2."""
    attend = make("self", scale=0.25)
    attend.q_proj.weight.data = torch.eye(2)
    attend.k_proj.weight.data = 2 * torch.eye(2)
    attend.v_proj.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    query = torch.tensor([[[2 * math.log(3), 0.0]]])  # scores ln 3, 0, ln 3: weights 3/7, 1/7, 3/7
    context, weights = attend(query, KEY, VALUE)
    close(weights, [[[[3 / 7, 1 / 7, 3 / 7]]]])
    close(context, [[[(30 + 20 + 0) / 7, (3 + 2 + 12) / 7]]])
    close(attend(query, KEY, VALUE, need_weights=False)[0], context)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("dim", [4, 8])
@pytest.mark.parametrize("need_weights", [True, False])
def test_self_is_the_textbooks_in_whatever_order_it_multiplies(queries: int, dim: int, need_weights: bool) -> None:
    attend = make("self", (5, 6, 7), dim=dim).double()  # keys are wider than their projections, or narrower
    query, key, value = (torch.randn(2, *shape).double() for shape in ((queries, 5), (4, 6), (4, 7)))
    mask = torch.tensor([[[True, True, True, False]], [[True, False, True, True]]])
    context, _ = attend(query, key, value, mask, need_weights=need_weights)
    scores = attend.q_proj(query) @ attend.k_proj(key).mT / dim**0.5
    plain = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1) @ attend.v_proj(value)
    close(context, plain)
    for parameter in attend.parameters():
        slopes = [torch.autograd.grad(x.square().sum(), parameter, retain_graph=True)[0] for x in (context, plain)]
        close(*slopes)


def test_self_scales_by_the_root_of_its_width_unless_told() -> None:
    assert make("self", (128, 128, 128)).scale == 128**-0.5
    assert make("self", (128, 128, 128), scale=0.125).scale == 0.125


def test_self_begins_as_keras_does_when_asked() -> None:
    for weight in make("self", (64, 64, 64), init="uniform").state_dict().values():
        assert 0.045 < float(weight.abs().max()) <= 0.05
        assert abs(float(weight.std()) - 0.1 / math.sqrt(12)) < 2e-3
    for weight in make("self", (64, 64, 64)).state_dict().values():
        assert float(weight.abs().max()) > 0.15  # Glorot: sqrt(6/128) = 0.217


def test_structured_by_hand() -> None:
    """W1 = I, and W2 makes two hops that see tanh(1) times: 0, ln 2, ln 2 and ln 3, 0, ln 3."""
    attend = make("structured", hops=2, hidden_dim=2, coefficient=0.5)
    attend.W1.weight.data = torch.eye(2)
    attend.W2.weight.data = torch.tensor([[0.0, math.log(2)], [math.log(3), 0.0]]) / math.tanh(1)
    context, weights = attend(torch.randn(1, 2, 2), KEY, VALUE)
    a, b = [0.2, 0.4, 0.4], [3 / 7, 1 / 7, 3 / 7]
    close(weights, [[[a, a], [b, b]]])
    first = [0.2 + 0.8 + 1.6, 2 + 8]
    second = [(3 + 2 + 12) / 7, (30 + 20) / 7]
    close(context, [[first + second, first + second]])
    off = sum(x * y for x, y in zip(a, b, strict=True))
    penalty = (0.36 - 1) ** 2 + (19 / 49 - 1) ** 2 + 2 * off**2  # the entries of A Aᵀ - I
    close(attend.penalty(weights), 0.5 * penalty)


def test_a_penalty_joins_the_training_loss_without_the_task_knowing() -> None:
    host = nn.ModuleDict({"attention": make("structured", coefficient=1.0), "other": make("soft", scoring="dot")})
    query = torch.randn(1, 2, 2)
    with penalties(host) as found:
        host["attention"](query, KEY, VALUE, need_weights=False)
        host["other"](query, KEY, VALUE, need_weights=False)
    ((module, (penalty,)),) = found.items()
    assert module is host["attention"]
    close(penalty, host["attention"].penalty(host["attention"](query, KEY, VALUE)[1]))
    assert host["attention"](query, KEY, VALUE, need_weights=False)[1] is None
    assert not penalty.isnan() and penalty.requires_grad


def test_a_penalty_weighs_the_same_however_often_the_host_calls() -> None:
    """`structured` looks at the same places whatever is asked, here all at once, and one query after the other."""
    source, target = torch.randint(2, 9, (4, 6)), torch.randint(2, 9, (4, 10))
    task: Any = SimpleNamespace(metrics=dict, loss=lambda model, batch: 0 * model(*batch).sum())
    added = []
    for feed in (False, True):
        torch.manual_seed(0)
        host = EncoderDecoder(
            lambda *widths: make("structured", widths, coefficient=1.0), 9, embed_dim=8, hidden_dim=8, feed=feed
        )
        added.append(Experiment(task, host, OptimizerConfig(), total_steps=1).loss((source, target)))
    close(added[1], added[0])
    assert added[0] > 0


def test_structured_has_no_penalty_by_default_and_is_asked_for_no_weights() -> None:
    attend = make("structured")
    assert not attend.penalized
    with penalties(nn.ModuleDict({"attention": attend})) as found:
        assert attend(torch.randn(1, 2, 2), KEY, VALUE, need_weights=False)[1] is None
    assert not found and attend.penalty(torch.rand(1, 4, 2, 3)) is None


def test_hard_takes_the_best_key_and_nothing_else() -> None:
    attend = make("hard", scoring="dot").eval()
    context, weights = attend(torch.tensor([[[1.0, 2.0], [-1.0, 0.0]]]), KEY, VALUE)
    close(weights, [[[[0, 0, 1], [0, 1, 0]]]])
    close(context, [[[4, 0], [2, 20]]])


def test_hard_has_the_gradient_of_the_soft_weights() -> None:
    query = torch.tensor([[[0.3, -0.2]]], requires_grad=True)
    soft, hard = make("soft", scoring="dot"), make("hard", scoring="dot").eval()
    gradients = []
    for attend in (soft, hard):
        context, _ = attend(query, KEY, VALUE)
        gradients.append(torch.autograd.grad(context.sum(), query)[0])
    close(gradients[1], gradients[0])


def test_hard_draws_each_key_as_often_as_its_weight_says() -> None:
    """Scores 0, ln 2, ln 2: one draw in five takes the first, within four standard errors of 20,000 draws."""
    torch.manual_seed(0)
    attend = make("hard", scoring="dot", expected=0.0).train()
    query = torch.tensor([0.0, math.log(2)]).expand(1, 20_000, 2)
    _, weights = attend(query, KEY, VALUE)
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    close(weights.mean(dim=2).squeeze(), [0.2, 0.4, 0.4], atol=4 * math.sqrt(0.24 / 20_000), rtol=0)


def test_hard_in_training_shows_some_examples_the_expected_weights() -> None:
    torch.manual_seed(0)
    query = torch.tensor([0.0, math.log(2)]).expand(400, 1, 2)
    attend = make("hard", scoring="dot", expected=0.25).train()
    _, weights = attend(query, KEY.expand(400, -1, -1), VALUE.expand(400, -1, -1))
    softly = (weights[:, 0, 0] - torch.tensor([0.2, 0.4, 0.4])).abs().amax(dim=1) < 1e-6
    assert 0.25 * 400 - 4 * math.sqrt(75) < int(softly.sum()) < 0.25 * 400 + 4 * math.sqrt(75)
    assert set(weights[~softly].unique().tolist()) == {0.0, 1.0}
    _, weights = attend.eval()(query, KEY.expand(400, -1, -1), VALUE.expand(400, -1, -1))
    assert set(weights.unique().tolist()) == {0.0, 1.0}


def test_spatial_channel_by_hand() -> None:
    """Weights 1/5, 2/5, 2/5 give z = (2.6, 10); with w_i · b = (0, ln 3) its features count 1/4 and 3/4, times 2."""
    attend = make("spatial_channel", scoring="dot", hidden_dim=1)
    b = math.tanh(2.6 - 5), math.tanh(10 - 5)
    for parameter, number in (
        (attend.w_c.weight, 1.0),
        (attend.w_c.bias, -5 - 3 * math.log(2)),
        (attend.W_hc.weight, 3.0),
        (attend.w_i.weight, math.log(3) / (b[1] - b[0])),
    ):
        parameter.data.fill_(number)
    context, weights = attend(torch.tensor([[[0.0, math.log(2)]]]), KEY, VALUE)
    close(weights, [[[[0.2, 0.4, 0.4]]]])
    close(context, [[[2 * 2.6 / 4, 2 * 10 * 3 / 4]]])


def test_spatial_channel_whose_features_count_alike_is_soft() -> None:
    torch.manual_seed(0)
    attend, soft = make("spatial_channel", scoring="dot"), make("soft", scoring="dot")
    attend.w_i.weight.data.zero_()
    query = torch.randn(1, 4, 2)
    close(attend(query, KEY, VALUE)[0], soft(query, KEY, VALUE)[0])


def test_local_monotonic_sees_a_window_around_the_same_place() -> None:
    """Window 1, scores all 0: query 0 sees keys 0, 1; query 1 all three; query 4 stays at the last key."""
    attend = make("local", scoring="dot", window=1, alignment="monotonic")
    _, weights = attend(torch.zeros(1, 5, 2), KEY, VALUE)
    half, third = 1 / 2, 1 / 3
    close(weights[0, 0], [[half, half, 0], [third] * 3, [0, half, half], [0, half, half], [0, half, half]])


def test_local_predictive_by_hand() -> None:
    """v = 0 looks at the middle, p = S/2: 1.5 of three keys, 1 of two. D = 2, so that 2 sigma² = 2."""
    attend = make("local", scoring="dot", window=2)
    attend.v.weight.data.zero_()
    mask = torch.tensor([[[True, True, True]], [[True, True, False]]])
    _, weights = attend(torch.zeros(2, 1, 2), KEY.expand(2, -1, -1), VALUE.expand(2, -1, -1), mask)
    close(weights[0, 0, 0], exponents(-(1.5**2) / 2, -(0.5**2) / 2, -(0.5**2) / 2))
    close(weights[1, 0, 0, :2], exponents(-1 / 2, 0))


def test_local_predictive_learns_where_to_look() -> None:
    """p = 3 sigmoid(2 tanh(1)) from W = I, v = [2, 0]."""
    attend = make("local", scoring="dot", window=2)
    attend.W.weight.data, attend.v.weight.data = torch.eye(2), torch.tensor([[2.0, 0.0]])
    _, weights = attend(torch.tensor([[[1.0, 0.0]]]), 0 * KEY, VALUE)
    p = 3 / (1 + math.exp(-2 * math.tanh(1)))
    close(weights[0, 0, 0, 1:], torch.tensor(exponents(*(-((s - p) ** 2) / 2 for s in range(3) if s >= p - 2)))[-2:])


@pytest.mark.parametrize("autocast", [False, True])
def test_local_predictive_looks_between_two_keys_in_bfloat16_too(autocast: bool) -> None:
    """Of 1,001 keys p = 500.5, between two: bfloat16 knows only every other place there, and would look at one."""
    attend = make("local", scoring="dot", window=2)
    attend.v.weight.data.zero_()
    query, key = torch.zeros(1, 1, 2), torch.zeros(1, 1_001, 2)
    if not autocast:
        attend, query, key = attend.bfloat16(), query.bfloat16(), key.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, weights = attend(query, key, key)
    near, far = exponents(-1 / 8, -1 / 8, -9 / 8, -9 / 8)[::2]
    close(weights[0, 0, 0, 499:503], [far, near, near, far], atol=4e-3, rtol=0)


def test_location_aware_by_hand() -> None:
    """One unit, one filter that brings the weight one key to the left: the look moves on along the keys."""
    attend = make("location_aware", hidden_dim=1, channels=1, kernel_size=3)
    for layer, weight in ((attend.W, [[0.0, 0.0]]), (attend.V, [[1.0, 0.0]]), (attend.U, [[2.0]]), (attend.w, [[3.0]])):
        layer.weight.data = torch.tensor(weight)
    attend.W.bias.data = torch.tensor([0.5])
    attend.F.weight.data = torch.tensor([[[1.0, 0.0, 0.0]]])
    query = torch.zeros(1, 1, 2)
    _, first = attend(query, KEY, VALUE)
    a = exponents(*(3 * math.tanh(k + 0.5) for k in (1, 0, 1)))
    close(first[0, 0, 0], a)
    context, second = attend(query, KEY, VALUE, previous=first)
    b = exponents(*(3 * math.tanh(k + 0.5 + 2 * f) for k, f in zip((1, 0, 1), (0, a[0], a[1]), strict=True)))
    close(second[0, 0, 0], b)
    close(context, torch.tensor([[b]]) @ VALUE)


def test_location_aware_takes_one_query_at_a_time() -> None:
    with pytest.raises(ValueError, match=r"one query at a time, not 2.*previous="):
        make("location_aware")(torch.randn(1, 2, 2), KEY, VALUE)


def test_channel_by_hand() -> None:
    """The mean is [7/3, 10]; one unit sees z1 + q1 = 7/3 + 2/3 = 3, and gates by sigmoid([3, 0])."""
    attend = make("channel", reduction=2)
    attend.W1.weight.data, attend.W1.bias.data = torch.tensor([[1.0, 0.0]]), torch.zeros(1)
    attend.U.weight.data = torch.tensor([[1.0, 0.0]])
    attend.W2.weight.data, attend.W2.bias.data = torch.tensor([[1.0], [0.0]]), torch.zeros(2)
    context, weights = attend(torch.tensor([[[2 / 3, 9.0]]]), KEY, VALUE, need_weights=False)
    close(context, [[[7 / 3 / (1 + math.exp(-3)), 5]]])
    assert weights is None


def test_channel_has_no_weights_and_says_so() -> None:
    with pytest.raises(ValueError, match="need_weights=False"):
        make("channel")(torch.randn(1, 1, 2), KEY, VALUE)


def test_max_pool_by_hand() -> None:
    """The largest first feature is the third key's, the largest second the second's: half the features each."""
    context, weights = make("max_pool")(torch.randn(1, 1, 2), KEY, VALUE)
    close(context, [[[4, 20]]])
    close(weights, [[[[0, 0.5, 0.5]]]])


def test_uniform_and_last_by_hand() -> None:
    query, mask = torch.randn(1, 1, 2), torch.tensor([[[True, True, False]]])
    close(make("uniform")(query, KEY, VALUE)[0], [[[7 / 3, 10]]])
    close(make("uniform")(query, KEY, VALUE, mask)[0], [[[1.5, 15]]])
    close(make("last")(query, KEY, VALUE)[0], [[[4, 0]]])
    close(make("last")(query, KEY, VALUE, mask)[0], [[[2, 20]]])


@pytest.mark.parametrize(
    ("name", "given_options", "says"),
    [
        ("multihead", {"scoring": "dot", "num_heads": 3}, "num_heads=3 does not divide the width 8; try num_heads="),
        ("multihead", {"scoring": "dot", "embed_dim": 0}, "embed_dim is at least 1, not 0"),
        ("multihead", {"scoring": "dot", "embed_dim": -3}, "embed_dim is at least 1, not -3"),
        ("self", {"dim": 0}, "dim is at least 1"),
        ("structured", {"hops": 0}, "hops"),
        ("structured", {"coefficient": -0.5}, "coefficient is at least 0, not -0.5"),
        ("hard", {"scoring": "dot", "temperature": 0.0}, "temperature is positive"),
        ("hard", {"scoring": "dot", "expected": 1.5}, "expected is a share"),
        ("spatial_channel", {"scoring": "dot", "hidden_dim": 0}, "hidden_dim is at least 1"),
        ("local", {"scoring": "dot", "window": 0}, "window is at least 1"),
        ("location_aware", {"kernel_size": 4}, "kernel_size is odd"),
        ("channel", {"reduction": 0}, "reduction is at least 1"),
        ("sliding_window", {"scoring": "dot", "window": -1}, "window is at least 0"),
        ("self", {"scoring": "dot"}, "attention=self uses no scoring function"),
        ("soft", {}, "attention=soft needs a scoring function"),
        ("soft", {"scoring": "dot", "normaliser": "softmin"}, "normaliser"),
    ],
)
def test_bad_options_are_refused_in_one_line(name: str, given_options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make(name, (8, 8, 8), **given_options)


@pytest.mark.usefixtures("plain_signatures")
@pytest.mark.parametrize("chosen", Registry.load().of("attention"), ids=lambda component: component.name)
def test_a_mask_without_a_dimension_for_examples_is_refused(chosen: Any) -> None:
    """[Q, K] spread over heads, and not over queries, would let a causal query look ahead."""
    attend = make(chosen.name, (8, 8, 8), **({"scoring": "dot"} if takes_score(chosen.cls) else {}))
    x, Q = torch.randn(4, 4, 8), 1 if attend.recurrent else 4
    causal = torch.ones(Q, 4, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match=rf"or Q, K\], .*not \[{Q}, 4\]: of \[Q, K\] pass `mask\.expand\(B, -1, -1\)`"):
        attend(x[:, :Q], x, x, causal, need_weights=attend.has_weights)


def test_linear_attention_refuses_widths_that_differ() -> None:
    with pytest.raises(UsageError, match=r"100 and 20; attention.num_heads=4 projects them"):
        make("linear_attention", (100, 20, 4))
