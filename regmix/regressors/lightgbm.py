"""Gradient-boosted trees (RegMix's regressor), with settings that follow the number of runs.

LightGBM's defaults are made for thousands of rows: with ``min_child_samples`` at 20 it cannot
split fewer than 40 runs and predicts a constant. Nothing here looks at held-out data: the number of
trees is fixed, not stopped early. The spread of boosters fitted to bootstrap samples gives the
standard deviation, which the fit then calibrates on held-out folds.
"""

from __future__ import annotations

from typing import Any, Self

import lightgbm
import numpy as np

from regmix.mixture import FloatArray
from regmix.regressors.base import Prediction

BOOTSTRAPS = 8


def settings(runs: int) -> dict[str, Any]:
    """LightGBM parameters for a swarm of ``runs``: fewer leaves for fewer runs."""
    return {
        "objective": "regression",
        "learning_rate": 0.03,
        "num_leaves": int(np.clip(runs // 12, 4, 16)),
        "min_data_in_leaf": int(np.clip(runs // 40, 2, 8)),
        "min_sum_hessian_in_leaf": 0.0,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "max_bin": 255,
        "min_data_in_bin": 1,
        "verbosity": -1,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
    }


TREES = 500


class BoostedTrees:
    """A booster on all runs for the mean, boosters on bootstrap samples for the spread."""

    def __init__(self) -> None:
        self._mean: lightgbm.Booster | None = None
        self._samples: list[lightgbm.Booster] = []
        self._residual = 0.0

    def fit(self, x: FloatArray, y: FloatArray) -> Self:
        """Fit to runs."""
        rng = np.random.default_rng(0)
        self._mean = _boost(x, y, seed=0)
        self._samples, squared = [], []
        for index in range(BOOTSTRAPS):
            rows = rng.integers(len(x), size=len(x))
            booster = _boost(x[rows], y[rows], seed=index + 1)
            left_out = np.setdiff1d(np.arange(len(x)), rows)
            if len(left_out):
                squared.append(np.mean((y[left_out] - _raw(booster, x[left_out])) ** 2))
            self._samples.append(booster)
        self._residual = float(np.sqrt(np.mean(squared))) if squared else float(y.std())
        return self

    def predict(self, x: FloatArray) -> Prediction:
        """Mean booster; out-of-bag error and bootstrap spread added in quadrature."""
        assert self._mean is not None
        spread = np.var([_raw(b, x) for b in self._samples], axis=0, ddof=1)
        return Prediction(_raw(self._mean, x), np.sqrt(spread + self._residual**2))

    def state(self) -> dict[str, Any]:
        """Boosters in LightGBM's text form."""
        assert self._mean is not None
        return {
            "mean": self._mean.model_to_string(),
            "samples": [b.model_to_string() for b in self._samples],
            "residual": self._residual,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Boosters from their text form."""
        trees = cls()
        trees._mean = lightgbm.Booster(model_str=state["mean"])
        trees._samples = [lightgbm.Booster(model_str=s) for s in state["samples"]]
        trees._residual = state["residual"]
        return trees


def _boost(x: FloatArray, y: FloatArray, seed: int) -> lightgbm.Booster:
    data = lightgbm.Dataset(x, y)
    return lightgbm.train({**settings(len(x)), "seed": seed}, data, num_boost_round=TREES)


def _raw(booster: lightgbm.Booster, x: FloatArray) -> FloatArray:
    return np.asarray(booster.predict(x, num_threads=1), dtype=np.float64)
