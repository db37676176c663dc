"""Laws: formulas with a sign and a Gaussian prior, fitted by nonlinear least squares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

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
from regmix.regressors.least_squares import Formula, Problems, Solutions, solve
from regmix.regressors.parametric import Parametric, Posterior, inverse_root

_SIDE_BY_SIDE = 7
"""Metrics in one batch at most; batches go to threads. Fixed, because the size of a matrix product
can change its last digits."""
_REACH = 5.0
"""Quartile distances beyond the quartiles at which a value is an outlier in any case."""
_FARTHEST = 20.0
"""Standard deviations of the metric from its mean beyond which nothing is predicted: where a share
leaves what the runs covered, exponentials and powers would go on to millions."""
_AGAIN = 15
"""Steps of a refit, which starts at the optimum of much the same data."""


def tame(y: FloatArray) -> FloatArray:
    """Each column with what lies far outside its quartiles moved in: for starts and scales.

    A diverged run would otherwise set the unit in which priors are strong or weak.
    """
    low, high = np.quantile(y, [0.25, 0.75], axis=0)
    reach = np.where(high > low, _REACH * (high - low), np.inf)
    return np.clip(y, low - reach, high + reach)


@dataclass(frozen=True)
class Trial:
    """A batch of fits of one sign: metrics vary fastest, then starts or priors."""

    sign: float
    metrics: int
    problems: Problems
    found: Solutions


class Law(Parametric):
    """``c + sign · (something positive)``."""

    def __init__(
        self, posterior: Posterior, sign: float, prior_mean: FloatArray, precision: FloatArray
    ) -> None:
        super().__init__(posterior)
        self._sign, self._prior_mean, self._precision = sign, prior_mean, precision

    @staticmethod
    @abstractmethod
    def formula(x: FloatArray, sign: float) -> Formula:
        """The law and its derivatives, for a batch of parameters."""

    @staticmethod
    @abstractmethod
    def trial(x: FloatArray, values: FloatArray, weights: FloatArray, sign: float) -> Trial:
        """Fit standardised metrics, ``values`` of shape ``(B, n)``, under several priors."""

    @staticmethod
    @abstractmethod
    def batch(runs: int, domains: int) -> int:
        """How many metrics are fitted at once."""

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        """Fit every column of ``y``, batch by batch."""
        scaled = Scaled.of(tame(y), y)
        size = min(_SIDE_BY_SIDE, cls.batch(*x.shape))
        weights = 1 / np.array([context.noise_of(i, len(x)) for i in range(y.shape[1])])
        firsts = range(0, y.shape[1], size)

        def fit(number: int) -> list[Self]:
            columns = range(firsts[number], min(firsts[number] + size, y.shape[1]))
            values = scaled.values[:, columns].T
            trials = [cls.trial(x, values, weights[columns], sign) for sign in (1.0, -1.0)]
            return [cls._best(i, c, trials, scaled) for i, c in enumerate(columns)]

        parts: list[list[Self]] = in_threads(fit, len(firsts))
        return [law for part in parts for law in part]

    @classmethod
    def _best(cls, position: int, column: int, trials: Sequence[Trial], scaled: Scaled) -> Self:
        """The sign and prior of the least leave-one-out error."""
        options = [
            (float(trial.found.loo[row]), trial, row)
            for trial in trials
            for row in range(position, len(trial.found.loo), trial.metrics)
        ]
        _, trial, row = min(options, key=lambda option: option[0])
        return cls._of(trial, row, float(scaled.mean[column]), float(scaled.scale[column]))

    @classmethod
    def _of(cls, trial: Trial, row: int, mean: float, scale: float) -> Self:
        found, problems = trial.found, trial.problems
        noise = float(np.sqrt(found.loo[row]))
        root = noise * inverse_root(found.normal[row])
        posterior = Posterior(found.theta[row], root, noise, mean, scale)
        return cls(posterior, trial.sign, problems.prior_mean[row], problems.precision[row])

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        """The same law, sign and prior on other runs, from the present parameters."""
        scaled = Scaled.of(tame(y[:, None]), y[:, None])
        problems = Problems(
            scaled.values.T, np.ones((1, len(x))), self._prior_mean[None], self._precision[None]
        )
        with one_thread:
            start = self._posterior.theta[None]
            found = solve(self.formula(x, self._sign), problems, start, _AGAIN)
        mean, scale = float(scaled.mean[0]), float(scaled.scale[0])
        return self._of(Trial(self._sign, 1, problems, found), 0, mean, scale)

    @property
    def shape(self) -> Shape:
        """Convex where the positive part adds, concave where it is taken away."""
        return Shape(smooth=True, convex=int(self._sign))

    def state(self) -> dict[str, Any]:
        """Parameters, sign and prior."""
        return {
            **super().state(),
            "sign": self._sign,
            "prior_mean": self._prior_mean.tolist(),
            "precision": self._precision.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The same law."""
        prior = [np.array(state[k], dtype=np.float64) for k in ("prior_mean", "precision")]
        return cls(Posterior.of(state["posterior"]), float(state["sign"]), *prior)

    def predict(self, x: FloatArray) -> Prediction:
        """As every formula; what is unknown is not more than the reach either."""
        found = super().predict(x)
        return Prediction(found.mean, np.minimum(found.std, _FARTHEST * self._posterior.scale))

    def _value(self, x: FloatArray) -> FloatArray:
        return np.asarray(np.clip(self._evaluate(x)[0][0], -_FARTHEST, _FARTHEST))

    def _jacobian(self, x: FloatArray) -> FloatArray:
        return np.asarray(self._evaluate(x)[1][0])

    def _evaluate(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.formula(x, self._sign)(self._posterior.theta[None])
