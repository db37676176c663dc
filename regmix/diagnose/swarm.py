"""The mixtures of a swarm: which effects they can show, and which they cannot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy

from regmix.assess import BARELY_VARIED
from regmix.observations import Observations

COLLINEAR = 0.95
"""Correlation of two weights over the runs from which on their effects cannot be told apart."""
SAME_MIXTURE = 1e-3
"""Total variation below which two runs trained on one mixture."""


def domains(data: Observations) -> pd.DataFrame:
    """What was tried of every domain.

    Returns:
        By domain ``mean``, ``std``, ``low``, ``high``, ``sampled`` (share of the runs that took
        any) and ``flat``: it varied too little for its effect to be seen.
    """
    w = data.weights
    frame = pd.DataFrame(
        {
            "mean": w.mean(),
            "std": w.std(ddof=1),
            "low": w.min(),
            "high": w.max(),
            "sampled": (w > 0).mean(),
        }
    )
    return frame.assign(flat=~(frame["std"] >= BARELY_VARIED)).rename_axis("domain")


def pairs(data: Observations, pinned: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Domains whose weights go together over the runs, the most alike first.

    Two domains always add up to 1 where there are no others; that says nothing.

    Returns:
        ``one``, ``other``, ``correlation`` and ``pinned``: the study keeps them together itself.
    """
    columns = ["one", "other", "correlation", "pinned"]
    w = data.weights
    moving = [d for d in data.domains if w[d].std(ddof=1) >= BARELY_VARIED]
    if len(data.domains) < 3 or len(moving) < 2 or len(w) < 4:
        return pd.DataFrame(columns=columns)
    found = np.corrcoef(w[moving].to_numpy().T)
    together = {frozenset((a, b)) for shares in pinned.values() for a in shares for b in shares}
    rows = [
        (moving[i], moving[j], float(found[i, j]), frozenset((moving[i], moving[j])) in together)
        for i in range(len(moving))
        for j in range(i + 1, len(moving))
        if abs(found[i, j]) > COLLINEAR
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values("correlation", key=lambda c: -c.abs(), ignore_index=True)


def laws(runs: int, count: int) -> pd.DataFrame:
    """Parameters of each parametric regressor for so many domains, and whether runs suffice.

    Of weights that sum to 1 one constant follows from the others, and is not counted.
    """
    parameters = {
        "linear": count,
        "sqrt-ridge": 2 * count,
        "loglinear": count + 1,
        "powerlaw": 3 * count + 1,
    }
    frame = pd.DataFrame({"parameters": pd.Series(parameters)}).rename_axis("law")
    return frame.assign(enough=frame["parameters"] <= runs)


def duplicates(data: Observations) -> pd.DataFrame:
    """Pairs of runs on one mixture: ``one``, ``other`` (names), ``identical`` (metrics too)."""
    apart = scipy.spatial.distance.squareform(
        0.5 * scipy.spatial.distance.pdist(data.x(), "cityblock")
    )
    names = data.info["name"].astype(str).to_numpy()
    y = data.metrics.to_numpy()
    rows = [
        (names[i], names[j], bool((y[i] == y[j]).all()))
        for i, j in zip(*np.nonzero(np.triu(apart < SAME_MIXTURE, 1)), strict=True)
    ]
    return pd.DataFrame(rows, columns=["one", "other", "identical"])
