"""Between shares of tokens and shares of documents.

A trainer that draws a document of domain i with probability p_i trains on tokens in proportion to
p_i·m_i, with m_i the domain's mean tokens a document. So p_i ∝ w_i / m_i, and back w_i ∝ p_i·m_i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from regmix.errors import UserError
from regmix.export.base import Unit
from regmix.floats import exact_sum
from regmix.mixture import EXACT
from regmix.pages import page
from regmix.places import Places


def in_unit(weights: Mapping[str, float], unit: Unit, places: Places) -> dict[str, float]:
    """Token shares as shares of what a trainer weighs; both sum to 1.

    Raises:
        UserError: the mean tokens of a domain's documents are needed and not known.
    """
    if unit is Unit.TOKENS:
        return dict(weights)
    return _normalised({n: w / _mean(n, places) for n, w in weights.items()})


def in_tokens(weights: Mapping[str, float], unit: Unit, places: Places | None) -> dict[str, float]:
    """The way back: shares of what a trainer weighs as shares of tokens.

    Raises:
        UserError: as :func:`in_unit`; or all weights are zero.
    """
    if unit is Unit.TOKENS:
        return _normalised(weights)
    if places is None:
        raise UserError(
            "its weights are shares of documents: give --study or --paths with the tokens and "
            "documents of every domain, so that they can be turned into shares of tokens"
        )
    return _normalised({n: w * _mean(n, places) if w else 0.0 for n, w in weights.items()})


def _mean(name: str, places: Places) -> float:
    mean = places.domains[name].mean_tokens
    if mean is None:
        raise UserError(
            f"{places.where}: the mean tokens of a document of '{name}' are not known, and this "
            "format weighs documents; build the study's data, or give tokens and documents of the "
            f"domain in a mapping file (--paths); {page('EXPORTS', 'units')} says why"
        )
    return mean


def _normalised(weights: Mapping[str, float]) -> dict[str, float]:
    total = exact_sum(weights.values())
    if not math.isfinite(total):
        raise UserError("its weights sum to more than a number can be")
    if total <= 0:
        raise UserError("all weights are zero")
    if abs(total - 1) <= EXACT:  # dividing again would change digits
        return dict(weights)
    return {name: value / total for name, value in weights.items()}
