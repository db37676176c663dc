"""Gaussian process on √w: smooth surfaces with an error bar of their own.

Mixtures are points of the simplex; their square roots lie on a sphere, where Euclidean distance
is the Hellinger distance. A step from 0 to 1 % of a domain is then as long as it is
consequential. Kernel: Matérn 5/2 with a length scale per domain, plus a linear term and noise
(Rasmussen & Williams 2006, eqs. 4.17, 5.9); hyperparameters maximise the marginal likelihood with
weak log-normal priors, by L-BFGS from fixed starts. Where the noise of runs is known to differ,
their noise variances keep the given ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import scipy

from regmix.mixture import FloatArray
from regmix.regressors.base import (
    NOTHING,
    Context,
    Prediction,
    Scaled,
    Shape,
    in_threads,
    one_thread,
)

_STARTS = (1.0, 0.3)
_MANY_RUNS = 200
"""From here on the likelihood has one clear mode, and one start is enough."""
_NOISE_FLOOR = 1e-4
"""Of the standardised metric: keeps the Cholesky factor well conditioned."""
_STEPS = 100
_TOLERANCE = 1e-5
"""Relative gain in the likelihood at which the search ends."""


@dataclass(frozen=True)
class _Data:
    """What a process is conditioned on."""

    x: FloatArray
    y: FloatArray
    """Standardised."""
    noise: FloatArray
    """Relative noise variances."""
    mean: float
    scale: float


@dataclass(frozen=True)
class Expansion:
    """What a process predicts from: ``mean + scale · Σ_j weights_j k(√w, inputs_j)``.

    The variance is ``scale² (max(signal + linear − |factor⁻¹ k|², 0) + noise)``; ``k`` is the
    Matérn 5/2 of variance ``signal`` plus ``linear`` times the dot product.
    """

    inputs: FloatArray
    """Square roots of the runs' mixtures, ``(n, n_domains)``."""
    weights: FloatArray
    """Shape ``(n,)``."""
    factor: FloatArray
    """Lower Cholesky factor of the runs' covariance, ``(n, n)``."""
    length: FloatArray
    """Length scale of each domain, ``(n_domains,)``."""
    signal: float
    linear: float
    noise: float
    mean: float
    scale: float


class GaussianProcess:
    """Exact GP regression on √w."""

    name: ClassVar[str] = "gp"

    def __init__(self, data: _Data, theta: FloatArray) -> None:
        """Condition on the data with given hyperparameters (logarithms)."""
        self._data, self._theta = data, theta
        self._z = np.sqrt(data.x)
        noise = _unpack(theta)[3]
        with one_thread:
            covariance = _kernel(self._z, self._z, theta) + np.diag(noise * data.noise)
            self._factor = np.asarray(np.linalg.cholesky(covariance))
            self._alpha = scipy.linalg.cho_solve((self._factor, True), data.y)

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        """Fit every column of ``y``; cost grows with the cube of the number of runs."""
        scaled, z = Scaled.of(y), np.sqrt(x)

        data = [
            _Data(
                x,
                scaled.values[:, i],
                context.noise_of(i, len(x)),
                float(scaled.mean[i]),
                float(scaled.scale[i]),
            )
            for i in range(y.shape[1])
        ]
        return in_threads(lambda i: cls(data[i], _hyperparameters(z, data[i])), len(data))

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        """Conditioned on other runs with the same hyperparameters."""
        s = Scaled.of(y[:, None])
        data = _Data(x, s.values[:, 0], np.ones(len(x)), float(s.mean[0]), float(s.scale[0]))
        return type(self)(data, self._theta)

    @property
    def shape(self) -> Shape:
        """Smooth, and of any form."""
        return Shape(smooth=True)

    def mean(self, x: FloatArray) -> FloatArray:
        """Posterior mean."""
        with one_thread:
            cross = _kernel(np.sqrt(x), self._z, self._theta)
            return np.asarray(self._data.mean + self._data.scale * (cross @ self._alpha))

    def predict(self, x: FloatArray) -> Prediction:
        """Posterior mean and standard deviation of a measurement of typical noise."""
        z = np.sqrt(x)
        with one_thread:
            cross = _kernel(z, self._z, self._theta)
            mean = self._data.mean + self._data.scale * (cross @ self._alpha)
            explained = (self._whitened(cross) ** 2).sum(0)
        _, signal, linear, noise = _unpack(self._theta)
        variance = np.maximum(signal + linear * (z**2).sum(1) - explained, 0.0) + noise
        return Prediction(np.asarray(mean), self._data.scale * np.sqrt(variance))

    def doubt(self, x: FloatArray) -> FloatArray:
        """Posterior standard deviation without noise."""
        z = np.sqrt(x)
        with one_thread:
            explained = (self._whitened(_kernel(z, self._z, self._theta)) ** 2).sum(0)
        _, signal, linear, _ = _unpack(self._theta)
        variance = np.maximum(signal + linear * (z**2).sum(1) - explained, 0.0)
        return np.asarray(self._data.scale * np.sqrt(variance))

    def leave_one_out(self) -> Prediction:
        """What each of its own runs is predicted to be from all others (R&W 2006, eq. 5.12).

        The hyperparameters are those of all runs.
        """
        with one_thread:
            inverse = scipy.linalg.cho_solve((self._factor, True), np.eye(len(self._z)))
        own = np.diag(inverse)
        mean = self._data.y - self._alpha / own
        return Prediction(
            np.asarray(self._data.mean + self._data.scale * mean),
            np.asarray(self._data.scale / np.sqrt(own)),
        )

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """Posterior standard deviation of the difference to the reference, without noise."""
        z, r = np.sqrt(x), np.sqrt(reference[None])
        _, signal, linear, _ = _unpack(self._theta)
        with one_thread:
            steps = _kernel(z, self._z, self._theta) - _kernel(r, self._z, self._theta)
            explained = (self._whitened(steps) ** 2).sum(0)
            apart = 2 * (signal - _matern(_distance(z, r, np.exp(self._theta[:-3])), signal)[:, 0])
        prior = apart + linear * ((z - r) ** 2).sum(1)
        return np.asarray(self._data.scale * np.sqrt(np.maximum(prior - explained, 0.0)))

    def expansion(self) -> Expansion:
        """What it predicts from, for whoever computes the same elsewhere."""
        length, signal, linear, noise = _unpack(self._theta)
        return Expansion(
            self._z, np.asarray(self._alpha), self._factor, length, signal, linear, noise,
            self._data.mean, self._data.scale,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Training data and hyperparameters."""
        d = self._data
        return {
            "x": d.x.tolist(),
            "y": d.y.tolist(),
            "noise": d.noise.tolist(),
            "mean": d.mean,
            "scale": d.scale,
            "theta": self._theta.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Condition again on the same data with the same hyperparameters."""
        arrays = {k: np.array(state[k], dtype=np.float64) for k in ("x", "y", "noise")}
        data = _Data(**arrays, mean=float(state["mean"]), scale=float(state["scale"]))
        return cls(data, np.array(state["theta"], dtype=np.float64))

    def _whitened(self, cross: FloatArray) -> FloatArray:
        return np.asarray(
            scipy.linalg.solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        )


def _hyperparameters(z: FloatArray, data: _Data) -> FloatArray:
    """Logarithms of the length scales, signal, linear and noise variance."""
    d = z.shape[1]
    bounds = [(-3.0, 4.0)] * d + [(-4.0, 5.0), (-9.0, 4.0), (np.log(_NOISE_FLOOR), 1.0)]
    posterior = _Posterior(z, data.y, data.noise)
    best: scipy.optimize.OptimizeResult | None = None
    for length in _STARTS[: 1 if len(z) >= _MANY_RUNS else None]:
        start = np.concatenate([np.full(d, np.log(length)), [0.0, np.log(0.1), np.log(0.05)]])
        found = scipy.optimize.minimize(
            posterior.negative_log, start,
            jac=True, method="L-BFGS-B", bounds=bounds,
            options={"maxiter": _STEPS, "ftol": _TOLERANCE},
        )  # fmt: skip
        if best is None or found.fun < best.fun:
            best = found
    assert best is not None
    return np.asarray(best.x)


def _unpack(theta: FloatArray) -> tuple[FloatArray, float, float, float]:
    """Length scales, signal variance, linear variance, noise variance; from their logarithms."""
    signal, linear, noise = np.exp(theta[-3:])
    return np.exp(theta[:-3]), float(signal), float(linear), float(noise)


def _distance(a: FloatArray, b: FloatArray, length: FloatArray) -> FloatArray:
    a, b = a / length, b / length
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(5 * np.maximum(squared, 0.0)))


def _matern(r: FloatArray, signal: float) -> FloatArray:
    return np.asarray(signal * (1 + r + r**2 / 3) * np.exp(-r))


def _kernel(a: FloatArray, b: FloatArray, theta: FloatArray) -> FloatArray:
    length, signal, linear, _ = _unpack(theta)
    return np.asarray(_matern(_distance(a, b, length), signal) + linear * (a @ b.T))


class _Posterior:
    """The posterior of the hyperparameters of one process.

    The search asks for it dozens of times, and its matrices are as large as a core's cache: they
    are computed in the same memory each time.
    """

    def __init__(self, z: FloatArray, y: FloatArray, noise: FloatArray) -> None:
        n, d = z.shape
        self._z, self._y, self._noise = z, y, noise
        self._gram = z @ z.T
        self._r, self._decay, self._matern = np.empty((3, n, n))
        self._covariance = np.empty((n, n), order="F")  # of another order LAPACK makes a copy
        self._centre = np.concatenate([np.full(d, 0.9), [0.0, -2.0, -4.0]])
        self._width = np.concatenate([np.full(d, 1.2), [2.0, 3.0, 3.0]])

    def negative_log(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """Negative log marginal likelihood plus priors, and its gradient by ``theta``."""
        length, signal, linear, noise = _unpack(theta)
        self._fill(length, signal)
        covariance = self._covariance
        np.multiply(self._gram, linear, out=covariance.T)  # symmetric: its own transpose
        covariance.T[...] += self._matern
        covariance[np.diag_indices_from(covariance)] += noise * self._noise
        factor, failed = scipy.linalg.lapack.dpotrf(covariance, lower=1, overwrite_a=1)
        if failed:
            return 1e10, np.zeros_like(theta)
        logdet = np.log(np.diag(factor)).sum()
        alpha = scipy.linalg.lapack.dpotrs(factor, self._y, lower=1)[0]
        inverse = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)[0]
        offset = (theta - self._centre) / self._width
        value = float(0.5 * self._y @ alpha + logdet + 0.5 * (offset**2).sum())
        gradient = self._gradient(inverse, alpha, length, linear, noise)
        return value, gradient + offset / self._width

    def _fill(self, length: FloatArray, signal: float) -> None:
        """Distances, their exponential, and the Matérn kernel."""
        r, decay, matern = self._r, self._decay, self._matern
        scaled = self._z * (np.sqrt(5) / length)
        np.matmul(scaled, scaled.T, out=r)
        own = np.diag(r).copy()
        r *= -2
        r += own
        r += own[:, None]
        np.sqrt(np.maximum(r, 0.0, out=r), out=r)
        np.exp(np.negative(r, out=decay), out=decay)
        decay *= signal
        np.multiply(r, 1 / 3, out=matern)
        matern += 1
        matern *= r
        matern += 1
        matern *= decay

    def _gradient(
        self, inverse: FloatArray, alpha: FloatArray, length: FloatArray, linear: float,
        noise: float,
    ) -> FloatArray:  # fmt: skip
        """Of the negative log marginal likelihood: ``½ tr((K⁻¹ − ααᵀ) dK/dθ)`` (R&W eq. 5.9).

        Args:
            inverse: K⁻¹ in its lower half, 0 above it; overwritten.
        """
        inverse *= 2  # the other half is as large; sums with symmetric matrices do not tell
        inverse[np.diag_indices_from(inverse)] /= 2
        w = scipy.linalg.blas.dger(-1.0, alpha, alpha, a=inverse, overwrite_a=1).T
        signal_slope = np.vdot(w, self._matern)
        linear_slope = linear * np.vdot(w, self._gram)
        noise_slope = noise * (np.diag(w) @ self._noise)
        radial = self._r
        radial += 1
        radial *= self._decay
        radial *= w
        # Σ_ij R_ij (z_i − z_j)², one matrix product for all domains.
        sums = radial.sum(0) + radial.sum(1)
        squares = sums @ self._z**2 - 2 * np.einsum("nd,nd->d", self._z, radial @ self._z)
        slopes = [*(5 / 3 * squares / length**2), signal_slope, linear_slope, noise_slope]
        return 0.5 * np.array(slopes)
