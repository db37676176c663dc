"""The terminal: aligned tables that are never cut, and lines as long as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.segment import Segments
from rich.table import Table

if TYPE_CHECKING:  # loading it takes longer than most commands
    import pandas as pd

console = Console(highlight=False, emoji=False)
say = partial(console.print, soft_wrap=True)
"""Prints a line as long as it is, so that paths can be copied."""


def table(title: str | None = None, *columns: str) -> Table:
    """A plain table under an optional heading; the first column is text, the others numbers."""
    if title:
        say(f"[bold]{escape(title)}[/bold]")
    made = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        made.add_column(escape(name), justify="left" if i == 0 else "right")
    return made


def show(shown: Table) -> None:
    """Print a table as wide as it is: a narrow terminal may wrap it, but no figure is cut off."""
    wide = console.options.update(width=10_000)
    wide = wide.update(width=console.measure(shown, options=wide).maximum)
    lines = console.render_lines(shown, wide, pad=False, new_lines=True)
    console.print(Segments(chain.from_iterable(lines)), crop=False, soft_wrap=True, end="")


def show_frame(frame: pd.DataFrame, *, csv: bool = False, rows: bool = False) -> None:
    """An aligned table, or CSV.

    Args:
        rows: say how many there are.
    """
    if csv:
        console.file.write(frame.to_csv(index=False))
        return
    shown = table(None, *map(str, frame.columns))
    for row in frame.itertuples(index=False):
        shown.add_row(*(escape(f"{v:.6g}" if isinstance(v, float) else str(v)) for v in row))
    show(shown)
    if rows:
        say(f"[dim]{len(frame)} rows[/dim]")


def show_json(values: dict[str, Any]) -> None:
    """Plain values for programs."""
    console.file.write(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def show_notes(notes: Sequence[str]) -> None:
    """Corrections and exclusions."""
    for note in notes:
        say(f"[yellow]note:[/yellow] {escape(note)}")
