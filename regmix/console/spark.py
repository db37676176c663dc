"""A curve in one line of characters."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-=+*%#"
"""Where the terminal knows ASCII alone."""


def spark(
    points: Sequence[tuple[float, float]],
    end: float,
    width: int,
    bounds: tuple[float, float],
    *,
    ascii_only: bool = False,
) -> str:
    """Draw values over the part of the way that they cover.

    Args:
        points: place and value, places from 0 to ``end``; of those in a column the mean is drawn,
            and a column without any is as the one before it.
        end: place at the right edge.
        width: columns.
        bounds: values of the lowest and the highest character; what is outside is drawn as these.

    Returns:
        As many columns as are behind the last point, at most ``width``; one curve after another
        can so be compared, and how long it is tells how far it is.
    """
    levels = PLAIN if ascii_only else BLOCKS
    columns: list[list[float]] = [[] for _ in range(width)]
    for at, value in points:
        columns[min(width - 1, max(0, int(at / end * width)))].append(value)
    low, high = bounds
    text, last = "", None
    for column in columns[: _used(columns)]:
        last = sum(column) / len(column) if column else last
        share = 0.0 if last is None or high <= low else (last - low) / (high - low)
        text += " " if last is None else levels[min(7, max(0, int(share * 8)))]
    return text


def _used(columns: Sequence[Sequence[float]]) -> int:
    return max((i + 1 for i, column in enumerate(columns) if column), default=0)
