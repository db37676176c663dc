"""Gaussian process on √w: smooth surfaces with an error bar of their own.

Mixtures are points of the simplex; their square roots lie on a sphere, where Euclidean distance
is the Hellinger distance. A step from 0 to 1 % of a domain is then as long as it is
consequential. Kernel: Matérn 5/2 with a length scale per domain, plus a linear term and noise
(Rasmussen & Williams 2006, eqs. 4.17, 5.9); hyperparameters maximise the marginal likelihood with
weak log-normal priors, by L-BFGS from several fixed starts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import linalg, optimize
from threadpoolctl import threadpool_limits

from regmix.mixture import FloatArray
from regmix.regressors.base import Prediction

_STARTS = (1.0, 0.3)
_MANY_RUNS = 200
"""From here on the likelihood has one clear mode, and one start is enough."""
_NOISE_FLOOR = 1e-4
"""Of the standardised metric: keeps the Cholesky factor well conditioned."""


def _one_thread() -> AbstractContextManager[Any]:
    """One thread for the linear algebra.

    Matrices here are small: threads gain little on idle cores, cost a hundredfold on busy ones, and
    their number would change the last digits of a fit.
    """
    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits


@dataclass
class _Posterior:
    z: FloatArray
    theta: FloatArray
    factor: FloatArray
    alpha: FloatArray


class GaussianProcess:
    """Exact GP regression on √w."""

    def __init__(self) -> None:
        self._x: FloatArray | None = None
        self._posterior: _Posterior | None = None

    def fit(self, x: FloatArray, y: FloatArray) -> Self:
        """Fit to runs; cost grows with the cube of their number."""
        self._x, self._y = x, y
        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        z, t = np.sqrt(x), (y - self._mean) / self._scale
        d = x.shape[1]
        best: optimize.OptimizeResult | None = None
        bounds = [(-3.0, 4.0)] * d + [(-4.0, 5.0), (-9.0, 4.0), (np.log(_NOISE_FLOOR), 1.0)]
        for length in _STARTS[: 1 if len(x) >= _MANY_RUNS else None]:
            start = np.concatenate([np.full(d, np.log(length)), [0.0, np.log(0.1), np.log(0.05)]])
            with _one_thread():
                found = optimize.minimize(
                    _negative_log_posterior, start, args=(z, t), jac=True, method="L-BFGS-B",
                    bounds=bounds, options={"maxiter": 100},
                )  # fmt: skip
            if best is None or found.fun < best.fun:
                best = found
        assert best is not None
        self._condition(np.asarray(best.x))
        return self

    def predict(self, x: FloatArray) -> Prediction:
        """Posterior mean and standard deviation of a measurement, noise included."""
        assert self._posterior is not None
        p = self._posterior
        z = np.sqrt(x)
        with _one_thread():
            cross = _kernel(z, p.z, p.theta)
            v = linalg.solve_triangular(p.factor, cross.T, lower=True, check_finite=False)
            mean = self._mean + self._scale * (cross @ p.alpha)
        _, signal, linear, noise = _unpack(p.theta)
        prior = signal + linear * (z**2).sum(1) + noise
        variance = np.maximum(prior - (v**2).sum(0), 1e-12)
        return Prediction(mean, self._scale * np.sqrt(variance))

    def state(self) -> dict[str, Any]:
        """Training data and hyperparameters."""
        assert self._posterior is not None
        assert self._x is not None
        return {
            "x": self._x.tolist(),
            "y": self._y.tolist(),
            "theta": self._posterior.theta.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Condition again on the same data with the same hyperparameters."""
        gp = cls()
        gp._x, gp._y = np.array(state["x"]), np.array(state["y"])
        gp._mean, gp._scale = float(gp._y.mean()), float(gp._y.std()) or 1.0
        gp._condition(np.array(state["theta"]))
        return gp

    def _condition(self, theta: FloatArray) -> None:
        assert self._x is not None
        z, t = np.sqrt(self._x), (self._y - self._mean) / self._scale
        noise = _unpack(theta)[3]
        with _one_thread():
            factor = np.asarray(np.linalg.cholesky(_kernel(z, z, theta) + noise * np.eye(len(z))))
            alpha = linalg.cho_solve((factor, True), t)
        self._posterior = _Posterior(z, theta, factor, alpha)


def _unpack(theta: FloatArray) -> tuple[FloatArray, float, float, float]:
    """Length scales, signal variance, linear variance, noise variance; from their logarithms."""
    signal, linear, noise = np.exp(theta[-3:])
    return np.exp(theta[:-3]), float(signal), float(linear), float(noise)


def _distance(a: FloatArray, b: FloatArray, length: FloatArray) -> FloatArray:
    a, b = a / length, b / length
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(5 * np.maximum(squared, 0.0)))


def _kernel(a: FloatArray, b: FloatArray, theta: FloatArray) -> FloatArray:
    length, signal, linear, _ = _unpack(theta)
    r = _distance(a, b, length)
    return np.asarray(signal * (1 + r + r**2 / 3) * np.exp(-r) + linear * (a @ b.T))


def _negative_log_posterior(
    theta: FloatArray, z: FloatArray, t: FloatArray
) -> tuple[float, FloatArray]:
    """Negative log marginal likelihood plus priors, and its gradient in log hyperparameters."""
    n = len(z)
    length, signal, linear, noise = _unpack(theta)
    r = _distance(z, z, length)
    decay = np.exp(-r)
    matern = signal * (1 + r + r**2 / 3) * decay
    straight = linear * (z @ z.T)
    try:
        factor = np.linalg.cholesky(matern + straight + noise * np.eye(n))
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(theta)
    inverse = linalg.cho_solve((factor, True), np.eye(n), check_finite=False)
    alpha = inverse @ t
    value = 0.5 * t @ alpha + np.log(np.diag(factor)).sum()
    # dL/dθ = ½ tr((K⁻¹ − ααᵀ) dK/dθ), R&W eq. 5.9 with the sign turned.
    w = 0.5 * (inverse - np.outer(alpha, alpha))
    radial = w * (signal * 5 / 3 * (1 + r) * decay)
    # Σ_ij R_ij (z_i − z_j)² for symmetric R, one matrix product for all domains.
    squares = 2 * (radial.sum(1) @ z**2 - np.einsum("nd,nd->d", z, radial @ z))
    lengths = squares / length**2
    gradient = np.array([*lengths, (w * matern).sum(), (w * straight).sum(), noise * np.trace(w)])
    centre = np.concatenate([np.zeros(z.shape[1]), [0.0, -2.0, -4.0]])
    width = np.concatenate([np.full(z.shape[1], 1.5), [2.0, 3.0, 3.0]])
    offset = (theta - centre) / width
    return float(value + 0.5 * (offset**2).sum()), gradient + offset / width
