"""Drawing: frames in, inline SVG out. Everything that is computed comes from ``frames``.

Text in the figures stays text (the page's font, selectable), and ink, grid and paper are CSS
variables, so that one drawing reads on a light and on a dark page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from regmix.report.text import short

# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = {
    "proposal": "#0072b2",
    "natural": "#e69f00",
    "uniform": "#009e73",
    "best run": "#cc79a7",
    "runs": "#8a929c",
}
"""One meaning, one colour, in every figure and table."""

# Stand-ins that matplotlib accepts as colours; replaced by the page's CSS variables.
INK, MUTED, GRID, PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--card"}

INTERVAL90 = 1.645
"""Half of a normal 90% interval, in standard deviations."""
MANY_POINTS = 1500
"""From here on points become one embedded image, drawn at ``_DPI``: none is left out."""
_DPI = 220
WIDTH, NARROW = 5.6, 4.4
"""Inches; a figure alone, and one of a pair."""

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a domain may be called `$x$`
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 9.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.4,
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

P = ParamSpec("P")


def inline(draw: Callable[P, Figure]) -> Callable[P, Markup]:
    """Run a drawing function in the report's style and return its figure as inline SVG."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Markup:
        with matplotlib.rc_context(), warnings.catch_warnings():
            # The browser draws the text, with its own fonts.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            matplotlib.rcdefaults()  # not what this machine's matplotlibrc says
            matplotlib.rcParams.update(STYLE)
            figure = draw(*args, **kwargs)
            matplotlib.rcParams["svg.hashsalt"] = figure.get_label()
            return _svg(figure)

    return wrapped


def _svg(figure: Figure) -> Markup:
    """A figure as an ``<svg>`` element that keeps its style to itself; its label is read aloud."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=_NO_METADATA, dpi=_DPI)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<style\b.*?</style>", "", text, count=1, flags=re.DOTALL
    )  # would style the page
    # Matplotlib numbers its groups alike in every figure; only what is referred to needs an id.
    used = set(re.findall(r"#([\w.]+)", text))
    text = re.sub(r'<(\w+) id="([\w.]+)"', lambda m: m[0] if m[2] in used else f"<{m[1]}", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    label = escape(str(figure.get_label()), quote=True)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))  # noqa: S704


def _sheet(label: str, width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height))
    figure.set_label(label)
    return figure, figure.subplots()


def _rows(axes: Any, labels: list[str]) -> np.ndarray:
    """Name the rows of a horizontal figure; returns their positions, the first on top."""
    positions = np.arange(len(labels))
    axes.set_yticks(positions, [short(name) for name in labels])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    return positions


def _legend(figure: Figure, axes: Any) -> None:
    """One row above the figure, in the order of the palette."""
    order = list(COLOURS)
    entries = sorted(
        zip(*axes.get_legend_handles_labels(), strict=True),
        key=lambda entry: order.index(entry[1].split(",")[0]),
    )
    handles, labels = zip(*entries, strict=True)
    figure.legend(handles, labels, loc="outside upper left", ncols=5, borderpad=0.1)


def _uniform_line(axes: Any, mixtures: pd.DataFrame) -> None:
    axes.axvline(mixtures["uniform"].iloc[0], color=COLOURS["uniform"], linewidth=1.6,
                 linestyle=(0, (4, 2)), label="uniform")  # fmt: skip


def _percent(axis: Any) -> None:
    axis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")


@inline
def weights(frame: pd.DataFrame) -> Figure:
    """Bars of mixtures by domain; the uniform one, the same everywhere, is a line.

    Args:
        frame: as :func:`regmix.report.frames.weights`, with the proposal or the natural mixture.
    """
    figure, axes = _sheet("Share of every domain by mixture", WIDTH, 0.9 + 0.36 * len(frame))
    rows = _rows(axes, list(frame.index))
    bars = [name for name in ("proposal", "natural") if name in frame]
    shifts = (0.0,) if len(bars) == 1 else (-0.17, 0.24)
    for name, shift in zip(bars, shifts, strict=True):
        height = 0.42 if name == "proposal" else 0.26
        axes.barh(rows + shift, frame[name], height, color=COLOURS[name], label=name)
    paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
    for row, share in zip(rows, frame[bars[0]], strict=True):
        axes.annotate(f"{share:.1%}", (share, row + shifts[0]), (4, 0), va="center", fontsize=8.5,
                      textcoords="offset points", bbox=paper)  # fmt: skip
    _uniform_line(axes, frame)
    axes.set_xlim(0, 1.12 * float(frame.to_numpy().max()))
    axes.set_xlabel("share of training tokens")
    _percent(axes.xaxis)
    _legend(figure, axes)
    return figure


@inline
def metric_gains(frame: pd.DataFrame, reference: str) -> Figure:
    """Measured gains against one reference: a dot a seed, their mean, the predicted gain beside.

    Args:
        frame: as :func:`regmix.report.frames.metric_gains`.
        reference: the one to draw.
    """
    frame = frame[frame["reference"] == reference]
    rows = frame.groupby("row").agg(
        {"label": "first", "gain": "mean", "predicted": "first", "predicted_std": "first",
         "limit": "first"}
    )  # fmt: skip
    figure, axes = _sheet(f"Measured gain against {reference}", NARROW, 1.25 + 0.32 * len(rows))
    position = pd.Series(_rows(axes, list(rows["label"])), rows.index)
    limit = rows["limit"].fillna(0.0)
    axes.barh(position, 2 * limit, 0.72, -limit, color=GRID, label="within seed noise")
    axes.axvline(0, color=MUTED, linewidth=1)
    colour = COLOURS[reference]
    axes.plot(frame["gain"], frame["row"].map(position) + 0.12, "o", markersize=4, alpha=0.55,
              markeredgewidth=0, color=colour, label="one seed")  # fmt: skip
    axes.plot(rows["gain"], position + 0.12, "o", markersize=7.5, color=colour,
              markeredgecolor=INK, markeredgewidth=0.8, label="mean")  # fmt: skip
    axes.errorbar(rows["predicted"], position - 0.2, xerr=rows["predicted_std"], fmt="D",
                  markersize=4.5, color=INK, markerfacecolor=PAPER, elinewidth=0.9,
                  label="predicted ± std")  # fmt: skip
    axes.set_xlabel("← proposal worse · gain · proposal better →")
    figure.legend(loc="outside upper left", ncols=2, borderpad=0.1)
    return figure


@inline
def held_out(frame: pd.DataFrame, label: str, *, size: float, rasterise: bool = False) -> Figure:
    """Held-out predictions with 90% intervals against what was measured.

    Args:
        frame: as :func:`regmix.report.frames.held_out`.
        label: the metric's name, read aloud.
        size: width in inches; the height is the same.
        rasterise: embed the points as an image, for pages with many such figures.
    """
    figure, axes = _sheet(f"Held-out prediction against measurement: {label}", size, size)
    axes.errorbar(frame["measured"], frame["predicted"], yerr=INTERVAL90 * frame["std"], fmt="o",
                  markersize=3 if size < 3 else 4, markeredgewidth=0, color=COLOURS["proposal"],
                  ecolor=COLOURS["runs"], elinewidth=0.5, alpha=0.85,
                  rasterized=rasterise)  # fmt: skip
    both = frame[["measured", "predicted"]].to_numpy()
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    pad = 0.06 * (high - low) or 1.0
    limits = (low - pad, high + pad)
    axes.plot(limits, limits, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="measured", ylabel="predicted")
    axes.grid(axis="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4 if size < 3 else 6))
    axes.tick_params(labelsize=8.5)
    return figure


@inline
def shares(points: pd.DataFrame, quartiles: pd.DataFrame, mixtures: pd.DataFrame) -> Figure:
    """What the swarm sampled of every domain, with the mixtures of interest marked.

    Args:
        points: as :func:`regmix.report.frames.shares`.
        quartiles: as :func:`regmix.report.frames.share_quartiles`; its order is drawn.
        mixtures: as :func:`regmix.report.frames.weights`.
    """
    height = 0.95 + 0.38 * len(quartiles)
    figure, axes = _sheet("Sampled shares of every domain over the runs", WIDTH, height)
    rows = pd.Series(_rows(axes, list(quartiles.index)), quartiles.index)
    axes.plot(points["share"], points["domain"].map(rows) + 0.55 * points["offset"], "o",
              markersize=3.4, markeredgewidth=0, alpha=0.5, color=COLOURS["runs"], label="runs",
              rasterized=len(points) > MANY_POINTS)  # fmt: skip
    box = quartiles["q75"] - quartiles["q25"]
    axes.barh(rows, box, 0.5, quartiles["q25"], color="none", edgecolor=MUTED, linewidth=0.8)
    axes.plot(quartiles["median"], rows, "|", markersize=13, color=MUTED, markeredgewidth=1.6)
    _uniform_line(axes, mixtures)
    for name, shape, size in (("proposal", "o", 9.0), ("natural", "D", 5.5)):
        if name in mixtures:
            axes.plot(mixtures[name].reindex(rows.index), rows, shape, markersize=size, label=name,
                      color=COLOURS[name], markeredgecolor=PAPER, markeredgewidth=0.9)  # fmt: skip
    axes.set_xlabel("share of training tokens")
    highest = max(float(quartiles["high"].max()), float(mixtures.to_numpy().max()))
    axes.set_xlim(-0.03 * highest, 1.03 * highest)
    _percent(axes.xaxis)
    _legend(figure, axes)
    return figure


@inline
def run_objectives(
    frame: pd.DataFrame, predicted: tuple[float, float] | None, noise: float | None
) -> Figure:
    """Objective of the runs from best to worst, and where the proposal is predicted.

    Args:
        frame: as :func:`regmix.report.frames.run_objectives`.
        predicted: mean and standard deviation of the proposal.
        noise: standard deviation of the objective between seeds.
    """
    figure, axes = _sheet("Objective of the runs, best first", WIDTH, 3.0)
    rank = np.arange(1, len(frame) + 1)
    bars = None if noise is None else np.full(len(frame), noise)
    axes.errorbar(rank, frame["objective"], yerr=bars, fmt="o", markersize=3.5, markeredgewidth=0,
                  color=COLOURS["runs"], elinewidth=0.6, zorder=1, label="runs")  # fmt: skip
    axes.plot(rank[:1], frame["objective"].iloc[:1], "o", markersize=8, color=COLOURS["best run"],
              markeredgecolor=PAPER, label="best run")  # fmt: skip
    for name in ("natural", "uniform"):
        found = np.flatnonzero((frame["name"] == name) & (frame["role"] == "baseline"))
        axes.plot(rank[found], frame["objective"].iloc[found], "D" if name == "natural" else "s",
                  markersize=7, color=COLOURS[name], markeredgecolor=PAPER,
                  label=name if len(found) else None)  # fmt: skip
    if predicted is not None:
        mean, half = predicted[0], INTERVAL90 * predicted[1]
        axes.axhspan(mean - half, mean + half, color=COLOURS["proposal"], alpha=0.18, linewidth=0)
        axes.axhline(mean, color=COLOURS["proposal"], linewidth=1.4, label="proposal, predicted")
    axes.grid(axis="both")
    axes.set(xlabel="run, from best to worst", ylabel="objective (lower is better)")
    axes.tick_params(labelsize=8.5)
    _legend(figure, axes)
    return figure
