"""How much noisier one run's metrics are than another's, from repeated mixtures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regmix.mixture import FloatArray
from regmix.observations import Observations

_PRIOR = 4.0
"""Degrees of freedom that speak for equal noise everywhere."""
_REACH = 0.3
"""Hellinger distance over which a repeated mixture speaks for its neighbours."""


def relative_variances(data: Observations, metrics: Sequence[str]) -> FloatArray | None:
    """Noise variance of every run and metric relative to a typical run's, ``(n, n_metrics)``.

    Each repeated mixture has a variance between its seeds; a run takes those near it, shrunk to
    the pooled one as far as there are few. None unless two or more mixtures were repeated: one
    alone says how much noise there is, not where.
    """
    if data.replicates.empty:
        return None
    values = data.replicates[list(metrics)]
    groups = values.groupby(data.replicates["mixture"])
    freedom = (groups.size() - 1).to_numpy(dtype=float)
    if (freedom > 0).sum() < 2:
        return None
    variances = groups.var(ddof=1).to_numpy()[freedom > 0]
    places = data.replicate_weights.loc[groups.size().index[freedom > 0]].to_numpy()
    freedom = freedom[freedom > 0, None]
    pooled = (freedom * variances).sum(0) / freedom.sum()
    ratio = variances / np.where(pooled > 0, pooled, 1.0)
    z, at = np.sqrt(data.x()), np.sqrt(places)
    distance = np.sqrt(((z[:, None] - at[None]) ** 2).sum(2) / 2)
    say = np.exp(-((distance / _REACH) ** 2)) @ np.diag(freedom[:, 0])
    found = (say @ ratio + _PRIOR) / (say.sum(1, keepdims=True) + _PRIOR)
    return np.asarray(found / np.exp(np.log(found).mean(0)))
