"""The compact surrogate: what a page needs to predict by itself, and the same in Python.

A metric's mean is a weighted sum of parts, its standard deviation one of three forms. What the
page is given is this, array by array; ``of(as_dict())`` predicts the same to the last digit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.regressors import Prediction
from regmix.report.explorer.parts import PARTS, STDS, Basis, Inputs, Part, StandIn, StandInStd, Std


@dataclass(frozen=True)
class Term:
    """One part of a mean, times a factor."""

    factor: float
    part: Part

    def as_dict(self) -> dict[str, Any]:
        """Plain values and arrays."""
        return {"factor": self.factor, **_plain(self.part)}


@dataclass(frozen=True)
class CompactMetric:
    """One metric: ``shift + Σ factor · part``, and its standard deviation."""

    name: str
    shift: float
    terms: tuple[Term, ...]
    std: Std

    @property
    def exact_mean(self) -> bool:
        """Whether the mean is the fit's own."""
        return not any(isinstance(term.part, StandIn) for term in self.terms)

    @property
    def exact_std(self) -> bool:
        """Whether the standard deviation is the fit's own."""
        return not isinstance(self.std, StandInStd)

    def predict(self, at: Inputs) -> Prediction:
        """Mean and standard deviation of a measurement, each shape ``(n,)``."""
        mean = self.shift + sum(term.factor * term.part.value(at) for term in self.terms)
        return Prediction(np.asarray(mean), self.std.std(self.terms[0].part, at))

    def as_dict(self) -> dict[str, Any]:
        """Plain values and arrays."""
        return {
            "name": self.name,
            "shift": self.shift,
            "terms": [term.as_dict() for term in self.terms],
            "std": _plain(self.std),
        }

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """What :meth:`as_dict` gave."""
        return cls(raw["name"], raw["shift"], _terms(raw), _restore(STDS, raw["std"]))


@dataclass(frozen=True)
class CompactLimit:
    """How far a mixture is beyond one of the study's limits: ``shift + Σ factor · stand-in``.

    In the metric's unit; at most 0 where the limit holds.
    """

    name: str
    scale: float
    """The metric's size at the limit's reference."""
    shift: float
    terms: tuple[Term, ...]

    def excess(self, at: Inputs) -> FloatArray:
        """Shape ``(n,)``."""
        return np.asarray(self.shift + sum(t.factor * t.part.value(at) for t in self.terms))

    def as_dict(self) -> dict[str, Any]:
        """Plain values and arrays."""
        terms = [term.as_dict() for term in self.terms]
        return {"name": self.name, "scale": self.scale, "shift": self.shift, "terms": terms}

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """What :meth:`as_dict` gave."""
        return cls(raw["name"], raw["scale"], raw["shift"], _terms(raw))


@dataclass(frozen=True)
class Compact:
    """All metrics over some domains."""

    domains: tuple[str, ...]
    metrics: tuple[CompactMetric, ...]
    correlation: FloatArray
    """Of the metrics' prediction errors, shape ``(n_metrics, n_metrics)``."""
    basis: Basis | None
    """None where nothing needs a stand-in."""
    limits: tuple[CompactLimit, ...] = ()

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations, each ``(n, n_metrics)``, for ``(n, n_domains)``."""
        at = Inputs(x, self.basis)
        found = [metric.predict(at) for metric in self.metrics]
        return np.column_stack([p.mean for p in found]), np.column_stack([p.std for p in found])

    def objective(self, x: FloatArray, objective: Objective) -> Prediction:
        """The objective with its standard deviation."""
        rows = [[m.name for m in self.metrics].index(name) for name in objective.metrics]
        mean, std = self.predict(x)
        return Prediction(
            *objective.join(mean[:, rows].T, std[:, rows].T, self.correlation[np.ix_(rows, rows)])
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values and arrays."""
        return {
            "domains": list(self.domains),
            "metrics": [metric.as_dict() for metric in self.metrics],
            "correlation": self.correlation,
            "basis": None if self.basis is None else asdict(self.basis),
            "limits": [limit.as_dict() for limit in self.limits],
        }

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """What :meth:`as_dict` gave."""
        return cls(
            tuple(raw["domains"]),
            tuple(CompactMetric.of(m) for m in raw["metrics"]),
            raw["correlation"],
            None if raw["basis"] is None else Basis(**raw["basis"]),
            tuple(CompactLimit.of(limit) for limit in raw["limits"]),
        )


def _terms(raw: Mapping[str, Any]) -> tuple[Term, ...]:
    return tuple(
        Term(t["factor"], _restore(PARTS, {k: v for k, v in t.items() if k != "factor"}))
        for t in raw["terms"]
    )


def _plain(value: Part | Std) -> dict[str, Any]:
    return {"kind": value.kind, **asdict(value)}


def _restore(kinds: Mapping[str, Any], raw: Mapping[str, Any]) -> Any:
    return kinds[raw["kind"]](**{k: v for k, v in raw.items() if k != "kind"})
