"""From a loss to an accuracy: a monotone link through larger models that were measured on both.

Small proxies have no accuracy to speak of, and their bits per byte on the same questions may well
have a signal. Where models larger than the proxies were measured on both, isotonic regression
(accuracy never falls as the loss does) says what a loss is worth, and the jackknife+ (Barber,
Candès, Ramdas & Tibshirani, Annals of Statistics 2021) between which accuracies a further model of
that loss will lie: it needs no model of the errors, holds at least 80 % of the time where it says
90 %, and commonly 90. Nothing is said beyond the losses that were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import scipy

from regmix.direction import sign
from regmix.mixture import FloatArray

LEVEL = 0.9
LEAST = 10
"""Models below which the interval would have no ends: 1 / (1 - LEVEL)."""
CHANCE = 0.05
"""That models whose accuracy has nothing to do with their loss are linked."""


@dataclass(frozen=True)
class Linked:
    """An accuracy, and between which a further model's lies."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Link:
    """What models came to on a loss and an accuracy, ``(n_models,)`` each."""

    loss: str
    accuracy: str
    losses: FloatArray
    accuracies: FloatArray
    """Turned so that higher is better."""
    turned: int
    """-1 where the metric itself is better low."""
    p: float
    """That accuracy does not rise as the loss falls: Kendall's τ, one-sided."""

    @property
    def span(self) -> tuple[float, float]:
        """Losses between which something can be said."""
        return float(self.losses.min()), float(self.losses.max())

    def at(self, loss: float) -> Linked | None:
        """The accuracy of a model of this loss; None beyond the losses that were measured."""
        low, high = self.span
        if not low <= loss <= high:
            return None
        lower, upper = (np.sort(v) for v in self._left_out(loss))
        count, alpha = len(self.losses), 1 - LEVEL
        ends = (
            float(lower[math.floor(alpha * (count + 1) + 1e-9) - 1]),
            float(upper[math.ceil((1 - alpha) * (count + 1) - 1e-9) - 1]),
        )
        middle = float(_isotonic(self.losses, self.accuracies, np.array([loss]))[0])
        found = sorted(self.turned * v for v in ends)
        return Linked(self.turned * middle, found[0], found[1])

    def _left_out(self, loss: float) -> tuple[FloatArray, FloatArray]:
        """Predictions without each model, less and more its own residual."""
        predicted, residual = np.empty((2, len(self.losses)))
        for i, (own, accuracy) in enumerate(zip(self.losses, self.accuracies, strict=True)):
            rest = np.arange(len(self.losses)) != i
            at = np.array([own, loss])
            mean, predicted[i] = _isotonic(self.losses[rest], self.accuracies[rest], at)
            residual[i] = abs(accuracy - mean)
        return predicted - residual, predicted + residual

    @cached_property
    def text(self) -> str:
        """One sentence."""
        low, high = self.span
        return (
            f"{self.loss} → {self.accuracy}: a monotone link through {len(self.losses)} larger "
            f"models, {self.loss} {low:.3f} to {high:.3f} (p = {self.p:.2g} that there is none)"
        )


def find(
    info: pd.DataFrame,
    values: pd.DataFrame,
    loss: str,
    accuracy: str,
    above: int,
    directions: Mapping[str, str],
) -> Link | str:
    """The link between two metrics, or why none is offered.

    Args:
        info, values: of finished runs, as :meth:`regmix.store.Store.measured` gives them.
        above: parameters of the proxies; only larger models count.
        directions: ``objective.directions`` of the study.
    """
    larger = values[(info["parameters"] > above).fillna(False).to_numpy(dtype=bool)]
    both = larger.reindex(columns=[loss, accuracy]).dropna()
    if len(both) < LEAST:
        return (
            f"{loss} → {accuracy}: not linked: {len(both)} models larger than the proxies have "
            f"both, {LEAST} are needed"
        )
    turned = -sign(accuracy, directions)
    x = both[loss].to_numpy(dtype=float)
    y = turned * both[accuracy].to_numpy(dtype=float)
    # Of constant figures there is no rank correlation: nothing is shown.
    p = float(scipy.stats.kendalltau(x, y, alternative="less").pvalue)
    if not p < CHANCE:
        return (
            f"{loss} → {accuracy}: not linked: over {len(both)} larger models {accuracy} does not "
            f"rise as {loss} falls (p = {p:.2g})"
        )
    return Link(loss, accuracy, x, y, turned, p)


def pairs(metrics: list[str]) -> list[tuple[str, str]]:
    """Bits per byte and accuracy of every task that has both."""
    tasks = [m.removesuffix("/bpb") for m in metrics if m.endswith("/bpb") and m.count("/") == 1]
    return [(f"{task}/bpb", f"{task}/acc") for task in tasks if f"{task}/acc" in metrics]


def _isotonic(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(increasing=False, out_of_bounds="clip")
    return np.asarray(model.fit(x, y).predict(at))
