"""What runs left on their way, as the store tells it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Trails:
    """What runs left on their way; NaN where something is not known, as of imported runs."""

    info: pd.DataFrame
    """By run id: ``name``, ``planned`` and seen ``tokens``."""
    steps: pd.DataFrame
    """``run_id``, ``step``, ``loss``, ``grad_norm`` at log points."""
    metrics: pd.DataFrame
    """``run_id``, ``step``, ``name``, ``value`` of every evaluation."""
    shares: pd.DataFrame
    """``run_id``, ``domain``, ``requested``, ``realised``."""

    def of(self, runs: Iterable[str]) -> Trails:
        """Those of some of the runs."""
        wanted = set(runs)
        steps, metrics, shares = (
            f[f["run_id"].isin(wanted)] for f in (self.steps, self.metrics, self.shares)
        )
        return Trails(self.info[self.info.index.isin(wanted)], steps, metrics, shares)
