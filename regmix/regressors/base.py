"""What every regressor is: a map from mixtures to one metric, with its uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from os import sched_getaffinity
from threading import Lock
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from regmix.mixture import FloatArray

T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """Mean and standard deviation of a metric as it would be measured, each shape ``(n,)``."""

    mean: FloatArray
    std: FloatArray


@dataclass(frozen=True)
class Context:
    """What is known beside mixtures and values; empty: nothing."""

    noise: FloatArray | None = None
    """Noise variance of every value relative to a typical one, shape ``(n, n_metrics)``."""
    monotone: npt.NDArray[np.int64] | None = None
    """+1 rising, -1 falling, 0 free: metric against weight, shape ``(n_metrics, n_domains)``."""
    mixtures: npt.NDArray[np.int64] | None = None
    """A number for the mixture of every run, shape ``(n,)``; None: no mixture was run twice."""

    def rows(self, keep: npt.NDArray[Any]) -> Context:
        """The context of some of the runs."""
        return replace(
            self,
            noise=None if self.noise is None else self.noise[keep],
            mixtures=None if self.mixtures is None else self.mixtures[keep],
        )

    def columns(self, keep: npt.NDArray[Any]) -> Context:
        """The context of some of the metrics."""
        return Context(
            None if self.noise is None else self.noise[:, keep],
            None if self.monotone is None else self.monotone[keep],
            self.mixtures,
        )

    def noise_of(self, metric: int, runs: int) -> FloatArray:
        """Relative noise variances for one metric, shape ``(n,)``."""
        return np.ones(runs) if self.noise is None else self.noise[:, metric]

    def mixtures_of(self, runs: int) -> npt.NDArray[np.int64]:
        """The mixture of every run, numbered from 0 without a gap, shape ``(n,)``."""
        if self.mixtures is None:
            return np.arange(runs)
        return np.unique(self.mixtures, return_inverse=True)[1]


NOTHING = Context()


@dataclass(frozen=True)
class Shape:
    """What a solver may rely on when it searches a regressor's mean."""

    smooth: bool
    """Differentiable inside the simplex, so that gradients lead somewhere."""
    convex: int = 0
    """+1: the mean is convex in the weights, -1: concave, 0: neither is known."""
    linear: bool = False
    """The mean is both, whatever :attr:`convex` says."""

    def convex_times(self, sign: float) -> bool:
        """Whether the mean is convex once it is multiplied by something of a sign."""
        return sign != 0 and (self.linear or self.convex * sign > 0)


class Regressor(Protocol):
    """One metric as a function of the mixture.

    Fitting is deterministic. ``x`` has shape ``(n, n_domains)``, rows on the simplex; no value is
    NaN.
    """

    name: ClassVar[str]

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        """Fit every column of ``y``, shape ``(n, n_metrics)``: one regressor each."""
        ...

    def mean(self, x: FloatArray) -> FloatArray:
        """Expected value of the metric, shape ``(n,)``."""
        ...

    def predict(self, x: FloatArray) -> Prediction:
        """Mean and standard deviation of a new measurement."""
        ...

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """Standard deviation of (expected value at ``x`` - at ``reference``), shape ``(n,)``.

        Args:
            reference: one mixture, shape ``(n_domains,)``. At the reference itself it is 0.
        """
        ...

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        """The same kind on other runs of the same metric, ``y`` of shape ``(n,)``.

        For bootstraps: hyperparameters may be kept, and only :meth:`mean` need work.
        """
        ...

    @property
    def shape(self) -> Shape:
        """What a solver may rely on."""
        ...

    def state(self) -> dict[str, Any]:
        """The fitted regressor as plain JSON values."""
        ...

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The regressor that :meth:`state` describes; predicts the same."""
        ...


@runtime_checkable
class Doubting(Protocol):
    """A regressor that also tells how well it knows the metric itself, without a run's noise."""

    def doubt(self, x: FloatArray) -> FloatArray:
        """Standard deviation of the expected value, shape ``(n,)``."""
        ...


def doubt(model: Regressor, x: FloatArray) -> FloatArray:
    """What :class:`Doubting` regressors tell; of others that of a measurement, which is more."""
    return model.doubt(x) if isinstance(model, Doubting) else model.predict(x).std


@dataclass(frozen=True)
class Scaled:
    """Metrics with mean 0 and standard deviation 1, and the way back."""

    values: FloatArray
    """Shape ``(n, n_metrics)``."""
    mean: FloatArray = field(repr=False)
    scale: FloatArray = field(repr=False)

    @classmethod
    def of(cls, y: FloatArray, values: FloatArray | None = None) -> Scaled:
        """Standardise each column; a constant one gets a millionth of its value as its scale.

        A law that is fitted to zeros does not end at zero to the last digit; what is left must not
        look like an effect.

        Args:
            y: gives the means and scales.
            values: what is standardised by them; None: ``y`` itself.
        """
        mean, scale = y.mean(0), y.std(0)
        size = np.where(mean == 0, 1.0, np.abs(mean))
        scale = np.where(scale > 1e-12 * size, scale, 1e-6 * size)
        return cls(((y if values is None else values) - mean) / scale, mean, scale)


def rows_of(
    mixtures: npt.NDArray[np.int64], picked: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The runs of some mixtures, one mixture after the other; of one picked twice, twice.

    Args:
        mixtures: of every run, numbered from 0 without a gap.
        picked: numbers of mixtures; where each has one run, these are its rows.
    """
    order, sizes = np.argsort(mixtures, kind="stable"), np.bincount(mixtures)
    first = np.cumsum(sizes) - sizes
    return np.concatenate([order[first[m] : first[m] + sizes[m]] for m in picked])


@dataclass(frozen=True)
class Averaged:
    """One row a mixture, for methods that leave out one row at a time to choose something.

    A run that is left out is no test where another of the same mixture stays in.
    """

    x: FloatArray
    y: FloatArray
    """Means over a mixture's runs, shape ``(n_mixtures, n_metrics)``."""
    context: Context
    """Without :attr:`Context.mixtures`."""
    lost: FloatArray
    """By metric, the standard deviation that one run has beside that of these means: between runs
    of a mixture, pooled, times √(1 - mean of 1/runs)."""

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray, context: Context) -> Averaged:
        """The same rows where no mixture was run twice."""
        if context.mixtures is None:
            return cls(x, y, context, np.zeros(y.shape[1]))
        own = context.mixtures_of(len(x))
        _, first, sizes = np.unique(own, return_index=True, return_counts=True)
        count = sizes[:, None]

        def mean(values: FloatArray) -> FloatArray:
            total = np.zeros((len(sizes), values.shape[1]))
            np.add.at(total, own, values)
            return total / count

        means = mean(y)
        squares = ((y - means[own]) ** 2).sum(0) / max(len(y) - len(sizes), 1)
        lost = np.sqrt(squares * (1 - (1 / sizes).mean()))
        noise = (np.ones((len(sizes), y.shape[1])) if context.noise is None
                 else mean(context.noise)) / count  # fmt: skip
        noise = noise / np.exp(np.log(noise).mean(0))
        return cls(x[first], means, Context(noise, context.monotone), lost)


class _OneThread:
    """A limit that nests and that threads share: set by the first, lifted by the last."""

    def __init__(self) -> None:
        self._lock, self._depth = Lock(), 0
        self._controller: ThreadpoolController | None = None
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                # Looking for the loaded libraries takes milliseconds, so it is done once.
                self._controller = self._controller or ThreadpoolController()
                self._limit = self._controller.limit(limits=1, user_api="blas")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._limit.restore_original_limits()


one_thread = _OneThread()
"""One thread for the linear algebra, while the context lasts.

Matrices here are small: threads gain little on idle cores, cost a hundredfold on busy ones, and
their number would change the last digits of a fit.
"""


def in_threads(work: Callable[[int], T], count: int) -> list[T]:
    """``work(0) … work(count - 1)`` on as many threads as there are cores, in order.

    The work must release the interpreter's lock where it counts, as numpy and LightGBM do.
    """
    with one_thread, ThreadPoolExecutor(max(1, len(sched_getaffinity(0)))) as pool:
        return list(pool.map(work, range(count)))
