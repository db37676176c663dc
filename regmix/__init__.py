"""Data-mixture optimisation: sample mixtures, train proxies, fit, solve, say how sure it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from regmix.mixture import Mixture
    from regmix.space import Space
    from regmix.study import Study

__all__ = ["Mixture", "Space", "Study", "__version__"]

_HOME = {"Mixture": "regmix.mixture", "Space": "regmix.space", "Study": "regmix.study"}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing the package costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'regmix' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
