"""What every regressor is: a map from mixtures to one metric, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

from regmix.mixture import FloatArray


@dataclass(frozen=True)
class Prediction:
    """Mean and standard deviation of a metric as it would be measured, each shape ``(n,)``."""

    mean: FloatArray
    std: FloatArray


class Regressor(Protocol):
    """One metric as a function of the mixture.

    Fitting is deterministic. ``x`` has shape ``(n, n_domains)``, rows on the simplex; ``y`` has
    shape ``(n,)``; neither holds NaN.
    """

    def fit(self, x: FloatArray, y: FloatArray) -> Self:
        """Fit to runs and return self."""
        ...

    def predict(self, x: FloatArray) -> Prediction:
        """Predict for mixtures."""
        ...

    def state(self) -> dict[str, Any]:
        """The fitted regressor as plain JSON values."""
        ...

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The regressor that :meth:`state` describes; predicts the same."""
        ...
