"""A Pareto front: the trade-off above, what its mixtures are made of below."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regmix.pareto import WEIGHT, Pareto, Side
from regmix.plot.draw.base import canvas
from regmix.plot.paper import COLOURS, Paper
from regmix.quantities import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Paul Tol's "muted" scheme: nine hues told apart with any colour vision; the rest is grey.
SHARES = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255")
_MARKERS = {"proposal": "o", "natural": "D", "uniform": "s", "best run": "^"}
_INCHES = (7.2, 7.0)
_EVERY = 0.03
"""Distance along the axes below which two labels of points would touch."""


def made_of(found: Pareto) -> pd.DataFrame:
    """Shares along the front by domain, the largest first, small ones joined as ``others``."""
    weights = found.front[[c for c in found.front if str(c).startswith(WEIGHT)]]
    weights = weights.rename(columns=lambda c: str(c).removeprefix(WEIGHT))
    order = weights.max().sort_values(ascending=False, kind="stable").index
    kept = list(order[: len(SHARES)])
    shown = weights[kept]
    if len(order) > len(kept):
        shown = shown.assign(others=weights.drop(columns=kept).sum(axis=1))
    return shown


def front(found: Pareto, paper: Paper) -> Figure:
    """The two sides against each other, and the mixtures along the front."""
    figure = canvas(f"Front between {found.x.name} and {found.y.name}", *_INCHES)
    upper, lower = figure.subplots(2, 1, height_ratios=[2.5, 1])
    _trade_off(upper, found, paper)
    _shares(lower, made_of(found), paper)
    return figure


def _trade_off(axes: Any, found: Pareto, paper: Paper) -> None:
    front, points = found.front, found.points
    limits = _limits(found)
    axes.plot(found.runs["x"], found.runs["y"], "o", markersize=3.2, markeredgewidth=0, alpha=0.35,
              color=COLOURS["runs"], label="runs, measured", zorder=1)  # fmt: skip
    axes.errorbar(front["x"], front["y"], xerr=front["x_std"], yerr=front["y_std"], fmt="none",
                  ecolor=paper.muted, elinewidth=0.7, alpha=0.55, zorder=2)  # fmt: skip
    axes.plot(front["x"], front["y"], "-o", color=paper.ink, linewidth=1.6, markersize=4.5,
              markerfacecolor=paper.card, markeredgewidth=1.2, label="front ± std",
              zorder=3)  # fmt: skip
    for name, point in points.iterrows():
        colour = COLOURS.get(str(name), paper.ink)
        axes.errorbar(point["x"], point["y"], xerr=point["x_std"], yerr=point["y_std"],
                      fmt=_MARKERS.get(str(name), "v"), markersize=8, color=colour,
                      markeredgecolor=paper.card, markeredgewidth=0.8, elinewidth=1, zorder=4,
                      label=_label(str(name), bool(point["allowed"])))  # fmt: skip
    _number(axes, front, limits, paper.ink)
    axes.grid(visible=True, axis="both")
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.set_xlabel(_axis(found.x), color=paper.ink)
    axes.set_ylabel(_axis(found.y), color=paper.ink)
    axes.tick_params(labelsize=8.5)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5)


def _label(name: str, allowed: bool) -> str:
    return name if allowed else f"{name} (outside the limits)"


def _limits(found: Pareto) -> list[tuple[float, float]]:
    """Front and named points with their errors; runs are shown as far as they are near."""
    limits = []
    for side in ("x", "y"):
        ends = [
            f[side] + sign * f[f"{side}_std"]
            for f in (found.front, _near(found))
            for sign in (-1, 1)
        ]
        low, high = min(e.min() for e in ends if len(e)), max(e.max() for e in ends if len(e))
        pad = 0.06 * (high - low) or 1.0
        limits.append((float(low - pad), float(high + pad)))
    return limits


def _near(found: Pareto) -> pd.DataFrame:
    """Named points that are not so far away that the front would become a dot."""
    front, points = found.front, found.points
    keep = np.ones(len(points), dtype=bool)
    for side in ("x", "y"):
        extent = float(np.ptp(front[side])) or 1.0
        keep &= (points[side] < front[side].max() + extent).to_numpy()
    return points[keep]


def _number(axes: Any, front: pd.DataFrame, limits: list[tuple[float, float]], ink: str) -> None:
    """Numbers of the front's points, as far as they do not touch."""
    scale = [1 / (high - low) for low, high in limits]
    last: tuple[float, float] | None = None
    for number, point in front.iterrows():
        at = (float(point["x"]) * scale[0], float(point["y"]) * scale[1])
        close = last is not None and np.hypot(at[0] - last[0], at[1] - last[1]) < _EVERY
        if close and number != front.index[-1]:
            continue
        last = at
        axes.annotate(str(number), (point["x"], point["y"]), (-6, -4), color=ink, fontsize=8.5,
                      textcoords="offset points", ha="right", va="top", zorder=5)  # fmt: skip


def _axis(side: Side) -> str:
    """What an axis shows and which way is better; y is read upwards, so that ← points down."""
    n = len(side.metrics)
    what = side.name if n == 1 else f"{side.name}: mean of {n} metrics"
    name = "\n".join(textwrap.wrap(what, 56))
    return f"{name}\n← better · standard deviations over the swarm"


def _shares(axes: Any, shares: pd.DataFrame, paper: Paper) -> None:
    bottom = np.zeros(len(shares))
    positions = np.arange(1, len(shares) + 1)
    for name, colour in zip(shares, (*SHARES, COLOURS["runs"]), strict=False):
        axes.bar(positions, shares[name], 0.86, bottom, color=colour, label=short(str(name)),
                 edgecolor=paper.card, linewidth=0.4)  # fmt: skip
        bottom += shares[name].to_numpy()
    axes.grid(visible=False)
    axes.set(ylim=(0, 1), xlim=(0.4, len(shares) + 0.6))
    axes.set_xticks(positions)
    axes.set_xlabel(
        "mixture on the front, from best on the horizontal to best on the vertical axis"
    )
    axes.set_ylabel("share of tokens")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
    axes.tick_params(labelsize=8.5)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5),
                fontsize=8.5)  # fmt: skip
