"""Scoring functions that go by place: worked numbers, and what each promises of distances."""

import math

import pytest
import torch

import attnbench

PLACES = torch.tensor([3, 10, 11])


def score(name, width=4, **options):
    torch.manual_seed(0)
    return attnbench.build("scoring", name, query_dim=width, key_dim=width, **options).double()


def test_rope_turns_each_plane_by_its_own_angle():
    # width 4, base 100: planes (0, 2) and (1, 3), turned by m and m / 10
    rope = score("rope", base=100.0)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    turned = rope.rotate(x, torch.tensor([5]))[0]

    assert turned[0] == pytest.approx(math.cos(5) - 3 * math.sin(5))
    assert turned[2] == pytest.approx(3 * math.cos(5) + math.sin(5))
    assert turned[1] == pytest.approx(2 * math.cos(0.5) - 4 * math.sin(0.5))
    assert turned[3] == pytest.approx(4 * math.cos(0.5) + 2 * math.sin(0.5))


@pytest.mark.parametrize("name", ["rope", "alibi", "relative_bias"])
def test_scores_depend_on_how_far_apart_places_are_alone(name):
    function = score(name)
    q, k = torch.randn(2, 3, 4, dtype=torch.float64)

    torch.testing.assert_close(function(q, k, PLACES, PLACES + 2), function(q, k, PLACES + 50, PLACES + 52))
    assert not torch.allclose(function(q, k, PLACES, PLACES + 2), function(q, k, PLACES, PLACES + 3))


@pytest.mark.parametrize("name", ["rope", "alibi", "relative_bias"])
def test_places_that_are_not_given_count_from_zero(name):
    function = score(name)
    q, k = torch.randn(2, 5, 3, 4, dtype=torch.float64)

    torch.testing.assert_close(function(q, k), function(q, k, torch.arange(3), torch.arange(3)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["rope", "relative_bias"])
def test_at_one_place_the_score_is_the_scaled_dot_product(name):
    function = score(name)
    q, k = torch.randn(2, 3, 4, dtype=torch.float64)
    same = torch.full((3,), 7)
    bias = function.b[function.max_distance] if name == "relative_bias" else 0.0

    torch.testing.assert_close(function(q, k, same, same), q @ k.mT / 2 + bias)


def test_alibis_slopes_fall_by_halves_from_head_to_head():
    # 4 heads: 2^-2, 2^-4, 2^-6, 2^-8
    nothing = torch.zeros(1, 4, 3, 4, dtype=torch.float64)
    scores = score("alibi")(nothing, nothing)

    assert scores[0, :, 2, 0].tolist() == [-2 / 4, -2 / 16, -2 / 64, -2 / 256]
    assert scores[0, 0].tolist() == [[0, -0.25, -0.5], [-0.25, 0, -0.25], [-0.5, -0.25, 0]]


def test_places_of_blocks_are_no_heads():
    # [B, N, S, D] with places [N, S]: one slope, whatever the number of blocks
    nothing = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    places = torch.arange(6).view(2, 3)

    assert score("alibi")(nothing, nothing, places, places)[0, :, 2, 0].tolist() == [-2 / 256, -2 / 256]


def test_the_learned_bias_is_one_for_each_distance_up_to_the_largest():
    function = score("relative_bias", max_distance=2)
    with torch.no_grad():
        function.b.copy_(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    nothing = torch.zeros(4, 4, dtype=torch.float64)

    assert function(nothing, nothing)[0].tolist() == [0, 1, 2, 2]
    assert function(nothing, nothing)[3].tolist() == [-2, -2, -1, 0]


@pytest.mark.parametrize(("name", "options", "word"), [
    ("rope", {"query_dim": 3, "key_dim": 3}, "even"), ("rope", {"query_dim": 4, "key_dim": 4, "base": 1.0}, "base"),
    ("alibi", {"query_dim": 4, "key_dim": 4, "slope": -1.0}, "slope"), ("alibi", {"query_dim": 4, "key_dim": 6}, "6"),
    ("relative_bias", {"query_dim": 4, "key_dim": 4, "max_distance": 0}, "max_distance"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_name(name, options, word):
    with pytest.raises(attnbench.UsageError, match=word):
        attnbench.build("scoring", name, **options)


@pytest.mark.parametrize("name", ["rope", "alibi", "relative_bias"])
@pytest.mark.parametrize("attention", ["soft", "multihead", "sliding_window", "forgetting"])
def test_each_module_hands_out_the_places_that_its_tokens_stand_at(name, attention):
    torch.manual_seed(0)
    options = {"window": 40} if attention == "sliding_window" else {}
    module = attnbench.build("attention", attention, query_dim=8, key_dim=8, value_dim=8, scoring=name, **options)
    x = torch.randn(2, 37, 8)
    context, weights = module(x, x, x, causal=True)

    torch.testing.assert_close(module(x, x, x, causal=True, need_weights=False)[0], context)
    if attention in ("soft", "sliding_window"):
        scores = module.score(x, x).masked_fill(~torch.ones(37, 37).tril().bool(), -math.inf)
        torch.testing.assert_close(weights[:, 0], scores.softmax(dim=-1))
