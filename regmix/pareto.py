"""Pareto: the front of mixtures between two groups of metrics, with uncertainty.

Each side's value is the mean over its metrics, every one turned so that lower is better and divided
by its standard deviation over the swarm: metrics of different units can then be added. 0 is the
swarm's mean, -1 one standard deviation better.

Weighted sums of the two sides are solved with the study's own search, space, limits and caution;
each next weight is the one that is orthogonal to the widest gap that is left (Cohon 1978, the
noninferior set estimation method), from the solutions on both of its sides. What a weighted sum
cannot reach, because the front bends inwards there, stays a gap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regmix import assess, solve
from regmix.config import ObjectiveConfig
from regmix.decision import Settings
from regmix.direction import sign
from regmix.errors import UserError, unknown_name
from regmix.files import read_json, write_json, write_text
from regmix.mixture import FloatArray, Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.solve import Limit, Problem
from regmix.solve.search import resume
from regmix.surrogate import Surrogate, stack

LEAST_POINTS, MOST_POINTS = 3, 101
FOLDER, LATEST = "pareto", "latest.json"
WEIGHT = "weight/"
"""Before a domain's name, in the frames."""
SAME = 0.4
"""Solutions closer than this on both sides are one; 1 is the even spacing of all points."""
_PATTERN = re.compile(r"[*?\[]")
_BITS = re.compile(r"^bpb/|/bpb$")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Side:
    """One side of the trade-off: some metrics, and how they are added."""

    name: str
    metrics: tuple[str, ...]
    signs: tuple[int, ...]
    """+1: lower is better."""
    scales: tuple[float, ...]
    """Standard deviation of each over the swarm."""
    middle: float
    """The swarm's mean, which is subtracted."""
    unit: str | None
    """Of the plain mean; None where the metrics do not share one, or it is not known."""

    @property
    def terms(self) -> dict[str, float]:
        """Weight of every metric in the side's value; positive, the sign is apart."""
        return {
            m: 1 / (len(self.metrics) * s) for m, s in zip(self.metrics, self.scales, strict=True)
        }

    @property
    def objective(self) -> Objective:
        """The side's value, up to :attr:`middle`."""
        return Objective(self.metrics, tuple(self.terms.values()), self.signs)

    @property
    def plain(self) -> Objective | None:
        """The metrics' mean in their own unit, as measured; None if they share none."""
        if self.unit is None:
            return None
        n = len(self.metrics)
        return Objective(self.metrics, (1 / n,) * n, (1,) * n)

    def measured(self, data: Observations) -> FloatArray:
        """The side's value in every run, shape ``(n_runs,)``."""
        return self.objective.value({m: data.y(m) for m in self.metrics}) - self.middle


@dataclass(frozen=True)
class Pareto:
    """A front and the mixtures that it is compared with."""

    x: Side
    y: Side
    fit_id: str
    front: pd.DataFrame
    """From the best ``x`` to the best ``y``, index ``point`` from 1: ``y_share`` (weight of that
    side in the sum that was solved), ``x``, ``x_std``, ``y``, ``y_std``, ``nearest_run``,
    ``nearest_distance`` (total variation), ``weight/<domain>``; ``x_plain`` and ``x_plain_std`` in
    the metrics' own unit where they share one, and so for y."""
    points: pd.DataFrame
    """Index ``name`` (natural, uniform, best run, proposal): the same without ``y_share``;
    ``allowed`` (by space and limits), ``gain_x`` (what x would gain on the front at the same y),
    ``gain_y``, ``behind`` (what both would gain at once); NaN: the front has no such point."""
    runs: pd.DataFrame
    """``x`` and ``y`` as measured, by run id."""
    notes: tuple[str, ...] = ()
    csv: Path | None = field(default=None, compare=False)
    """Where it was saved."""

    @property
    def stem(self) -> str:
        """Name of its files, without an ending."""
        return f"{slug(self.x.name)}-vs-{slug(self.y.name)}"

    def table(self) -> pd.DataFrame:
        """Front and other points in one frame, as in the CSV."""
        front = self.front.assign(name=[f"front-{i}" for i in self.front.index])
        both = pd.concat([front, self.points.rename_axis("name").reset_index()], ignore_index=True)
        weights = [c for c in both if str(c).startswith(WEIGHT)]
        return both[["name", *(c for c in both if c not in ("name", *weights)), *weights]]

    def save(self, folder: Path, also: Path | None = None) -> Pareto:
        """Write ``<x>-vs-<y>.csv`` for people and ``.json`` to read it back.

        Args:
            folder: for both, and the mark that this is the latest.
            also: for another copy of the CSV.

        Returns:
            The same with the place of the CSV, of the copy if there is one.
        """
        frames = {
            "front": self.front.reset_index(),
            "points": self.points.rename_axis("name").reset_index(),
            "runs": self.runs.rename_axis("run_id").reset_index(),
        }
        value = {
            "x": asdict(self.x),
            "y": asdict(self.y),
            "fit_id": self.fit_id,
            "notes": self.notes,
            **{name: _columns(frame) for name, frame in frames.items()},
        }
        places = [folder] if also is None else [folder, also.expanduser().resolve()]
        for place in places:
            write_text(place / f"{self.stem}.csv", self.table().to_csv(index=False))
        write_json(folder / f"{self.stem}.json", value)
        write_json(folder / LATEST, {"name": self.stem})
        return replace(self, csv=places[-1] / f"{self.stem}.csv")

    @classmethod
    def load(cls, folder: Path, stem: str) -> Pareto:
        """Read what :meth:`save` wrote."""
        raw = read_json(folder / f"{stem}.json")
        return cls(
            x=_side(raw["x"]),
            y=_side(raw["y"]),
            fit_id=raw["fit_id"],
            front=pd.DataFrame(raw["front"]).set_index("point"),
            points=pd.DataFrame(raw["points"]).set_index("name").astype(_GAINS),
            runs=pd.DataFrame(raw["runs"]).set_index("run_id"),
            notes=tuple(raw["notes"]),
            csv=folder / f"{stem}.csv",
        )


_GAINS = dict.fromkeys(("gain_x", "gain_y", "behind"), float)


def latest(fit_folder: Path) -> Pareto | None:
    """The front that was last computed for a fit; None if none was."""
    marker = fit_folder / FOLDER / LATEST
    if not marker.exists():
        return None
    return Pareto.load(marker.parent, str(read_json(marker)["name"]))


def slug(name: str) -> str:
    """A side's name as part of a file name: ``pile_cc,mmlu*`` is ``pile_cc+mmlu``."""
    plain = re.sub(r"[^\w.+-]+", "-", name.replace(",", "+").replace("*", "")).strip("-+.")
    return plain[:80] or "all"


def select(text: str, available: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The metrics that ``--x`` or ``--y`` stands for, each once.

    Args:
        text: parts between commas; each a group's name, a metric's name, a pattern (``mmlu*``), or
            an unambiguous part of a metric's name.
        available: the metrics that there are.
        groups: the study's ``objective.groups``.

    Raises:
        UserError: a part stands for nothing, or for several; with the valid choices.
    """
    found: list[str] = []
    for part in (p.strip() for p in text.split(",")):
        if not part:
            raise UserError(f"'{text}': an empty name between commas")
        for name in groups.get(part, (part,)):
            where = f"objective.groups.{part}" if part in groups else ""
            found += _metrics(name, available, where, groups)
    return list(dict.fromkeys(found))


def _metrics(
    name: str, available: Sequence[str], where: str, groups: Mapping[str, Sequence[str]]
) -> list[str]:
    if name in available:
        return [name]
    if _PATTERN.search(name):
        hits = [m for m in available if fnmatchcase(m, name)]
    else:
        hits = [m for m in available if name in m]
        if len(hits) > 1:
            place = f"{where}: " if where else ""
            raise UserError(
                f"{place}metric '{name}' could be any of {_some(hits)}; write more of it, or "
                f"'*{name}*' for all of them"
            )
    if not hits:
        kind = "metric" if where or not groups else "metric or group"
        raise unknown_name(kind, name, [*available, *(() if where else groups)], where)
    return hits


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")


def sides(x: str, y: str, data: Observations, settings: ObjectiveConfig) -> tuple[Side, Side]:
    """Both sides of the trade-off.

    Raises:
        UserError: as :func:`select`; a metric stands on both sides, or never varies.
    """
    chosen = [select(text, data.metric_names, settings.groups) for text in (x, y)]
    both = [m for m in chosen[0] if m in chosen[1]]
    if both:
        raise UserError(
            f"--x {x} and --y {y} share {_some(both)}; a metric cannot be traded against itself"
        )
    first, second = (
        _make_side(name, metrics, data, settings)
        for name, metrics in zip((x, y), chosen, strict=True)
    )
    return first, second


def _make_side(
    name: str, metrics: Sequence[str], data: Observations, settings: ObjectiveConfig
) -> Side:
    scales = data.spread()[list(metrics)]
    flat = [m for m in metrics if not scales[m] > 0]
    if flat:
        raise UserError(f"{name}: {_some(flat)} is the same in every run; leave it out")
    signs = tuple(sign(m, settings.directions) for m in metrics)
    side = Side(name, tuple(metrics), signs, tuple(map(float, scales)), 0.0, _unit(metrics, signs))
    return replace(side, middle=float(side.measured(data).mean()))


def _unit(metrics: Sequence[str], signs: Sequence[int]) -> str | None:
    """What all the metrics are measured in, as far as their names tell."""
    if len(metrics) == 1:
        return "bits per byte" if _BITS.search(metrics[0]) else metrics[0]
    if all(_BITS.search(m) for m in metrics) and len(set(signs)) == 1:
        return "bits per byte"
    return None


@dataclass(frozen=True)
class Ground:
    """What a front is computed from."""

    surrogate: Surrogate
    settings: Settings
    data: Observations
    limits: tuple[Limit, ...]
    seed: int

    def problem(self, x: Side, y: Side, share: float) -> Problem:
        """Lower ``(1 - share) · x + share · y``; a side without weight is left out."""
        parts = [(side, w) for side, w in ((x, 1 - share), (y, share)) if w > 0]
        weights = {m: w * t for side, w in parts for m, t in side.terms.items()}
        objective = Objective(
            tuple(weights),
            tuple(weights.values()),
            tuple(s for side, _ in parts for s in side.signs),
        )
        values = objective.value({m: self.data.y(m) for m in objective.metrics})
        return solve.pose(
            self.surrogate,
            objective,
            self.settings.space,
            self.settings.fit,
            limits=self.limits,
            prior=self.settings.prior,
            spread=float(values.std(ddof=1)),
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
        found = self._resume(share, [a.weights, b.weights])
        before = [p.share for p in self.points]
        if self._is_new(found):
            self._add(share, found)
            self._keep()
        if [p.share for p in self.points] == before:
            self._closed.add((a.share, b.share))
        return True

    def cross_check(self) -> None:
        """Start again where another solution serves a weight better than its own."""
        pool = np.array([p.weights for p in self.points])
        for i, point in enumerate(list(self.points)):
            values = self._problem(point.share).value(pool)
            best = int(np.argmin(values))
            if values[best] < values[i] - 1e-6:
                self._add(point.share, self._resume(point.share, [pool[best]]))
        self._keep()

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
    fit_id: str = "",
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
    return Pareto(x, y, fit_id, frame, others, runs, tuple(_notes(x, y, ground.surrogate)))


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
                f"{len(side.metrics)} metrics ({_some(weak[:3])}{', …' if len(weak) > 3 else ''}); "
                "their part of this side is little more than their mean"
            )
    return found


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Plain values by column; NaN is None."""
    return {
        str(name): [None if v != v else v for v in column.tolist()]
        for name, column in frame.items()
    }


def _side(raw: Mapping[str, Any]) -> Side:
    return Side(
        name=raw["name"],
        metrics=tuple(raw["metrics"]),
        signs=tuple(raw["signs"]),
        scales=tuple(raw["scales"]),
        middle=raw["middle"],
        unit=raw["unit"],
    )
