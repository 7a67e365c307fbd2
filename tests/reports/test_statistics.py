"""Worked numbers, and scipy for a reference."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attnbench.reports.statistics import compare, holm, interval, spread

SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=8)


def test_the_interval_of_two_values_spans_them():
    # the mean of two draws from {0, 1} is 0 or 1 a quarter of the time each: more than 2.5%
    assert interval([0.0, 1.0]) == (0.0, 1.0)


def test_the_interval_of_many_normal_values_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(size=400)
    low, high = interval(values.tolist())

    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.01)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.01)


def test_one_value_has_neither_spread_nor_interval():
    assert spread([0.5]) is None
    assert interval([0.5]) is None


def test_equal_values_have_no_spread_and_a_point_for_an_interval():
    assert spread([1.0, 1.0, 1.0]) == 0.0
    assert interval([1.0, 1.0, 1.0]) == (1.0, 1.0)


def test_the_test_is_the_paired_t_test_on_common_seeds():
    one, other = {0: 0.8, 1: 0.9, 2: 0.7, 7: 0.0}, {0: 0.7, 1: 0.7, 2: 0.65, 9: 1.0}
    found = compare(one, other)

    assert found.seeds == 3
    assert found.mean == pytest.approx((0.1 + 0.2 + 0.05) / 3)
    assert found.p == pytest.approx(stats.ttest_rel([0.8, 0.9, 0.7], [0.7, 0.7, 0.65]).pvalue)


def test_groups_that_are_equal_on_every_seed_cannot_be_told_apart():
    assert compare({0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}).p == 1.0


def test_differences_without_spread_are_as_likely_as_equal_signs_are():
    found = compare({0: 1.0, 1: 1.0, 2: 1.0}, {0: 0.7, 1: 0.7, 2: 0.7})

    assert found.mean == pytest.approx(0.3)
    assert found.p == 2 / 2**3


@pytest.mark.parametrize("seeds", [0, 1])
def test_without_two_common_seeds_there_is_nothing_to_test(seeds):
    found = compare({0: 0.9}, {0: 0.4} if seeds else {1: 0.4})

    assert (found.p, found.seeds) == (None, seeds)
    assert found.mean == pytest.approx(0.5)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 -> 0.06, 0.9 * 1
    assert holm([0.9, 0.01, 0.03, 0.02], 4) == pytest.approx([0.9, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.01, 0.03, 0.02], 10) == pytest.approx([1.0, 0.10, 0.24, 0.18])
    assert holm([0.6, 0.5], 2) == [1.0, 1.0]
    assert holm([], 0) == []


@given(SHARES, SHARES)
def test_no_sample_gives_a_number_that_is_none(one, other):
    low, high = interval(one)
    found = compare(dict(enumerate(one)), dict(enumerate(other)))

    assert low - 1e-12 <= np.mean(one) <= high + 1e-12
    assert found.p is not None
    assert 0 <= found.p <= 1
    assert math.isfinite(found.mean)
