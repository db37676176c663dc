"""Floats of what a person wrote, which may be larger than one can be."""

from __future__ import annotations

import math
from collections.abc import Iterable


def as_float(value: float | str) -> float:
    """The number as a float, infinite where it is a whole number of too many digits.

    Raises:
        ValueError: it is text that spells no number.
    """
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, 1 if isinstance(value, str) or value > 0 else -1)


def exact_sum(values: Iterable[float]) -> float:
    """The sum without rounding on the way; infinite where it is larger than a float can be."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf
