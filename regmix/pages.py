"""Where a page of the documentation is, for messages whose remedy takes more words."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[1] / "docs"


def page(name: str, section: str = "") -> str:
    """A page's address: its file where the source is at hand, else its place in the source.

    Args:
        name: the page's file without its end, ``"NOISE"``.
        section: a heading's anchor, ``"the-table"``.
    """
    file = _FOLDER / f"{name}.md"
    found = str(file) if file.is_file() else f"docs/{name}.md"
    return f"{found}#{section}" if section else found
