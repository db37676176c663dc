"""Regressors from mixture to metric: one file each, one Protocol, one list of names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regmix.errors import unknown_name
from regmix.regressors.base import Prediction, Regressor

__all__ = ["NAMES", "Prediction", "Regressor", "create", "restore"]


def _gp() -> type[Regressor]:
    from regmix.regressors.gp import GaussianProcess

    return GaussianProcess


def _lightgbm() -> type[Regressor]:
    from regmix.regressors.lightgbm import BoostedTrees

    return BoostedTrees


_CLASSES: dict[str, Callable[[], type[Regressor]]] = {"gp": _gp, "lightgbm": _lightgbm}
NAMES = tuple(_CLASSES)
"""Every regressor, the simpler first: the order in which ties are decided."""


def create(name: str) -> Regressor:
    """A fresh regressor by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in _CLASSES:
        raise unknown_name("regressor", name, (*NAMES, "auto"), "fit.regressor")
    return _CLASSES[name]()()


def restore(name: str, state: dict[str, Any]) -> Regressor:
    """A fitted regressor from what :meth:`Regressor.state` gave."""
    if name not in _CLASSES:
        raise unknown_name("regressor", name, NAMES)
    return _CLASSES[name]().from_state(state)
