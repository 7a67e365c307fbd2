"""Worked numbers, and scipy for a reference."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attnbench.reports.statistics import (
    better,
    compare,
    holm,
    interval,
    interval_name,
    seeds_needed,
    separation,
    smallest_difference,
    spread,
    wilson,
)

SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=8)


def test_the_interval_of_a_few_values_is_students():
    # mean 0.5, deviation 0.5, 3 values: 4.303 * 0.5 / sqrt(3)
    assert interval([0.0, 0.5, 1.0]) == pytest.approx((0.5 - 1.2421, 0.5 + 1.2421), abs=1e-4)
    assert (interval_name(9), interval_name(10)) == ("95% t interval", "95% bootstrap-t interval")


@pytest.mark.parametrize("n", [2, 3, 5, 9, 10, 20])
def test_intervals_cover_the_mean_as_often_as_they_say(n, monkeypatch):
    monkeypatch.setattr("attnbench.reports.statistics.RESAMPLES", 400)  # of each bootstrap: 400 draws tell 2.5% well
    rng = np.random.default_rng(n)
    draws = 10_000 if n < 10 else 1_000
    covered = [low <= 0 <= high for low, high in (interval(x) for x in rng.normal(size=(draws, n)).tolist())]

    assert np.mean(covered) == pytest.approx(0.95, abs=0.01 if n < 10 else 0.025)


def test_wilsons_interval_is_scipys():
    for successes, n in ((5, 5), (10, 10), (0, 3), (7, 12)):
        reference = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert wilson(5, 5)[0] == pytest.approx(0.57, abs=0.005)
    assert wilson(10, 10)[0] == pytest.approx(0.72, abs=0.005)
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilsons_interval_covers_the_rate_on_average_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rates = rng.uniform(size=10_000)
    covered = [low <= p <= high for p, (low, high) in ((p, wilson(rng.binomial(10, p), 10)) for p in rates)]

    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


def test_better_counts_the_seeds_on_which_one_is_ahead_and_halves_ties():
    one, other = {0: 0.9, 1: 0.8, 2: 0.7, 5: 0.0}, {0: 0.8, 1: 0.8, 2: 0.9, 7: 1.0}

    assert better(one, other).share == pytest.approx(0.5)  # ahead, even, behind
    assert better({0: 1.0, 1: 1.0}, {0: 0.0, 1: 0.0}, "min").share == 0.0
    assert (better(one, other).low, better(one, other).high) == wilson(1.5, 3)
    assert better({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(("n", "deviations"), [(3, 2.48), (5, 1.24), (10, 0.72)])
def test_the_smallest_difference_that_shows_is_known_in_deviations(n, deviations):
    differences = np.random.default_rng(0).normal(size=n)
    one, other = dict(enumerate(differences)), dict.fromkeys(range(n), 0.0)

    assert smallest_difference(one, other) / differences.std(ddof=1) == pytest.approx(deviations, abs=0.005)
    for level in (0.05, 0.05 / 3):
        just = {
            seed: value + smallest_difference(one, other, level) - differences.mean() for seed, value in one.items()
        }
        assert compare(just, other).p == pytest.approx(level)


def test_the_seeds_needed_are_those_with_which_the_test_becomes_significant():
    differences = [0.0, 0.2]  # mean 0.1, deviation 0.1414: t(n) 0.1414 / sqrt(n) < 0.1 from n = 11 on
    one, other = dict(enumerate(differences)), {0: 0.0, 1: 0.0}

    assert seeds_needed(one, other) == 11
    assert stats.t.ppf(0.975, 10) * 0.14142 / 11**0.5 <= 0.1 < stats.t.ppf(0.975, 9) * 0.14142 / 10**0.5
    assert seeds_needed({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}) is None
    assert seeds_needed({0: 1.0, 1: 1.0}, {0: 0.0, 1: 0.0}) == 6  # all alike: 2 / 2^6 < 0.05
    assert seeds_needed({0: 1.0, 1: 1.0}, {0: 0.0, 1: 0.0}, 0.01) == 8


def test_false_verdicts_of_the_corrected_tests_stay_below_five_percent():
    rng, false = np.random.default_rng(0), 0
    for _ in range(2_000):  # four groups, no difference between them, five seeds
        groups = [dict(enumerate(rng.normal(size=5))) for _ in range(4)]
        ps = [compare(group, groups[0]).p for group in groups[1:]]
        false += any(p < 0.05 for p in holm(ps, len(ps)))

    assert false / 2_000 < 0.06  # 0.05, and two standard errors


def test_separation_is_the_spread_of_means_over_that_of_seeds():
    # means 0 and 1: deviation 0.7071; within each group 0.1414
    assert separation([[-0.1, 0.1], [0.9, 1.1]]) == pytest.approx(0.70711 / 0.14142, abs=1e-3)
    assert separation([[0.0, 0.0], [1.0, 1.0]]) == math.inf
    assert separation([[1.0, 1.0], [1.0, 1.0]]) is None
    assert separation([[1.0], [0.0]]) is None


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
