"""What every rule gives, and how far off is too far when many things are looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from regmix.mixture import FloatArray

COLUMNS = ("run_id", "name", "rule", "metric", "text")
FAR = 5.0
"""Standard deviations between a value and what is expected, at least."""
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
    return max(FAR, float(stats.t.isf(chance / (2 * tests), max(1.0, _EFFICIENCY * values))))


def robust(values: FloatArray) -> FloatArray:
    """Standard deviation of each column by its median absolute deviation."""
    return np.asarray(1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=0))
