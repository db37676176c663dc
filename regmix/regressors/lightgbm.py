"""LightGBM: boosted trees, the method's first regressor (RegMix, arXiv 2407.01492, section 3.2).

``lightgbm`` follows the number of runs: LightGBM's own defaults never split a leaf below 40 of
them and predict a constant. ``lightgbm-regmix`` is what RegMix's notebook sets, but for its
early stopping on the test set: all of its thousand rounds are used.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import lightgbm
import numpy as np

from regmix.mixture import FloatArray
from regmix.regressors.base import NOTHING, Context, Prediction, Shape, in_threads

BOOTSTRAPS = 5
_COMMON: Mapping[str, Any] = {
    "objective": "regression",
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
}


class _Boosted:
    """A booster on all runs for the mean, boosters on bootstrap samples for the spread."""

    name: ClassVar[str]

    def __init__(
        self,
        mean: lightgbm.Booster,
        samples: Sequence[lightgbm.Booster],
        residual: float,
        monotone: list[int],
    ) -> None:
        self._mean, self._samples, self._residual = mean, list(samples), residual
        self._monotone = monotone

    @staticmethod
    @abstractmethod
    def settings(runs: int) -> tuple[dict[str, Any], int]:
        """LightGBM's parameters and the number of trees for a swarm of ``runs``."""

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        """Fit every column of ``y``; metrics side by side, each on one thread."""
        return in_threads(lambda i: cls._fit(x, y[:, i], i, context), y.shape[1])

    @classmethod
    def _fit(cls, x: FloatArray, y: FloatArray, metric: int, context: Context) -> Self:
        weights = 1 / context.noise_of(metric, len(x))
        held = [] if context.monotone is None else [int(m) for m in context.monotone[metric]]

        def boost(rows: np.ndarray, seed: int) -> lightgbm.Booster:
            return cls._boost(x[rows], y[rows], weights[rows], held, seed)

        rng = np.random.default_rng(0)
        everything = np.arange(len(x))
        samples, squared = [], []
        for seed in range(1, BOOTSTRAPS + 1):
            rows = rng.integers(len(x), size=len(x))
            samples.append(boost(rows, seed))
            left_out = np.setdiff1d(everything, rows)
            if len(left_out):
                squared.append(np.mean((y[left_out] - _raw(samples[-1], x[left_out])) ** 2))
        residual = float(np.sqrt(np.mean(squared))) if squared else float(y.std())
        return cls(boost(everything, 0), samples, residual, held)

    @classmethod
    def _boost(
        cls, x: FloatArray, y: FloatArray, weights: FloatArray, monotone: list[int], seed: int
    ) -> lightgbm.Booster:
        parameters, trees = cls.settings(len(x))
        parameters |= {**_COMMON, "seed": seed}
        if any(monotone):
            parameters["monotone_constraints"] = monotone
        return lightgbm.train(parameters, lightgbm.Dataset(x, y, weight=weights), trees)

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        """One booster on other runs, for the mean alone."""
        booster = self._boost(x, y, np.ones(len(x)), self._monotone, 0)
        return type(self)(booster, self._samples, self._residual, self._monotone)

    @property
    def shape(self) -> Shape:
        """Steps."""
        return Shape(smooth=False)

    def mean(self, x: FloatArray) -> FloatArray:
        """The booster on all runs."""
        return _raw(self._mean, x)

    def predict(self, x: FloatArray) -> Prediction:
        """Out-of-bag error and bootstrap spread in quadrature."""
        spread = np.var([_raw(b, x) for b in self._samples], axis=0, ddof=1)
        return Prediction(self.mean(x), np.sqrt(spread + self._residual**2))

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """Bootstrap spread of the difference to the reference."""
        apart = [_raw(b, x) - _raw(b, reference[None]) for b in self._samples]
        return np.asarray(np.std(apart, axis=0, ddof=1))

    def state(self) -> dict[str, Any]:
        """Boosters in LightGBM's text form."""
        return {
            "mean": self._mean.model_to_string(),
            "samples": [b.model_to_string() for b in self._samples],
            "residual": self._residual,
            "monotone": self._monotone,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Boosters from their text form."""
        samples = [lightgbm.Booster(model_str=s) for s in state["samples"]]
        mean = lightgbm.Booster(model_str=state["mean"])
        return cls(mean, samples, float(state["residual"]), state["monotone"])


class BoostedTrees(_Boosted):
    """Fewer leaves for fewer runs."""

    name: ClassVar[str] = "lightgbm"

    @staticmethod
    def settings(runs: int) -> tuple[dict[str, Any], int]:
        """Parameters that follow the number of runs."""
        return {
            "learning_rate": 0.05,
            "num_leaves": int(np.clip(runs // 12, 4, 12)),
            "min_data_in_leaf": int(np.clip(runs // 40, 2, 8)),
            "min_sum_hessian_in_leaf": 0.0,
            "feature_fraction": 0.7,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "max_bin": 255,
            "min_data_in_bin": 1,
        }, 300


class RegMixTrees(_Boosted):
    """RegMix's published settings."""

    name: ClassVar[str] = "lightgbm-regmix"

    @staticmethod
    def settings(runs: int) -> tuple[dict[str, Any], int]:
        """As in RegMix's regression notebook; the same for any number of runs."""
        del runs
        return {"learning_rate": 1e-2, "metric": "l2", "seed": 42}, 1000


def _raw(booster: lightgbm.Booster, x: FloatArray) -> FloatArray:
    return np.asarray(booster.predict(x, num_threads=1), dtype=np.float64)
