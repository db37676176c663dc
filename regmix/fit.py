"""Fit: cross-validate candidates per metric, choose, calibrate, fit on all runs.

Selection is honest: a regressor is scored, chosen and calibrated on held-out folds of the training
runs alone. The folds are drawn over run ids in sorted order, so shuffled input gives the same fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from regmix.config import FitConfig
from regmix.errors import UserError
from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.regressors import NAMES, Prediction, create
from regmix.surrogate import FittedMetric, Scores, Surrogate

MINIMUM_RUNS = 8
MANY_RUNS = 256
"""From here on one repeat of the folds says enough."""
TIE = 0.02
"""A later (less simple) candidate must lower the held-out RMSE by this share to be chosen."""
ADVISED_SNR, ADVISED_SPEARMAN = 8.0, 0.9
"""What a swarm should reach for its optimum to be trusted (DECISIONS)."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FitResult:
    """A surrogate and the held-out predictions that it was judged by."""

    surrogate: Surrogate
    held_out: pd.DataFrame
    """Indexed by run id: per metric ``<metric>`` (mean) and ``<metric>_std``."""
    objective_scores: Scores
    warnings: tuple[str, ...]


def fit(
    data: Observations,
    metrics: Sequence[str],
    objective: Objective,
    config: FitConfig,
    progress: Progress | None = None,
) -> FitResult:
    """Fit a surrogate to a study's observations.

    Args:
        metrics: which metrics; must include the objective's.
        progress: called with (regressors fitted to metrics, in all).

    Raises:
        UserError: too few runs, or an unknown regressor.
    """
    runs = len(data.weights)
    if runs < MINIMUM_RUNS:
        raise UserError(f"{runs} runs are too few to fit; at least {MINIMUM_RUNS} are needed")
    order = np.argsort(data.weights.index.to_numpy(dtype=str))
    x = data.x()[order]
    names = NAMES if config.regressor == "auto" else (config.regressor,)
    fitted, held_out = [], {}
    for number, metric in enumerate(metrics):
        y = data.y(metric)[order]
        chosen, prediction = _fit_metric(metric, x, y, names, config)
        fitted.append(chosen)
        held_out[metric], held_out[f"{metric}_std"] = prediction.mean, prediction.std
        if progress:
            progress(number + 1, len(metrics))
    frame = pd.DataFrame(held_out, index=data.weights.index[order])
    scores = _objective_scores(data, frame, objective)
    return FitResult(
        surrogate=Surrogate(data.domains, tuple(fitted)),
        held_out=frame.loc[data.weights.index],
        objective_scores=scores,
        warnings=(
            *_objective_warnings(data, objective, scores),
            *_warnings(data, metrics, fitted),
        ),
    )


def _fit_metric(
    metric: str, x: FloatArray, y: FloatArray, names: Sequence[str], config: FitConfig
) -> tuple[FittedMetric, Prediction]:
    tried = {name: _cross_validate(name, x, y, config) for name in names}
    scores = {name: _score(y, *out) for name, out in tried.items()}
    chosen = names[0]
    for name in names[1:]:
        if scores[name].rmse < (1 - TIE) * scores[chosen].rmse:
            chosen = name
    prediction, scale = tried[chosen]
    calibrated = Prediction(prediction.mean, prediction.std * scale)
    model = create(chosen).fit(x, y)
    return FittedMetric(metric, chosen, model, scale, scores[chosen], scores), calibrated


def _cross_validate(
    name: str, x: FloatArray, y: FloatArray, config: FitConfig
) -> tuple[Prediction, float]:
    """Held-out prediction of every run (mean over repeats) and the scale that calibrates it."""
    repeats = 1 if len(x) >= MANY_RUNS else config.repeats
    mean, variance = np.zeros((repeats, len(x))), np.zeros((repeats, len(x)))
    for repeat in range(repeats):
        for train, test in folds(len(x), config.folds, seed=repeat):
            found = create(name).fit(x[train], y[train]).predict(x[test])
            mean[repeat, test], variance[repeat, test] = found.mean, found.std**2
    z2 = (y - mean) ** 2 / np.maximum(variance, 1e-24)
    return Prediction(mean.mean(0), np.sqrt(variance.mean(0))), float(np.sqrt(z2.mean()))


def folds(runs: int, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows of k shuffled folds, a function of the number of runs and the seed."""
    order = np.random.default_rng([seed, 4]).permutation(runs)
    parts = np.array_split(order, min(count, runs))
    for part in parts:
        yield np.setdiff1d(order, part), np.sort(part)


def _score(y: FloatArray, prediction: Prediction, scale: float) -> Scores:
    residual = y - prediction.mean
    spread = float(((y - y.mean()) ** 2).mean())
    constant = np.ptp(prediction.mean) == 0 or np.ptp(y) == 0
    inside = np.abs(residual) <= stats.norm.ppf(0.95) * prediction.std * scale
    return Scores(
        spearman=0.0 if constant else float(stats.spearmanr(y, prediction.mean).statistic),
        r2=1 - float((residual**2).mean()) / spread if spread else 0.0,
        mae=float(np.abs(residual).mean()),
        rmse=math.sqrt(float((residual**2).mean())),
        coverage90=float(inside.mean()),
    )


def _objective_scores(data: Observations, held_out: pd.DataFrame, objective: Objective) -> Scores:
    aligned = held_out.loc[data.weights.index]
    truth = objective.value({m: data.y(m) for m in objective.metrics})
    mean = objective.value({m: aligned[m].to_numpy() for m in objective.metrics})
    parts = [c * aligned[f"{m}_std"].to_numpy()
             for c, m in zip(objective.coefficients, objective.metrics, strict=True)]  # fmt: skip
    std = np.sqrt(np.sum(np.square(parts), axis=0))
    return _score(truth, Prediction(mean, std), 1.0)


def _objective_warnings(data: Observations, objective: Objective, scores: Scores) -> Iterator[str]:
    """What makes the decision itself doubtful."""
    noise = data.objective_noise(objective.value)
    spread = float(objective.value({m: data.y(m) for m in objective.metrics}).std(ddof=1))
    if spread < ADVISED_SNR * noise:
        yield (
            f"objective: the swarm's spread is {spread / noise:.1f}x the seed noise; below "
            f"{ADVISED_SNR:g}x an optimum can be a coin toss; longer proxies help most"
        )
    if scores.spearman < ADVISED_SPEARMAN:
        yield (
            f"objective: held-out rank correlation {scores.spearman:.2f}, below "
            f"{ADVISED_SPEARMAN:g}: take the proposal with care"
        )


def _warnings(
    data: Observations, metrics: Sequence[str], fitted: Sequence[FittedMetric]
) -> Iterator[str]:
    runs, domains = data.weights.shape
    if runs < 3 * domains:
        yield (
            f"{runs} runs for {domains} domains: effects of single domains can hardly be told "
            f"apart; {3 * domains} or more are advised (Olmix, arXiv 2602.12237)"
        )
    for name in data.domains:
        if data.weights[name].std() < 0.01:
            yield f"domain '{name}' hardly varies over the runs; its effect cannot be identified"
    noise = data.noise()
    for metric, entry in zip(metrics, fitted, strict=True):
        if entry.scores.spearman < 0.5:
            yield f"{metric}: held-out rank correlation {entry.scores.spearman:.2f}; not reliable"
        if data.spread()[metric] < 3 * noise[metric]:
            yield f"{metric}: the swarm's spread is below 3x the seed noise; more tokens are needed"
