"""What happened on the way: losses and gradients that jump or grow, learning curves that cross."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
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


def _course(steps: pd.DataFrame, figure: _Figure) -> Iterator[Flag]:
    known = steps[steps[figure.column] > 0].sort_values(["run_id", "step"])
    courses = {
        str(run): (own["step"].to_numpy(), np.log(own[figure.column].to_numpy(dtype=float)))
        for run, own in known.groupby("run_id")
        if len(own) >= LEAST_POINTS
    }
    if not courses:
        return
    jumps = {run: _jumps(values) for run, (_, values) in courses.items()}
    common = float(robust(np.concatenate(list(jumps.values()))))
    rises = {run: _rise(values) for run, (_, values) in courses.items()}
    usual = max(0.0, float(np.median([r for r, _ in rises.values()])))
    for run, (at, _) in courses.items():
        scale = max(common, float(robust(jumps[run])))
        worst = int(jumps[run].argmax())
        jump = float(jumps[run][worst])
        if jump > max(figure.far * scale, math.log(figure.jump)):
            yield Flag(
                run, "spike",
                f"{figure.name} {math.exp(jump):.2f} times as high in step "
                f"{at[worst + _BEFORE]} as just before",
                figure.column,
            )  # fmt: skip
        rise, points = rises[run]
        # The median of k normal values has a standard deviation of 1.25/√k; this is of two.
        error = FAR * scale * 1.25 * math.sqrt(2 / points)
        if rise - usual > max(error, math.log(figure.growth)):
            yield Flag(
                run, "growth",
                f"{figure.name} grew: {math.exp(rise):.2f} times its lowest at the end",
                figure.column,
            )  # fmt: skip


def _jumps(values: FloatArray) -> FloatArray:
    """Every value less the median of those before it."""
    before = np.lib.stride_tricks.sliding_window_view(values[:-1], _BEFORE)
    return np.asarray(values[_BEFORE:] - np.median(before, axis=1))


def _rise(values: FloatArray) -> tuple[float, int]:
    """Median of the last tenth less the lowest median of as many before; and how many they are."""
    width = max(3, len(values) // 10)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
    return float(medians[-1] - medians[: -width or None].min()), width


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
