"""What every rule gives, and how far off is too far when many things are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy

from regmix.mixture import FloatArray

COLUMNS = ("run_id", "name", "rule", "metric", "text")
FAR = 5.0
"""Standard deviations between a value and what is expected, at least."""
CROSSED = 0.25
"""Of the runs: ranks by which one that crosses the others must have moved."""
_EFFICIENCY = 0.37
"""Of the median absolute deviation under normal noise: what one knows of a scale from n values
by it, one knows from 0.37 n by the standard deviation (Rousseeuw & Croux 1993)."""


@dataclass(frozen=True)
class Flag:
    """One rule that one run breaks."""

    run_id: str
    rule: str
    text: str
    subject: str = ""
    """The metric or domain, if it is about one."""


def limit(values: int, tests: int, chance: float) -> float:
    """Robust standard deviations that a clean set of values passes with this probability at most.

    Five, or more where there are so few values that their scale is hardly known, or so many tests
    that five would happen: Student's t at ``chance`` over the number of tests, two-sided.
    """
    return max(FAR, float(scipy.stats.t.isf(chance / (2 * tests), max(1.0, _EFFICIENCY * values))))


def robust(values: FloatArray) -> FloatArray:
    """Standard deviation of each column by its median absolute deviation."""
    return np.asarray(1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=0))


@dataclass(frozen=True)
class Crossing:
    """A run whose later value is not where its earlier one leads."""

    index: int
    residual: float
    """Beside the line."""
    off: float
    """The same in robust standard deviations of all runs'."""
    ranks: tuple[int, int]
    """From 1, before and after."""


def crossings(early: FloatArray, last: FloatArray, bound: float) -> Iterator[Crossing]:
    """Runs that are off a robust line of later values on earlier ones, and pass others.

    The line is Theil's (1950). A relation that is bent but keeps the order crosses nothing.

    Args:
        bound: robust standard deviations that a run must be off.
    """
    if np.ptp(early) == 0 or np.ptp(last) == 0:
        return
    slope, at_zero = scipy.stats.theilslopes(last, early)[:2]
    residual = last - at_zero - slope * early
    scale = float(robust(residual))
    if scale == 0:
        return
    ranks = np.column_stack([scipy.stats.rankdata(v, "ordinal").astype(int) for v in (early, last)])
    for i in np.flatnonzero(np.abs(residual) > bound * scale):
        if abs(ranks[i, 1] - ranks[i, 0]) >= CROSSED * len(last):
            own = float(residual[i])
            yield Crossing(int(i), own, own / scale, (int(ranks[i, 0]), int(ranks[i, 1])))
