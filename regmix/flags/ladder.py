"""A larger run that is not where the proxy on its mixture leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from regmix.flags.base import Flag, crossings, limit

RULE = "ladder"
LEAST_MIXTURES = 8
"""Below which a line through the others says nothing of one."""
CHANCE = 0.002
"""That a clean size has a run flagged, if what is left beside the line were normal."""
MATERIAL = 0.25
"""Of the other runs' range: what is off by less may be the relation's bend."""


@dataclass(frozen=True)
class Rung:
    """Finished runs of one larger size, and the proxies on their mixtures."""

    metrics: pd.DataFrame
    """By run id; NaN where a run lacks a metric."""
    mixtures: Mapping[str, str]
    """Hash by run id."""
    twins: Mapping[str, str]
    """Run id of the proxy on the same mixture, where it is finished, by run id."""

    def without(self, runs: Mapping[str, str]) -> Rung:
        """The same without some runs."""
        keep = ~self.metrics.index.isin(list(runs))
        return Rung(self.metrics[keep], self.mixtures, self.twins)


def off_the_line(rung: Rung, proxies: pd.DataFrame) -> list[Flag]:
    """Runs that lie far from a robust line of this size's values on the proxies', and change rank.

    There are too few runs of a larger size to predict one from the others' mixtures; but most of
    what its mixture does to it, the mixture has done to the proxy.

    Args:
        proxies: metrics by run id, of those that nothing is wrong with.
    """
    runs = [r for r in rung.metrics.index if rung.twins.get(r) in proxies.index]
    if len(runs) < LEAST_MIXTURES:
        return []
    own = rung.metrics.loc[runs].dropna(axis=1)
    metrics = [m for m in own if m in proxies]
    small = proxies.loc[[rung.twins[r] for r in runs]]
    bound = limit(len(runs), max(1, len(runs) * len(metrics)), CHANCE)
    found = []
    for metric in metrics:
        x, y = (f[metric].to_numpy(dtype=float) for f in (small, own))
        for c in crossings(x, y, bound):
            if abs(c.residual) < MATERIAL * np.ptp(np.delete(y, c.index)):
                continue
            found.append(
                Flag(
                    str(runs[c.index]), RULE,
                    f"{metric} is {y[c.index]:.4g}, {y[c.index] - c.residual:.4g} would follow "
                    f"from the proxy on its mixture ({c.off:+.0f} std, limit {bound:.1f}; rank "
                    f"{c.ranks[0]} of {len(runs)} there, {c.ranks[1]} here)",
                    str(metric),
                )
            )  # fmt: skip
    return found
