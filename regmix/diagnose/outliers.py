"""Runs that do not fit in with the others, each with its reasons."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from regmix import assess
from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.surrogate import Surrogate

RESIDUAL = 3.5
"""Held-out residual in standard deviations from which on a run stands out."""
MANY_METRICS = 3
FAR = 5.0
"""Robust standard deviations from the swarm's median."""
_CHANCE = 0.05
_SHOWN = 2


def threshold(runs: int) -> float:
    """Standard deviations; so many that a clean swarm has an outlier one time in twenty at most."""
    return max(RESIDUAL, float(stats.norm.ppf(1 - _CHANCE / (2 * runs))))


def outliers(
    data: Observations, held_out: pd.DataFrame, surrogate: Surrogate, objective: Objective
) -> pd.DataFrame:
    """Runs that are not what the others predict.

    A run stands out on the objective, on three metrics or more, or on one that is also far from
    all the swarm: a value that is merely extreme is what its mixture makes it.

    Returns:
        Index ``run_id``, the farthest off first: ``name``, ``residual`` (of the objective, in
        standard deviations), ``metrics`` (how many stand out), ``reasons``.
    """
    runs = data.weights.index.intersection(held_out.index)
    held, truth = held_out.loc[runs], data.metrics.loc[runs]
    found = assess.held_out_objective(held, surrogate, objective)
    values = objective.value({m: truth[m].to_numpy() for m in objective.metrics})
    total = _residual(values, found.mean, found.std)
    names = list(surrogate.metric_names)
    each = np.column_stack(
        [_residual(truth[m].to_numpy(), held[m].to_numpy(), held[f"{m}_std"].to_numpy())
         for m in names]
    )  # fmt: skip
    far = np.column_stack([_robust(truth[m].to_numpy()) for m in names])
    limit = threshold(len(runs))
    rows = {}
    for i, run in enumerate(runs):
        off = np.abs(each[i]) > limit
        reasons = []
        if abs(total[i]) > limit:
            reasons.append(
                f"objective {values[i]:.4g}, predicted {found.mean[i]:.4g} from the other runs "
                f"({total[i]:+.1f} std)"
            )
        order = np.argsort(-np.abs(each[i]), kind="stable")
        if off.sum() >= MANY_METRICS:
            shown = ", ".join(f"{names[j]} ({each[i, j]:+.1f})" for j in order[:_SHOWN])
            more = ", …" if off.sum() > _SHOWN else ""
            reasons.append(
                f"{off.sum()} of {len(names)} metrics beyond {limit:.1f} std: {shown}{more}"
            )
        extreme = [j for j in order if off[j] and abs(far[i, j]) > FAR]
        if extreme:
            j = extreme[0]
            reasons.append(
                f"{names[j]} {truth.iloc[i][names[j]]:.4g}, {abs(far[i, j]):.0f} robust std from "
                "the swarm's median: diverged?"
            )
        if reasons:
            rows[run] = (str(data.info.loc[run, "name"]), float(total[i]), int(off.sum()),
                         "; ".join(reasons))  # fmt: skip
    frame = pd.DataFrame.from_dict(
        rows, orient="index", columns=["name", "residual", "metrics", "reasons"]
    ).rename_axis("run_id")
    order = np.argsort(-frame["residual"].abs().to_numpy(dtype=float), kind="stable")
    return frame.iloc[order]


def _residual(truth: FloatArray, mean: FloatArray, std: FloatArray) -> FloatArray:
    return np.asarray((truth - mean) / np.maximum(std, 1e-12))


def _robust(values: FloatArray) -> FloatArray:
    """Distance from the median in robust standard deviations."""
    off = values - np.median(values)
    scale = 1.4826 * float(np.median(np.abs(off)))
    return np.asarray(off / scale if scale > 0 else np.zeros_like(off))
