"""What can be said of a few seeds, and what cannot.

The unit is the seed: a group's sample is one number for each. Groups are compared on the seeds that they share, since a
seed draws the same initial weights' generator and the same order of the examples in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 9999
LEVEL = 0.05


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
    """Give the standard deviation of a sample (n - 1); None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def alike(values: Sequence[float], scale: float) -> bool:
    """Tell whether values are equal, up to rounding of numbers as large as `scale`."""
    return max(values) - min(values) <= max(1e-9 * scale, 1e-150)  # smaller ones have a square of zero


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Give the 95% interval of the mean: percentile bootstrap over seeds; None of fewer than two.

    The interval of a few seeds is too narrow (of normal values it covers the mean in 73% of cases with three seeds, in
    83% with five, in 90% with ten), and that of equal values is a point.
    """
    if len(values) < 2:
        return None
    if alike(values, max(map(abs, values))):
        return float(values[0]), float(values[0])
    from scipy.stats import bootstrap  # type: ignore[import-untyped]

    found = bootstrap((values,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


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
    from scipy.stats import ttest_1samp

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
