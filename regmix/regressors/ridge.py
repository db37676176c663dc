"""Ridge regression: the metric as a sum over domains.

``linear`` takes the weights themselves, ``sqrt-ridge`` their square roots too, which lets the first
percent of a domain matter more than the fiftieth. The penalty is chosen by leave-one-out error, in
closed form (Hastie, Tibshirani & Friedman 2009, eq. 7.52), for every metric by itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from regmix.mixture import FloatArray
from regmix.regressors.base import NOTHING, Averaged, Context, Scaled, Shape, in_threads
from regmix.regressors.parametric import Parametric, Posterior

PENALTIES = np.logspace(-7, 1, 33)
"""Tried, as shares of the largest eigenvalue."""


class Ridge(Parametric):
    """θ = (intercept, coefficients) of features that have mean 0 over the simplex's centre."""

    @staticmethod
    @abstractmethod
    def features(x: FloatArray) -> FloatArray:
        """Shape ``(n, p - 1)``."""

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        """Fit every column of ``y``."""
        rows = Averaged.of(x, y, context)
        scaled, phi = Scaled.of(rows.y), cls.features(rows.x)

        weights = [1 / rows.context.noise_of(i, len(phi)) for i in range(y.shape[1])]
        return in_threads(
            lambda i: cls(_solve(phi, scaled, i, weights[i]).with_noise(rows.lost[i])), y.shape[1]
        )

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        """A fit of its own: it costs next to nothing."""
        return self.fit_all(x, y[:, None])[0]

    def _value(self, x: FloatArray) -> FloatArray:
        return self._jacobian(x) @ self._posterior.theta

    def _jacobian(self, x: FloatArray) -> FloatArray:
        return np.hstack([np.ones((len(x), 1)), self.features(x)])


class Linear(Ridge):
    """Ridge on the weights."""

    name: ClassVar[str] = "linear"

    @staticmethod
    def features(x: FloatArray) -> FloatArray:
        """The weights."""
        return x

    @property
    def shape(self) -> Shape:
        """Linear: convex and concave."""
        return Shape(smooth=True, linear=True)


class SqrtRidge(Ridge):
    """Ridge on the weights and their square roots."""

    name: ClassVar[str] = "sqrt-ridge"

    @staticmethod
    def features(x: FloatArray) -> FloatArray:
        """Weights and square roots."""
        return np.hstack([x, np.sqrt(x)])

    @property
    def shape(self) -> Shape:
        """Convex where every square root's coefficient lowers the metric, concave where raises."""
        roots = self._posterior.theta[1 + (len(self._posterior.theta) - 1) // 2 :]
        if (roots <= 0).all():
            return Shape(smooth=True, convex=1)
        return Shape(smooth=True, convex=-1 if (roots >= 0).all() else 0)


def _solve(phi: FloatArray, scaled: Scaled, column: int, weights: FloatArray) -> Posterior:
    """Weighted ridge with the penalty of the least leave-one-out error."""
    t, share = scaled.values[:, column], weights / weights.sum()
    centre, middle = share @ phi, float(share @ t)
    root = np.sqrt(weights)
    u, s, vt = np.linalg.svd((phi - centre) * root[:, None], full_matrices=False)
    target = (t - middle) * root
    along = u.T @ target
    shrink = s**2 / (s**2 + (PENALTIES * max(float(s[0]) ** 2, 1e-12))[:, None])
    residual = target - (shrink * along) @ u.T
    leverage = shrink @ (u**2).T + share
    loo = ((residual / np.maximum(1 - leverage, 1e-9)) ** 2).mean(1)
    best = int(np.argmin(loo))
    penalty = PENALTIES[best] * max(float(s[0]) ** 2, 1e-12)
    coefficients = vt.T @ (s / (s**2 + penalty) * along)
    noise = float(np.sqrt(loo[best]))
    # Posterior of (intercept, coefficients): the intercept's own part, then the coefficients'.
    p = len(coefficients)
    inner = vt.T * (1 / np.sqrt(s**2 + penalty))
    covariance = inner @ inner.T
    if len(s) < p:  # directions that no run varies keep the prior's variance
        covariance = covariance + (np.eye(p) - vt.T @ vt) / penalty
    whole = np.zeros((p + 1, p + 1))
    whole[1:, 1:] = covariance
    whole[0, 1:] = whole[1:, 0] = -covariance @ centre
    whole[0, 0] = 1 / weights.sum() + centre @ covariance @ centre
    values, vectors = np.linalg.eigh(whole)
    return Posterior(
        theta=np.array([middle - centre @ coefficients, *coefficients]),
        root=noise * vectors * np.sqrt(np.maximum(values, 0.0)),
        noise=noise,
        mean=float(scaled.mean[column]),
        scale=float(scaled.scale[column]),
    )
