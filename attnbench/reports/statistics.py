"""What can be said of a few seeds, and what cannot.

The unit is the seed: a group's sample is one number for each. Groups are compared on the seeds that they share, since a
seed draws the same initial weights' generator and the same order of the examples in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 9999
LEVEL = 0.05
FEW = 10  # seeds, below which an interval is Student's: a bootstrap of so few resamples almost the same values


@dataclass(frozen=True)
class Difference:
    """Two groups on their common seeds.

    Attributes:
        mean: of the differences, seed by seed; of the groups' means where they have no seed in common.
        p: of the paired test, two-sided; None where there is nothing to test.
        seeds: how many they have in common.
    """

    mean: float
    p: float | None
    seeds: int


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample (n - 1); None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def alike(values: Sequence[float], scale: float) -> bool:
    """Return whether values are equal, up to rounding of numbers as large as `scale`."""
    return max(values) - min(values) <= max(1e-9 * scale, 1e-150)  # smaller ones have a square of zero


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95% interval of the mean; None of fewer than two values, a point where they are equal.

    Student's t below ten values; from ten on the bootstrap of the t statistic (Efron, Tibshirani 1993, section 12.5),
    which needs no normal law. `interval_name` says which.
    """
    n = len(values)
    if n < 2:
        return None
    if alike(values, max(map(abs, values))):
        return float(values[0]), float(values[0])
    sample = np.asarray(values, dtype=float)
    mean, error = float(sample.mean()), float(sample.std(ddof=1)) / math.sqrt(n)
    if n < FEW:
        reach = student(n) * error
        return mean - reach, mean + reach
    resamples = np.random.default_rng(0).choice(sample, (RESAMPLES, n))
    errors = resamples.std(axis=1, ddof=1) / math.sqrt(n)
    some = errors > 0  # a resample of one value alone has no t
    t = (resamples.mean(axis=1)[some] - mean) / errors[some]
    low, high = np.quantile(t, [LEVEL / 2, 1 - LEVEL / 2])
    return mean - float(high) * error, mean - float(low) * error


def interval_name(n: int) -> str:
    """Return what `interval` is called for a sample of n."""
    return "95% t interval" if n < FEW else "95% bootstrap-t interval"


def student(n: int, level: float = LEVEL) -> float:
    """Return the t beyond which a share `level` of the means of n normal values lie, on both sides together."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    return float(stdtrit(n - 1, 1 - level / 2))


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of a rate of success (Wilson 1927); of no trials, all there is.

    5 of 5 says at least 0.57, 10 of 10 at least 0.72. A tie may count as half a success.
    """
    if n == 0:
        return 0.0, 1.0
    z2, share = 1.959963984540054**2, successes / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True)
class Better:
    """How often one group is better than another on a seed that they share.

    Attributes:
        share: of the common seeds; a tie counts as half. From 0.75 on a difference is said to matter (Bouthillier
            et al. 2021, arXiv:2103.03098).
        low, high: its 95% interval (Wilson's).
        seeds: how many they have in common.
    """

    share: float
    low: float
    high: float
    seeds: int


def better(one: Mapping[int, float], other: Mapping[int, float], mode: str = "max") -> Better | None:
    """Return how often `one` is better than `other`, {seed: value}, seed by seed; None without a common seed."""
    common = one.keys() & other.keys()
    if not common:
        return None
    sign = 1 if mode == "max" else -1
    wins = sum(0.5 + 0.5 * float(np.sign(sign * (one[seed] - other[seed]))) for seed in common)
    return Better(wins / len(common), *wilson(wins, len(common)), len(common))


def smallest_difference(one: Mapping[int, float], other: Mapping[int, float], level: float = LEVEL) -> float | None:
    """Return the smallest mean difference that the paired t-test would call significant on these seeds.

    That is 2.48, 1.24, 0.72 standard deviations of the differences with 3, 5, 10 seeds at the level 0.05; one of m
    comparisons is tested at 0.05 / m, or less strictly (Holm). None below two common seeds, or where differences are
    all alike, and the test is another (see `compare`).
    """
    common = sorted(one.keys() & other.keys())
    differences = [one[seed] - other[seed] for seed in common]
    deviation = spread(differences)
    if deviation is None or alike(
        differences, max(abs(value) for seed in common for value in (one[seed], other[seed]))
    ):
        return None
    return student(len(common), level) * deviation / math.sqrt(len(common))


def seeds_needed(
    one: Mapping[int, float], other: Mapping[int, float], level: float = LEVEL, most: int = 1000
) -> int | None:
    """Return with how many seeds the difference seen, and its spread, would be significant.

    None below two common seeds, where there is no difference, or where `most` would not do.
    """
    common = sorted(one.keys() & other.keys())
    differences = [one[seed] - other[seed] for seed in common]
    mean = compare(one, other).mean
    if len(common) < 2 or mean == 0:
        return None
    if smallest_difference(one, other) is None:
        return next(n for n in range(2, most + 1) if 2.0 / 2**n < level)
    deviation = spread(differences) or 0.0
    return next((n for n in range(2, most + 1) if student(n, level) * deviation / math.sqrt(n) < abs(mean)), None)


def separation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return how well a task tells groups apart: the spread of their means over the spread between seeds.

    The first is the standard deviation of the groups' means, the second the root of the mean variance within a group.
    Infinite where seeds differ nowhere and means do; None without two groups of at least two seeds.
    """
    usable = [group for group in groups if len(group) > 1]
    if len(usable) < 2:
        return None
    between = spread([float(np.mean(group)) for group in usable]) or 0.0
    within = math.sqrt(float(np.mean([np.var(group, ddof=1) for group in usable])))
    if within == 0:
        return math.inf if between > 0 else None
    return between / within


def compare(one: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Compare two samples, {seed: value}, by the paired t-test on their common seeds.

    Where the differences are all alike, the t-test has no spread to measure against. If they are zero, p is 1; else p
    is that of the exact sign-flip test, 2 / 2^n: equal signs could be chance that often.
    """
    common = sorted(one.keys() & other.keys())
    if not common:
        return Difference(float(np.mean(list(one.values())) - np.mean(list(other.values()))), None, 0)
    differences = [one[seed] - other[seed] for seed in common]
    mean, n = float(np.mean(differences)), len(common)
    scale = max(abs(value) for seed in common for value in (one[seed], other[seed]))
    if n < 2:
        return Difference(mean, None, n)
    if alike([0.0, *differences], scale):
        return Difference(0.0, 1.0, n)
    if alike(differences, scale):
        return Difference(mean, 2.0 / 2**n, n)
    from scipy.stats import ttest_1samp  # type: ignore[import-untyped]

    return Difference(mean, float(ttest_1samp(differences, 0.0).pvalue), n)


def holm(ps: Sequence[float], comparisons: int) -> list[float]:
    """Correct p-values (Holm 1979): the i-th smallest (from 0) times `comparisons` - i, none below the last.

    Args:
        ps: of the comparisons that are shown.
        comparisons: m, how many could have been: as many as `ps`, or more where these were chosen by the data.
    """
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (comparisons - rank) * ps[place]))
        corrected[place] = highest
    return corrected
