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
import numpy.typing as npt

from regmix.mixture import FloatArray

Formula = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""Parameters ``(B, p)`` to values ``(B, n)`` and derivatives ``(B, n, p)``."""

HUBER = 2.5
"""Residuals beyond this many robust standard deviations count linearly."""
_LEAST = 1e-3
"""Of what a run leaves to the others (1 - leverage): bounds leave-one-out errors where there are
fewer runs than parameters."""
_FIRST, _GROW = 1e-3, 2.0
"""First damping, and its growth after a first step that failed; every further one doubles it."""
_SETTLED = 1e-7
"""Relative gain at which a descent ends."""


@dataclass(frozen=True)
class Effort:
    """At most so many steps between judgements of which values are outliers, and so many rounds."""

    rounds: int
    steps: int


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


def solve(formula: Formula, problems: Problems, start: FloatArray, effort: Effort) -> Solutions:
    """Minimise each problem from its own start, shape ``(B, p)``.

    The start already says which values are outliers: a first descent that followed them would end
    in a valley of its own.
    """
    state = _State.of(start)
    weights = _robust(formula, problems, state.theta)
    for _ in range(effort.rounds):
        _descend(formula, problems, weights, state, effort.steps)
        weights = _robust(formula, problems, state.theta)
        if not state.moving.any():
            break
    return _finish(formula, problems, weights, state.theta)


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


@dataclass
class _State:
    """Where the descents of a batch are; a reweighting goes on with the damping that was found."""

    theta: FloatArray
    damping: FloatArray
    growth: FloatArray
    moving: npt.NDArray[np.bool_]
    """False: the last descent had no more than its first step to take."""

    @classmethod
    def of(cls, start: FloatArray) -> _State:
        """Nothing is known yet."""
        size = len(start)
        return cls(
            start.copy(), np.full(size, _FIRST), np.full(size, _GROW), np.ones(size, dtype=bool)
        )


def _descend(
    formula: Formula, problems: Problems, weights: FloatArray, state: _State, steps: int
) -> None:
    """Steps with the damping led by how well the linearised problem foretells the gain."""
    theta, damping = state.theta, state.damping
    open_ = np.flatnonzero(state.moving)
    value, jacobian = np.empty(weights.shape), np.empty((*weights.shape, theta.shape[1]))
    value[open_], jacobian[open_] = formula(theta[open_])
    loss = _loss(problems, weights, theta, value)
    diagonal = np.arange(theta.shape[1])
    for step_number in range(steps):
        part, w = problems.pick(open_), weights[open_]
        normal, gradient = _normal(part, w, theta[open_], value[open_], jacobian[open_])
        scale = normal[:, diagonal, diagonal]
        scale = damping[open_, None] * (scale + scale.mean(1, keepdims=True))
        normal[:, diagonal, diagonal] += scale
        step = np.linalg.solve(normal, gradient[..., None])[..., 0]
        tried = theta[open_] + step
        new_value, new_jacobian = formula(tried)
        new_loss = _loss(part, w, tried, new_value)
        gain = loss[open_] - new_loss
        better = gain > 0
        won = open_[better]
        theta[won], value[won] = tried[better], new_value[better]
        jacobian[won], loss[won] = new_jacobian[better], new_loss[better]
        foretold = (step * (gradient + scale * step)).sum(1)
        _lead(state, open_, better, gain / np.maximum(foretold, 1e-300))
        settled = np.where(better, gain < _SETTLED * (1 + loss[open_]), damping[open_] > 1e8)
        if step_number == 0:
            state.moving[open_[settled]] = False
        open_ = open_[~settled]
        if not len(open_):
            break


def _lead(state: _State, open_: np.ndarray, better: np.ndarray, ratio: FloatArray) -> None:
    """Damping after a step, by the ratio of its gain to the one foretold (Nielsen 1999)."""
    damping, growth = state.damping[open_], state.growth[open_]
    eased = np.maximum(1 / 3, 1 - (2 * np.clip(ratio, 0.0, 1.0) - 1) ** 3)
    state.damping[open_] = np.clip(damping * np.where(better, eased, growth), 1e-9, 1e12)
    state.growth[open_] = np.where(better, _GROW, 2 * growth)


def _normal(
    problems: Problems,
    weights: FloatArray,
    theta: FloatArray,
    value: FloatArray,
    jacobian: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """``JᵀWJ + Λ`` and the step's right-hand side."""
    root = np.sqrt(weights)[..., None]
    scaled = jacobian * root  # a matrix times its own transpose costs half of any other product
    across = scaled.transpose(0, 2, 1)
    normal = across @ scaled
    index = np.arange(theta.shape[1])
    normal[:, index, index] += problems.precision
    gradient = (across @ ((problems.values - value)[..., None] * root))[..., 0]
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
