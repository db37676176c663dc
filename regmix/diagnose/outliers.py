"""Runs that do not fit in with the others, each with its reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy

from regmix import assess
from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.regressors import Regressor
from regmix.regressors.ensemble import Ensemble
from regmix.surrogate import Surrogate

RESIDUAL = 3.5
"""Held-out residual in standard deviations from which on a run stands out."""
MANY_METRICS = 3
FAR = 5.0
"""Robust standard deviations of the swarm between a value and its prediction."""
_CHANCE = 0.05
_SHOWN = 2


def threshold(runs: int) -> float:
    """Standard deviations; so many that a clean swarm has an outlier one time in twenty at most."""
    return max(RESIDUAL, float(scipy.stats.norm.ppf(1 - _CHANCE / (2 * runs))))


@dataclass(frozen=True)
class _Judged:
    """Residuals of some runs: in their own standard deviations, and in the swarm's."""

    runs: pd.Index
    metrics: list[str]
    truth: FloatArray
    """Shape ``(n, n_metrics)``, as the next two."""
    each: FloatArray
    far: FloatArray
    total: FloatArray
    """Of the objective, shape ``(n,)``."""
    values: FloatArray
    """The measured objective."""
    expected: FloatArray
    """The predicted one."""
    limit: float

    def reasons(self, i: int) -> list[str]:
        """Why a run stands out; empty if it does not."""
        found = []
        off = np.abs(self.each[i]) > self.limit
        if abs(self.total[i]) > self.limit:
            found.append(
                f"objective {self.values[i]:.4g}, predicted {self.expected[i]:.4g} from the other "
                f"runs ({self.total[i]:+.1f} std)"
            )
        order = np.argsort(-np.abs(self.each[i]), kind="stable")
        if off.sum() >= MANY_METRICS:
            shown = ", ".join(f"{self.metrics[j]} ({self.each[i, j]:+.1f})" for j in order[:_SHOWN])
            found.append(
                f"{off.sum()} of {len(self.metrics)} metrics beyond {self.limit:.1f} std: {shown}"
                + (", …" if off.sum() > _SHOWN else "")
            )
        extreme = [j for j in order if off[j] and abs(self.far[i, j]) > FAR]
        if extreme:
            j = extreme[0]
            found.append(
                f"{self.metrics[j]} {self.truth[i, j]:.4g}, {abs(self.far[i, j]):.0f} robust std "
                "of the swarm from what is predicted: diverged?"
            )
        return found

    def standing_out(self) -> list[int]:
        """Which runs do."""
        return [i for i in range(len(self.runs)) if self.reasons(i)]


def outliers(
    data: Observations, held_out: pd.DataFrame, surrogate: Surrogate, objective: Objective
) -> pd.DataFrame:
    """Runs that are not what the others predict.

    A run stands out on the objective, on three metrics or more, or on one by more than the swarm
    spreads: a value that is merely extreme is what its mixture makes it, and one metric that an
    extreme mixture makes hard to predict says little against the run. Where several do,
    each is judged once more by regressors that have seen none of them, since one bad run spoils
    what is predicted of its neighbours.

    Returns:
        Index ``run_id``, the farthest off first: ``name``, ``residual`` (of the objective, in
        standard deviations), ``metrics`` (how many stand out), ``reasons``.
    """
    runs = data.weights.index.intersection(held_out.index).sort_values()
    held = held_out.loc[runs]
    judged = _judge(data, held, surrogate, objective)
    found = judged.standing_out()
    if 1 < len(found) < len(runs) / 2:
        suspects = runs[found]
        held = _without(suspects, data, held, surrogate)
        judged = _judge(data, held, surrogate, objective)
        found = [i for i in judged.standing_out() if runs[i] in suspects]
    rows = {
        runs[i]: (
            str(data.info.loc[runs[i], "name"]),
            float(judged.total[i]),
            int((np.abs(judged.each[i]) > judged.limit).sum()),
            "; ".join(judged.reasons(i)),
        )
        for i in found
    }
    frame = pd.DataFrame.from_dict(
        rows, orient="index", columns=["name", "residual", "metrics", "reasons"]
    ).rename_axis("run_id")
    order = np.argsort(-frame["residual"].abs().to_numpy(dtype=float), kind="stable")
    return frame.iloc[order]


def _judge(
    data: Observations, held: pd.DataFrame, surrogate: Surrogate, objective: Objective
) -> _Judged:
    truth = data.metrics.loc[held.index]
    found = assess.held_out_objective(held, surrogate, objective)
    values = objective.value({m: truth[m].to_numpy() for m in objective.metrics})
    names = list(surrogate.metric_names)
    y = truth[names].to_numpy(dtype=float)
    stds = held[[f"{m}_std" for m in names]].to_numpy()
    return _Judged(
        runs=held.index,
        metrics=names,
        truth=y,
        each=_residual(y, held[names].to_numpy(), stds),
        far=(y - held[names].to_numpy()) / _robust(y),
        total=_residual(values, found.mean, found.std),
        values=values,
        expected=found.mean,
        limit=threshold(len(held)),
    )


def _without(
    suspects: pd.Index, data: Observations, held: pd.DataFrame, surrogate: Surrogate
) -> pd.DataFrame:
    """Held-out predictions in which no suspect speaks for another; standard deviations stay."""
    kept = held.index.difference(suspects)
    x, at = (data.weights.loc[i].to_numpy(dtype=float) for i in (kept, suspects))
    fresh = held.copy()
    for fitted in surrogate.metrics:
        y = data.metrics.loc[kept, fitted.name].to_numpy(dtype=float)
        if isinstance(fitted.model, Ensemble):
            model: Regressor = fitted.model.refit(x, y)  # a fit of its own takes minutes
        else:
            model = type(fitted.model).fit_all(x, y[:, None])[0]
        fresh.loc[suspects, fitted.name] = model.mean(at)
    return fresh


def _residual(truth: FloatArray, mean: FloatArray, std: FloatArray) -> FloatArray:
    return np.asarray((truth - mean) / np.maximum(std, 1e-12))


def _robust(y: FloatArray) -> FloatArray:
    """Robust standard deviation of every column; infinite where most values are the same."""
    scale = 1.4826 * np.median(np.abs(y - np.median(y, axis=0)), axis=0)
    return np.where(scale > 0, scale, np.inf)
