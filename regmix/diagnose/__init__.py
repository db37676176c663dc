"""Diagnose: what a swarm can and cannot say, in numbers, and what to do about it.

``swarm`` looks at the mixtures, ``signal`` at metrics and their noise, ``outliers`` at single runs,
``curve`` at what more runs would give; each returns frames. ``findings`` puts them into words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from regmix import plain
from regmix.diagnose import curve, findings, outliers, signal, swarm
from regmix.diagnose.curve import Curve, Forecast
from regmix.diagnose.findings import Evidence, Finding, Kind, Place
from regmix.diagnose.signal import Signal
from regmix.observations import Observations
from regmix.results import Fit
from regmix.space import Space

__all__ = ["Curve", "Diagnosis", "Finding", "Forecast", "Kind", "Place", "Signal", "diagnose"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Diagnosis:
    """Frames with what was found, and findings in words."""

    fit_id: str
    objective: Signal
    """The objective's own record."""
    domains: pd.DataFrame
    """As :func:`regmix.diagnose.swarm.domains`."""
    pairs: pd.DataFrame
    """As :func:`regmix.diagnose.swarm.pairs`."""
    laws: pd.DataFrame
    """As :func:`regmix.diagnose.swarm.laws`."""
    duplicates: pd.DataFrame
    """As :func:`regmix.diagnose.swarm.duplicates`."""
    metrics: pd.DataFrame
    """As :func:`regmix.diagnose.signal.metrics`."""
    outliers: pd.DataFrame
    """As :func:`regmix.diagnose.outliers.outliers`."""
    curve: Curve | None
    """None where there are too few runs for one."""
    findings: tuple[Finding, ...]

    def say(self, kind: Kind) -> list[str]:
        """Texts of one kind: ``can``, ``cannot`` or ``do``."""
        return [f.text for f in self.findings if f.kind == kind]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, NaN as None, for ``--json``."""
        frames = {
            name: plain.records(getattr(self, name))
            for name in ("domains", "pairs", "laws", "duplicates", "metrics", "outliers")
        }
        return {
            "fit_id": self.fit_id,
            "findings": [asdict(f) for f in self.findings],
            "objective": plain.row(asdict(self.objective)),
            **frames,
            "curve": None if self.curve is None else self.curve.as_dict(),
        }


def diagnose(
    data: Observations, fit: Fit, space: Space, place: Place, progress: Progress | None = None
) -> Diagnosis:
    """Look at a study's runs and its fit.

    Args:
        place: how commands name the study.
        progress: called with (steps done, in all), for the learning curve.
    """
    held = fit.held_out
    surrogate = fit.surrogate
    grown = curve.learn(data, fit.objective, curve.choose(surrogate, fit.objective), progress)
    evidence = Evidence(
        data=data,
        fit=fit,
        objective=signal.of_objective(data, held, surrogate, fit.objective),
        domains=swarm.domains(data),
        pairs=swarm.pairs(data, space.pinned),
        laws=swarm.laws(len(data.weights), len(data.domains)),
        duplicates=swarm.duplicates(data),
        metrics=signal.metrics(data, surrogate, fit.objective),
        outliers=outliers.outliers(data, held, surrogate, fit.objective),
        curve=grown,
        place=place,
    )
    return Diagnosis(
        fit_id=fit.fit_id,
        objective=evidence.objective,
        domains=evidence.domains,
        pairs=evidence.pairs,
        laws=evidence.laws,
        duplicates=evidence.duplicates,
        metrics=evidence.metrics,
        outliers=evidence.outliers,
        curve=grown,
        findings=tuple(findings.findings(evidence)),
    )
