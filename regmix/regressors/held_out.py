"""Held-out predictions by repeated k-fold, and the factor that makes their intervals cover.

Folds are drawn by a seed, so a fit's callers fix the order of the rows. They are of mixtures: were
one run of a mixture held out and another not, a regressor that remembers would look like one that
predicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from regmix.mixture import FloatArray
from regmix.regressors.base import Context, Prediction, Regressor

LEVEL = 0.9
"""Intervals are made to cover this share."""
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class Folds:
    """Which fold every row is in, per repeat: shape ``(repeats, n)``."""

    of: npt.NDArray[np.int64]
    mixtures: npt.NDArray[np.int64] | None = None
    """As :attr:`regmix.regressors.Context.mixtures`."""

    @classmethod
    def draw(
        cls, runs: int, count: int, repeats: int, mixtures: npt.NDArray[np.int64] | None = None
    ) -> Folds:
        """Shuffled folds of equally many mixtures, a function of the numbers alone."""
        own = Context(mixtures=mixtures).mixtures_of(runs)
        number = int(own.max(initial=-1)) + 1
        of = np.empty((repeats, number), dtype=np.int64)
        for repeat in range(repeats):
            order = np.random.default_rng([repeat, 4]).permutation(number)
            for fold, part in enumerate(np.array_split(order, min(count, number))):
                of[repeat, part] = fold
        return cls(of[:, own], mixtures)

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """Repeat and which rows are held out, fold after fold."""
        for repeat, row in enumerate(self.of):
            for fold in range(int(row.max()) + 1):
                yield repeat, row == fold

    def __len__(self) -> int:
        return int(sum(row.max() + 1 for row in self.of))


@dataclass(frozen=True)
class HeldOut:
    """Held-out predictions of some metrics, each array of shape ``(repeats, n, n_metrics)``."""

    mean: FloatArray
    std: FloatArray

    def metric(self, index: int) -> HeldOut:
        """One metric alone, last axis kept."""
        return HeldOut(self.mean[..., index : index + 1], self.std[..., index : index + 1])

    def average(self) -> Prediction:
        """Mean over the repeats; for a single metric, each shape ``(n,)``."""
        return Prediction(self.mean.mean(0)[:, 0], np.sqrt((self.std**2).mean(0))[:, 0])


def held_out(
    kind: type[Regressor], x: FloatArray, y: FloatArray, folds: Folds, context: Context
) -> HeldOut:
    """Predict every row by a regressor fitted without its fold; ``y`` has ``(n, n_metrics)``."""
    mean, std = np.empty((2, len(folds.of), *y.shape))
    for repeat, out in folds:
        models = kind.fit_all(x[~out], y[~out], context.rows(~out))
        for index, model in enumerate(models):
            found = model.predict(x[out])
            mean[repeat, out, index], std[repeat, out, index] = found.mean, found.std
    return HeldOut(mean, std)


def conformal_scale(
    y: FloatArray, found: HeldOut, mixtures: npt.NDArray[np.int64] | None = None
) -> float:
    """What one metric's standard deviations are multiplied by so that 90 % intervals cover.

    The split-conformal quantile of the standardised held-out residuals (Lei et al. 2018, theorem
    2.2), as a factor on the normal interval's width. Residuals of one mixture go together: each
    mixture counts once, however many runs it had (Dunn, Wasserman & Ramdas 2023).
    """
    z = np.abs(y - found.mean[..., 0]) / np.maximum(found.std[..., 0], 1e-12)
    own = Context(mixtures=mixtures).mixtures_of(len(y))
    sizes = np.bincount(own)
    rank = min(1.0, math.ceil((len(sizes) + 1) * LEVEL) / len(sizes))
    if mixtures is None:
        least = float(np.quantile(z, rank, method="inverted_cdf"))
    else:
        order = np.argsort(z, axis=None)
        share = np.cumsum(np.broadcast_to(1 / sizes[own], z.shape).ravel()[order])
        least = float(z.ravel()[order[np.searchsorted(share, rank * share[-1] * (1 - 1e-12))]])
    return max(least / _Z, 1e-6)
