"""What happened on the way: losses and gradients that jump or grow, learning curves that cross."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from regmix.flags import base
from regmix.flags.base import FAR, Flag, limit, robust
from regmix.mixture import FloatArray

LEAST_POINTS = 10
"""Log points below which a course is not judged."""
CHANCE = 0.005
"""That a clean study has a run flagged because its curve crosses the others'."""
_BEFORE = 5
"""Points whose median says what comes next."""


@dataclass(frozen=True)
class _Figure:
    column: str
    name: str
    far: float
    """Robust standard deviations of a jump: single batches have long tails."""
    jump: float
    growth: float
    """Factors from which on a jump, and growth until the end, are told."""


_FIGURES = (
    _Figure("loss", "loss", far=10.0, jump=1.1, growth=1.1),
    _Figure("grad_norm", "gradient norm", far=15.0, jump=10.0, growth=3.0),
)


def losses(steps: pd.DataFrame) -> list[Flag]:
    """Runs whose loss or gradient norm spikes, or grows until the end.

    All on logarithms. A spike: the value is 10 robust standard deviations (its own or those of
    all runs, the larger) above the median of the five points before, and 1.1 times it (gradient
    norm: 15, and 10 times). Growth: the median of the last tenth is five standard deviations above
    that of the lowest tenth before, and 1.1 times it (3 times), beyond what the runs commonly do.

    Args:
        steps: ``run_id``, ``step``, ``loss``, ``grad_norm``.
    """
    return [flag for figure in _FIGURES for flag in _course(steps, figure)]


@dataclass(frozen=True)
class _Courses:
    """Runs that have equally many log points."""

    runs: list[str]
    steps: npt.NDArray[np.int64]
    """Shape ``(n_runs, n_points)``."""
    jumps: FloatArray
    """Every logarithm less the median of those before it, ``(n_runs, n_points - 5)``."""
    rises: FloatArray
    """Median of the last points less the lowest median of as many before, ``(n_runs,)``."""
    width: int
    """How many points these medians are of."""

    @classmethod
    def of(cls, runs: list[str], steps: npt.NDArray[np.int64], values: FloatArray) -> _Courses:
        """Courses by their logarithms, ``(n_runs, n_points)``."""
        windows = np.lib.stride_tricks.sliding_window_view
        before = windows(values[:, :-1], _BEFORE, axis=1)
        width = max(3, values.shape[1] // 10)
        medians = np.median(windows(values, width, axis=1), axis=2)
        return cls(
            runs,
            steps,
            np.asarray(values[:, _BEFORE:] - np.median(before, axis=2)),
            np.asarray(medians[:, -1] - medians[:, :-width].min(axis=1)),
            width,
        )


def _course(steps: pd.DataFrame, figure: _Figure) -> list[Flag]:
    courses = list(_courses(steps, figure.column))
    if not courses:
        return []
    common = float(robust(np.concatenate([c.jumps.ravel() for c in courses])))
    usual = max(0.0, float(np.median(np.concatenate([c.rises for c in courses]))))
    found = [flag for c in courses for flag in _judged(c, figure, common, usual)]
    return sorted(found, key=lambda flag: flag.run_id)


def _courses(steps: pd.DataFrame, column: str) -> Iterator[_Courses]:
    """All that are long enough to be judged, those of one length together."""
    known = steps[steps[column] > 0].sort_values(["run_id", "step"])
    codes, names = pd.factorize(known["run_id"])
    points = np.bincount(codes)
    begins = np.cumsum(points) - points
    values = np.log(known[column].to_numpy(dtype=float))
    at = known["step"].to_numpy()
    for n in np.unique(points[points >= LEAST_POINTS]):
        own = np.flatnonzero(points == n)
        rows = begins[own, None] + np.arange(n)
        yield _Courses.of(list(map(str, names[own])), at[rows], values[rows])


def _judged(courses: _Courses, figure: _Figure, common: float, usual: float) -> Iterator[Flag]:
    """Flags of courses.

    Args:
        common: robust standard deviation of all runs' jumps.
        usual: rise of the runs in the middle.
    """
    jumps = courses.jumps
    scales = np.maximum(common, robust(jumps.T))
    worst = jumps.argmax(axis=1)
    for i, run in enumerate(courses.runs):
        scale, jump, rise = float(scales[i]), float(jumps[i, worst[i]]), float(courses.rises[i])
        if jump > max(figure.far * scale, math.log(figure.jump)):
            yield Flag(
                run, "spike",
                f"{figure.name} {math.exp(jump):.2f} times as high in step "
                f"{courses.steps[i, worst[i] + _BEFORE]} as just before",
                figure.column,
            )  # fmt: skip
        # The median of k normal values has a standard deviation of 1.25/√k; this is of two.
        error = FAR * scale * 1.25 * math.sqrt(2 / courses.width)
        if rise - usual > max(error, math.log(figure.growth)):
            yield Flag(
                run, "growth",
                f"{figure.name} grew: {math.exp(rise):.2f} times its lowest at the end",
                figure.column,
            )  # fmt: skip


def crossings(metrics: pd.DataFrame) -> list[Flag]:
    """Runs whose learning curve crosses the others'.

    Of every metric that was measured on the way, the last value is predicted from the one at each
    earlier point by a robust line through all runs (Theil 1950). A run is flagged that is five
    robust standard deviations or more off it and has passed a quarter of the runs.

    Args:
        metrics: ``run_id``, ``step``, ``name``, ``value``.
    """
    found: dict[tuple[str, str], tuple[float, Flag]] = {}  # of several points, the worst
    judged = dict(_on_the_way(metrics))
    tests = sum(len(wide) * (wide.shape[1] - 1) for wide in judged.values())
    for name, wide in judged.items():
        last = wide.iloc[:, -1].to_numpy(dtype=float)
        bound = limit(len(wide), tests, CHANCE)
        for step in wide.columns[:-1]:
            early = wide[step].to_numpy(dtype=float)
            for c in base.crossings(early, last, bound):
                run = str(wide.index[c.index])
                text = (
                    f"{name}: rank {c.ranks[0]} of {len(wide)} in step {step}, {c.ranks[1]} at the "
                    f"end ({c.off:+.0f} std from where the others' curves lead, limit {bound:.1f})"
                )
                key = run, name
                if key not in found or abs(c.off) > found[key][0]:
                    found[key] = abs(c.off), Flag(run, "curve", text, name)
    return [flag for _, flag in found.values()]


def _on_the_way(metrics: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Metrics that were measured at several points of enough runs: value by run and step."""
    for name, own in metrics.groupby("name"):
        wide = own.pivot_table(index="run_id", columns="step", values="value").dropna(axis=1)
        if wide.shape[1] > 1 and len(wide) >= LEAST_POINTS:
            yield str(name), wide
