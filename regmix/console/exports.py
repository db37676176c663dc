"""Exports: what was asked beside what was written, and where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from regmix.console.terminal import say, show, show_notes, table
from regmix.export import Exported, Unit
from regmix.mixture import MixtureFile
from regmix.places import Places
from regmix.quantities import amount


def show_exported(exported: Exported) -> None:
    """Shares of tokens beside the weights in the file."""
    in_file = f"in the file ({exported.unit.value})"
    shown = table("Exported", "domain", "tokens", in_file)
    for name, share in exported.asked.items():
        shown.add_row(escape(name), f"{share:.4f}", f"{exported.written[name]:.4f}")
    if exported.unit is Unit.TOKENS:
        shown.columns[2].header = "in the file"
    show(shown)
    show_notes(exported.notes)
    for path in exported.files:
        say(f"wrote {escape(str(path))}")


def show_imported_mixture(path: Path, found: MixtureFile, notes: Sequence[str]) -> None:
    """The mixture that was taken from a trainer's file."""
    shown = table("Mixture", "domain", "tokens")
    for name, share in found.mixture.as_dict().items():
        shown.add_row(escape(name), f"{share:.4f}")
    show(shown)
    show_notes(notes)
    say(f"wrote {escape(str(path))}")


def show_places(path: Path, places: Places) -> None:
    """What was laid out, per domain."""
    shown = table(f"Shards ({places.layout})", "domain", "train", "documents", "files")
    for name, place in places.domains.items():
        files = str(len(place.paths) + len(place.valid))
        shown.add_row(escape(name), amount(place.tokens or 0), amount(place.documents or 0), files)
    show(shown)
    say(f"mapping file {escape(str(path))}")
