"""Ensemble: regressors weighted by how well they predict what they have not seen.

Stacking (Breiman 1996): weights >= 0 that sum to 1 and minimise the squared error of held-out
predictions. A regressor that adds nothing gets no weight and is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import scipy

from regmix.mixture import FloatArray
from regmix.regressors.base import NOTHING, Context, Prediction, Regressor, Shape, doubt
from regmix.regressors.held_out import Folds, HeldOut, conformal_scale, held_out
from regmix.regressors.registry import CANDIDATES, regressor, restore

LEAST_WEIGHT = 0.02
"""Members below it are dropped, and the others' weights rescaled."""
_FOLDS = 5
_EVEN = 1e-2
"""Pull towards equal weights, as a share of the metric's variance: decides between members that
predict alike, and steadies the weights of small swarms."""


@dataclass(frozen=True)
class Share:
    """What held-out predictions give one regressor in an ensemble."""

    weight: float
    scale: float
    """Calibration of its standard deviation."""


@dataclass(frozen=True)
class Member:
    """One regressor's part in an ensemble."""

    weight: float
    scale: float
    model: Regressor


class Ensemble:
    """A weighted mean of regressors; where they disagree, the standard deviation grows."""

    name: ClassVar[str] = "ensemble"

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self._weights = np.array([m.weight for m in members])[:, None]

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        """Fit every candidate and weight them, metric by metric."""
        folds = Folds.draw(len(x), _FOLDS, 1, context.mixtures)
        kinds = {name: regressor(name) for name in CANDIDATES}
        tried = {name: held_out(kind, x, y, folds, context) for name, kind in kinds.items()}
        shares = [
            weigh({name: t.metric(i) for name, t in tried.items()}, y[:, i], context)
            for i in range(y.shape[1])
        ]
        return cls.fit_members(shares, x, y, context)

    @classmethod
    def fit_members(
        cls, shares: Sequence[Mapping[str, Share]], x: FloatArray, y: FloatArray, context: Context
    ) -> list[Self]:
        """Fit what has a weight, once for all metrics that give it one.

        Args:
            shares: per column of ``y``, as :func:`weigh` gives them.
        """
        members: list[list[Member]] = [[] for _ in shares]
        for name in dict.fromkeys(n for share in shares for n in share):
            columns = np.array([i for i, share in enumerate(shares) if name in share])
            models = regressor(name).fit_all(x, y[:, columns], context.columns(columns))
            for column, model in zip(columns, models, strict=True):
                share = shares[column][name]
                members[column].append(Member(share.weight, share.scale, model))
        return [cls(m) for m in members]

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        """Every member on other runs, with the same weights."""
        return type(self)([Member(m.weight, m.scale, m.model.refit(x, y)) for m in self.members])

    @property
    def shape(self) -> Shape:
        """Smooth, linear, convex or concave if all of its members are; weights are positive."""
        shapes = [m.model.shape for m in self.members]
        smooth = all(s.smooth for s in shapes)
        if all(s.linear for s in shapes):
            return Shape(smooth, linear=True)
        ways = (way for way in (1, -1) if all(s.convex_times(way) for s in shapes))
        return Shape(smooth, next(ways, 0))

    def mean(self, x: FloatArray) -> FloatArray:
        """Weighted mean of the members'."""
        return np.asarray(sum(m.weight * m.model.mean(x) for m in self.members))

    def predict(self, x: FloatArray) -> Prediction:
        """Weighted mean; the members' variances and their disagreement add up."""
        found = [m.model.predict(x) for m in self.members]
        scaled = [m.scale * p.std for m, p in zip(self.members, found, strict=True)]
        return combine(self._weights, [p.mean for p in found], scaled)

    def doubt(self, x: FloatArray) -> FloatArray:
        """As :meth:`predict`, of the expected value."""
        means = [m.model.mean(x) for m in self.members]
        stds = [m.scale * doubt(m.model, x) for m in self.members]
        return combine(self._weights, means, stds).std

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """As :meth:`predict`, of the differences to the reference."""
        at = reference[None]
        means = [m.model.mean(x) - m.model.mean(at) for m in self.members]
        stds = [m.scale * m.model.contrast(x, reference) for m in self.members]
        return combine(self._weights, means, stds).std

    def state(self) -> dict[str, Any]:
        """The members' states and weights."""
        return {
            "members": [
                {
                    "name": m.model.name,
                    "weight": m.weight,
                    "scale": m.scale,
                    "state": m.model.state(),
                }
                for m in self.members
            ]
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The same members with the same weights."""
        return cls(
            [
                Member(m["weight"], m["scale"], restore(m["name"], m["state"]))
                for m in state["members"]
            ]
        )


def weigh(
    tried: Mapping[str, HeldOut], y: FloatArray, context: Context = NOTHING
) -> dict[str, Share]:
    """The regressors that held-out predictions of one metric give a weight, and how much."""
    weights = stack(list(tried.values()), y, np.ones(len(y), dtype=bool))
    return {
        name: Share(float(weight), conformal_scale(y, found, context.mixtures))
        for (name, found), weight in zip(tried.items(), weights, strict=True)
        if weight > 0
    }


def combine(
    weights: FloatArray, means: Sequence[FloatArray], stds: Sequence[FloatArray]
) -> Prediction:
    """Moments of a mixture of normals: ``weights`` ``(k, 1)``, the others ``(n,)`` each."""
    m, s = np.array(means), np.array(stds)
    mean = (weights * m).sum(0)
    return Prediction(mean, np.sqrt((weights * (s**2 + (m - mean) ** 2)).sum(0)))


def stack(tried: Sequence[HeldOut], y: FloatArray, rows: np.ndarray) -> FloatArray:
    """Weights for one metric from the held-out predictions of some rows, shape ``(k,)``."""
    columns = [t.mean[:, rows, 0].ravel() for t in tried]
    features = np.column_stack(columns)
    target = np.tile(y[rows], len(tried[0].mean))
    middle, spread = target.mean(), max(float(target.std()), 1e-12)
    features, target = (features - middle) / spread, (target - middle) / spread
    k = len(columns)
    strict = 1e3 * np.sqrt(len(target))  # the row that makes the weights sum to 1
    even = np.sqrt(_EVEN)
    a = np.vstack([features, np.full((1, k), strict), even * np.eye(k)])
    b = np.concatenate([target, [strict], np.full(k, even / k)])
    weights = scipy.optimize.nnls(a, b)[0]
    weights = np.where(weights < LEAST_WEIGHT * weights.sum(), 0.0, weights)
    return np.asarray(weights / weights.sum())


def stacked_held_out(tried: Sequence[HeldOut], y: FloatArray, folds: Folds) -> HeldOut:
    """How the ensemble itself predicts what it has not seen.

    Each fold is combined with weights found on the other folds, so that the ensemble is judged as
    its members are.
    """
    mean, std = np.empty((2, *tried[0].mean.shape))
    context = Context(mixtures=folds.mixtures)
    for repeat, out in folds:
        weights = stack(tried, y, ~out)[:, None]
        own = context.rows(~out).mixtures
        scales = [conformal_scale(y[~out], _rows(t, ~out), own) for t in tried]
        found = combine(
            weights,
            [t.mean[repeat, out, 0] for t in tried],
            [c * t.std[repeat, out, 0] for c, t in zip(scales, tried, strict=True)],
        )
        mean[repeat, out, 0], std[repeat, out, 0] = found.mean, found.std
    return HeldOut(mean, std)


def _rows(found: HeldOut, rows: np.ndarray) -> HeldOut:
    return HeldOut(found.mean[:, rows], found.std[:, rows])
