"""What figures are drawn on and with: palette, inks, style; and figures as SVG and PNG.

Text in the figures stays text (the page's font, selectable). On a page, ink, grid and paper are CSS
variables, so that one drawing reads in light and in dark; in a file they are those of white paper.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = {
    "proposal": "#0072b2",
    "natural": "#e69f00",
    "uniform": "#009e73",
    "best run": "#cc79a7",
    "runs": "#8a929c",
}
"""One meaning, one colour, in every figure and table."""
BETTER, WORSE = "#0072b2", "#d55e00"
"""Ends of a scale of gains; blue and vermilion are told apart with any colour vision."""
INTERVAL90 = 1.645
"""Half of a normal 90% interval, in standard deviations."""
MANY_POINTS = 1500
"""From here on points become one embedded image, drawn at ``_DPI``: none is left out."""
_DPI, _PNG_DPI = 220, 140


@dataclass(frozen=True)
class Paper:
    """What a figure is drawn on and with, as colours that matplotlib knows."""

    ink: str
    muted: str
    grid: str
    card: str


WHITE = Paper("#1b1f24", "#5d6672", "#e3e7ec", "#ffffff")
PAGE = Paper("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04")
"""Stand-ins that no figure uses for anything else; in SVG they become CSS variables."""
VARIABLES = {PAGE.ink: "--ink", PAGE.muted: "--muted", PAGE.grid: "--grid", PAGE.card: "--card"}

Draw = Callable[[Paper], "Figure"]


def style(paper: Paper) -> Any:
    """Matplotlib's settings for a figure."""
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a domain may be called `$x$`
        "font.size": 9.5,
        "text.color": paper.ink,
        "axes.edgecolor": paper.muted,
        "axes.labelcolor": paper.muted,
        "axes.titlecolor": paper.ink,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.facecolor": "none",
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "x",
        "grid.color": paper.grid,
        "grid.linewidth": 0.6,
        "xtick.color": paper.muted,
        "ytick.color": paper.muted,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 9.5,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.handlelength": 1.2,
        "legend.columnspacing": 1.4,
        "figure.constrained_layout.use": True,
        "figure.facecolor": paper.card,
    }


def inline_svg(draw: Draw) -> str:
    """The figure as an ``<svg>`` element in the page's colours; its label is read aloud.

    It keeps its style to itself, and only what is referred to has an id.
    """
    with _drawn(draw, PAGE) as figure:
        text = _svg(figure, transparent=True)
        label = escape(str(figure.get_label()), quote=True)
    text = text[text.index("<svg") :]
    # Matplotlib's own style element would style the page.
    text = re.sub(r"<style\b.*?</style>", "", text, count=1, flags=re.DOTALL)
    # It numbers its groups alike in every figure.
    used = set(re.findall(r"#([\w.]+)", text))
    text = re.sub(r'<(\w+) id="([\w.]+)"', lambda m: m[0] if m[2] in used else f"<{m[1]}", text)
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def svg_file(draw: Draw) -> bytes:
    """The figure as an SVG file on white."""
    with _drawn(draw, WHITE) as figure:
        return _svg(figure, transparent=False).encode()


def png_file(draw: Draw) -> bytes:
    """The figure as a PNG file on white."""
    with _drawn(draw, WHITE) as figure:
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_PNG_DPI, metadata={"Software": None})
        return stream.getvalue()


@contextmanager
def _drawn(draw: Draw, paper: Paper) -> Iterator[Figure]:
    """A figure in our style, whatever this machine's matplotlibrc says; what is set is set back."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The reader draws the text, with its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style(paper))
        figure = draw(paper)
        matplotlib.rcParams["svg.hashsalt"] = figure.get_label()
        yield figure


def _svg(figure: Figure, *, transparent: bool) -> str:
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing, dpi=_DPI, transparent=transparent)
    return stream.getvalue()
