"""A warning for what grows that should not: a gradient norm or a loss far above its own lowest."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import quantiles

WINDOW = 32
"""Log points that are looked at together."""


@dataclass(frozen=True)
class Spread:
    """A window's values."""

    lower: float
    median: float
    upper: float
    """Quartiles."""
    step: int
    """Of the window's last value."""


@dataclass(frozen=True)
class Grown:
    """What has grown, and since when."""

    before: Spread
    """The lowest window so far."""
    now: Spread

    @property
    def factor(self) -> float:
        """Of the medians."""
        return self.now.median / self.before.median


class Growth:
    """Watches a positive figure for growth that lasts.

    The rule: the median of the last 32 values is at least ``factor`` times that of the lowest
    window of 32 before it, and its lower quartile is above that window's upper one. The second
    half keeps noise quiet however wide it is: of two windows of the same noise, quartiles overlap.
    A spike moves neither. The lowest window, not one a fixed way back, so that slow growth counts
    too; after a warning the present window stands for it, so that the next one takes another such
    growth.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._waiting: deque[Spread] = deque()
        """Windows that still share values with the last one."""
        self._lowest: Spread | None = None

    def add(self, step: int, value: float) -> Grown | None:
        """The next value; what it shows, if it shows growth."""
        self._last.append(value)
        if len(self._last) < WINDOW:
            return None
        lower, median, upper = quantiles(self._last, n=4)
        now = Spread(lower, median, upper, step)
        if len(self._waiting) == WINDOW:
            oldest = self._waiting.popleft()
            if self._lowest is None or oldest.median < self._lowest.median:
                self._lowest = oldest
        self._waiting.append(now)
        before = self._lowest
        if before is None or median < self._factor * before.median or lower <= before.upper:
            return None
        self._lowest = now
        self._waiting.clear()
        return Grown(before, now)
