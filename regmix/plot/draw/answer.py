"""The answer: mixtures beside each other, gains predicted and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regmix.plot.draw.base import NARROW, WIDTH, legend, percent, rows, sheet, ticks
from regmix.plot.paper import COLOURS, Paper

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def weights(frame: pd.DataFrame, paper: Paper) -> Figure:
    """Bars of mixtures by domain, with ranges; the uniform one, the same everywhere, is a line.

    Args:
        frame: as :func:`regmix.plot.frames.weights`, with the proposal or the natural mixture, and
            ``tied_low``, ``tied_high`` where there is a proposal.
        paper: what it is drawn on.
    """
    figure, axes = sheet("Share of every domain by mixture", WIDTH, 0.9 + 0.36 * len(frame))
    place = rows(axes, list(frame.index), paper)
    bars = [name for name in ("proposal", "natural") if name in frame]
    shifts = (0.0,) if len(bars) == 1 else (-0.17, 0.24)
    for name, shift in zip(bars, shifts, strict=True):
        height = 0.42 if name == "proposal" else 0.26
        axes.barh(place + shift, frame[name], height, color=COLOURS[name], label=name)
    ends = frame[bars[0]]
    if "tied_low" in frame:
        _ranges(axes, frame, place + shifts[0], paper)
        ends = frame[["proposal", "tied_high"]].max(axis=1)
    for row, share, end in zip(place, frame[bars[0]], ends, strict=True):
        axes.annotate(f"{share:.1%}", (end, row + shifts[0]), (5, 0), va="center", fontsize=8.5,
                      textcoords="offset points", color=paper.ink,
                      bbox={"facecolor": paper.card, "edgecolor": "none", "pad": 0.8})  # fmt: skip
    uniform(axes, frame)
    axes.set_xlim(0, 1.14 * max(float(ends.max()), float(frame.to_numpy().max())))
    axes.set_xlabel("share of training tokens")
    percent(axes.xaxis)
    legend(figure, axes)
    return figure


def _ranges(axes: Any, frame: pd.DataFrame, place: np.ndarray, paper: Paper) -> None:
    """What each share may be, on the proposal's bars: a light casing makes it read on both."""
    low, high = frame["tied_low"], frame["tied_high"]
    axes.hlines(place, low, high, color=paper.card, linewidth=3.4)
    axes.hlines(place, low, high, color=paper.ink, linewidth=1.3)
    for end, label in ((low, "_"), (high, "as good")):
        axes.plot(end, place, "|", color=paper.ink, markersize=7, markeredgewidth=1.3, label=label)


def uniform(axes: Any, mixtures: pd.DataFrame) -> None:
    """The uniform share as a line across all rows."""
    axes.axvline(mixtures["uniform"].iloc[0], color=COLOURS["uniform"], linewidth=1.6,
                 linestyle=(0, (4, 2)), label="uniform")  # fmt: skip


def gains(frame: pd.DataFrame, paper: Paper) -> Figure:
    """Gain of the objective over every baseline: predicted with 90%, measured with 95%.

    Args:
        frame: as :func:`regmix.plot.trust.gains`.
        paper: what it is drawn on.
    """
    names = list(dict.fromkeys(frame["reference"]))
    figure, axes = sheet("Gain of the objective over every baseline", WIDTH, 1.2 + 0.5 * len(names))
    place = pd.Series(rows(axes, names, paper), names)
    axes.axvline(0, color=paper.muted, linewidth=1)
    looks = (
        ("predicted", -0.16, "D", 5.0, paper.card, paper.ink, "predicted at proxy size, 90%"),
        ("measured", 0.16, "o", 7.0, COLOURS["proposal"], COLOURS["proposal"],
         "measured at the target size, 95%"),
    )  # fmt: skip
    for kind, shift, marker, size, face, edge, label in looks:
        own = frame[frame["kind"] == kind]
        if own.empty:
            continue
        reach = [(own["gain"] - own["low"]).fillna(0.0), (own["high"] - own["gain"]).fillna(0.0)]
        axes.errorbar(own["gain"], own["reference"].map(place) + shift, xerr=reach, fmt=marker,
                      markersize=size, color=edge, markerfacecolor=face, elinewidth=1.4,
                      capsize=3, label=label)  # fmt: skip
    seeds = frame[frame["kind"] == "seed"]
    if len(seeds):
        axes.plot(seeds["gain"], seeds["reference"].map(place) + 0.16, "o", markersize=3.5,
                  color=paper.ink, alpha=0.6, markeredgewidth=0, label="one seed")  # fmt: skip
    ticks(axes.xaxis, 6)
    axes.set_xlabel("← proposal worse · gain of the objective · proposal better →")
    axes.set_ylim(len(names) - 0.45, -0.55)
    figure.legend(loc="outside upper left", ncols=2, borderpad=0.1)
    return figure


def metric_gains(frame: pd.DataFrame, reference: str, paper: Paper) -> Figure:
    """Measured gains against one reference: a dot a seed, their mean, the predicted gain beside.

    Args:
        frame: as :func:`regmix.plot.frames.metric_gains`.
        reference: the one to draw.
        paper: what it is drawn on.
    """
    frame = frame[frame["reference"] == reference]
    means = frame.groupby("row").agg(
        {"label": "first", "gain": "mean", "predicted": "first", "predicted_std": "first",
         "limit": "first"}
    )  # fmt: skip
    figure, axes = sheet(f"Measured gain against {reference}", NARROW, 1.25 + 0.32 * len(means))
    place = pd.Series(rows(axes, list(means["label"]), paper), means.index)
    limit = means["limit"].fillna(0.0)
    axes.barh(place, 2 * limit, 0.72, -limit, color=paper.grid, label="within seed noise")
    axes.axvline(0, color=paper.muted, linewidth=1)
    colour = COLOURS[reference]
    axes.plot(frame["gain"], frame["row"].map(place) + 0.12, "o", markersize=4, alpha=0.55,
              markeredgewidth=0, color=colour, label="one seed")  # fmt: skip
    axes.plot(means["gain"], place + 0.12, "o", markersize=7.5, color=colour,
              markeredgecolor=paper.ink, markeredgewidth=0.8, label="mean")  # fmt: skip
    axes.errorbar(means["predicted"], place - 0.2, xerr=means["predicted_std"], fmt="D",
                  markersize=4.5, color=paper.ink, markerfacecolor=paper.card, elinewidth=0.9,
                  label="predicted ± std")  # fmt: skip
    axes.set_xlabel("← proposal worse · gain · proposal better →")
    figure.legend(loc="outside upper left", ncols=2, borderpad=0.1)
    return figure
