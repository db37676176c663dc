"""Effects: what a domain's share does to the objective and to metrics, by the surrogate.

Everything is seen from the proposal: one share moves (:mod:`regmix.plot.movers`), the others keep
their ratios. A *gain* is the improvement over where the movement begins, turned so that positive
is better; its standard deviation is that of the difference of two expected values, which share
most of their errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Protocol

import numpy as np
import pandas as pd

from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.plot import movers
from regmix.plot.movers import Mover
from regmix.regressors import Prediction
from regmix.regressors.base import in_threads
from regmix.solve import EXTRAPOLATES
from regmix.space import Space
from regmix.surrogate import FittedMetric, Surrogate

POINTS = 17
"""Shares along a curve."""
DOMAINS, METRICS, PAIRS, CROSSED = 12, 24, 8, 10
"""How many are drawn at most: curves and rows, columns, interactions, and domains to pair."""
_SHIFTS = tuple(sorted(product((-0.5, 0.0, -1.0), repeat=2), key=lambda s: sum(map(abs, s))))
"""Where a square of shares may lie about the proposal's, in sides."""


class Quantity(Protocol):
    """The objective, or a metric."""

    @property
    def sign(self) -> int:
        """+1: lower is better."""
        ...

    def mean(self, x: FloatArray) -> FloatArray:
        """Expected values of mixtures ``(n, n_domains)``."""
        ...

    def predict(self, x: FloatArray) -> Prediction:
        """With the standard deviation of a measurement."""
        ...

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """Standard deviation of the expected difference to a reference mixture."""
        ...


@dataclass(frozen=True)
class Whole:
    """The objective."""

    surrogate: Surrogate
    objective: Objective
    sign: int = 1

    def mean(self, x: FloatArray) -> FloatArray:
        """As :class:`Quantity`."""
        return self.surrogate.objective_mean(x, self.objective)

    def predict(self, x: FloatArray) -> Prediction:
        """As :class:`Quantity`."""
        return self.surrogate.objective(x, self.objective)

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """As :class:`Quantity`."""
        return self.surrogate.objective_contrast(x, reference, self.objective)


@dataclass(frozen=True)
class Part:
    """One metric."""

    metric: FittedMetric
    sign: int

    def mean(self, x: FloatArray) -> FloatArray:
        """As :class:`Quantity`."""
        return self.metric.model.mean(x)

    def predict(self, x: FloatArray) -> Prediction:
        """As :class:`Quantity`."""
        return self.metric.predict(x)

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """As :class:`Quantity`."""
        return self.metric.contrast(x, reference)


@dataclass(frozen=True)
class Scene:
    """Where effects are looked at."""

    space: Space
    base: FloatArray
    """The proposal, shape ``(n_domains,)``."""
    runs: FloatArray
    """What the surrogate has seen, shape ``(n, n_domains)``."""
    typical: float
    """Distance of a run from its nearest other one, total variation."""

    def paths(self, points: int) -> dict[str, tuple[Mover, FloatArray]]:
        """The movers that can move, and the mixtures that each passes through."""
        found = {}
        for mover in movers.movers(self.space):
            x = movers.path(self.space, mover, self.base, self.runs, points)
            if x is not None:
                found[mover.name] = (mover, x)
        return found

    def distance(self, x: FloatArray) -> FloatArray:
        """Total variation of mixtures to their nearest run."""
        return np.array([0.5 * np.abs(self.runs - row).sum(1).min() for row in x])


@dataclass(frozen=True)
class Found:
    """A frame of the strongest, and what is not in it."""

    frame: pd.DataFrame
    left_out: int
    """Weaker ones."""
    fixed: int = 0
    """Domains that cannot move."""


def curves(
    scene: Scene, quantity: Quantity, *, domains: Sequence[str] | None = None, limit: int = DOMAINS
) -> Found:
    """What every share does to one quantity, the domain with the widest effect first.

    Args:
        domains: those to show; default: the ``limit`` with the widest.

    Returns:
        One row a domain and share: ``domain``, ``share``, ``mean``, ``std`` (of a measurement),
        ``gain`` (over the proposal), ``gain_std``, ``distance`` (to the nearest run, total
        variation), ``extrapolates``; 0 is the gain where the share is the proposal's.
    """
    paths = scene.paths(POINTS)
    # The base twice: what is predicted of one row alone is another shape of array.
    start = float(quantity.mean(np.vstack([scene.base, scene.base]))[0])
    ranked = _widest(quantity, paths)
    chosen = ranked[:limit] if domains is None else [n for n in ranked if n in domains]

    def row(i: int) -> pd.DataFrame:
        mover, x = paths[chosen[i]]
        found, distance = quantity.predict(x), scene.distance(x)
        return pd.DataFrame(
            {
                "domain": chosen[i],
                "share": mover.share(x),
                "mean": found.mean,
                "std": found.std,
                "gain": -quantity.sign * (found.mean - start),
                "gain_std": quantity.contrast(x, scene.base),
                "distance": distance,
                "extrapolates": distance > EXTRAPOLATES * scene.typical,
            }
        )

    columns = ["domain", "share", "mean", "std", "gain", "gain_std", "distance", "extrapolates"]
    rows = in_threads(row, len(chosen))
    frame = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
    fixed = len(movers.movers(scene.space)) - len(paths)
    return Found(frame, len(paths) - len(chosen), fixed)


def _widest(quantity: Quantity, paths: Mapping[str, tuple[Mover, FloatArray]]) -> list[str]:
    """Names of movers, that with the widest effect first; all are predicted together."""
    if not paths:
        return []
    means = quantity.mean(np.vstack([x for _, x in paths.values()]))
    ends = np.cumsum([len(x) for _, x in paths.values()])[:-1]
    width = dict(zip(paths, map(np.ptp, np.split(means, ends)), strict=True))
    return sorted(paths, key=lambda name: -float(width[name]))


@dataclass(frozen=True)
class Matrix:
    """Effects of domains on metrics, and what is not in it."""

    frame: pd.DataFrame
    """``domain``, ``metric``, ``low``, ``high`` (shares), ``effect`` (gain of the metric as the
    share goes from low to high, in standard deviations over the swarm), ``std``, ``clear`` (90 %
    sure of its sign)."""
    domains: int
    """Left out, for weaker effects."""
    metrics: int
    fixed: int


def matrix(
    scene: Scene,
    quantities: dict[str, Quantity],
    spread: pd.Series,
    *,
    domains: int = DOMAINS,
    metrics: int = METRICS,
) -> Matrix:
    """Effect of every share on every metric; the strongest domains and metrics, strongest first.

    Args:
        quantities: by metric.
        spread: standard deviation over the swarm, by metric.
    """
    paths = scene.paths(2)
    ends = {name: (mover, x[0], x[-1]) for name, (mover, x) in paths.items()}
    names, kept = list(ends), [m for m in quantities if spread[m] > 0]
    x = np.vstack([e for _, low, high in ends.values() for e in (low, high)] or [scene.base] * 2)
    means = in_threads(lambda i: quantities[kept[i]].mean(x), len(kept))
    values = np.array(means).reshape(len(kept), len(x))
    signs = np.array([-quantities[m].sign / float(spread[m]) for m in kept])
    effects = (signs[:, None] * (values[:, 1::2] - values[:, ::2]))[:, : len(names)]
    by_domain = np.argsort(-np.sqrt((effects**2).mean(0)), kind="stable")[:domains]
    by_metric = np.argsort(-np.sqrt((effects**2).mean(1)), kind="stable")[:metrics]

    def column(i: int) -> list[tuple[object, ...]]:
        number = by_metric[i]
        metric = kept[number]
        rows: list[tuple[object, ...]] = []
        for d in by_domain:
            mover, low, high = ends[names[d]]
            std = float(quantities[metric].contrast(high[None], low)[0]) / float(spread[metric])
            low_share, high_share = mover.share(np.vstack([low, high]))
            rows.append((names[d], metric, low_share, high_share, effects[number, d], std))
        return rows

    rows = [r for found in in_threads(column, len(by_metric)) for r in found]
    frame = pd.DataFrame(rows, columns=["domain", "metric", "low", "high", "effect", "std"])
    frame = frame.assign(clear=frame["effect"].abs() > 1.645 * frame["std"])
    fixed = len(movers.movers(scene.space)) - len(names)
    return Matrix(frame, len(names) - len(by_domain), len(quantities) - len(by_metric), fixed)


def interactions(scene: Scene, quantity: Quantity, *, limit: int = PAIRS) -> Found:
    """Pairs of domains that do more, or less, together than each alone; the strongest first.

    Both shares move over the middle half of what the runs tried, about the proposal's: the second
    difference ``f(both) − f(one) − f(other) + f(neither)`` of the gain. Positive: they go together.
    Looked at are the domains with the widest effects.

    Returns:
        ``one``, ``other``, ``one_from``, ``one_to``, ``other_from``, ``other_to`` (shares),
        ``interaction`` (in the quantity's unit), ``std``, ``clear`` (90 % sure of its sign).
    """
    paths = scene.paths(POINTS)
    widest = _widest(quantity, paths)[:CROSSED]
    pairs = []
    for one, other in combinations([paths[n][0] for n in widest], 2):
        found = _square(scene, one, other)
        if found is not None:
            pairs.append((one, other, *found))
    columns = ["one", "other", "one_from", "one_to", "other_from", "other_to", "interaction", "std"]
    possible = len(movers.movers(scene.space))
    if not pairs:
        return Found(pd.DataFrame(columns=[*columns, "clear"]), 0)
    values = quantity.mean(np.vstack([x for *_, x in pairs])).reshape(-1, 4)
    second = -quantity.sign * (values @ _SECOND)
    strongest = np.argsort(-np.abs(second), kind="stable")[:limit]

    def row(i: int) -> tuple[object, ...]:
        one, other, (a, b), (c, d), x = pairs[strongest[i]]
        return one.name, other.name, a, b, c, d, second[strongest[i]], _joint_std(quantity, x)

    frame = pd.DataFrame(in_threads(row, len(strongest)), columns=columns)
    frame = frame.assign(clear=frame["interaction"].abs() > 1.645 * frame["std"])
    return Found(frame, possible * (possible - 1) // 2 - len(frame))


_SECOND = np.array([1.0, -1.0, -1.0, 1.0])
"""Of neither, the first, the second, both."""

Range = tuple[float, float]


def _square(scene: Scene, one: Mover, other: Mover) -> tuple[Range, Range, FloatArray] | None:
    """Shares of two movers and the four mixtures at their ends; None where no such are allowed."""
    rest = (one.unit + other.unit) <= 0
    if not rest.any():
        return None  # of two shares that add up to 1 one says it all
    own = [float(m.share(scene.base[None])[0]) for m in (one, other)]
    sides = [float(np.subtract(*np.quantile(m.share(scene.runs), [0.75, 0.25])))
             for m in (one, other)]  # fmt: skip
    if min(sides) < movers.LEAST_REACH:
        return None
    for scale, shifts in product((1.0, 0.5, 0.25), _SHIFTS):
        ranges = []
        for share, side, shift in zip(own, sides, shifts, strict=True):
            low = max(share + shift * side * scale, 0.0)
            ranges.append((low, low + side * scale))
        (a, b), (c, d) = ranges
        corners = [(one, np.array([a, b, a, b])), (other, np.array([c, c, d, d]))]
        x = movers.moved(scene.base, corners)
        if (x >= 0).all() and scene.space.contains(x).all():
            return (a, b), (c, d), x
    return None


def _joint_std(quantity: Quantity, x: FloatArray) -> float:
    """Standard deviation of the second difference of four expected values.

    Of coefficients that sum to 0, ``Var(Σ c f) = −Σ_{i<j} c_i c_j Var(f_i − f_j)``.
    """
    variance = 0.0
    for i in range(3):
        apart = quantity.contrast(x[i + 1 :], x[i]) ** 2
        variance -= float((_SECOND[i] * _SECOND[i + 1 :] * apart).sum())
    return float(np.sqrt(max(variance, 0.0)))


def shares_of(scene: Scene) -> pd.Series:
    """The base's share of every mover, by its name."""
    found = movers.movers(scene.space)
    return pd.Series({m.name: float(m.share(scene.base[None])[0]) for m in found})
