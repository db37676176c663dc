"""Many small nonlinear least-squares problems at once.

Levenberg-Marquardt with a Gaussian prior on the parameters and Huber's loss on the residuals
(Huber 1964; iteratively reweighted), for a batch of problems that share their inputs: every metric,
from every start, with every strength of the prior. Problems differ only along the first axis, so
one matrix product serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from regmix.mixture import FloatArray

Formula = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""Parameters ``(B, p)`` to values ``(B, n)`` and derivatives ``(B, n, p)``."""

HUBER = 2.5
"""Residuals beyond this many robust standard deviations count linearly."""
_REWEIGHTINGS = 6
_LEAST = 1e-3
"""Of what a run leaves to the others (1 - leverage): bounds leave-one-out errors where there are
fewer runs than parameters."""
_TRIES = 1e-3, 10.0, 0.3
"""First damping, its growth after a step that failed, its decay after one that did not."""


@dataclass(frozen=True)
class Problems:
    """A batch; the first axis of every array is the problem."""

    values: FloatArray
    """Shape ``(B, n)``."""
    weights: FloatArray
    """Inverse relative noise variances, shape ``(B, n)``."""
    prior_mean: FloatArray
    """Shape ``(B, p)``."""
    precision: FloatArray
    """Prior precision of each parameter, relative to the noise's, shape ``(B, p)``."""

    def pick(self, rows: np.ndarray) -> Problems:
        """Some of the problems, in the order of ``rows``."""
        return Problems(
            self.values[rows], self.weights[rows], self.prior_mean[rows], self.precision[rows]
        )


@dataclass(frozen=True)
class Solutions:
    """What :func:`solve` found."""

    theta: FloatArray
    """Shape ``(B, p)``."""
    loss: FloatArray
    """Penalised robust sum of squares, shape ``(B,)``."""
    loo: FloatArray
    """Mean squared leave-one-out error in the linearised problem, shape ``(B,)``; outliers count
    as little as in the fit."""
    normal: FloatArray
    """``JᵀWJ + Λ`` at the solution, shape ``(B, p, p)``."""


def solve(formula: Formula, problems: Problems, start: FloatArray, steps: int) -> Solutions:
    """Minimise each problem from its own start, shape ``(B, p)``.

    The start already says which values are outliers: a first descent that followed them would end
    in a valley of its own.
    """
    theta = start.copy()
    weights = _robust(formula, problems, theta)
    for _ in range(_REWEIGHTINGS):
        theta = _descend(formula, problems, weights, theta, steps)
        weights = _robust(formula, problems, theta)
    return _finish(formula, problems, weights, theta)


def _robust(formula: Formula, problems: Problems, theta: FloatArray) -> FloatArray:
    """The problems' weights times Huber's, at these parameters."""
    return _tempered(problems, problems.values - formula(theta)[0])


def _tempered(problems: Problems, residual: FloatArray) -> FloatArray:
    residual = residual * np.sqrt(problems.weights)
    spread = 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True)
    limit = HUBER * np.maximum(spread, 1e-9)
    return np.asarray(
        problems.weights * np.minimum(1.0, limit / np.maximum(np.abs(residual), 1e-300))
    )


def _loss(
    problems: Problems, weights: FloatArray, theta: FloatArray, value: FloatArray
) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        fit = (weights * (problems.values - value) ** 2).sum(1)
        prior = (problems.precision * (theta - problems.prior_mean) ** 2).sum(1)
    return np.asarray(np.where(np.isfinite(fit), fit + prior, np.inf))


def _descend(
    formula: Formula, problems: Problems, weights: FloatArray, theta: FloatArray, steps: int
) -> FloatArray:
    first, grow, decay = _TRIES
    damping = np.full(len(theta), first)
    value, jacobian = formula(theta)
    loss = _loss(problems, weights, theta, value)
    diagonal = np.arange(theta.shape[1])
    open_ = np.arange(len(theta))
    for _ in range(steps):
        part, w = problems.pick(open_), weights[open_]
        normal, gradient = _normal(part, w, theta[open_], value[open_], jacobian[open_])
        damped = normal.copy()
        damped[:, diagonal, diagonal] *= 1 + damping[open_, None]
        step = np.linalg.solve(damped, gradient[..., None])[..., 0]
        tried = theta[open_] + step
        new_value, new_jacobian = formula(tried)
        new_loss = _loss(part, w, tried, new_value)
        better = new_loss < loss[open_]
        gain = loss[open_] - new_loss
        won = open_[better]
        theta[won], value[won] = tried[better], new_value[better]
        jacobian[won], loss[won] = new_jacobian[better], new_loss[better]
        damping[open_] = np.clip(damping[open_] * np.where(better, decay, grow), 1e-9, 1e12)
        settled = np.where(better, gain < 1e-7 * (1 + loss[open_]), damping[open_] > 1e8)
        open_ = open_[~settled]
        if not len(open_):
            break
    return theta


def _normal(
    problems: Problems,
    weights: FloatArray,
    theta: FloatArray,
    value: FloatArray,
    jacobian: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """``JᵀWJ + Λ`` and the step's right-hand side."""
    weighted = jacobian * weights[..., None]
    normal = weighted.transpose(0, 2, 1) @ jacobian
    index = np.arange(theta.shape[1])
    normal[:, index, index] += problems.precision
    residual = (problems.values - value)[..., None]
    gradient = (weighted.transpose(0, 2, 1) @ residual)[..., 0]
    return normal, gradient - problems.precision * (theta - problems.prior_mean)


def _finish(
    formula: Formula, problems: Problems, weights: FloatArray, theta: FloatArray
) -> Solutions:
    value, jacobian = formula(theta)
    normal, _ = _normal(problems, weights, theta, value, jacobian)
    inside = np.linalg.solve(normal, jacobian.transpose(0, 2, 1))
    leverage = weights * (jacobian * inside.transpose(0, 2, 1)).sum(2)
    residual = (problems.values - value) / np.maximum(1 - leverage, _LEAST)
    # Told by these errors themselves: the fit's own residuals would call whatever run is not met
    # an outlier where there are as many parameters as runs.
    loo = (_tempered(problems, residual) * residual**2).mean(1)
    return Solutions(theta, _loss(problems, weights, theta, value), loo, normal)
