"""The names of regressors and where they live; plug-ins register the entry point group below."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from regmix.errors import unknown_name
from regmix.regressors.base import Regressor

GROUP = "regmix.regressors"
"""Entry point group: ``name = "package.module:Class"``."""

BUILT_IN = {
    "linear": "regmix.regressors.ridge:Linear",
    "sqrt-ridge": "regmix.regressors.ridge:SqrtRidge",
    "loglinear": "regmix.regressors.loglinear:LogLinear",
    "powerlaw": "regmix.regressors.powerlaw:PowerLaw",
    "gp": "regmix.regressors.gp:GaussianProcess",
    "lightgbm": "regmix.regressors.lightgbm:BoostedTrees",
    "lightgbm-regmix": "regmix.regressors.lightgbm:RegMixTrees",
    "ensemble": "regmix.regressors.ensemble:Ensemble",
}
CANDIDATES = ("linear", "sqrt-ridge", "loglinear", "powerlaw", "gp", "lightgbm")
"""What ``auto`` tries and an ensemble may hold, the simpler first: so ties are decided."""


def names() -> tuple[str, ...]:
    """Every regressor that can be asked for by name, plug-ins last."""
    return (*BUILT_IN, *(e.name for e in entry_points(group=GROUP) if e.name not in BUILT_IN))


@cache
def regressor(name: str) -> type[Regressor]:
    """A regressor's class by name.

    Raises:
        UserError: there is none of that name.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: Any = getattr(import_module(module), attribute)
    else:
        matching = [e for e in entry_points(group=GROUP) if e.name == name]
        if not matching:
            raise unknown_name("regressor", name, (*names(), "auto"), "fit.regressor")
        found = matching[0].load()
    return found  # type: ignore[no-any-return]


def restore(name: str, state: dict[str, Any]) -> Regressor:
    """A fitted regressor from what :meth:`Regressor.state` gave."""
    return regressor(name).from_state(state)
