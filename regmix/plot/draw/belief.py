"""Why to believe it: held-out fit, noise floor, learning curve, extrapolation, larger sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from regmix.noise import ADVISED_SNR, LEAST_SNR
from regmix.plot.draw.base import WIDTH, rows, sheet, ticks
from regmix.plot.paper import BETTER, COLOURS, INTERVAL90, WORSE, Paper
from regmix.quantities import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def held_out(
    frame: pd.DataFrame, label: str, paper: Paper, *, size: float, rasterise: bool = False
) -> Figure:
    """Held-out predictions with 90% intervals against what was measured.

    Args:
        frame: as :func:`regmix.plot.frames.held_out`.
        label: the metric's name, read aloud.
        paper: what it is drawn on.
        size: width in inches; the height is the same.
        rasterise: embed the points as an image, for pages with many such figures.
    """
    figure, axes = sheet(f"Held-out prediction against measurement: {label}", size, size)
    axes.errorbar(frame["measured"], frame["predicted"], yerr=INTERVAL90 * frame["std"], fmt="o",
                  markersize=3 if size < 3 else 4, markeredgewidth=0, color=COLOURS["proposal"],
                  ecolor=COLOURS["runs"], elinewidth=0.5, alpha=0.85,
                  rasterized=rasterise)  # fmt: skip
    both = frame[["measured", "predicted"]].to_numpy()
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    pad = 0.06 * (high - low) or 1.0
    limits = (low - pad, high + pad)
    axes.plot(limits, limits, color=paper.ink, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="measured", ylabel="predicted")
    axes.grid(axis="both")
    for axis in (axes.xaxis, axes.yaxis):
        ticks(axis, 4 if size < 3 else 6)
    axes.tick_params(labelsize=8.5)
    return figure


def noise_floor(frame: pd.DataFrame, paper: Paper) -> Figure:
    """Spread over seed noise by metric, on a logarithmic axis, with the two marks to pass.

    Args:
        frame: as :func:`regmix.plot.trust.noise_floor`, without what is not known.
        paper: what it is drawn on.
    """
    figure, axes = sheet("Spread over seed noise by metric", WIDTH, 0.95 + 0.27 * len(frame))
    place = rows(axes, list(frame["metric"]), paper)
    finite = frame["snr"].replace(np.inf, np.nan)
    top = 1.6 * max(float(finite.max(skipna=True)) if finite.notna().any() else 1.0, ADVISED_SNR)
    value = finite.fillna(top).clip(lower=0.1)
    enough = value >= LEAST_SNR
    axes.hlines(place, 0.1, value, color=paper.grid, linewidth=1.5)
    for chosen, colour, shape in ((enough, BETTER, "o"), (~enough, WORSE, "X")):
        axes.plot(value[chosen], place[chosen], shape, color=colour, markersize=6.5,
                  markeredgecolor=paper.card, markeredgewidth=0.6)  # fmt: skip
    for mark, word, side in ((LEAST_SNR, "stable", "right"), (ADVISED_SNR, "very stable", "left")):
        axes.axvline(mark, color=paper.muted, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.annotate(f" {word} from {mark:g} ", (mark, 1.0), xycoords=("data", "axes fraction"),
                      fontsize=8, color=paper.muted, ha=side, va="bottom")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(min(0.8 * float(value.min()), 1.0), top)
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set_xlabel("spread of the runs over seed noise")
    return figure


def learning(frame: pd.DataFrame, paper: Paper) -> Figure:
    """Held-out rank correlation against the number of runs, and what more would give.

    Args:
        frame: ``runs``, ``spearman``, ``low``, ``high``, ``kind`` (``seen`` or ``forecast``).
        paper: what it is drawn on.
    """
    figure, axes = sheet("Rank correlation by number of runs", WIDTH, 2.9)
    for kind, colour, style, label in (
        ("seen", COLOURS["proposal"], "-", "held out"),
        ("forecast", COLOURS["natural"], (0, (4, 2)), "forecast"),
    ):
        own = frame[frame["kind"] == kind]
        axes.fill_between(own["runs"], own["low"], own["high"], color=colour, alpha=0.2,
                          linewidth=0)  # fmt: skip
        axes.plot(own["runs"], own["spearman"], linestyle=style, marker="o", markersize=5,
                  color=colour, label=label)  # fmt: skip
    axes.grid(axis="both")
    axes.set(xlabel="runs that the regressor has seen", ylabel="rank correlation")
    axes.set_ylim(top=min(1.005, axes.get_ylim()[1]))
    ticks(axes.xaxis, 6)
    axes.tick_params(labelsize=8.5)
    axes.legend(loc="lower right", labelcolor=paper.ink)
    return figure


def distances(frame: pd.DataFrame, limit: float, paper: Paper) -> Figure:
    """How far runs lie from each other, and proposal and references from the runs.

    Args:
        frame: as :func:`regmix.plot.trust.distances`.
        limit: distance from which on a mixture extrapolates.
        paper: what it is drawn on.
    """
    named = frame[frame["kind"] != "run"]
    labels = ["runs", *named["name"]]
    figure, axes = sheet("Distance to the nearest run", WIDTH, 0.9 + 0.42 * len(labels))
    place = rows(axes, labels, paper)
    top = 1.15 * max(float(frame["distance"].max()), limit)
    axes.axvspan(limit, top, color=paper.grid, linewidth=0)
    axes.annotate(" extrapolates", (limit, 0.99), xycoords=("data", "axes fraction"), va="top",
                  fontsize=8.5, color=paper.muted)  # fmt: skip
    own = frame.loc[frame["kind"] == "run", "distance"].to_numpy()
    jitter = (np.arange(len(own)) * (5**0.5 - 1) / 2 % 1 - 0.5) * 0.6
    axes.plot(own, place[0] + jitter, "o", markersize=3.4, markeredgewidth=0, alpha=0.5,
              color=COLOURS["runs"], rasterized=len(own) > 1000)  # fmt: skip
    for row, name, value in zip(place[1:], named["name"], named["distance"], strict=True):
        axes.plot([value], [row], "o", markersize=8, color=COLOURS.get(str(name), paper.ink),
                  markeredgecolor=paper.card)  # fmt: skip
    axes.set_xlim(-0.02 * top, top)
    axes.set_xlabel("to the nearest (other) run, total variation")
    return figure


def transfer(frame: pd.DataFrame, paper: Paper) -> Figure:
    """Whether larger sizes put mixtures in the same order, with 90% intervals.

    Args:
        frame: as :func:`regmix.plot.trust.transfer`.
        paper: what it is drawn on.
    """
    labels = [short(f"{m}, {s}", 44) for s, m in zip(frame["size"], frame["measure"], strict=True)]
    figure, axes = sheet(
        "Agreement of larger sizes with the proxies", WIDTH, 0.8 + 0.4 * len(frame)
    )
    place = np.arange(len(frame))
    axes.set_yticks(place, labels)
    axes.tick_params(axis="y", labelcolor=paper.ink)
    axes.set_ylim(len(frame) - 0.4, -0.6)
    pairs = frame["measure"].eq("pairs decided alike")
    axes.plot(np.where(pairs, 0.5, 0.0), place, "|", markersize=14, color=paper.muted,
              markeredgewidth=1.5, label="chance")  # fmt: skip
    reach = [frame["value"] - frame["low"], frame["high"] - frame["value"]]
    axes.errorbar(frame["value"], place, xerr=reach, fmt="o", markersize=6.5, elinewidth=1.4,
                  capsize=3, color=COLOURS["proposal"], label="with 90% interval")  # fmt: skip
    axes.set_xlim(min(-0.05, float(frame["low"].min()) - 0.05), 1.05)
    axes.set_xlabel("1: the same order")
    figure.legend(loc="outside upper left", ncols=2, borderpad=0.1)
    return figure
