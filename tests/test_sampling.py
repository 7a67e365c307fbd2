"""Random numbers of example i are a function of (seed, i)."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.sampling import Draws, mixed, numpy_generator

SEEDS = st.integers(0, 2**64 - 1)
ROWS = st.lists(st.integers(0, 2**34 - 1), min_size=1, max_size=5)


def everything(draws):
    """Each kind of draw, one after the other, and one of them twice."""
    return [
        draws.uniform(3, 2),
        draws.integers(7, 4),
        draws.permutation(6),
        draws.choose(300, 5),
        draws.choose(9, 4),
        draws.bernoulli(0.3, 5),
        draws.categorical(torch.tensor([1.0, 2.0, 3.0]), 4),
        draws.uniform(3, 2),
    ]


@settings(max_examples=50, deadline=None)
@given(SEEDS, ROWS, st.integers(0, 63))
def test_a_row_is_a_function_of_seed_stream_and_index_alone(seed, rows, stream):
    together = everything(Draws(seed, rows, stream=stream))
    for place, row in enumerate(rows):
        for many, one in zip(together, everything(Draws(seed, [row], stream=stream)), strict=True):
            assert torch.equal(many[place], one[0])


def splitmix64(state):
    """The output for one state, in Python's own whole numbers, from Steele, Lea and Flood's figure 16."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(0, 2**34 - 1), st.integers(0, 63))
def test_the_numbers_are_those_of_splitmix64_at_the_examples_counters(seed, row, stream):
    gamma = 0x9E3779B97F4A7C15
    key = splitmix64((seed + 1) * gamma % 2**64)
    drawn = Draws(seed, [row], stream=stream).uniform(3)[0].tolist()
    for j in range(3):
        counter = (stream << 58) + (row << 24) + j + 1
        assert drawn[j] == ((splitmix64((key + counter * gamma) % 2**64) >> 11) + 0.5) / 2**53


def test_no_number_is_drawn_twice_within_a_seed_whatever_the_stream_and_the_call():
    numbers = []
    for stream in (0, 1, 2, 63):
        for _ in range(2):
            draws = Draws(0, range(1000), stream=stream)
        numbers += [draws.uniform(20), draws.uniform(30)]
    flat = torch.cat([part.flatten() for part in numbers])
    assert len(flat.unique()) == len(flat) == 4 * 1000 * 50


def test_seeds_differ():
    numbers = torch.cat([Draws(seed, range(100)).uniform(20).flatten() for seed in range(50)])
    assert len(numbers.unique()) == len(numbers)


def test_uniform_numbers_are_uniform_and_do_not_depend_on_their_neighbours():
    numbers = Draws(1, range(4000)).uniform(50)
    assert numbers.dtype == torch.float64
    assert 0 < numbers.min() < numbers.max() < 1
    counts = torch.histc(numbers.float(), bins=20, min=0, max=1)
    expected = numbers.numel() / 20
    assert float(((counts - expected) ** 2 / expected).sum()) < 50  # chi-squared of 19 degrees: 5e-5 beyond
    centred = (numbers - 0.5) * math.sqrt(12)
    for product in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1], centred[:, 7:] * centred[:, :-7]):
        assert abs(float(product.mean())) < 4.5 / math.sqrt(product.numel())


@pytest.mark.parametrize("high", [1, 3, 1000])
def test_integers_are_below_high_and_equally_frequent(high):
    drawn = Draws(2, range(1000)).integers(high, 60).flatten()
    assert drawn.min() >= 0
    assert drawn.max() < high
    share = torch.bincount(drawn, minlength=high) / len(drawn)
    assert torch.allclose(share, torch.full((high,), 1 / high), atol=5 / math.sqrt(high * len(drawn)))


def test_bounds_and_probabilities_may_be_tensors():
    draws = Draws(3, range(500))
    bounds = torch.tensor([1, 10])
    drawn = draws.integers(bounds, 2)
    assert drawn[:, 0].max() == 0
    assert drawn[:, 1].max() == 9
    assert torch.equal(draws.bernoulli(torch.tensor([0.0, 1.0]), 2), torch.tensor([False, True]).expand(500, 2))


@pytest.mark.parametrize("n", [4, 300])
def test_choices_differ_and_each_is_as_frequent_in_each_place(n):
    drawn = Draws(4, range(20_000)).choose(n, 3)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    for place in range(3):
        share = torch.bincount(drawn[:, place], minlength=n) / 20_000
        assert torch.allclose(share, torch.full((n,), 1 / n), atol=5 / math.sqrt(n * 20_000))


def test_every_order_of_three_is_as_frequent():
    orders = Counter(map(tuple, Draws(5, range(12_000)).permutation(3).tolist()))
    assert len(orders) == 6
    assert all(abs(count - 2000) < 200 for count in orders.values())


def test_all_may_be_chosen_and_more_than_all_not():
    assert sorted(Draws(0, [0]).choose(300, 300)[0].tolist()) == list(range(300))
    assert Draws(0, [0, 1]).choose(5, 0).shape == (2, 0)
    with pytest.raises(ValueError, match="6 of 5 cannot be chosen without replacement"):
        Draws(0, [0]).choose(5, 6)


def test_categories_are_as_frequent_as_their_probabilities():
    weights = torch.tensor([1.0, 0.0, 3.0])
    drawn = Draws(6, range(20_000)).categorical(weights)
    share = torch.bincount(drawn, minlength=3) / 20_000
    assert torch.allclose(share, torch.tensor([0.25, 0.0, 0.75]), atol=0.015)
    of_rows = torch.eye(3)[torch.arange(20_000) % 3].unsqueeze(1)
    assert torch.equal(Draws(6, range(20_000)).categorical(of_rows, 1)[:, 0], torch.arange(20_000) % 3)


@pytest.mark.parametrize(("rows", "stream"), [([-1], 0), ([2**34], 0), ([0], 64), ([0], -1)])
def test_what_has_no_counter_is_refused(rows, stream):
    with pytest.raises(ValueError, match=r"a stream is in 0\.\.63 and an index in"):
        Draws(0, rows, stream=stream)


def test_more_numbers_than_a_row_has_are_refused():
    draws = Draws(0, [0])
    draws.uniform(2**23)
    with pytest.raises(ValueError, match=r"at most 2\^24 random numbers"):
        draws.uniform(2**23 + 1)


def test_generators_are_a_function_of_seed_and_index():
    pairs = [(0, 1), (1, 0), (0, 1), (0, 0), (2**63 - 1, 7)]
    drawn = [numpy_generator(*pair).random(5).tolist() for pair in pairs]
    assert drawn[0] == drawn[2]
    assert len({tuple(row) for row in drawn}) == 4


def test_the_generators_of_today_are_those_of_tomorrow():
    assert mixed(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 from state 0, as published with it
    assert numpy_generator(0, 1).integers(1000, size=4).tolist() == NUMPY
    assert np.allclose(Draws(0, [0]).uniform(2)[0], UNIFORM, rtol=0, atol=0)


NUMPY = [522, 889, 992, 557]
UNIFORM = [0.6524484863740323, 0.7012121095215254]
