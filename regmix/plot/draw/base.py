"""What drawings share: sheets, named rows, legends. Matplotlib is loaded when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regmix.plot.paper import COLOURS, Paper
from regmix.quantities import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, NARROW = 5.6, 4.4
"""Inches; a figure alone, and one of a pair."""


def canvas(label: str, width: float, height: float) -> Figure:
    """An empty figure; its label is what is read aloud."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.set_label(label)
    return figure


def sheet(label: str, width: float, height: float) -> tuple[Figure, Any]:
    """A figure with one pair of axes."""
    figure = canvas(label, width, height)
    return figure, figure.subplots()


def rows(axes: Any, labels: list[str], paper: Paper) -> np.ndarray:
    """Name the rows of a horizontal figure; returns their positions, the first on top."""
    positions = np.arange(len(labels))
    axes.set_yticks(positions, [short(name) for name in labels])
    axes.tick_params(axis="y", labelcolor=paper.ink)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    return positions


def legend(figure: Figure, axes: Any) -> None:
    """One row above the figure, in the order of the palette."""
    order = list(COLOURS)

    def place(entry: tuple[Any, str]) -> int:
        name = entry[1].split(",")[0]
        return order.index(name) if name in order else len(order)

    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=place)
    handles, labels = zip(*entries, strict=True)
    figure.legend(handles, labels, loc="outside upper left", ncols=5, borderpad=0.1)


def percent(axis: Any) -> None:
    """Shares along an axis in per cent."""
    axis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")


def ticks(axis: Any, most: int) -> None:
    """At most so many intervals between ticks."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most))
