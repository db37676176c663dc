"""Regressors that a page can compute to the last digits: their parts and standard deviations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from regmix.regressors import Regressor, powerlaw
from regmix.regressors.gp import GaussianProcess
from regmix.regressors.laws import FARTHEST
from regmix.regressors.loglinear import LARGEST, LogLinear
from regmix.regressors.parametric import Parametric
from regmix.regressors.powerlaw import PowerLaw
from regmix.regressors.ridge import Linear, SqrtRidge
from regmix.report.explorer.compact import Term
from regmix.report.explorer.parts import (
    Exponential,
    Formula,
    FormulaStd,
    Powers,
    Process,
    ProcessStd,
    Ridge,
)
from regmix.surrogate import FittedMetric


def term(model: Regressor, weight: float) -> tuple[float, Term] | None:
    """``weight`` times a regressor's mean as a shift and a term; None if it has no formula here.

    A plug-in and boosted trees have none.
    """
    if isinstance(model, GaussianProcess):
        e = model.expansion()
        process = Process(e.inputs, e.weights, e.length, e.signal, e.linear)
        return weight * e.mean, Term(weight * e.scale, process)
    formula = _FORMULAS.get(type(model))
    if formula is None or not isinstance(model, Parametric):
        return None
    state = model.state()
    posterior = state["posterior"]
    return weight * posterior["mean"], Term(weight * posterior["scale"], formula(state))


def std(fitted: FittedMetric) -> FormulaStd | ProcessStd | None:
    """A metric's calibrated standard deviation as a formula; None if there is none here."""
    model, factor = fitted.model, fitted.std_scale
    kind: type = type(model)
    if isinstance(model, GaussianProcess):
        e = model.expansion()
        packed = e.factor[np.tril_indices(len(e.factor))]
        return ProcessStd(packed, e.noise, factor * e.scale)
    if kind not in _FORMULAS or not isinstance(model, Parametric):
        return None
    posterior = model.state()["posterior"]
    root, scale = np.array(posterior["root"], dtype=float), factor * posterior["scale"]
    if kind is PowerLaw:  # at a bound a parameter changes nothing any more
        free = powerlaw.free(np.array(posterior["theta"])[None])[0]
        root[1:] *= free[:, None]
    bounded = kind in (LogLinear, PowerLaw)
    return FormulaStd(root, posterior["noise"], scale, FARTHEST * scale if bounded else None)


def std_size(fitted: FittedMetric) -> int:
    """Numbers that :func:`std` would take."""
    if isinstance(fitted.model, GaussianProcess):
        runs = len(fitted.model.expansion().inputs)
        return runs * (runs + 1) // 2
    if isinstance(fitted.model, Parametric):
        return len(fitted.model.state()["posterior"]["theta"]) ** 2
    return 0


def _ridge(state: dict[str, Any], roots: bool) -> Ridge:
    return Ridge(np.array(state["posterior"]["theta"], dtype=float), roots)


def _exponential(state: dict[str, Any]) -> Exponential:
    c, a, *t = state["posterior"]["theta"]
    return Exponential(c, a, np.array(t), state["sign"], FARTHEST, LARGEST)


def _powers(state: dict[str, Any]) -> Powers:
    theta = np.array(state["posterior"]["theta"], dtype=float)
    f, a, g = (part[0] for part in powerlaw.constants(theta[None]))
    return Powers(float(theta[0]), f, a, g, state["sign"], FARTHEST)


_FORMULAS: dict[type, Callable[[dict[str, Any]], Formula]] = {
    Linear: lambda state: _ridge(state, roots=False),
    SqrtRidge: lambda state: _ridge(state, roots=True),
    LogLinear: _exponential,
    PowerLaw: _powers,
}
"""By the very class: what a plug-in derives from one of them may compute something else."""
