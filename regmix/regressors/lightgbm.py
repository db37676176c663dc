"""LightGBM: boosted trees, the method's first regressor (RegMix, arXiv 2407.01492, section 3.2).

``lightgbm`` follows the number of runs: LightGBM's own defaults never split a leaf below 40 of
them and predict a constant. ``lightgbm-regmix`` is what RegMix's notebook sets, but for its
early stopping on the test set: all of its thousand rounds are used.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import lightgbm
import numpy as np

from regmix.mixture import FloatArray
from regmix.regressors.base import (
    NOTHING,
    Context,
    Prediction,
    Scaled,
    Shape,
    in_threads,
    rows_of,
)

BOOTSTRAPS = 5
_HASTE = 3
"""Boosters that only tell the spread take steps this much larger, and as many fewer."""
_COMMON: Mapping[str, Any] = {
    "objective": "regression",
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
}


@dataclass(frozen=True)
class _Trees:
    """A booster of the standardised metric, and the way back.

    LightGBM keeps values as 32-bit floats and compares gains with constants: of a metric far from
    0, or in a tiny unit, it would see less than is there.
    """

    booster: lightgbm.Booster
    mean: float
    scale: float

    def __call__(self, x: FloatArray) -> FloatArray:
        raw = np.asarray(self.booster.predict(x, num_threads=1), dtype=np.float64)
        return self.mean + self.scale * raw

    def state(self) -> dict[str, Any]:
        """The booster in LightGBM's text form."""
        return {"text": self.booster.model_to_string(), "mean": self.mean, "scale": self.scale}

    @classmethod
    def of(cls, raw: dict[str, Any]) -> _Trees:
        """What :meth:`state` gave."""
        booster = lightgbm.Booster(model_str=raw["text"])
        return cls(booster, float(raw["mean"]), float(raw["scale"]))


class _Boosted:
    """A booster on all runs for the mean, boosters on bootstrap samples for the spread."""

    name: ClassVar[str]

    def __init__(
        self,
        mean: _Trees,
        samples: Sequence[_Trees],
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

        def boost(rows: np.ndarray, seed: int, haste: int) -> _Trees:
            return cls._boost(x[rows], y[rows], weights[rows], held, (seed, haste))

        rng = np.random.default_rng(0)
        everything, mixtures = np.arange(len(x)), context.mixtures_of(len(x))
        count = int(mixtures.max()) + 1
        samples, squared = [], []
        for seed in range(1, BOOTSTRAPS + 1):
            rows = rows_of(mixtures, rng.integers(count, size=count))
            samples.append(boost(rows, seed, _HASTE))
            left_out = np.setdiff1d(everything, rows)
            if len(left_out):
                squared.append(np.mean((y[left_out] - samples[-1](x[left_out])) ** 2))
        residual = float(np.sqrt(np.mean(squared))) if squared else float(y.std())
        return cls(boost(everything, 0, 1), samples, residual, held)

    @classmethod
    def _boost(
        cls,
        x: FloatArray,
        y: FloatArray,
        weights: FloatArray,
        monotone: list[int],
        way: tuple[int, int] = (0, 1),
    ) -> _Trees:
        """One booster; ``way`` is its seed and its haste."""
        parameters, trees = cls.settings(len(x))
        seed, haste = way
        parameters |= {
            **_COMMON, "seed": seed, "learning_rate": haste * parameters["learning_rate"]
        }  # fmt: skip
        if any(monotone):
            parameters["monotone_constraints"] = monotone
        scaled = Scaled.of(y[:, None])
        rows = lightgbm.Dataset(x, scaled.values[:, 0], weight=weights)
        booster = lightgbm.train(parameters, rows, trees // haste)
        return _Trees(booster, float(scaled.mean[0]), float(scaled.scale[0]))

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        """One booster on other runs, for the mean alone."""
        booster = self._boost(x, y, np.ones(len(x)), self._monotone)
        return type(self)(booster, self._samples, self._residual, self._monotone)

    @property
    def shape(self) -> Shape:
        """Steps."""
        return Shape(smooth=False)

    def mean(self, x: FloatArray) -> FloatArray:
        """The booster on all runs."""
        return self._mean(x)

    def predict(self, x: FloatArray) -> Prediction:
        """Out-of-bag error and bootstrap spread in quadrature."""
        spread = np.var([trees(x) for trees in self._samples], axis=0, ddof=1)
        return Prediction(self.mean(x), np.sqrt(spread + self._residual**2))

    def doubt(self, x: FloatArray) -> FloatArray:
        """Bootstrap spread."""
        return np.asarray(np.std([trees(x) for trees in self._samples], axis=0, ddof=1))

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """Bootstrap spread of the difference to the reference."""
        apart = [trees(x) - trees(reference[None]) for trees in self._samples]
        return np.asarray(np.std(apart, axis=0, ddof=1))

    def state(self) -> dict[str, Any]:
        """Boosters, and the error that was found."""
        return {
            "mean": self._mean.state(),
            "samples": [trees.state() for trees in self._samples],
            "residual": self._residual,
            "monotone": self._monotone,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The same boosters."""
        samples = [_Trees.of(s) for s in state["samples"]]
        return cls(_Trees.of(state["mean"]), samples, float(state["residual"]), state["monotone"])


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
            "max_bin": 31,
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
