"""What happened: what the runs tried, what they came to, how fast they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from regmix.plot.draw.answer import uniform
from regmix.plot.draw.base import WIDTH, legend, percent, rows, sheet
from regmix.plot.paper import COLOURS, INTERVAL90, MANY_POINTS, Paper
from regmix.quantities import amount

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shares(
    points: pd.DataFrame, quartiles: pd.DataFrame, mixtures: pd.DataFrame, paper: Paper
) -> Figure:
    """What the swarm sampled of every domain, with the mixtures of interest marked.

    Args:
        points: as :func:`regmix.plot.frames.shares`.
        quartiles: as :func:`regmix.plot.frames.share_quartiles`; its order is drawn.
        mixtures: as :func:`regmix.plot.frames.weights`.
        paper: what it is drawn on.
    """
    height = 0.95 + 0.38 * len(quartiles)
    figure, axes = sheet("Sampled shares of every domain over the runs", WIDTH, height)
    place = pd.Series(rows(axes, list(quartiles.index), paper), quartiles.index)
    axes.plot(points["share"], points["domain"].map(place) + 0.55 * points["offset"], "o",
              markersize=3.4, markeredgewidth=0, alpha=0.5, color=COLOURS["runs"], label="runs",
              rasterized=len(points) > MANY_POINTS)  # fmt: skip
    box = quartiles["q75"] - quartiles["q25"]
    axes.barh(place, box, 0.5, quartiles["q25"], color="none", edgecolor=paper.muted,
              linewidth=0.8)  # fmt: skip
    axes.plot(quartiles["median"], place, "|", markersize=13, color=paper.muted,
              markeredgewidth=1.6)  # fmt: skip
    uniform(axes, mixtures)
    for name, shape, size in (("proposal", "o", 9.0), ("natural", "D", 5.5)):
        if name in mixtures:
            axes.plot(mixtures[name].reindex(place.index), place, shape, markersize=size,
                      label=name, color=COLOURS[name], markeredgecolor=paper.card,
                      markeredgewidth=0.9)  # fmt: skip
    axes.set_xlabel("share of training tokens")
    highest = max(float(quartiles["high"].max()), float(mixtures.to_numpy().max()))
    axes.set_xlim(-0.03 * highest, 1.03 * highest)
    percent(axes.xaxis)
    legend(figure, axes)
    return figure


def objectives(
    frame: pd.DataFrame,
    predicted: tuple[float, float] | None,
    noise: float | None,
    paper: Paper,
) -> Figure:
    """Objective of the runs from best to worst, and where the proposal is predicted.

    Args:
        frame: as :func:`regmix.plot.frames.run_objectives`.
        predicted: mean and standard deviation of the proposal.
        noise: standard deviation of the objective between seeds.
        paper: what it is drawn on.
    """
    figure, axes = sheet("Objective of the runs, best first", WIDTH, 3.0)
    rank = np.arange(1, len(frame) + 1)
    bars = None if noise is None else np.full(len(frame), noise)
    axes.errorbar(rank, frame["objective"], yerr=bars, fmt="o", markersize=3.5, markeredgewidth=0,
                  color=COLOURS["runs"], elinewidth=0.6, zorder=1, label="runs")  # fmt: skip
    axes.plot(rank[:1], frame["objective"].iloc[:1], "o", markersize=8, color=COLOURS["best run"],
              markeredgecolor=paper.card, label="best run")  # fmt: skip
    for name in ("natural", "uniform"):
        found = np.flatnonzero((frame["name"] == name) & (frame["role"] == "baseline"))
        axes.plot(rank[found], frame["objective"].iloc[found], "D" if name == "natural" else "s",
                  markersize=7, color=COLOURS[name], markeredgecolor=paper.card,
                  label=name if len(found) else None)  # fmt: skip
    if predicted is not None:
        mean, half = predicted[0], INTERVAL90 * predicted[1]
        axes.axhspan(mean - half, mean + half, color=COLOURS["proposal"], alpha=0.18, linewidth=0)
        axes.axhline(mean, color=COLOURS["proposal"], linewidth=1.4, label="proposal, predicted")
    axes.grid(axis="both")
    axes.set(xlabel="run, from best to worst", ylabel="objective (lower is better)")
    axes.tick_params(labelsize=8.5)
    legend(figure, axes)
    return figure


def throughput(frame: pd.DataFrame, paper: Paper) -> Figure:
    """Tokens a second of every finished run, by role.

    Args:
        frame: as :func:`regmix.plot.trust.throughput`.
        paper: what it is drawn on.
    """
    roles = list(dict.fromkeys(frame["role"]))
    figure, axes = sheet("Tokens a second of the finished runs", WIDTH, 0.75 + 0.42 * len(roles))
    place = pd.Series(rows(axes, roles, paper), roles)
    jitter = (np.arange(len(frame)) * (5**0.5 - 1) / 2 % 1 - 0.5) * 0.5
    axes.plot(frame["tokens_per_second"], frame["role"].map(place) + jitter, "o", markersize=3.6,
              markeredgewidth=0, alpha=0.6, color=COLOURS["runs"],
              rasterized=len(frame) > MANY_POINTS)  # fmt: skip
    middle = frame.groupby("role")["tokens_per_second"].median().reindex(roles)
    axes.plot(middle, place, "|", markersize=15, markeredgewidth=1.8, color=paper.ink)
    axes.set_xlim(left=0, right=1.08 * float(frame["tokens_per_second"].max()))
    axes.xaxis.set_major_formatter(lambda value, _: amount(value))
    axes.set_xlabel("tokens a second")
    return figure
