"""A run whose figures are not what its mixture makes of the others'.

Every metric is a Gaussian process over the mixtures, and each run is predicted from all others in
closed form. A bad run is part of what its neighbours are predicted from, so suspects are taken
out, and judged by what the rest predicts; that shows further ones, until there are no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from regmix.flags.base import FAR, Flag, limit, robust
from regmix.mixture import FloatArray
from regmix.noise import ADVISED_SNR, ratio, relative_variances
from regmix.observations import Observations
from regmix.regressors.base import Context
from regmix.regressors.gp import GaussianProcess

RULE = "prediction"
LEAST_RUNS = 12
"""Fewer predict nothing that a run could be judged by."""
CHANCE = 0.002
"""That a clean study has any run flagged by this rule, if surfaces were Gaussian processes and
noise normal; what they are not takes the rest of the two in a hundred (docs/NOISE.md)."""
MATERIAL = 0.25
"""Of the swarm's robust standard deviation: what is off by less may be the process's own fault
where noise is very low, and does no harm."""
_SUSPECT = 4.0
"""Standard deviations from which on a run is not among those that others are predicted from."""
_ROUNDS = 6
_MOST = 0.25
"""Of the runs: were there more suspects, it would be the prediction that is wrong."""


def mispredicted(data: Observations) -> list[Flag]:
    """Runs of which a very stable metric is more than five standard deviations off.

    Repeats have other seeds than the swarm and cannot be judged by its residuals: one is flagged
    that is five of the swarm's own robust standard deviations off. Metrics of unknown noise are
    judged too; runs on one domain alone are not, since they lie outside of all others.
    """
    if len(data.metrics) < LEAST_RUNS:
        return []
    noise, bad_repeats = _noise(data)
    metrics = _very_stable(data, noise)
    if not metrics:
        return []
    swarm = _Swarm.of(data, metrics, relative_variances(data.without(bad_repeats), metrics))
    judged = _judged(swarm)
    found = [
        Flag(
            swarm.ids[i], RULE,
            f"{metrics[j]} is {swarm.y[i, j]:.4g}, {judged.mean[i, j]:.4g} is predicted from the "
            f"other runs ({judged.off[i, j]:+.0f} std, limit {judged.bound:.1f})",
            metrics[j],
        )
        for i, j in zip(*np.nonzero(judged.bad), strict=True)
    ]  # fmt: skip
    return found + [
        Flag(
            r.run, RULE,
            f"{r.metric} is {r.value:.4g}, {r.expected:.4g} is predicted for its mixture "
            f"({r.off:+.0f} robust std of the swarm)",
            r.metric,
        )
        for r in _repeats(data, swarm, judged)
    ]  # fmt: skip


@dataclass(frozen=True)
class _Swarm:
    """Runs in the order of their ids, so that the order of rows is of no consequence."""

    ids: list[str]
    metrics: list[str]
    x: FloatArray
    y: FloatArray
    """Shape ``(n_runs, n_metrics)``."""
    context: Context

    @classmethod
    def of(cls, data: Observations, metrics: list[str], variances: FloatArray | None) -> _Swarm:
        order = np.argsort(data.metrics.index.to_numpy(dtype=str))
        return cls(
            [str(r) for r in data.metrics.index[order]],
            metrics,
            data.x()[order],
            data.metrics[metrics].to_numpy(dtype=float)[order],
            Context(None if variances is None else variances[order]),
        )


@dataclass(frozen=True)
class _Judged:
    """Every run of a swarm beside what the others make of its mixture."""

    off: FloatArray
    """Standard deviations between value and prediction, shape ``(n_runs, n_metrics)``."""
    mean: FloatArray
    """Predictions, likewise."""
    bound: float
    models: Sequence[GaussianProcess]
    """By metric, of the runs that were no suspects."""

    @property
    def bad(self) -> npt.NDArray[np.bool_]:
        """What is further off than the bound."""
        return np.asarray(np.abs(self.off) > self.bound)


@dataclass(frozen=True)
class _Repeat:
    """A repeat that is off."""

    run: str
    metric: str
    value: float
    expected: float
    off: float
    """Robust standard deviations of the swarm."""


def _very_stable(data: Observations, noise: pd.Series) -> list[str]:
    """Metrics that are, or of which it is not known."""
    spread = robust(data.metrics.to_numpy(dtype=float))
    return [
        str(m)
        for m, s in zip(data.metric_names, spread, strict=True)
        if s > 0 and not ratio(float(s), float(noise[m])) < ADVISED_SNR
    ]


def _doubtful(data: Observations, noise: pd.Series) -> list[str]:
    """Metrics that are not very stable, which one bad repeat could be the cause of."""
    repeats = data.repeats()
    if repeats.empty:
        return []
    stable = _very_stable(data, noise)
    groups = repeats[list(data.metric_names)].groupby(repeats["mixture"])
    apart = (groups.max() - groups.min()).max()
    spread = robust(data.metrics.to_numpy(dtype=float))
    return [
        str(m)
        for m, s in zip(data.metric_names, spread, strict=True)
        # Where all are within half of what makes one bad, none is.
        if s > 0 and m not in stable and apart[m] > FAR / 2 * s
    ]


def _noise(data: Observations) -> tuple[pd.Series, dict[str, str]]:
    """Noise of every metric without the repeats that the swarm shows to be bad; and those.

    A bad repeat must not hide itself, and everything else, by making all metrics look noisy. What
    speaks against it is what the swarm's runs make of its mixture, never that the noise would be
    less without it: of three seeds, one is always far from the other two.
    """
    noise = data.noise()
    doubtful = _doubtful(data, noise)
    if not doubtful:
        return noise, {}
    swarm = _Swarm.of(data, doubtful, None)
    judged = _judged(swarm)
    bad = [(r.run, r.metric) for r in _repeats(data, swarm, judged)]
    bad += [
        (swarm.ids[i], doubtful[j])
        for i, j in zip(*np.nonzero(judged.bad), strict=True)
        if swarm.ids[i] in data.replicates.index
    ]
    noise = noise.copy()
    for metric in {m for _, m in bad}:
        without = {run: "" for run, own in bad if own == metric}
        noise[metric] = data.without(without).noise()[metric]
    alone = data.replicates.index.difference(data.metrics.index)
    return noise, {run: "" for run, _ in bad if run in alone}


def _judged(swarm: _Swarm) -> _Judged:
    """Judge every run; suspects are taken out of what all are predicted from.

    Bad runs make the process take everything for noise, and hide each other by it. So what is far
    off, though not by enough to be told, is taken out too; it comes back if the rest predicts it.
    """
    y = swarm.y
    bound = limit(len(y), y.size, CHANCE)
    harm = MATERIAL * robust(y)
    out = np.zeros(len(y), dtype=bool)
    for _ in range(_ROUNDS):
        found = _predicted(swarm, out, bound)
        found.off[np.abs(y - found.mean) < harm] = 0.0
        if found.bad.any(1).sum() > _MOST * len(y):
            return replace(found, off=np.zeros_like(y))
        worst = np.abs(found.off).max(1)
        least = max(_SUSPECT, float(np.quantile(worst, 1 - _MOST)))
        if np.array_equal(worst > least, out):
            break
        out = worst > least
    return found


def _predicted(swarm: _Swarm, out: npt.NDArray[np.bool_], bound: float) -> _Judged:
    """The same, with some runs taken out of what the others are predicted from."""
    x, y = swarm.x, swarm.y
    models = GaussianProcess.fit_all(x[~out], y[~out], swarm.context.rows(~out))
    mean, std = np.empty((2, *y.shape))
    for j, model in enumerate(models):
        inside = model.leave_one_out()
        mean[~out, j], std[~out, j] = inside.mean, inside.std
        if out.any():
            outside = model.predict(x[out])
            mean[out, j], std[out, j] = outside.mean, outside.std
    z = (y - mean) / std
    scale = robust(z[~out])
    return _Judged(z / np.where(scale > 0, scale, 1.0), mean, bound, models)


def _repeats(data: Observations, swarm: _Swarm, judged: _Judged) -> list[_Repeat]:
    """Repeats that are not of the swarm and far from what it makes of their mixture."""
    others = data.replicates.index.difference(data.metrics.index)
    sound = np.asarray(~judged.bad.any(1))
    if others.empty or sound.sum() < LEAST_RUNS:
        return []
    repeats = data.replicates.loc[others]
    at = data.replicate_weights.loc[repeats["mixture"]].to_numpy(dtype=float)
    scale, found = robust(swarm.y[sound]), []
    for j, (metric, model) in enumerate(zip(swarm.metrics, judged.models, strict=True)):
        for run, value, expected in zip(others, repeats[metric], model.mean(at), strict=True):
            if scale[j] and abs(value - expected) > FAR * scale[j]:
                off = float((value - expected) / scale[j])
                found.append(_Repeat(str(run), metric, float(value), float(expected), off))
    return found
