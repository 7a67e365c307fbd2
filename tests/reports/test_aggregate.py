"""Worked numbers, scipy for a reference, and the cases of Agarwal et al. 2021 that can be worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from attnbench.reports.aggregate import bootstrap, improvement, interquartile_mean, normalise, profile, samples


def test_a_score_is_0_at_the_floor_and_1_at_the_goal_also_where_less_is_better():
    assert [normalise(v, 0.5, 1.0) for v in (0.5, 0.75, 1.0, 0.4)] == pytest.approx([0.0, 0.5, 1.0, -0.2])
    assert [normalise(v, 8.0, 0.0) for v in (8.0, 2.0, 0.0)] == pytest.approx([0.0, 0.75, 1.0])
    with pytest.raises(ValueError, match="no scale"):
        normalise(1.0, 1.0, 1.0)


def test_the_interquartile_mean_leaves_out_the_outer_quarters():
    # 0, 0.1 and 0.9, 100 are left out
    tasks = [np.array([0.0, 0.2, 0.4, 0.9]), np.array([0.1, 0.6, 0.8, 100.0])]

    assert interquartile_mean(tasks) == pytest.approx(0.5)
    assert interquartile_mean(tasks) == stats.trim_mean(np.concatenate(tasks), 0.25)


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    tasks = samples({"a": {0: 0.1, 1: 0.9}, "b": {0: 0.5, 1: 0.7}})

    assert profile(tasks, [0.0, 0.4, 0.6, 0.9]) == [1.0, 0.75, 0.5, 0.0]


def test_the_probability_of_improvement_is_mann_whitneys_share():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.3, 1, size=(2, 5)), rng.normal(size=(2, 5))
    shares = [stats.mannwhitneyu(a, b).statistic / 25 for a, b in zip(one, other, strict=True)]

    assert improvement(list(one), list(other)) == pytest.approx(np.mean(shares))
    assert improvement([np.array([1.0, 1.0])], [np.array([1.0])]) == 0.5
    with pytest.raises(ValueError, match="argument"):
        improvement(list(one), [other[0]])


def test_the_bootstrap_of_the_interquartile_mean_covers_it():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(300):
        tasks = list(rng.normal(size=(6, 10)))
        low, high = bootstrap(interquartile_mean, tasks, resamples=200)
        covered += low <= 0 <= high

    assert covered / 300 == pytest.approx(0.94, abs=0.04)


def test_seeds_are_resampled_within_their_task_alone():
    # each task has no spread: neither has a resample, however far the tasks lie apart
    assert bootstrap(interquartile_mean, [np.zeros(5), np.ones(5)]) == (0.5, 0.5)
