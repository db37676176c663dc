"""Laws: formulas with a sign and a Gaussian prior, fitted by nonlinear least squares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from regmix.mixture import FloatArray
from regmix.regressors.base import (
    NOTHING,
    Averaged,
    Context,
    Prediction,
    Scaled,
    Shape,
    in_threads,
    one_thread,
)
from regmix.regressors.least_squares import Effort, Formula, Problems, Solutions, solve
from regmix.regressors.parametric import Parametric, Posterior, inverse_root

_SIDE_BY_SIDE = 7
"""Metrics in one batch at most; batches go to threads. Fixed, because the size of a matrix product
can change its last digits."""
_REACH = 5.0
"""Quartile distances beyond the quartiles at which a value is an outlier in any case."""
FARTHEST = 20.0
"""Standard deviations of the metric from its mean beyond which nothing is predicted: where a share
leaves what the runs covered, exponentials and powers would go on to millions."""
SCOUT, _AGAIN = Effort(4, 3), Effort(4, 4)
"""Of a scout, and of a refit, which starts at the optimum of much the same data."""
_HOPELESS = 4.0
"""A sign is dropped when its scouts' squared leave-one-out error is this many times the other's."""


def tame(y: FloatArray) -> FloatArray:
    """Each column with what lies far outside its quartiles moved in: for starts and scales.

    A diverged run would otherwise set the unit in which priors are strong or weak.
    """
    low, high = np.quantile(y, [0.25, 0.75], axis=0)
    reach = np.where(high > low, _REACH * (high - low), np.inf)
    return np.clip(y, low - reach, high + reach)


@dataclass(frozen=True)
class Scouted:
    """Where the best start of each metric led in a few steps, for one sign."""

    theta: FloatArray
    """Shape ``(B, p)``."""
    prior_mean: FloatArray
    """What the parameters are drawn to, shape ``(B, p)``."""
    loo: FloatArray
    """Mean squared leave-one-out error, shape ``(B,)``."""


@dataclass(frozen=True)
class Trial:
    """A batch of fits of one sign: metrics vary fastest, then priors."""

    sign: float
    metrics: npt.NDArray[np.int64]
    problems: Problems
    found: Solutions


class Law(Parametric):
    """``c + sign · (something positive)``."""

    effort: ClassVar[Effort]

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
    def scout(x: FloatArray, values: FloatArray, weights: FloatArray, sign: float) -> Scouted:
        """A few steps from every start for standardised metrics, ``values`` of ``(B, n)``."""

    @staticmethod
    @abstractmethod
    def precisions(domains: int) -> FloatArray:
        """The precisions of the priors to choose from, shape ``(priors, p)``."""

    @staticmethod
    @abstractmethod
    def batch(runs: int, domains: int) -> int:
        """How many metrics are fitted at once."""

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        """Fit every column of ``y``, batch by batch."""
        rows = Averaged.of(x, y, context)
        x, y = rows.x, rows.y
        scaled = Scaled.of(tame(y), y)
        size = min(_SIDE_BY_SIDE, cls.batch(*x.shape))
        weights = 1 / np.array([rows.context.noise_of(i, len(x)) for i in range(y.shape[1])])
        firsts = range(0, y.shape[1], size)

        def fit(number: int) -> list[Self]:
            columns = range(firsts[number], min(firsts[number] + size, y.shape[1]))
            values, precise = scaled.values[:, columns].T, weights[columns]
            scouts = {sign: cls.scout(x, values, precise, sign) for sign in (1.0, -1.0)}
            least = np.min([scouted.loo for scouted in scouts.values()], axis=0)
            trials = []
            for sign, scouted in scouts.items():
                kept = np.flatnonzero(scouted.loo <= _HOPELESS * least)
                if len(kept):
                    trials.append(cls._trial(x, values, precise, sign, scouted, kept))
            return [
                cls._best(i, c, trials, scaled).with_noise(rows.lost[c])
                for i, c in enumerate(columns)
            ]

        parts: list[list[Self]] = in_threads(fit, len(firsts))
        return [law for part in parts for law in part]

    @classmethod
    def _trial(
        cls,
        x: FloatArray,
        values: FloatArray,
        weights: FloatArray,
        sign: float,
        scouted: Scouted,
        kept: npt.NDArray[np.int64],
    ) -> Trial:
        """Every prior, from where the scouts of some metrics ended."""
        precisions = cls.precisions(x.shape[1])
        rows = np.tile(kept, len(precisions))
        problems = Problems(
            values[rows],
            weights[rows],
            scouted.prior_mean[rows],
            np.repeat(precisions, len(kept), axis=0),
        )
        found = solve(cls.formula(x, sign), problems, scouted.theta[rows], cls.effort)
        return Trial(sign, kept, problems, found)

    @classmethod
    def _best(cls, position: int, column: int, trials: Sequence[Trial], scaled: Scaled) -> Self:
        """The sign and prior of the least leave-one-out error."""
        options = [
            (float(trial.found.loo[row]), trial, row)
            for trial in trials
            for row in np.flatnonzero(np.resize(trial.metrics, len(trial.found.loo)) == position)
        ]
        _, trial, row = min(options, key=lambda option: option[0])
        return cls._of(trial, int(row), float(scaled.mean[column]), float(scaled.scale[column]))

    def with_noise(self, std: float) -> Self:
        """The same law of measurements that vary by so much more, in the metric's unit."""
        posterior = self._posterior.with_noise(std)
        return type(self)(posterior, self._sign, self._prior_mean, self._precision)

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
        alone = np.zeros(1, dtype=np.int64)
        return self._of(Trial(self._sign, alone, problems, found), 0, mean, scale)

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
        return Prediction(found.mean, np.minimum(found.std, FARTHEST * self._posterior.scale))

    def doubt(self, x: FloatArray) -> FloatArray:
        """Likewise."""
        return np.minimum(super().doubt(x), FARTHEST * self._posterior.scale)

    def _value(self, x: FloatArray) -> FloatArray:
        return np.asarray(np.clip(self._evaluate(x)[0][0], -FARTHEST, FARTHEST))

    def _jacobian(self, x: FloatArray) -> FloatArray:
        return np.asarray(self._evaluate(x)[1][0])

    def _evaluate(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.formula(x, self._sign)(self._posterior.theta[None])
