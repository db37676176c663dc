"""Tracing a front: weighted sums of the two sides, by the study's own solver.

Space, limits and caution are the study's. Each next weight is the one that is orthogonal to the
widest gap that is left (Cohon 1978, the noninferior set estimation method), from the solutions on
both of its sides. What a weighted sum cannot reach, because the front bends inwards there, stays a
gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from regmix import assess, decision, solve
from regmix.decision import Settings
from regmix.errors import UserError
from regmix.mixture import FloatArray, Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.pareto.result import WEIGHT, Pareto
from regmix.pareto.sides import Side, some
from regmix.solve import Limit, Problem
from regmix.solve.search import resume
from regmix.surrogate import Surrogate, stack

LEAST_POINTS, MOST_POINTS = 3, 101
SAME = 0.4
"""Solutions closer than this on both sides are one; 1 is the even spacing of all points."""
_LINE = 17
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ground:
    """What a front is computed from."""

    surrogate: Surrogate
    settings: Settings
    data: Observations
    limits: tuple[Limit, ...]
    seed: int

    @classmethod
    def of(
        cls,
        settings: Settings,
        data: Observations,
        surrogate: Surrogate,
        seed: int,
        refused: Mapping[str, str],
    ) -> Ground:
        """With the limits of the study's own objective, if it has any.

        Args:
            refused: metrics that the objective does not take of itself.
        """
        limits: tuple[Limit, ...] = ()
        if settings.objective.limits.worse is not None or settings.objective.limits.metrics:
            objective = decision.objective_for(settings, data, surrogate, None, refused)
            limits = decision.limits_for(settings, data, surrogate, objective)
        return cls(surrogate, settings, data, limits, seed)

    def problem(self, x: Side, y: Side, share: float) -> Problem:
        """Lower ``(1 - share) · x + share · y``; a side without weight is left out."""
        parts = [(side, w) for side, w in ((x, 1 - share), (y, share)) if w > 0]
        weights = {m: w * t for side, w in parts for m, t in side.terms.items()}
        objective = Objective(
            tuple(weights),
            tuple(weights.values()),
            tuple(s for side, _ in parts for s in side.signs),
        )
        return solve.pose(
            self.surrogate,
            objective,
            self.settings.space,
            self.settings.fit,
            limits=self.limits,
            prior=self.settings.prior,
            spread=self.data.objective_spread(objective.value),
        )


@dataclass(frozen=True)
class _Point:
    share: float
    weights: FloatArray
    x: float
    y: float


class _Front:
    """The non-dominated solutions so far, from the best x to the best y."""

    def __init__(self, ground: Ground, x: Side, y: Side, size: int) -> None:
        self._ground, self._sides, self._same = ground, (x, y), SAME / (size - 1)
        self.points: list[_Point] = []
        self._closed: set[tuple[float, float]] = set()
        self.solved = 0

    def solve_ends(self) -> None:
        """Each side alone, by the whole search."""
        for share in (0.0, 1.0):
            g, problem = self._ground, self._problem(share)
            found, _ = solve.search_for(problem, g.settings.fit, g.data, g.seed)
            self._add(share, found.weights)
        self._keep()

    def fill(self) -> bool:
        """Solve for the widest gap that is not known to be empty; False if there is none."""
        gaps = [
            (self._gap(a, b), a, b)
            for a, b in zip(self.points[:-1], self.points[1:], strict=True)
            if (a.share, b.share) not in self._closed
        ]
        if not gaps:
            return False
        _, a, b = max(gaps, key=lambda gap: gap[0])
        share = (b.x - a.x) / ((b.x - a.x) + (a.y - b.y))
        found = self._resume(share, [a.weights, b.weights, self._between(share, a, b)])
        before = [p.share for p in self.points]
        if self._is_new(found):
            self._add(share, found)
            self._keep()
        if [p.share for p in self.points] == before:
            self._closed.add((a.share, b.share))
        return True

    def cross_check(self) -> None:
        """Start again where another solution serves a weight better than its own."""
        before, self.points = self.points, []
        pool = np.array([p.weights for p in before])
        for own, point in enumerate(before):
            values = self._problem(point.share).value(pool)
            best = int(np.argmin(values))
            better = values[best] < values[own] - 1e-6
            start = [pool[best]]
            self._add(point.share, self._resume(point.share, start) if better else point.weights)
        self._keep()

    def _between(self, share: float, a: _Point, b: _Point) -> FloatArray:
        """The best mixture of two solutions: a start for searches that see only their surroundings.

        The space is convex and allows it; limits need not be, and then one of the two is taken.
        """
        problem, line = self._problem(share), np.linspace(0, 1, _LINE)[:, None]
        mixed = (1 - line) * a.weights + line * b.weights
        mixed = mixed[problem.allowed(mixed)]
        return np.asarray(mixed[int(np.argmin(problem.value(mixed)))] if len(mixed) else a.weights)

    def _problem(self, share: float) -> Problem:
        return self._ground.problem(*self._sides, share)

    def _resume(self, share: float, starts: list[FloatArray]) -> FloatArray:
        problem = self._problem(share)
        self.solved += 1
        rng = np.random.default_rng([self._ground.seed, 9, self.solved])
        ends = np.array([resume(problem, start, rng) for start in starts])
        return np.asarray(ends[int(np.argmin(problem.value(ends)))])

    def _values(self, weights: FloatArray) -> tuple[float, float]:
        x, y = (
            float(self._ground.surrogate.objective_mean(weights[None], s.objective)[0]) - s.middle
            for s in self._sides
        )
        return x, y

    def _gap(self, a: _Point, b: _Point) -> float:
        width, height = self._extent()
        return float(np.hypot((a.x - b.x) / width, (a.y - b.y) / height))

    def _extent(self) -> tuple[float, float]:
        first, last = self.points[0], self.points[-1]
        return max(last.x - first.x, 1e-12), max(first.y - last.y, 1e-12)

    def _is_new(self, weights: FloatArray) -> bool:
        x, y = self._values(weights)
        width, height = self._extent()
        return all(
            max(abs(p.x - x) / width, abs(p.y - y) / height) > self._same for p in self.points
        )

    def _add(self, share: float, weights: FloatArray) -> None:
        self.points.append(_Point(share, weights, *self._values(weights)))

    def _keep(self) -> None:
        """Drop what another solution beats or equals on both sides, and sort."""
        ordered = sorted(self.points, key=lambda p: (p.x, p.y, p.share))
        kept: list[_Point] = []
        for point in ordered:
            if not kept or point.y < kept[-1].y:
                kept.append(point)
        self.points = kept


def trace(
    x: Side,
    y: Side,
    ground: Ground,
    named: Mapping[str, Mixture],
    *,
    points: int = 15,
    progress: Progress | None = None,
) -> Pareto:
    """The front between two sides, and where ``named`` mixtures lie beside it.

    Args:
        points: at most so many mixtures on the front.
        progress: called with (points found, asked).

    Raises:
        UserError: too few or too many points, or no mixture keeps the study's limits.
    """
    if not LEAST_POINTS <= points <= MOST_POINTS:
        raise UserError(f"--points {points}: from {LEAST_POINTS} to {MOST_POINTS}")
    front = _Front(ground, x, y, points)
    front.solve_ends()
    while len(front.points) < points and front.solved < 4 * points and front.fill():
        if progress:
            progress(len(front.points), points)
    front.cross_check()
    found = front.points
    weights = np.array([p.weights for p in found])
    frame = _describe(weights, x, y, ground)
    frame.insert(0, "y_share", [p.share for p in found])
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="point")
    mixtures = stack(list(named.values()))
    others = _describe(mixtures, x, y, ground)
    others.index = pd.Index(list(named), name="name")
    behind = distances(frame, others).assign(allowed=_allowed(ground, mixtures))
    position = list(others).index("nearest_run")
    for name in reversed(list(behind)):
        others.insert(position, name, behind[name])
    runs = pd.DataFrame(
        {"x": x.measured(ground.data), "y": y.measured(ground.data)}, ground.data.weights.index
    )
    return Pareto(x, y, frame, others, runs, tuple(_notes(x, y, ground.surrogate)))


def _allowed(ground: Ground, weights: FloatArray) -> np.ndarray:
    found: np.ndarray = ground.settings.space.contains(weights, 1e-7)
    for limit in ground.limits:
        found = found & (limit.excess(ground.surrogate, weights) <= 1e-9)
    return found


def _describe(weights: FloatArray, x: Side, y: Side, ground: Ground) -> pd.DataFrame:
    """Predictions, weights and the nearest run, a row a mixture."""
    columns: dict[str, Any] = {}
    for letter, side in (("x", x), ("y", y)):
        found = ground.surrogate.objective(weights, side.objective)
        columns[letter], columns[f"{letter}_std"] = found.mean - side.middle, found.std
    for letter, side in (("x", x), ("y", y)):
        if side.plain is not None:
            found = ground.surrogate.objective(weights, side.plain)
            columns[f"{letter}_plain"] = found.mean
            columns[f"{letter}_plain_std"] = found.std
    apart = 0.5 * np.abs(weights[:, None] - ground.data.x()[None]).sum(2)
    names = ground.data.info["name"].to_numpy()
    columns["nearest_run"] = [str(n) for n in names[apart.argmin(1)]]
    columns["nearest_distance"] = apart.min(1)
    for i, domain in enumerate(ground.settings.space.domains):
        columns[f"{WEIGHT}{domain}"] = weights[:, i]
    return pd.DataFrame(columns)


def distances(front: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """How far points are from a front: ``gain_x``, ``gain_y``, ``behind``, by point.

    Between two of its mixtures the front is taken as straight, beyond its ends as level. Negative:
    ahead of the front, as a mixture outside the space can be.
    """
    fx, fy = front["x"].to_numpy(), front["y"].to_numpy()
    px, py = points["x"].to_numpy(), points["y"].to_numpy()
    at_y = np.interp(py, fy[::-1], fx[::-1], left=np.nan, right=fx[0])
    at_x = np.interp(px, fx, fy, left=np.nan, right=fy[-1])
    # Along the diagonal x - y is fixed, and it rises along the front.
    u = px - py
    on = np.where(u > (fx - fy)[-1], u + fy[-1], np.interp(u, fx - fy, fx))
    return pd.DataFrame(
        {"gain_x": px - at_y, "gain_y": py - at_x, "behind": px - on}, index=points.index
    )


def _notes(x: Side, y: Side, surrogate: Surrogate) -> list[str]:
    """Metrics on either side that the fit cannot predict: the front rests on the others."""
    found, limit = [], assess.LEAST_SPEARMAN
    for side in (x, y):
        weak = [m for m in side.metrics if surrogate.metric(m).scores.spearman < limit]
        if weak:
            found.append(
                f"{side.name}: held-out rank correlation below {limit:g} on {len(weak)} of "
                f"{len(side.metrics)} metrics ({some(weak[:3])}{', …' if len(weak) > 3 else ''}); "
                "their part of this side is little more than their mean"
            )
    return found
