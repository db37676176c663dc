"""The measured comparison: proposal and obvious alternatives, trained at the larger size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from regmix.mixture import FloatArray, Mixture
from regmix.noise import SeedNoise
from regmix.objective import Objective
from regmix.solve import Proposal
from regmix.store import Store

Outcome = Literal["better", "worse", "tied", "not known"]


def counting_gain(by_seed: Sequence[float], noise: SeedNoise) -> float:
    """Least mean of paired differences that seeds do not explain; see :meth:`Gain.limit`."""
    if len(by_seed) - 1 > (noise.freedom if noise.known else 0):
        # `counting` is of a difference of two runs, which has √2 times the noise of one.
        spread = float(np.std(by_seed, ddof=1)) / math.sqrt(2)
        noise = SeedNoise(spread, len(by_seed) - 1)
    return noise.counting(len(by_seed))


@dataclass(frozen=True)
class Gain:
    """How much better the proposal came out than a reference, paired by seed."""

    reference: str
    by_seed: dict[int, float]
    """Objective of the reference minus that of the proposal; positive: the proposal is better."""
    predicted: float
    """The same difference as the surrogate predicted it, at proxy size."""
    predicted_std: float

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(list(self.by_seed.values())))

    def limit(self, noise: SeedNoise) -> float:
        """Least mean gain that seeds do not explain, two-sided 95 %; NaN: it is not known.

        By Student's t, from the noise of proxies (the runs compared share their seeds, so that this
        errs to "tied"), or from the pairs themselves where these have more degrees of freedom.
        """
        return counting_gain(list(self.by_seed.values()), noise)

    def verdict(self, noise: SeedNoise) -> Outcome:
        """Better, worse, tied, or not known, where nothing was repeated."""
        limit = self.limit(noise)
        if math.isnan(limit):
            return "not known"
        if abs(self.mean) <= limit:
            return "tied"
        return "better" if self.mean > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """Measured metrics of the models trained at the target size."""

    values: pd.DataFrame
    """Columns ``mixture`` (its name here), ``seed``, ``run_id``, ``objective``, the metrics."""
    parameters: int
    """Non-embedding parameters of the models."""
    tokens: int
    unmeasured: tuple[str, ...] = ()
    """Metrics of the objective that some of the models lack; their ``objective`` is NaN."""
    unknown: str = ""
    """Why no model has an ``objective``, where it is for want of a reference of their size."""

    def gain(self, reference: str, predicted: tuple[float, float]) -> Gain | None:
        """Proposal against a reference, over the seeds at which both were trained."""
        by_name = {n: g.set_index("seed")["objective"] for n, g in self.values.groupby("mixture")}
        if "proposal" not in by_name or reference not in by_name:
            return None
        paired = (by_name[reference] - by_name["proposal"]).dropna()
        if paired.empty:
            return None
        by_seed = dict(zip(map(int, paired.index), map(float, paired), strict=True))
        return Gain(reference, by_seed, *predicted)


def gains(proposal: Proposal, comparison: Comparison) -> dict[str, Gain]:
    """The proposal against every baseline that was trained beside it, by the baseline's name."""
    found = {}
    for baseline in proposal.baselines:
        gain = comparison.gain(baseline.name, baseline.gain)
        if gain is not None:
            found[baseline.name] = gain
    return found


def measured(
    store: Store, objective: Objective, named: dict[str, Mixture], reference: str = ""
) -> Comparison | None:
    """The finished target runs on the named mixtures, of one size; None if there are none.

    An objective of relative losses is relative to what its reference has at the target size.

    Args:
        named: mixtures by the name under which to show them; other target runs are left out.
        reference: hash of the mixture that the objective is relative to, if it is.
    """
    everything = store.targets()
    names = {mixture.id: name for name, mixture in named.items()}
    frame = everything[everything["mixture"].isin(list(names))]
    if frame.empty:
        return None
    # The models that say most: of one size and horizon, on the most of the mixtures, then largest.
    by_cohort = frame.groupby("cohort").agg(
        mixtures=("mixture", "nunique"), parameters=("parameters", "max"), tokens=("tokens", "max")
    )
    cohort = by_cohort.sort_values(["mixtures", "parameters", "tokens"]).index[-1]
    frame = frame[frame["cohort"] == cohort].copy()
    frame["mixture"] = frame["mixture"].map(names)
    # A fit may be of metrics that only proxies have (an import, a benchmark): what was measured is
    # shown, and what is missing for the objective is said.
    columns = frame.reindex(columns=list(objective.metrics))
    own = objective.at(everything[everything["cohort"] == cohort], reference)
    values: FloatArray | float = math.nan
    if not isinstance(own, str):
        values = own.value({m: columns[m].to_numpy(dtype=float) for m in columns})
    frame.insert(3, "objective", values)
    order = {name: i for i, name in enumerate(named)}
    frame = frame.sort_values("mixture", key=lambda s: s.map(order), kind="stable")
    parameters, tokens = int(frame["parameters"].iloc[0]), int(frame["tokens"].iloc[0])
    return Comparison(
        frame.drop(columns=["cohort", "parameters", "tokens"]).reset_index(drop=True),
        parameters,
        tokens,
        tuple(str(m) for m in columns if columns[m].isna().any()),
        own if isinstance(own, str) else "",
    )
