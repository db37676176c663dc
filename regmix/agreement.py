"""Do two lists of values put the same things in the same order, and how sure is that of few things?

Counted are pairs: the share that both lists put alike is DataDecide's decision accuracy (Magnusson
et al. 2025, arXiv 2504.11393), (τ + 1) / 2 with Kendall's τ. Intervals are tests turned round: they
hold every correlation of a normal pair of values under which what was seen is not too unlikely, for
exactly so many things. Ranks do not know of scales, so that it is the normal copula that is assumed
and no shape of either list. Unlike a bootstrap's, such an interval has a width where all pairs are
alike: eight things come out in one order often enough where 88 of 100 pairs would be alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy

from regmix.mixture import FloatArray

LEVEL = 0.9
"""Of the intervals, two-sided."""
_DRAWS = 4_000
_RANK_DRAWS = 1_000
_GRID = np.linspace(-4.0, 5.0, 73)
"""Fisher's z of the correlations at which rank correlations are drawn."""
_ROUND = 1e-9


@dataclass(frozen=True)
class Figure:
    """A figure and its interval."""

    value: float
    low: float
    high: float


def decided_alike(x: FloatArray, y: FloatArray) -> float:
    """The share of pairs that two lists of values put in the same order; NaN where all are tied.

    A pair that one of them ties counts half, as a coin would decide it; one that both tie is none.
    """
    upper = np.triu_indices(len(x), 1)
    dx, dy = (np.sign(v[:, None] - v[None, :])[upper] for v in (x, y))
    decided = (dx != 0) | (dy != 0)
    if not decided.any():
        return math.nan
    agree = np.where(dx * dy == 0, 0.5, dx * dy > 0)
    return float(agree[decided].mean())


def rank_correlation(x: FloatArray, y: FloatArray) -> float:
    """Spearman's; NaN where one list is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(scipy.stats.spearmanr(x, y).statistic)


def accuracy(x: FloatArray, y: FloatArray) -> Figure:
    """:func:`decided_alike` with its interval.

    Of a normal pair with correlation ρ, 1/2 + arcsin(ρ) / π are decided alike. Both ends are those
    ρ at which as many pairs alike, or more (or as few, or fewer), have probability 5 %.
    """
    value = decided_alike(x, y)
    if math.isnan(value):
        return Figure(value, value, value)
    thresholds = _thresholds(len(x))
    pairs, tail = thresholds.shape[1], (1 - LEVEL) / 2
    # In every draw k pairs are alike from its k-th threshold on. Of ties either way is allowed.
    at_least, at_most = math.floor(value * pairs + _ROUND), math.ceil(value * pairs - _ROUND)
    low = -math.inf if at_least == 0 else np.quantile(thresholds[:, at_least - 1], tail)
    high = math.inf if at_most == pairs else np.quantile(thresholds[:, at_most], 1 - tail)
    return Figure(value, *(0.5 + math.asin(math.tanh(z)) / math.pi for z in (low, high)))


def spearman(x: FloatArray, y: FloatArray) -> Figure:
    """:func:`rank_correlation` with its interval; that of a normal pair is 6/π · arcsin(ρ/2)."""
    value = rank_correlation(x, y)
    if math.isnan(value):
        return Figure(value, value, value)
    drawn, tail = _drawn_ranks(len(x)), (1 - LEVEL) / 2
    above = np.maximum.accumulate((drawn >= value - _ROUND).mean(1))
    below = np.minimum.accumulate((drawn <= value + _ROUND).mean(1))
    low = float(np.interp(tail, above, _GRID, left=-math.inf, right=_GRID[-1]))
    high = float(np.interp(-tail, -below, _GRID, left=_GRID[0], right=math.inf))
    if value >= 1 - _ROUND:
        high = math.inf
    if value <= -1 + _ROUND:
        low = -math.inf
    return Figure(value, *(6 / math.pi * math.asin(math.tanh(z) / 2) for z in (low, high)))


def _normal_pairs(count: int, draws: int) -> tuple[FloatArray, FloatArray]:
    """Independent standard normals, ``(draws, count)`` each; the same in every call."""
    first, second = np.random.default_rng([count, 17]).standard_normal((2, draws, count))
    return first, second


@lru_cache(maxsize=64)
def _thresholds(count: int) -> FloatArray:
    """Fisher's z of the correlation from which on so many pairs of a draw are alike, sorted.

    With y = ρ·x + √(1 - ρ²)·e a pair is alike where ρ/√(1 - ρ²) = sinh(z) is above -Δe/Δx, so that
    one draw serves every correlation. Shape ``(draws, pairs)``.
    """
    x, e = _normal_pairs(count, _DRAWS)
    i, j = np.triu_indices(count, 1)
    return np.sort(np.arcsinh(-(e[:, i] - e[:, j]) / (x[:, i] - x[:, j])), axis=1)


@lru_cache(maxsize=64)
def _drawn_ranks(count: int) -> FloatArray:
    """Rank correlations of draws, by correlation: shape ``(grid, draws)``."""
    x, e = _normal_pairs(count, _RANK_DRAWS)
    rho = np.tanh(_GRID)[:, None, None]
    y = rho * x + np.sqrt(1 - rho**2) * e
    ranks, other = (v.argsort(-1).argsort(-1) - (count - 1) / 2 for v in (x, y))
    return np.asarray((ranks * other).sum(-1) * 12 / (count * (count**2 - 1)))
