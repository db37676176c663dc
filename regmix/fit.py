"""Fit: cross-validate candidates per metric, choose, calibrate, fit on all runs.

Selection is honest: a regressor is scored, chosen and calibrated on held-out folds of the training
runs alone. Rows are taken in the order of their run ids and metrics in the order of their names, so
that shuffled input gives the same fit to the last digit. Nothing here knows the objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy

from regmix.config import FitConfig
from regmix.errors import UserError, unknown_name
from regmix.mixture import FloatArray
from regmix.noise import relative_variances
from regmix.observations import Observations
from regmix.regressors import CANDIDATES, Context, Prediction, Regressor, regressor
from regmix.regressors.ensemble import Ensemble, Share, stacked_held_out, weigh
from regmix.regressors.held_out import Folds, HeldOut, conformal_scale, held_out
from regmix.surrogate import FittedMetric, Scores, Surrogate

MINIMUM_RUNS = 8
"""Of different mixtures."""
MANY_RUNS, FEW_RUNS = 256, 96
"""From the first on one repeat of the folds says enough; below the second, two are too few."""
TIE = 0.01
"""A less simple candidate must lower the held-out RMSE by this share to be chosen."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FitResult:
    """A surrogate and the held-out predictions that it was judged by."""

    surrogate: Surrogate
    held_out: pd.DataFrame
    """Indexed by run id: per metric ``<metric>`` (mean) and ``<metric>_std``, calibrated."""


def fit(
    data: Observations,
    metrics: Sequence[str],
    config: FitConfig,
    progress: Progress | None = None,
) -> FitResult:
    """Fit a surrogate to a study's observations.

    Args:
        metrics: which metrics.
        progress: called with (steps done, in all).

    Raises:
        UserError: too few runs or mixtures, an unknown regressor, or ``fit.monotone`` names what
            is not there.
    """
    runs, mixtures = len(data.weights), data.numbered()
    different = runs if mixtures is None else len(np.unique(mixtures))
    if different < MINIMUM_RUNS:
        what = f"{runs} runs" if mixtures is None else f"{different} mixtures, in {runs} runs,"
        raise UserError(f"{what} are too few to fit; at least {MINIMUM_RUNS} are needed")
    order = np.argsort(data.weights.index.to_numpy(dtype=str))
    names = sorted(metrics)
    x = data.x()[order]
    y = np.column_stack([data.y(m)[order] for m in names])
    noise = relative_variances(data, names)
    context = Context(
        None if noise is None else noise[order],
        _monotone(config, names, data),
        numbered_anew(mixtures, order),
    )
    folds = draw_folds(runs, config, context.mixtures)
    options = try_candidates(config.regressor, x, y, context, folds, progress)
    chosen = [choose(options, i, y[:, i], config.regressor, folds) for i in range(len(names))]
    models = fit_chosen([name for name, _ in chosen], options, x, y, context)
    fitted, columns = [], {}
    for i, (metric, (name, scores)) in enumerate(zip(names, chosen, strict=True)):
        own = options[name].metric(i)
        scale, shown = conformal_scale(y[:, i], own, context.mixtures), own.average()
        fitted.append(FittedMetric(metric, name, models[i], scale, scores[name], scores))
        columns[metric], columns[f"{metric}_std"] = shown.mean, shown.std * scale
    frame = pd.DataFrame(columns, index=data.weights.index[order])
    by_name = {m.name: m for m in fitted}
    ordered = tuple(by_name[m] for m in metrics)
    surrogate = Surrogate(data.domains, ordered, _correlation(data, frame, metrics))
    return FitResult(surrogate, frame.loc[data.weights.index])


def numbered_anew(
    mixtures: npt.NDArray[np.int64] | None, order: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64] | None:
    """Mixtures of runs in another order, numbered as they come in it."""
    return None if mixtures is None else pd.factorize(mixtures[order])[0].astype(np.int64)


def draw_folds(
    runs: int, config: FitConfig, mixtures: npt.NDArray[np.int64] | None = None
) -> Folds:
    """The study's folds; fewer mixtures get more repeats."""
    count = runs if mixtures is None else len(np.unique(mixtures))
    automatic = 1 if count >= MANY_RUNS else 2 if count >= FEW_RUNS else 3
    return Folds.draw(runs, config.folds, config.repeats or automatic, mixtures)


def _monotone(config: FitConfig, metrics: Sequence[str], data: Observations) -> np.ndarray | None:
    if not config.monotone:
        return None
    domains = data.domains
    found = np.zeros((len(metrics), len(domains)), dtype=np.int64)
    for metric, by_domain in config.monotone.items():
        if metric not in data.metric_names:
            raise unknown_name("metric", metric, data.metric_names, "fit.monotone")
        for domain, way in by_domain.items():
            if domain not in domains:
                raise unknown_name("domain", domain, domains, f"fit.monotone.{metric}")
            if metric in metrics:
                sign = 1 if way == "rising" else -1
                found[list(metrics).index(metric), list(domains).index(domain)] = sign
    return found


def try_candidates(
    asked: str,
    x: FloatArray,
    y: FloatArray,
    context: Context,
    folds: Folds,
    progress: Progress | None,
) -> dict[str, HeldOut]:
    """Held-out predictions of all that may be chosen, the simpler first."""
    stacked = asked in ("auto", Ensemble.name)
    names = CANDIDATES if stacked else (asked,)
    held = {}
    for number, name in enumerate(names):
        held[name] = held_out(regressor(name), x, y, folds, context)
        if progress:
            progress(number + 1, len(names) + 1)  # the last step is the fit on all runs
    return with_ensemble(held, y, folds) if stacked else held


def with_ensemble(held: dict[str, HeldOut], y: FloatArray, folds: Folds) -> dict[str, HeldOut]:
    """The same and, last, what stacking them would have predicted."""
    parts = [
        stacked_held_out([h.metric(i) for h in held.values()], y[:, i], folds)
        for i in range(y.shape[1])
    ]
    stacked = HeldOut(
        np.concatenate([p.mean for p in parts], axis=2),
        np.concatenate([p.std for p in parts], axis=2),
    )
    return {**held, Ensemble.name: stacked}


def choose(
    options: dict[str, HeldOut], metric: int, y: FloatArray, asked: str, folds: Folds
) -> tuple[str, dict[str, Scores]]:
    """One option for a metric, and what each scored.

    The best single regressor, the simplest of those that tie with it; or the ensemble if that beats
    *choosing* one. What choosing is worth is scored like everything else, with each fold's choice
    made on the other folds: the least of several noisy scores is flattered by its noise.
    """
    scores = {name: _score(y, held.metric(metric), folds) for name, held in options.items()}
    if asked != "auto":
        return asked, scores
    squares = {
        name: (held.mean[..., metric] - y) ** 2
        for name, held in options.items()
        if name != Ensemble.name
    }
    honest = np.empty_like(next(iter(squares.values())))
    for repeat, out in folds:
        chosen = _simplest({name: s[:, ~out] for name, s in squares.items()})
        honest[repeat, out] = squares[chosen][repeat, out]
    if scores[Ensemble.name].rmse < (1 - TIE) * math.sqrt(float(honest.mean())):
        return Ensemble.name, scores
    return _simplest(squares), scores


def _simplest(squares: dict[str, FloatArray]) -> str:
    """The first whose root mean squared error is within the tie of the least."""
    errors = {name: math.sqrt(float(s.mean())) for name, s in squares.items()}
    least = min(errors.values())
    return next(name for name, error in errors.items() if error <= least * (1 + TIE))


def fit_chosen(
    chosen: Sequence[str],
    options: dict[str, HeldOut],
    x: FloatArray,
    y: FloatArray,
    context: Context,
) -> list[Regressor]:
    """Fit each metric's chosen regressor to all runs; one ensemble member serves many metrics."""
    bases = {name: held for name, held in options.items() if name != Ensemble.name}
    shares = [
        weigh({n: held.metric(i) for n, held in bases.items()}, y[:, i], context)
        if name == Ensemble.name
        else {name: Share(1.0, 1.0)}
        for i, name in enumerate(chosen)
    ]
    ensembles = Ensemble.fit_members(shares, x, y, context)
    return [
        whole if name == Ensemble.name else whole.members[0].model
        for name, whole in zip(chosen, ensembles, strict=True)
    ]


def _score(y: FloatArray, found: HeldOut, folds: Folds) -> Scores:
    """Scores over all repeats, after calibration; each is the mean over the repeats."""
    scale = conformal_scale(y, found, folds.mixtures)
    repeats = zip(found.mean[..., 0], found.std[..., 0] * scale, strict=True)
    each = [score(y, Prediction(mean, std)) for mean, std in repeats]
    return Scores(
        spearman=float(np.mean([s.spearman for s in each])),
        r2=float(np.mean([s.r2 for s in each])),
        mae=float(np.mean([s.mae for s in each])),
        rmse=math.sqrt(float(np.mean([s.rmse**2 for s in each]))),
        coverage90=float(np.mean([s.coverage90 for s in each])),
    )


def score(y: FloatArray, found: Prediction) -> Scores:
    """How well predictions, shape ``(n,)``, fit what was measured."""
    residual = y - found.mean
    spread = float(((y - y.mean()) ** 2).mean())
    # Calibration ends intervals at a residual: rounding must not put that run outside.
    inside = np.abs(residual) <= scipy.stats.norm.ppf(0.95) * found.std * (1 + 1e-9)
    return Scores(
        spearman=rank_correlation(y, found.mean),
        r2=1 - float((residual**2).mean()) / spread if spread else 0.0,
        mae=float(np.abs(residual).mean()),
        rmse=math.sqrt(float((residual**2).mean())),
        coverage90=float(inside.mean()),
    )


def rank_correlation(truth: FloatArray, predicted: FloatArray) -> float:
    """Spearman's rank correlation; 0 where one side is constant and ranks nothing."""
    if np.ptp(truth) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(truth, predicted).statistic)


def _correlation(data: Observations, held: pd.DataFrame, metrics: Sequence[str]) -> FloatArray:
    """Correlation of the metrics' prediction errors, shrunk (OAS; Chen et al. 2010, eq. 23).

    Errors go together: a run that is unlucky in its seed is so on most metrics. A sum of metrics
    whose errors were taken as independent would look surer than it is.
    """
    from sklearn.covariance import oas

    truth = data.metrics.loc[held.index]  # the order of the run ids, so that nothing else matters
    found = np.eye(len(metrics))
    # A metric that never varies is predicted without error: it has nothing to correlate.
    known = np.array([i for i, m in enumerate(metrics) if np.ptp(truth[m]) > 0], dtype=int)
    if len(known) > 1:
        names = [metrics[i] for i in known]
        z = np.column_stack([(truth[m] - held[m]) / held[f"{m}_std"] for m in names])
        covariance = oas(z, assume_centered=True)[0]
        root = np.sqrt(np.diag(covariance))
        found[np.ix_(known, known)] = covariance / np.outer(root, root)
    return found
