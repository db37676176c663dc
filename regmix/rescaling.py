"""From a metric as proxies predict it to the same metric of a larger model.

A line through mixtures that were trained at both sizes, of the larger size's values on what the
proxies' surrogate said of each mixture without having seen it: the same kind of prediction that
there is of a proposal. It replaces a plain shift only where the shift is shown to be wrong (the
slope is not 1 by the t-test of least squares) and where, in addition, it predicts left-out mixtures
better; of true shifts one in twenty is taken for a line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from regmix.mixture import FloatArray

LEAST = 5
"""Mixtures below which no line is drawn: two of them go into it."""
LEVEL = 0.05
"""Chance that a true shift is taken for a line."""


@dataclass(frozen=True)
class Rescaling:
    """A line, a shift, and which of them is used."""

    slope: float
    intercept: float
    shift: float
    """Mean of the larger size's values less the proxies'."""
    p_shift: float
    """That the slope is 1."""
    error: float
    """Of the line, each mixture predicted from the others: root mean square."""
    error_shift: float
    """Of the shift, likewise."""
    helps: bool
    """Whether the line is used."""
    mixtures: int
    middle: float
    """Mean of the proxies' values, and the sum of squares around it."""
    squares: float
    residual: float
    """Standard deviation around what is used, with its degrees of freedom."""
    freedom: int

    @classmethod
    def fit(cls, x: FloatArray, y: FloatArray) -> Rescaling | None:
        """Of one metric; None of fewer than :data:`LEAST` mixtures, or where ``x`` is constant.

        Args:
            x: predicted at proxy size, each by runs of the others.
            y: measured at the larger size.
        """
        count = len(x)
        squares = float(((x - x.mean()) ** 2).sum())
        if count < LEAST or squares == 0:
            return None
        line = scipy.stats.linregress(x, y)
        left = y - line.intercept - line.slope * x
        leverage = 1 / count + (x - x.mean()) ** 2 / squares
        scaled = float(np.sqrt(np.mean((left / (1 - leverage)) ** 2)))
        moved = (y - x) - (y - x).mean()
        shifted = float(np.sqrt(np.mean((moved / (1 - 1 / count)) ** 2)))
        p = _p(line.slope - 1, float(line.stderr), count - 2)
        helps = p < LEVEL and scaled < shifted
        rest, freedom = (left, count - 2) if helps else (moved, count - 1)
        return cls(
            slope=float(line.slope),
            intercept=float(line.intercept),
            shift=float((y - x).mean()),
            p_shift=p,
            error=scaled,
            error_shift=shifted,
            helps=helps,
            mixtures=count,
            middle=float(x.mean()),
            squares=squares,
            residual=math.sqrt(float(rest @ rest) / freedom),
            freedom=freedom,
        )

    def large(self, value: float) -> tuple[float, float]:
        """A measurement at the larger size, predicted from the proxies' prediction.

        Returns:
            Mean, and the standard deviation of a new value around it (least squares; of the shift
            the same without a slope); with :attr:`freedom` degrees of freedom.
        """
        if not self.helps:
            return value + self.shift, self.residual * math.sqrt(1 + 1 / self.mixtures)
        spread = 1 + 1 / self.mixtures + (value - self.middle) ** 2 / self.squares
        return self.intercept + self.slope * value, self.residual * math.sqrt(spread)


def _p(difference: float, error: float, freedom: int) -> float:
    """Two-sided, by Student's t; without any error all differences are sure."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * scipy.stats.t.sf(abs(difference) / error, freedom))
