"""Does what small proxies say hold for larger models? The same mixtures at several sizes.

A mixture is chosen by the order in which proxies put mixtures. So what is asked of a larger size is
that order: the rank correlation, and the share of pairs that both sizes put alike, which is
DataDecide's decision accuracy (Magnusson et al. 2025, arXiv 2504.11393). Intervals are bootstrapped
over mixtures, since pairs that share a mixture are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from regmix.direction import sign
from regmix.errors import UserError
from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.quantities import amount

OBJECTIVE = "objective"
LEAST = 4
"""Mixtures below which nothing is said."""
_RESAMPLES = 2000
_TOLD = 10
"""Reversals that are kept of each metric, those of the largest differences."""


@dataclass(frozen=True)
class Size:
    """The finished runs of one size, one a mixture."""

    parameters: int
    """Without embeddings."""
    tokens: int
    values: pd.DataFrame
    """Metrics by the mixture's hash."""

    @property
    def label(self) -> str:
        """Parameters, as people write them."""
        return amount(self.parameters)


@dataclass(frozen=True)
class Reversal:
    """Two mixtures that the sizes put in opposite orders."""

    metric: str
    first: str
    """Name of the mixture that the small size finds better."""
    second: str
    small: float
    """By how much, in the metric's unit; lower is better."""
    large: float
    """By how much the larger size finds the second one better."""
    beyond_noise: bool | None
    """Whether the small size's difference is more than two standard deviations of one between
    seeds; None where the noise is not known."""


@dataclass(frozen=True)
class Transfer:
    """What one larger size says of the order that the smallest one found."""

    small: Size
    large: Size
    mixtures: int
    table: pd.DataFrame
    """A row a metric: ``spearman``, ``accuracy`` (share of pairs decided alike), each with
    ``_low`` and ``_high`` (90 %), ``slope`` and ``helps`` (see :func:`compare`)."""
    reversals: tuple[Reversal, ...]
    left_out: tuple[str, ...] = ()
    """Runs of any size that the study leaves out, each with its reason."""

    def verdict(self) -> str:
        """One sentence on the objective, or on the mean of the metrics where there is none."""
        own = self.table[self.table["metric"] == OBJECTIVE]
        about = "the objective"
        if own.empty:
            own, about = self.table, f"the proxy, on average over {len(self.table)} metrics,"
        middle, low, high = (own[c].mean() for c in ("accuracy", "accuracy_low", "accuracy_high"))
        if not math.isfinite(middle):
            return f"{self.small.label} → {self.large.label}: all mixtures come out alike"
        half = max(high - middle, middle - low)
        doubt = "; no better than a coin" if low <= 0.5 else ""
        return (
            f"{self.small.label} → {self.large.label}: {about} decides correctly "
            f"{middle:.0%} ± {half:.0%} of pairs ({self.mixtures} mixtures){doubt}"
        )


def compare(
    small: Size,
    large: Size,
    names: Mapping[str, str],
    signs: Mapping[str, int],
    noise: Mapping[str, float],
    seed: int = 0,
) -> Transfer:
    """The orders that two sizes put the same mixtures in.

    A metric's ``slope`` is that of the larger size's values on the small one's, least squares; it
    ``helps`` where predicting each mixture by a line through the others (mean squared error, left
    out in turn) beats adding the mean difference of the others, which is all that an unscaled
    prediction can be shifted by.

    Args:
        names: of the mixtures, by hash.
        signs: 1 where lower is better, -1 where higher is, by metric.
        noise: standard deviation between seeds at the small size, by metric, where it is known.
        seed: of the bootstrap.

    Raises:
        UserError: too few mixtures, or no metric, that both sizes have.
    """
    shared = _shared(small, large)
    metrics = [m for m in small.values.columns if m in large.values.columns]
    if len(shared) < LEAST:
        raise UserError(
            f"transfer: {len(shared)} mixtures are measured at both {small.label} and "
            f"{large.label}; at least {LEAST} are needed"
        )
    if not metrics:
        raise UserError(f"transfer: {small.label} and {large.label} have no metric in common")
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(shared), size=(_RESAMPLES, len(shared)))
    rows, reversed_ = [], []
    for metric in metrics:
        x, y = (
            signs[metric] * size.values.loc[shared, metric].to_numpy(dtype=float)
            for size in (small, large)
        )
        rows.append({"metric": metric, **_row(x, y, draws)})
        labels = [names.get(m, m) for m in shared]
        reversed_ += _reversals(metric, x, y, labels, noise.get(metric))
    table = pd.DataFrame(rows).sort_values("accuracy", kind="stable", ascending=False)
    return Transfer(small, large, len(shared), table.reset_index(drop=True), tuple(reversed_))


def measured(
    runs: pd.DataFrame,
    cohorts: Sequence[str],
    data: Observations,
    objective: Objective | None,
    directions: Mapping[str, str],
    seed: int,
) -> list[Transfer]:
    """What every larger size says, of those that are measured.

    Args:
        runs: finished ones of all sizes, :meth:`regmix.store.Store.sizes`.
        cohorts: the proxies', then those of the larger sizes.
        data: of the proxies, for their seed noise.
        objective: a metric of its own, if there is one.
        directions: ``objective.directions`` of the study.
        seed: of the runs that are compared, and of the bootstrap.

    Raises:
        UserError: no larger size has a finished run, or one has too few.
    """
    own = runs[runs["seed"] == seed]
    small, *larger = (_size(own[own["cohort"] == c], objective) for c in cohorts)
    told = [size for size in larger if len(_shared(small, size)) >= LEAST]
    if not told:
        most = max((len(_shared(small, size)) for size in larger), default=0)
        raise UserError(
            f"transfer: {most} mixtures are measured at the proxies' size and a larger one; at "
            f"least {LEAST} are needed: run `regmix propose` and `regmix train`"
        )
    noise = {str(m): float(v) for m, v in data.noise().items() if math.isfinite(v)}
    if objective is not None:
        noise[OBJECTIVE] = data.objective_noise(objective.value)
    signs = {str(m): sign(str(m), directions) for m in small.values if m != OBJECTIVE}
    proxies = own[own["cohort"] == cohorts[0]]
    names = dict(zip(proxies["mixture"], proxies["name"], strict=True))
    return [compare(small, large, names, signs | {OBJECTIVE: 1}, noise, seed) for large in told]


def _shared(small: Size, large: Size) -> list[str]:
    """Hashes of the mixtures that both have."""
    return [m for m in small.values.index if m in large.values.index]


def _size(runs: pd.DataFrame, objective: Objective | None) -> Size:
    known = ["run_id", "name", "role", "mixture", "seed", "cohort", "parameters", "tokens"]
    values = runs.drop(columns=known).dropna(axis="columns", how="any")
    values.index = pd.Index(runs["mixture"])
    values = values[~values.index.duplicated()]
    if objective is not None and all(m in values for m in objective.metrics):
        metrics = {m: values[m].to_numpy(dtype=float) for m in objective.metrics}
        values = values.assign(**{OBJECTIVE: objective.value(metrics)})
    first = runs.head(1)
    return Size(int(first["parameters"].sum()), int(first["tokens"].sum()), values)


def decided_alike(x: FloatArray, y: FloatArray) -> float:
    """The share of pairs that two lists of values put in the same order; NaN where all are tied.

    A pair that one of them ties counts half, as a coin would decide it; one that both tie is none.
    """
    upper = np.triu_indices(len(x), 1)
    dx, dy = (np.sign(v[:, None] - v[None, :])[upper] for v in (x, y))
    decided = (dx != 0) | (dy != 0)
    if not decided.any():
        return math.nan
    agree = np.where(dx * dy == 0, 0.5, dx * dy > 0)
    return float(agree[decided].mean())


def _row(x: FloatArray, y: FloatArray, draws: np.ndarray) -> dict[str, float | bool]:
    accuracy = [decided_alike(x[d], y[d]) for d in draws]
    ranks = [_spearman(x[d], y[d]) for d in draws]
    found: dict[str, float | bool] = {}
    for name, value, drawn in (
        ("spearman", _spearman(x, y), ranks),
        ("accuracy", decided_alike(x, y), accuracy),
    ):
        low, high = (
            np.nanquantile(drawn, [0.05, 0.95]) if np.isfinite(drawn).any() else (value,) * 2
        )
        found |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    found["slope"] = _slope(x, y)
    found["helps"] = _left_out(x, y, scaled=True) < _left_out(x, y, scaled=False)
    return found


def _spearman(x: FloatArray, y: FloatArray) -> float:
    a, b = stats.rankdata(x), stats.rankdata(y)
    if not (a.std() and b.std()):
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _slope(x: FloatArray, y: FloatArray) -> float:
    spread = float(((x - x.mean()) ** 2).sum())
    return float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread else math.nan


def _left_out(x: FloatArray, y: FloatArray, *, scaled: bool) -> float:
    """Mean squared error of every mixture, predicted from the others."""
    errors = []
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        slope = _slope(x[others], y[others]) if scaled else 1.0
        if not math.isfinite(slope):
            slope = 0.0
        middle = y[others].mean() + slope * (x[i] - x[others].mean())
        errors.append((y[i] - middle) ** 2)
    return float(np.mean(errors))


def _reversals(
    metric: str, x: FloatArray, y: FloatArray, names: list[str], noise: float | None
) -> list[Reversal]:
    found = []
    for i in range(len(x)):
        for j in range(len(x)):
            if x[i] < x[j] and y[i] > y[j]:
                beyond = None if noise is None else bool(x[j] - x[i] > 2 * math.sqrt(2) * noise)
                found.append(
                    Reversal(metric, names[i], names[j], float(x[j] - x[i]), float(y[i] - y[j]),
                             beyond)
                )  # fmt: skip
    return sorted(found, key=lambda r: -min(r.small, r.large))[:_TOLD]
