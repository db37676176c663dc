"""What notebooks show of an object: small HTML tables, everything in them escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table; the first cell of a row names it.

    Args:
        head: column headings.
        rows: cells as text, as many as there are headings.
        caption: what stands above.
    """
    top = f'<caption style="text-align:left">{escape(caption)}</caption>' if caption else ""
    headings = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<table>{top}<thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table>"
