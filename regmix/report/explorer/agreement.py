"""How far a compact surrogate is from the fit that it stands for, on mixtures it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.regressors import Prediction
from regmix.regressors.base import in_threads
from regmix.report.explorer.compact import Compact
from regmix.report.explorer.export import Region, least_std
from regmix.surrogate import Surrogate

MIXTURES = 1_000
OBJECTIVE = "objective"


@dataclass(frozen=True)
class Agreement:
    """Disagreement by metric, the objective first."""

    mixtures: int
    frame: pd.DataFrame
    """Index: ``objective`` and the metrics. ``exact_mean``, ``exact_std``; ``median``, ``p95`` and
    ``most`` of the means' absolute difference in predicted standard deviations; ``std_p95`` of the
    standard deviations' difference as a share of the fit's own."""

    @classmethod
    def measure(
        cls, surrogate: Surrogate, compact: Compact, objective: Objective, region: Region
    ) -> Agreement:
        """On fresh mixtures of the space; the seed differs from the one of the fit."""
        x = region.draw(MIXTURES, 1)
        real = in_threads(lambda i: surrogate.metrics[i].predict(x), len(surrogate.metrics))
        mean, std = compact.predict(x)
        by_name = {m.name: i for i, m in enumerate(surrogate.metrics)}
        rows = [by_name[name] for name in objective.metrics]
        joined = objective.join(
            np.array([real[i].mean for i in rows]),
            np.array([real[i].std for i in rows]),
            surrogate.correlations(objective.metrics),
        )
        own = [m for m in compact.metrics if m.name in objective.metrics]
        table = {
            OBJECTIVE: {
                "exact_mean": all(m.exact_mean for m in own),
                "exact_std": all(m.exact_std for m in own),
                **_differences(Prediction(*joined), compact.objective(x, objective)),
            }
        }
        for i, metric in enumerate(compact.metrics):
            table[metric.name] = {
                "exact_mean": metric.exact_mean,
                "exact_std": metric.exact_std,
                **_differences(real[i], Prediction(mean[:, i], std[:, i])),
            }
        return cls(MIXTURES, pd.DataFrame.from_dict(table, orient="index"))

    @property
    def exact(self) -> bool:
        """Whether everything is the fit's own."""
        return bool(self.frame[["exact_mean", "exact_std"]].all().all())


def _differences(real: Prediction, found: Prediction) -> dict[str, float]:
    std = np.maximum(real.std, least_std(real))
    off: FloatArray = np.abs(found.mean - real.mean) / std
    wide: FloatArray = np.abs(np.maximum(found.std, least_std(real)) / std - 1)
    return {
        "median": float(np.median(off)),
        "p95": float(np.quantile(off, 0.95)),
        "most": float(off.max()),
        "std_p95": float(np.quantile(wide, 0.95)),
    }
