"""Sum of power laws ``c ± Σ F_i (w_i + a_i)^-g_i``, one a domain.

The shape of BiMix (arXiv 2405.14908) and AutoScale (arXiv 2407.20177): each domain lowers the
metric on its own, quickly at first. Convex where the powers add. The powers are drawn to common
values by a prior, so that fewer runs than parameters still give a fit.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy

from regmix.mixture import FloatArray
from regmix.regressors.laws import SCOUT, Law, Scouted, tame
from regmix.regressors.least_squares import Effort, Formula, Problems, solve

STARTS = ((0.01, 0.3), (0.05, 0.6), (0.3, 1.0))
"""Offsets ``a`` and exponents ``g`` from which the fit begins."""
WIDTHS = (0.1, 0.5, 3.0)
"""Prior standard deviations of the logarithms of F, a and g, the last two halved."""
_NOISE = 0.1
_SMALLEST = 1e-4
"""Least F of a start, in standard deviations of the metric."""
_BOUNDS = ((-12.0, 6.0), (np.log(3e-4), np.log(3.0)), (np.log(2e-2), np.log(3.0)))
"""Of the logarithms of F, a and g. Without them a domain that no run left out can get an offset so
small that leaving it out is predicted to be a million times worse than anything measured."""
_BATCH = 24_000_000
"""Derivatives held at once: about 200 MB."""


class PowerLaw(Law):
    """θ = (c, log F, log a, log g)."""

    name: ClassVar[str] = "powerlaw"
    effort: ClassVar[Effort] = Effort(4, 6)

    @staticmethod
    def batch(runs: int, domains: int) -> int:
        """As many as fit in memory."""
        return max(1, _BATCH // (runs * (3 * domains + 1) * len(STARTS)))

    @staticmethod
    def formula(x: FloatArray, sign: float) -> Formula:
        """The law and its derivatives, for a batch of parameters."""
        d = x.shape[1]

        def evaluate(theta: FloatArray) -> tuple[FloatArray, FloatArray]:
            factor, offset, power = constants(theta)
            shifted = x + offset[:, None]
            log = np.log(shifted)
            terms = sign * factor[:, None] * np.exp(np.clip(-power[:, None] * log, -50.0, 50.0))
            jacobian = np.empty((len(theta), len(x), 3 * d + 1))
            jacobian[..., 0] = 1.0
            jacobian[..., 1 : d + 1] = terms
            jacobian[..., d + 1 : 2 * d + 1] = -terms * power[:, None] * offset[:, None] / shifted
            jacobian[..., 2 * d + 1 :] = -terms * power[:, None] * log
            # At a bound a parameter changes nothing any more, and only its prior moves it.
            jacobian[..., 1:] *= free(theta)[:, None]
            return theta[:, 0, None] + terms.sum(2), jacobian

        return evaluate

    @staticmethod
    def precisions(domains: int) -> FloatArray:
        """For each width; c is free."""
        found = np.full((len(WIDTHS), 3 * domains + 1), 1e-7)
        for row, width in zip(found, WIDTHS, strict=True):
            row[1 : domains + 1] = (_NOISE / (2 * width)) ** 2
            row[domains + 1 :] = (_NOISE / width) ** 2
        return found

    @staticmethod
    def scout(x: FloatArray, values: FloatArray, weights: FloatArray, sign: float) -> Scouted:
        """A few steps from every start, under the mildest prior."""
        metrics, d, mild = len(values), x.shape[1], tame(values.T).T
        starts = np.concatenate([_start(x, sign * mild, sign, *s) for s in STARTS])
        posed = Problems(
            np.tile(values, (len(STARTS), 1)),
            np.tile(weights, (len(STARTS), 1)),
            _prior(starts, d),
            np.tile(PowerLaw.precisions(d)[-1], (len(starts), 1)),
        )
        found = solve(PowerLaw.formula(x, sign), posed, starts, SCOUT)
        best = found.loss.reshape(len(STARTS), metrics).argmin(0) * metrics + np.arange(metrics)
        return Scouted(found.theta[best], posed.prior_mean[best], found.loo[best])


def constants(theta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """F, a and g of parameters ``(B, 3 d + 1)``, each ``(B, d)``."""
    logs = np.split(theta[:, 1:], len(_BOUNDS), axis=1)
    factor, offset, power = (
        np.exp(np.clip(log, *bounds)) for log, bounds in zip(logs, _BOUNDS, strict=True)
    )
    return factor, offset, power


def free(theta: FloatArray) -> npt.NDArray[np.bool_]:
    """Which of F, a and g are inside their bounds, shape ``(B, 3 d)``."""
    low, high = np.repeat(np.array(_BOUNDS).T, theta.shape[1] // len(_BOUNDS), axis=1)
    return np.asarray((theta[:, 1:] > low) & (theta[:, 1:] < high))


def _prior(starts: FloatArray, d: int) -> FloatArray:
    """What parameters are drawn to: the start's, with one F for all domains."""
    prior = starts.copy()
    prior[:, 1 : d + 1] = prior[:, 1 : d + 1].mean(1, keepdims=True)
    return prior


def _start(
    x: FloatArray, turned: FloatArray, sign: float, offset: float, power: float
) -> FloatArray:
    """With offsets and exponents given, the rest is linear: non-negative least squares."""
    d = x.shape[1]
    features = (x + offset) ** -power
    design = np.hstack([np.ones((len(x), 1)), -np.ones((len(x), 1)), features])
    ridge = 1e-2 * np.eye(d + 2)[2:]
    starts = np.empty((len(turned), 3 * d + 1))
    for row, y in zip(starts, turned, strict=True):
        found = scipy.optimize.nnls(np.vstack([design, ridge]), np.concatenate([y, np.zeros(d)]))[0]
        row[0] = sign * (found[0] - found[1])
        row[1 : d + 1] = np.log(np.maximum(found[2:], _SMALLEST))
    starts[:, d + 1 : 2 * d + 1] = np.log(offset)
    starts[:, 2 * d + 1 :] = np.log(power)
    return starts
