"""A run whose figures are not what its mixture makes of the others'.

Every metric is a Gaussian process over the mixtures, and each run is predicted from all others in
closed form. A bad run is part of what its neighbours are predicted from, so suspects are taken
out, and judged by what the rest predicts; that shows further ones, until there are no more.
"""

from __future__ import annotations

import numpy as np

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
    metrics = _very_stable(data)
    if not metrics:
        return []
    order = np.argsort(data.metrics.index.to_numpy(dtype=str))
    x, y = data.x()[order], data.metrics[metrics].to_numpy(dtype=float)[order]
    variances = relative_variances(data, metrics)
    context = Context(None if variances is None else variances[order])
    off, mean = _off(x, y, context)
    ids, found = data.metrics.index[order], []
    bound = limit(len(y), y.size, CHANCE)
    for i, j in zip(*np.nonzero(np.abs(off) > bound), strict=True):
        found.append(
            Flag(
                str(ids[i]), RULE,
                f"{metrics[j]} is {y[i, j]:.4g}, {mean[i, j]:.4g} is predicted from the other runs "
                f"({off[i, j]:+.0f} std, limit {bound:.1f})",
                metrics[j],
            )
        )  # fmt: skip
    bad = np.asarray((np.abs(off) > bound).any(1))
    return found + _repeats(data, metrics, x[~bad], y[~bad], context.rows(~bad))


def _very_stable(data: Observations) -> list[str]:
    """Metrics that are, or would be without some one repeat, or of which it is not known.

    A bad repeat must not hide itself, and everything else, by making all metrics look noisy.
    """
    repeats = data.repeats()
    least = data.noise()
    for run in repeats.index if len(repeats) > 2 else ():
        without = data.without({run: ""}).noise()
        least = least.where(~(without < least), without)
    spread = robust(data.metrics.to_numpy(dtype=float))
    return [
        str(m)
        for m, s in zip(data.metric_names, spread, strict=True)
        if s > 0 and not ratio(float(s), float(least[m])) < ADVISED_SNR
    ]


def _off(x: FloatArray, y: FloatArray, context: Context) -> tuple[FloatArray, FloatArray]:
    """Standard deviations between value and prediction, and the predictions; shapes as ``y``."""
    bound = limit(len(y), y.size, CHANCE)
    harm = MATERIAL * robust(y)
    out = np.zeros(len(y), dtype=bool)
    for _ in range(_ROUNDS):
        off, mean = _judge(x, y, context, out)
        off[np.abs(y - mean) < harm] = 0.0
        bad = (np.abs(off) > bound).any(1)
        if (bad | out).sum() > _MOST * len(y):
            return np.zeros_like(y), mean
        if not (bad & ~out).any():
            break
        out |= bad
    return off, mean


def _judge(
    x: FloatArray, y: FloatArray, context: Context, out: np.ndarray
) -> tuple[FloatArray, FloatArray]:
    """The same, with some runs taken out of what the others are predicted from."""
    models = GaussianProcess.fit_all(x[~out], y[~out], context.rows(~out))
    mean, std = np.empty((2, *y.shape))
    for j, model in enumerate(models):
        inside = model.leave_one_out()
        mean[~out, j], std[~out, j] = inside.mean, inside.std
        if out.any():
            outside = model.predict(x[out])
            mean[out, j], std[out, j] = outside.mean, outside.std
    z = (y - mean) / std
    scale = robust(z[~out])
    return z / np.where(scale > 0, scale, 1.0), mean


def _repeats(
    data: Observations, metrics: list[str], x: FloatArray, y: FloatArray, context: Context
) -> list[Flag]:
    others = data.replicates.index.difference(data.metrics.index)
    if others.empty or len(y) < LEAST_RUNS:
        return []
    repeats = data.replicates.loc[others]
    at = data.replicate_weights.loc[repeats["mixture"]].to_numpy(dtype=float)
    scale, found = robust(y), []
    for j, model in enumerate(GaussianProcess.fit_all(x, y, context)):
        mean = model.mean(at)
        for run, value, expected in zip(others, repeats[metrics[j]], mean, strict=True):
            if abs(value - expected) > FAR * scale[j]:
                found.append(
                    Flag(
                        str(run), RULE,
                        f"{metrics[j]} is {value:.4g}, {expected:.4g} is predicted for its mixture "
                        f"({(value - expected) / scale[j]:+.0f} robust std of the swarm)",
                        metrics[j],
                    )
                )  # fmt: skip
    return found
