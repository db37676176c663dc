"""The data-mixing law ``c ± exp(t·w)`` (Ye et al., arXiv 2403.16952, eq. 6).

Few parameters, convex for losses, and shaped like what it describes: it ranks worse within one size
than flexible regressors do, and carries over better to another one. All metrics are fitted at once,
each from several asymptotes ``c``; which of them, which sign, and how strongly ``t`` is drawn
to a common value, is decided by the leave-one-out error.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from regmix.mixture import FloatArray
from regmix.regressors.laws import SCOUT, Law, Scouted, tame
from regmix.regressors.least_squares import Effort, Formula, Problems, solve

ASYMPTOTES = (0.02, 0.15, 1.0, 5.0)
"""Starts: ``c`` this many ranges beyond the best value seen; the last is all but linear."""
WIDTHS = (0.5, 1.5, 5.0)
"""Prior standard deviations of ``t`` around its mean."""
_NOISE = 0.05
"""Noise that the prior is weighed against, in standard deviations of the metric."""
_BATCH = 12_000_000
"""Derivatives held at once: about 100 MB."""
LARGEST = 30.0
"""Of the exponent: a trial step beyond it is refused rather than overflowing."""


class LogLinear(Law):
    """θ = (c, a, t): value ``c + sign · exp(a + t·w)``."""

    name: ClassVar[str] = "loglinear"
    effort: ClassVar[Effort] = Effort(10, 4)

    @staticmethod
    def batch(runs: int, domains: int) -> int:
        """As many as fit in memory."""
        return max(1, _BATCH // (runs * (domains + 2) * len(ASYMPTOTES)))

    @staticmethod
    def formula(x: FloatArray, sign: float) -> Formula:
        """The law and its derivatives, for a batch of parameters."""

        def evaluate(theta: FloatArray) -> tuple[FloatArray, FloatArray]:
            power = theta[:, 1, None] + theta[:, 2:] @ x.T
            grown = sign * np.exp(np.minimum(power, LARGEST))
            jacobian = np.empty((*power.shape, theta.shape[1]))
            jacobian[..., 0], jacobian[..., 1] = 1.0, grown
            jacobian[..., 2:] = grown[..., None] * x
            return theta[:, 0, None] + grown, jacobian

        return evaluate

    @staticmethod
    def precisions(domains: int) -> FloatArray:
        """For each width; c and a are free."""
        found = np.full((len(WIDTHS), domains + 2), 1e-7)
        found[:, 2:] = (_NOISE / np.array(WIDTHS)[:, None]) ** 2
        return found

    @staticmethod
    def scout(x: FloatArray, values: FloatArray, weights: FloatArray, sign: float) -> Scouted:
        """A few steps from every asymptote, under the middle prior."""
        metrics, mild = len(values), tame(values.T).T
        starts = np.concatenate([_start(x, mild, sign, beyond) for beyond in ASYMPTOTES])
        posed = Problems(
            np.tile(values, (len(ASYMPTOTES), 1)),
            np.tile(weights, (len(ASYMPTOTES), 1)),
            np.zeros_like(starts),
            np.tile(LogLinear.precisions(x.shape[1])[1], (len(starts), 1)),
        )
        found = solve(LogLinear.formula(x, sign), posed, starts, SCOUT)
        best = found.loss.reshape(len(ASYMPTOTES), metrics).argmin(0) * metrics
        best += np.arange(metrics)
        return Scouted(found.theta[best], posed.prior_mean[best], found.loo[best])


def _start(x: FloatArray, values: FloatArray, sign: float, beyond: float) -> FloatArray:
    """With ``c`` given, the law is linear in the logarithm: a ridge fit, shape ``(B, d + 2)``."""
    turned = sign * values
    asymptote = turned.min(1) - beyond * np.maximum(np.ptp(turned, axis=1), 1e-6)
    logs = np.log(turned - asymptote[:, None])
    middle = logs.mean(1)
    centred = x - x.mean(0)
    gram = centred.T @ centred + 1e-2 * np.eye(x.shape[1])
    slopes = np.linalg.solve(gram, centred.T @ (logs - middle[:, None]).T).T
    return np.column_stack([sign * asymptote, middle - slopes @ x.mean(0), slopes])
