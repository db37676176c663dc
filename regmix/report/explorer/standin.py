"""Stand-ins for what a page cannot compute: ridge on a shared basis, fitted to the surrogate.

Data are the surrogate's own predictions, so there is no noise to average; penalties only keep the
coefficients small where the basis could tell several stories. Each column has its own, and all
share the kernel's length, by leave-one-out error (Hastie, Tibshirani & Friedman 2009, eq. 7.52).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regmix.mixture import FloatArray
from regmix.regressors.base import Scaled, one_thread
from regmix.report.explorer.parts import Basis

CENTRES = 160
_QUANTILES = (0.25, 0.5, 0.75, 0.92)
_LENGTHS = (0.3, 0.6, 1.2)
_PENALTIES = np.logspace(-10, 0, 21)
"""Shares of the largest eigenvalue."""


@dataclass(frozen=True)
class StandIns:
    """Fitted columns: ``shift + scale · (features @ coefficients)`` each."""

    basis: Basis
    coefficients: FloatArray
    """Shape ``(p, n_columns)``."""
    shift: FloatArray
    scale: FloatArray


def fit(x: FloatArray, y: FloatArray, runs: FloatArray, rng: np.random.Generator) -> StandIns:
    """Fit every column of ``y``, shape ``(n, n_columns)``, as a function of ``x``.

    Args:
        runs: mixtures that were measured; hinges and centres go where they are, ``(n, n_domains)``.
    """
    scaled = Scaled.of(y)
    knots, centres = _knots(runs), _spread_out(np.sqrt(np.vstack([runs, x])), CENTRES, rng)
    with one_thread:
        tried = [
            (basis, *_ridge(basis.features(x), scaled.values))
            for basis in (Basis(knots, centres, length) for length in _LENGTHS)
        ]
    basis, coefficients, _ = min(tried, key=lambda found: found[2])
    return StandIns(basis, coefficients, scaled.mean, scaled.scale)


def _knots(runs: FloatArray) -> FloatArray:
    """Quantiles of each domain's shares in the runs, as square roots, shape ``(k, n_domains)``."""
    return np.sqrt(np.quantile(runs, _QUANTILES, axis=0))


def _spread_out(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Points that lie far apart: each is the one furthest from those before (Gonzalez 1985)."""
    chosen = [int(rng.integers(len(points)))]
    apart = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < count and apart.max() > 1e-6:
        chosen.append(int(np.argmax(apart)))
        apart = np.minimum(apart, ((points - points[chosen[-1]]) ** 2).sum(1))
    return points[chosen]


def _ridge(features: FloatArray, values: FloatArray) -> tuple[FloatArray, float]:
    """Coefficients by column, and the mean over the columns of their leave-one-out errors."""
    u, s, vt = np.linalg.svd(features, full_matrices=False)
    along = u.T @ values
    errors = []
    for penalty in _PENALTIES * s[0] ** 2:
        shrink = s**2 / (s**2 + penalty)
        left = np.maximum(1 - (u**2) @ shrink, 1e-9)
        residual = (values - u @ (shrink[:, None] * along)) / left[:, None]
        errors.append((residual**2).mean(0))
    best = np.argmin(errors, axis=0)
    penalty = (_PENALTIES * s[0] ** 2)[best]
    weights = s[:, None] / (s[:, None] ** 2 + penalty) * along
    return vt.T @ weights, float(np.sqrt(np.min(errors, axis=0)).mean())
