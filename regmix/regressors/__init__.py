"""Regressors from mixture to metric: one file each, one Protocol, one list of names."""

from regmix.regressors.base import Context, Prediction, Regressor, Shape
from regmix.regressors.registry import CANDIDATES, names, regressor, restore

__all__ = [
    "CANDIDATES",
    "Context",
    "Prediction",
    "Regressor",
    "Shape",
    "names",
    "regressor",
    "restore",
]
