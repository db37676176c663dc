"""What drives it: effect curves, effects of domains on metrics, interactions."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regmix.plot.draw.base import WIDTH, canvas, percent, rows, sheet, ticks
from regmix.plot.paper import BETTER, COLOURS, INTERVAL90, WORSE, Paper
from regmix.quantities import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_MOST_TEXT = 320
"""Cells of a matrix up to which each has its number."""


def effects(frame: pd.DataFrame, proposal: pd.Series, label: str, paper: Paper) -> Figure:
    """A curve a domain: the gain over the proposal as its share moves, with a 90% band.

    Args:
        frame: as :func:`regmix.plot.effects.curves`.
        proposal: its shares, by domain as in the frame.
        label: what the gain is of.
        paper: what it is drawn on.
    """
    names = list(dict.fromkeys(frame["domain"]))
    columns = min(_COLUMNS, max(len(names), 1))
    lines = max(1, ceil(len(names) / columns))
    figure = canvas(f"Effect of every domain's share on {label}", WIDTH, 0.4 + 1.55 * lines)
    grid = np.ravel(figure.subplots(lines, columns, sharey=True, squeeze=False))
    for axes, name in zip(grid, names, strict=False):
        _curve(axes, frame[frame["domain"] == name], float(proposal[name]), paper)
        axes.set_title(short(name))
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("gain")
    return figure


def _curve(axes: Any, own: pd.DataFrame, at: float, paper: Paper) -> None:
    half = INTERVAL90 * own["gain_std"]
    axes.axhline(0, color=paper.muted, linewidth=0.8)
    axes.axvline(at, color=COLOURS["proposal"], linewidth=1, linestyle=(0, (2, 2)))
    axes.fill_between(own["share"], own["gain"] - half, own["gain"] + half, linewidth=0,
                      color=COLOURS["proposal"], alpha=0.2)  # fmt: skip
    axes.plot(own["share"], own["gain"], color=COLOURS["proposal"], linewidth=1.6)
    far = own[own["extrapolates"]]
    axes.plot(far["share"], far["gain"], "o", color=WORSE, markersize=3.4, markeredgewidth=0)
    axes.grid(visible=True, axis="both")
    percent(axes.xaxis)
    for axis in (axes.xaxis, axes.yaxis):
        ticks(axis, 3)
    axes.tick_params(labelsize=7.5)


def matrix(frame: pd.DataFrame, paper: Paper) -> Figure:
    """Effects of domains (rows) on metrics (columns), in spreads; faint where the sign is open.

    Args:
        frame: as :class:`regmix.plot.effects.Matrix`.
        paper: what it is drawn on.
    """
    from matplotlib.colors import LinearSegmentedColormap

    effect = frame.pivot_table(index="metric", columns="domain", values="effect", sort=False)
    clear = frame.pivot_table(index="metric", columns="domain", values="clear", sort=False)
    metrics, domains = list(effect.index), list(effect.columns)
    height = 1.5 + 0.26 * len(metrics)
    figure, axes = sheet(
        "Effect of domains on metrics", max(WIDTH, 2.4 + 0.47 * len(domains)), height
    )
    most = float(np.nanmax(np.abs(effect.to_numpy()))) if effect.size else 1.0
    scale = LinearSegmentedColormap.from_list("gain", [WORSE, "#f4f4f4", BETTER])
    values, sure = effect.to_numpy(), clear.to_numpy(dtype=bool)
    axes.imshow(values, cmap=scale, vmin=-most, vmax=most, aspect="auto", interpolation="none")
    axes.set_xticks(np.arange(len(domains)), [short(d, 22) for d in domains], rotation=40,
                    ha="left", rotation_mode="anchor")  # fmt: skip
    axes.xaxis.tick_top()
    axes.set_yticks(np.arange(len(metrics)), [short(m) for m in metrics])
    axes.tick_params(labelcolor=paper.ink, labelsize=8.5)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    if values.size <= _MOST_TEXT:
        for (row, column), value in np.ndenumerate(values):
            dark = abs(value) > 0.7 * most
            text = f"{value:+.1f}".replace("-", "−") if sure[row, column] else "·"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5,
                      color="#ffffff" if dark else "#1b1f24")  # fmt: skip
    return figure


def interactions(frame: pd.DataFrame, paper: Paper) -> Figure:
    """The strongest pairs, each with a 90% interval.

    Args:
        frame: as :func:`regmix.plot.effects.interactions`.
        paper: what it is drawn on.
    """
    pairs = zip(frame["one"], frame["other"], strict=True)
    labels = [f"{short(a, 20)} × {short(b, 20)}" for a, b in pairs]
    figure, axes = sheet("Interactions of domains", WIDTH, 0.75 + 0.34 * len(frame))
    place = rows(axes, ["x"] * len(labels), paper)
    axes.set_yticks(place, labels)
    axes.axvline(0, color=paper.muted, linewidth=1)
    for clear, face in ((True, COLOURS["proposal"]), (False, paper.card)):
        own = frame["clear"].to_numpy(dtype=bool) == clear
        axes.errorbar(frame["interaction"][own], place[own],
                      xerr=INTERVAL90 * frame["std"][own], fmt="o", markersize=6.5,
                      color=COLOURS["proposal"], markerfacecolor=face, elinewidth=1.3,
                      capsize=3)  # fmt: skip
    ticks(axes.xaxis, 4)
    axes.set_xlabel("← less together · interaction · more together →")
    return figure
