"""Metrics: how far they stand above seed noise, how well they are predicted, what they repeat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from regmix import assess
from regmix.fit import score
from regmix.noise import ADVISED_SNR, LEAST_SNR, freedom, ratio, seeds_needed
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.surrogate import Surrogate

TWIN = 0.995
"""Correlation over the runs from which on a metric says nothing that another does not."""


@dataclass(frozen=True)
class Signal:
    """The objective's record; NaN where it is not known."""

    spearman: float
    """Held out."""
    coverage90: float
    """Share of the runs inside their held-out 90 % interval."""
    spread: float
    """Standard deviation over the runs."""
    noise: float
    """Standard deviation between seeds."""
    freedom: int
    """Degrees of freedom that the noise is known with: repeats less repeated mixtures."""
    seeds: int | None
    """Seeds a mixture that would lift spread over noise to what is advised; None: no number."""

    @property
    def snr(self) -> float:
        """Spread over noise; infinite without noise, NaN where that is not known."""
        return ratio(self.spread, self.noise)


def of_objective(
    data: Observations, held_out: pd.DataFrame, surrogate: Surrogate, objective: Objective
) -> Signal:
    """The objective's record, over the runs that the fit has seen."""
    runs = data.weights.index.intersection(held_out.index)
    known = assess.held_out_objective(held_out.loc[runs], surrogate, objective)
    truth = objective.value({m: data.metrics.loc[runs, m].to_numpy() for m in objective.metrics})
    scores = score(truth, known)
    spread = data.objective_spread(objective.value)
    noise = data.objective_noise(objective.value)
    return Signal(
        spearman=scores.spearman,
        coverage90=scores.coverage90,
        spread=spread,
        noise=noise,
        freedom=freedom(data),
        seeds=seeds_needed(ratio(spread, noise), ADVISED_SNR),
    )


def metrics(data: Observations, surrogate: Surrogate, objective: Objective) -> pd.DataFrame:
    """Every metric's record.

    Returns:
        By metric ``in_objective``, ``regressor``, ``spearman``, ``coverage90`` (held out; NaN where
        the metric is not fitted), ``spread``, ``noise``, ``snr``, ``seeds`` (a mixture, to reach
        the least ratio; NaN: no number does), ``twin`` and ``twin_correlation``: an earlier
        metric that it repeats.
    """
    fitted = {m.name: m for m in surrogate.metrics}
    spread, noise = data.spread(), data.noise()
    twins = _twins(data)
    rows = {}
    for name in data.metric_names:
        scores = fitted[name].scores if name in fitted else None
        snr = ratio(float(spread[name]), float(noise[name]))
        seeds = seeds_needed(snr, LEAST_SNR)
        twin, correlation = twins.get(name, ("", float("nan")))
        rows[name] = {
            "in_objective": name in objective.metrics,
            "regressor": fitted[name].regressor if name in fitted else "",
            "spearman": scores.spearman if scores else float("nan"),
            "coverage90": scores.coverage90 if scores else float("nan"),
            "spread": float(spread[name]),
            "noise": float(noise[name]),
            "snr": snr,
            "seeds": float("nan") if seeds is None else float(seeds),
            "twin": twin,
            "twin_correlation": correlation,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")


def _twins(data: Observations) -> dict[str, tuple[str, float]]:
    """Metrics that all but repeat an earlier one, and their correlation with it."""
    names = [m for m in data.metric_names if data.spread()[m] > 0]
    if len(names) < 2 or len(data.metrics) < 4:
        return {}
    found = np.corrcoef(data.metrics[names].to_numpy().T)
    twins: dict[str, tuple[str, float]] = {}
    for i, name in enumerate(names):
        for j in range(i):
            if abs(found[i, j]) > TWIN and names[j] not in twins:
                twins[name] = (names[j], float(found[i, j]))
                break
    return twins
