"""From a fitted surrogate to a compact one: exact where that is small, a stand-in where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regmix.mixture import FloatArray
from regmix.regressors import Prediction, Regressor
from regmix.regressors.base import in_threads
from regmix.regressors.ensemble import Ensemble
from regmix.report.explorer import exact, sampling, standin
from regmix.report.explorer.compact import Compact, CompactLimit, CompactMetric, Term
from regmix.report.explorer.parts import Inputs, StandIn, StandInStd, Std
from regmix.solve import Problem
from regmix.space import Space
from regmix.surrogate import FittedMetric

EXACT_BYTES = 1_000_000
"""What exact standard deviations may take in all; beyond it all of them are stand-ins."""
FITTED_TO, SEED = 2_400, 11


@dataclass(frozen=True)
class Region:
    """Where a compact surrogate has to be good."""

    space: Space
    anchors: FloatArray
    """Mixtures that a person starts from, ``(n, n_domains)``."""
    runs: FloatArray
    """What was measured, ``(n, n_domains)``."""

    def draw(self, count: int, seed: int) -> FloatArray:
        """Mixtures as a person makes them by moving sliders."""
        rng = np.random.default_rng([SEED, seed])
        return sampling.cloud(self.space, self.anchors, self.runs, count, rng)


@dataclass(frozen=True)
class _Known:
    """What of a metric is exact."""

    shift: float
    terms: tuple[Term, ...]
    whole: bool
    """Whether nothing of the mean is left to a stand-in."""
    std: Std | None


@dataclass(frozen=True)
class _Column:
    """One fitted stand-in: ``shift + term``."""

    shift: float
    term: Term


def compact(problem: Problem, region: Region, samples: int = FITTED_TO) -> Compact:
    """The compact surrogate of a fit, with the limits of what it was solved for.

    Args:
        samples: mixtures that stand-ins are fitted to.
    """
    surrogate = problem.surrogate
    known = [_known(metric) for metric in surrogate.metrics]
    if 8 * sum(exact.std_size(m) for m in surrogate.metrics) > EXACT_BYTES:
        known = [_Known(k.shift, k.terms, k.whole, None) for k in known]
    if problem.limits or not all(k.whole and k.std is not None for k in known):
        return _with_stand_ins(problem, known, region, samples)
    metrics = [_metric(m, k, None, None) for m, k in zip(surrogate.metrics, known, strict=True)]
    return Compact(surrogate.domains, tuple(metrics), surrogate.correlation, None)


def _known(metric: FittedMetric) -> _Known:
    members = _members(metric.model)
    found = [f for f in (exact.term(model, weight) for model, weight in members) if f is not None]
    return _Known(
        shift=sum(shift for shift, _ in found),
        terms=tuple(term for _, term in found),
        whole=len(found) == len(members),
        std=None if isinstance(metric.model, Ensemble) else exact.std(metric),
    )


def _members(model: Regressor) -> Sequence[tuple[Regressor, float]]:
    if isinstance(model, Ensemble):
        return [(m.model, m.weight) for m in model.members]
    return [(model, 1.0)]


def _with_stand_ins(
    problem: Problem, known: Sequence[_Known], region: Region, samples: int
) -> Compact:
    """What is left of the means, logarithms of the standard deviations, and limits: in one fit."""
    surrogate, x = problem.surrogate, region.draw(samples, 0)
    at = Inputs(x, None)

    def targets(i: int) -> list[FloatArray]:
        found, own = surrogate.metrics[i].predict(x), known[i]
        explained = own.shift + sum(t.factor * t.part.value(at) for t in own.terms)
        mean = [] if own.whole else [found.mean - explained]
        return mean + ([_log(found)] if own.std is None else [])

    by_metric = in_threads(targets, len(known))
    limits = [limit.excess(surrogate, x) for limit in problem.limits]
    values = [column for columns in by_metric for column in columns] + limits
    rng = np.random.default_rng([SEED, 2])
    fitted = standin.fit(x, np.column_stack(values), region.runs, rng)
    columns = iter([_column(fitted, i) for i in range(len(values))])
    metrics = []
    for metric, own, found in zip(surrogate.metrics, known, by_metric, strict=True):
        rest = None if own.whole else next(columns)
        std = None if own.std is not None else _std(next(columns), found[-1])
        metrics.append(_metric(metric, own, rest, std))
    compact_limits = tuple(
        CompactLimit(limit.name, limit.scale, column.shift, (column.term,))
        for limit, column in zip(problem.limits, columns, strict=True)
    )
    return Compact(
        surrogate.domains, tuple(metrics), surrogate.correlation, fitted.basis, compact_limits
    )


def _log(found: Prediction) -> FloatArray:
    """Of the standard deviations; what is predicted without error gets the last digit's."""
    return np.log(np.maximum(found.std, least_std(found)))


def least_std(found: Prediction) -> float:
    """The last digit of a metric's values: no standard deviation means less than that."""
    return 1e-15 * float(np.abs(found.mean).max()) or 1e-300


def _column(fitted: standin.StandIns, column: int) -> _Column:
    part = StandIn(fitted.coefficients[:, column].copy())
    return _Column(float(fitted.shift[column]), Term(float(fitted.scale[column]), part))


def _std(column: _Column, logs: FloatArray) -> StandInStd:
    assert isinstance(column.term.part, StandIn)
    coefficients = column.term.factor * column.term.part.coefficients
    coefficients[0] += column.shift  # the basis begins with a constant
    return StandInStd(coefficients, float(logs.min()), float(logs.max()))


def _metric(
    metric: FittedMetric, known: _Known, rest: _Column | None, std: Std | None
) -> CompactMetric:
    own = known.std if std is None else std
    assert own is not None, metric.name
    if rest is None:
        return CompactMetric(metric.name, known.shift, known.terms, own)
    return CompactMetric(metric.name, known.shift + rest.shift, (*known.terms, rest.term), own)
