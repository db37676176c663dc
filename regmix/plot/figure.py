"""Figure: what a plot shows, as a frame, as a picture in a page, and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd

from regmix.errors import UserError
from regmix.files import expanded, write_whole
from regmix.plot.paper import VARIABLES, WHITE, Draw, inline_svg, png_file, svg_file

_WRITERS = {".svg": svg_file, ".png": png_file}


@dataclass(frozen=True)
class Figure:
    """One figure: its data, what to say below it, and how to draw it. Drawn when it is shown."""

    title: str
    caption: str
    data: pd.DataFrame = field(repr=False)
    draw: Draw = field(repr=False)
    units: Mapping[str, str] = field(default_factory=dict)
    """By column of the data."""

    def frame(self) -> pd.DataFrame:
        """The data; ``frame.attrs`` has ``title``, ``caption`` and ``units`` by column."""
        frame = self.data.copy()
        frame.attrs = {"title": self.title, "caption": self.caption, "units": dict(self.units)}
        return frame

    def svg(self) -> str:
        """An ``<svg>`` element whose inks are the page's ``--ink, --muted, --grid, --card``."""
        return inline_svg(self.draw)

    def save(self, path: str | Path) -> Path:
        """Write the picture, on white; returns where.

        Raises:
            UserError: the name ends in neither ``.svg`` nor ``.png``, or nothing can be written.
        """
        target = expanded(path)
        writer = _WRITERS.get(target.suffix.lower())
        if writer is None:
            raise UserError(
                f"{target}: a figure is saved as {' or '.join(_WRITERS)}, not '{target.suffix}'"
            )
        content = writer(self.draw)
        write_whole(target, lambda temporary: temporary.write_bytes(content))
        return target

    def _repr_html_(self) -> str:
        """For notebooks: the picture and its caption on white, in a light and in a dark one."""
        inks = (WHITE.ink, WHITE.muted, WHITE.grid, WHITE.card)
        colours = ";".join(f"{v}:{ink}" for v, ink in zip(VARIABLES.values(), inks, strict=True))
        return (
            f'<figure style="{colours};background:{WHITE.card};color:{WHITE.ink};margin:0;'
            f'padding:12px;max-width:760px;overflow-x:auto">{self.svg()}'
            f'<figcaption style="color:{WHITE.muted};font-size:0.9em">{escape(self.caption)}'
            "</figcaption></figure>"
        )
