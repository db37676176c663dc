"""Does what small proxies say hold for larger models? The same mixtures at several sizes.

A mixture is chosen by the order in which proxies put mixtures. So what is asked of a larger size is
that order (:mod:`regmix.agreement`); how far its figures are from those of the proxies is a second
question (:mod:`regmix.rescaling`), which takes a fit to ask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy

from regmix import agreement, plain
from regmix.direction import sign
from regmix.errors import UserError
from regmix.link import Link, Linked
from regmix.mixture import FloatArray
from regmix.noise import SeedNoise, freedom
from regmix.objective import Objective
from regmix.observations import Observations, from_first
from regmix.quantities import amount
from regmix.rescaling import Rescaling

OBJECTIVE = "objective"
LEAST = 4
"""Mixtures below which nothing is said."""
_TOLD = 10
"""Reversals that are kept of each metric, those of the largest differences."""
_INFO = ["run_id", "name", "role", "mixture", "seed", "cohort", "parameters", "tokens"]


@dataclass(frozen=True)
class Size:
    """The finished runs of one size, one a mixture."""

    parameters: int
    """Without embeddings."""
    tokens: int
    values: pd.DataFrame
    """Metrics by the mixture's hash; NaN where a run lacks one."""
    noise: Mapping[str, SeedNoise] = field(default_factory=dict)
    """Between seeds, by metric, where it is known."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By metric that is lacking, why it is, where more is known than that it was not measured."""

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
    beyond_small: bool | None
    """Whether the small size's difference is one that two runs of one mixture do not have but by
    chance in twenty (Student's t); None where the noise is not known."""
    beyond_large: bool | None


@dataclass(frozen=True)
class Predicted:
    """A metric of a mixture at a larger size, from what the surrogate says at the proxies'."""

    mean: float
    std: float
    freedom: int
    how: str
    """``line`` where rescaling helps, else ``shift``."""


@dataclass(frozen=True)
class Verdict:
    """What a proposal carries of a larger size."""

    text: str
    small: str
    large: str
    mixtures: int
    """That both sizes have."""
    accuracy: tuple[float, float, float] | None
    """Of the objective: share of pairs decided alike, and its 90 % interval; None: not known."""
    spearman: tuple[float, float, float] | None
    predicted: dict[str, Predicted] = field(default_factory=dict)
    """The proposal's metrics at the larger size."""
    linked: dict[str, Linked] = field(default_factory=dict)
    """Accuracies there, by the links from the losses that are predicted."""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Verdict:
        """From plain values, as :func:`dataclasses.asdict` and a YAML or JSON file give them."""
        figures = {k: None if raw[k] is None else tuple(raw[k]) for k in ("accuracy", "spearman")}
        return cls(
            **{
                **raw,
                **figures,
                "predicted": {m: Predicted(**p) for m, p in raw["predicted"].items()},
                "linked": {m: Linked(**v) for m, v in raw["linked"].items()},
                "notes": tuple(raw["notes"]),
            }
        )


@dataclass(frozen=True)
class Transfer:
    """What one larger size says of the order that the smallest one found."""

    small: Size
    large: Size
    mixtures: int
    """That both sizes have."""
    table: pd.DataFrame
    """A row a metric: ``mixtures``, ``spearman``, ``accuracy`` (share of pairs decided alike), each
    with ``_low`` and ``_high`` (90 %), ``slope`` (of the larger size's values on the small one's,
    least squares) and ``helps`` (a line through predictions beats a shift)."""
    reversals: tuple[Reversal, ...]
    rescalings: Mapping[str, Rescaling] = field(default_factory=dict)
    """By metric; none without a fit's predictions."""
    notes: tuple[str, ...] = ()
    """What could not be compared, and why."""
    left_out: tuple[str, ...] = ()
    """Runs of any size that the study leaves out, each with its reason."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, NaN as None, for ``--json``."""
        sizes = {"small": self.small, "large": self.large}
        return {
            **{k: {"parameters": s.parameters, "tokens": s.tokens} for k, s in sizes.items()},
            "mixtures": self.mixtures,
            "verdict": self.verdict(),
            "metrics": plain.records(self.table),
            "reversals": [plain.row(asdict(r)) for r in self.reversals],
            "notes": list(self.notes),
            "left_out": list(self.left_out),
        }

    def verdict(self) -> str:
        """One sentence on the objective, or on the metrics where there is no fit yet."""
        sizes = f"{self.small.label} → {self.large.label}"
        own = self._row(OBJECTIVE)
        if own is None and self.notes:
            return f"{sizes}: nothing can be said of the objective: {self.notes[0]}"
        if own is None:
            shares = self.table.set_index("metric")["accuracy"].dropna()
            if shares.empty:
                return f"{sizes}: all mixtures come out alike"
            return (
                f"{sizes}: nothing is fitted yet; of {len(shares)} metrics the median decides "
                f"{shares.median():.0%} of pairs correctly, {shares.idxmin()} {shares.min():.0%}"
            )
        if not math.isfinite(own["accuracy"]):
            return f"{sizes}: all mixtures come out alike"
        low, high = own["accuracy_low"], own["accuracy_high"]
        doubt = "; no better than a coin" if low <= 0.5 else ""
        return (
            f"{sizes}: the objective decides correctly {own['accuracy']:.0%} of pairs "
            f"({agreement.LEVEL:.0%} interval {low:.0%} to {high:.0%}, {own['mixtures']:.0f} "
            f"mixtures){doubt}"
        )

    def carried(
        self, predicted: Mapping[str, float] | None = None, links: Sequence[Link] = ()
    ) -> Verdict:
        """What a proposal keeps of this.

        Args:
            predicted: its metrics and objective at proxy size.
            links: from losses to accuracies; used where they reach.
        """
        there = {
            m: Predicted(*r.large(predicted[m]), r.freedom, "line" if r.helps else "shift")
            for m, r in self.rescalings.items()
            if predicted and m in predicted
        }
        reached = {k.accuracy: k.at(there[k.loss].mean) for k in links if k.loss in there}
        own = self._row(OBJECTIVE)
        known = own is not None and math.isfinite(own["accuracy"])
        figures = {
            name: tuple(float(own[f"{name}{end}"]) for end in ("", "_low", "_high"))
            if own is not None and known
            else None
            for name in ("accuracy", "spearman")
        }
        return Verdict(
            text=self.verdict(),
            small=self.small.label,
            large=self.large.label,
            mixtures=self.mixtures,
            accuracy=figures["accuracy"],  # type: ignore[arg-type]
            spearman=figures["spearman"],  # type: ignore[arg-type]
            predicted=there,
            linked={m: found for m, found in reached.items() if found is not None},
            notes=self.notes,
        )

    def _row(self, metric: str) -> dict[str, Any] | None:
        own = self.table[self.table["metric"] == metric].to_dict("records")
        return {str(k): v for k, v in own[0].items()} if own else None


def compare(
    small: Size,
    large: Size,
    names: Mapping[str, str],
    signs: Mapping[str, int],
    predicted: pd.DataFrame | None = None,
) -> Transfer:
    """The orders that two sizes put the same mixtures in, metric by metric.

    Args:
        names: of the mixtures, by hash.
        signs: 1 where lower is better, -1 where higher is, by metric.
        predicted: metrics at the small size by the mixture's hash, each predicted without its own
            run; lines and shifts are fitted to these.

    Raises:
        UserError: too few mixtures, or no metric, that both sizes have.
    """
    shared = [m for m in small.values.index if m in large.values.index]
    if len(shared) < LEAST:
        raise UserError(
            f"transfer: {len(shared)} mixtures are measured at both {small.label} and "
            f"{large.label}; at least {LEAST} are needed"
        )
    rows, reversed_, notes = [], [], []
    rescalings: dict[str, Rescaling] = {}
    for metric in dict.fromkeys([*small.values, *large.values]):
        both, note = _both(small, large, metric, shared)
        notes += [note] if note else []
        if both is None:
            continue
        x, y = (signs[metric] * both[c].to_numpy(dtype=float) for c in ("small", "large"))
        labels = [names.get(m, m) for m in both.index]
        reversed_ += _reversals(metric, x, y, labels, (small, large))
        line = _rescaled(metric, both["large"], predicted)
        if line is not None:
            rescalings[metric] = line
        helps = line is not None and line.helps
        rows.append({"metric": metric, "mixtures": len(both), **_row(x, y), "helps": helps})
    if not rows:
        why = f": {'; '.join(notes)}" if notes else ""
        raise UserError(f"transfer: {small.label} and {large.label} have no metric in common{why}")
    table = pd.DataFrame(rows).sort_values("accuracy", kind="stable", ascending=False)
    # What is said of the objective comes first.
    notes.sort(key=lambda note: not note.startswith(OBJECTIVE))
    return Transfer(small, large, len(shared), table.reset_index(drop=True), tuple(reversed_),
                    rescalings, tuple(notes))  # fmt: skip


def measured(
    runs: pd.DataFrame,
    cohorts: Sequence[str],
    data: Observations,
    objective: Objective | None,
    directions: Mapping[str, str],
    seed: int,
    held_out: pd.DataFrame | None = None,
    reference: str = "",
) -> list[Transfer]:
    """What every larger size says, of those that are measured.

    Args:
        runs: finished ones of all sizes, :meth:`regmix.store.Store.sizes`.
        cohorts: the proxies', then those of the larger sizes.
        data: of the proxies, for their seed noise.
        objective: a metric of its own, if there is one.
        directions: ``objective.directions`` of the study.
        seed: of the runs that are compared.
        held_out: the fit's predictions of the proxies' metrics by run id, each made without the
            run.
        reference: hash of the mixture that the objective is relative to, if it is. At every larger
            size the objective is relative to what the mixture has at that size.

    Raises:
        UserError: no larger size has a finished run, or one has too few.
    """
    first, *others = (runs[runs["cohort"] == c] for c in cohorts)
    small = _size(first, objective, seed)
    larger = [_larger(own, objective, seed, reference) for own in others]
    small = replace(small, noise=_proxy_noise(data, objective))
    shared = [len(small.values.index.intersection(size.values.index)) for size in larger]
    if not any(count >= LEAST for count in shared):
        raise UserError(
            f"transfer: {max(shared, default=0)} mixtures are measured at the proxies' size and a "
            f"larger one; at least {LEAST} are needed: run `regmix propose` and `regmix train`"
        )
    metrics = {*runs.columns.drop(_INFO)}
    signs = {str(m): sign(str(m), directions) for m in metrics} | {OBJECTIVE: 1}
    own = runs[(runs["seed"] == seed) & (runs["cohort"] == cohorts[0])]
    names = dict(zip(own["mixture"], own["name"], strict=True))
    predicted = None if held_out is None else _predicted(held_out, own, objective)
    missing = tuple(
        f"ladder.{i}: {count} of its mixtures are measured; at least {LEAST} are needed"
        for i, count in enumerate(shared)
        if count < LEAST
    )
    found = [
        compare(small, large, names, signs, predicted)
        for large, count in zip(larger, shared, strict=True)
        if count >= LEAST
    ]
    return [replace(t, notes=(*t.notes, *missing)) for t in found]


def _size(runs: pd.DataFrame, objective: Objective | None, seed: int) -> Size:
    own = runs[runs["seed"] == seed]
    values = own.drop(columns=_INFO).set_axis(pd.Index(own["mixture"]), axis=0)
    values = _with_objective(values[~values.index.duplicated()], objective)
    # Without a metric in any of its runs a size is not measured on it.
    first = own.head(1)
    return Size(
        int(first["parameters"].sum()), int(first["tokens"].sum()),
        values.dropna(axis="columns", how="all"), _noise_between(runs, objective),
    )  # fmt: skip


def _larger(runs: pd.DataFrame, objective: Objective | None, seed: int, reference: str) -> Size:
    """A size with the objective relative to its own reference; without one where that lacks."""
    own = None if objective is None else objective.at(runs, reference)
    if isinstance(own, str):
        return replace(_size(runs, None, seed), reasons={OBJECTIVE: own})
    return _size(runs, own, seed)


def _with_objective(values: pd.DataFrame, objective: Objective | None) -> pd.DataFrame:
    """With the objective as a metric, NaN where one of its own is."""
    if objective is None:
        return values
    columns = values.reindex(columns=list(objective.metrics))
    total = objective.value({m: columns[m].to_numpy(dtype=float) for m in objective.metrics})
    return values.assign(**{OBJECTIVE: total})


def _noise_between(runs: pd.DataFrame, objective: Objective | None) -> dict[str, SeedNoise]:
    """Seed noise of one size, pooled over its mixtures that have several seeds."""
    values = _with_objective(runs.drop(columns=_INFO), objective)
    found = {}
    for metric in values:
        known = values[[metric]].dropna()
        mixture = runs["mixture"].loc[known.index]
        groups = from_first(known, mixture)[metric].groupby(mixture)
        degrees = int((groups.size() - 1).sum())
        if degrees:
            squares = float(((groups.size() - 1) * groups.var(ddof=1)).sum())
            found[str(metric)] = SeedNoise(math.sqrt(squares / degrees), degrees)
    return found


def _proxy_noise(data: Observations, objective: Objective | None) -> dict[str, SeedNoise]:
    degrees = freedom(data)
    found = {str(m): SeedNoise(float(v), degrees) for m, v in data.noise().items()}
    if objective is not None:
        found[OBJECTIVE] = SeedNoise.of(data, objective.value)
    return {m: n for m, n in found.items() if n.known}


def _predicted(
    held_out: pd.DataFrame, runs: pd.DataFrame, objective: Objective | None
) -> pd.DataFrame:
    """Held-out predictions by the hash of the run's mixture, of runs at the seed compared."""
    of = runs.set_index("run_id")["mixture"]
    known = held_out.loc[held_out.index.intersection(of.index)]
    known = known.set_axis(of[known.index].to_numpy(), axis=0)
    return _with_objective(known[~known.index.duplicated()], objective)


def _both(
    small: Size, large: Size, metric: str, shared: Sequence[str]
) -> tuple[pd.DataFrame | None, str]:
    """A metric at both sizes by mixture, None where too few have it; and what is to be said."""
    for size in (small, large):
        if metric not in size.values:
            why = f": {size.reasons[metric]}" if metric in size.reasons else ""
            return None, f"{metric} is not measured at {size.label}{why}"
    both = pd.DataFrame(
        {
            "small": small.values.loc[list(shared), metric],
            "large": large.values.loc[list(shared), metric],
        }
    ).dropna()
    if len(both) == len(shared):
        return both, ""
    note = f"{metric} is lacking in {len(shared) - len(both)} of {len(shared)} mixtures"
    return (both, note) if len(both) >= LEAST else (None, f"{note}: too few are left")


def _rescaled(metric: str, large: pd.Series, predicted: pd.DataFrame | None) -> Rescaling | None:
    if predicted is None or metric not in predicted:
        return None
    x = predicted[metric].reindex(large.index).dropna()
    return Rescaling.fit(x.to_numpy(dtype=float), large[x.index].to_numpy(dtype=float))


def _row(x: FloatArray, y: FloatArray) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, figure in (("spearman", agreement.spearman), ("accuracy", agreement.accuracy)):
        own = figure(x, y)
        found |= {name: own.value, f"{name}_low": own.low, f"{name}_high": own.high}
    slope = float(scipy.stats.linregress(x, y).slope) if np.ptp(x) else math.nan
    return {**found, "slope": slope}


def _reversals(
    metric: str, x: FloatArray, y: FloatArray, names: list[str], sizes: tuple[Size, Size]
) -> list[Reversal]:
    known = [size.noise.get(metric) for size in sizes]
    counts = [None if n is None else n.counting() for n in known]
    found = []
    for i in range(len(x)):
        for j in range(len(x)):
            if x[i] < x[j] and y[i] > y[j]:
                apart = (float(x[j] - x[i]), float(y[i] - y[j]))
                beyond = [None if c is None else d > c for d, c in zip(apart, counts, strict=True)]
                found.append(Reversal(metric, names[i], names[j], *apart, *beyond))
    return sorted(found, key=lambda r: -min(r.small, r.large))[:_TOLD]
