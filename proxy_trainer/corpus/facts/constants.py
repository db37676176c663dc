"""Facts about physics, from the CODATA constants in scipy."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from proxy_trainer.corpus.base import Work

_Constant = tuple[str, float, str, float]
_TEXTS_PER_CONSTANT = 2


def documents(work: Work) -> Iterator[str]:
    """Yield short texts, each about one constant and its relation to another."""
    from scipy.constants import physical_constants  # optional, and slow to import

    table: list[_Constant] = [
        (name, value, unit, uncertainty)
        for name, (value, unit, uncertainty) in sorted(physical_constants.items())
        if value
    ]
    for constant in table:
        for _ in range(_TEXTS_PER_CONSTANT):
            yield _article(constant, table, work.rng)


def _article(constant: _Constant, table: list[_Constant], rng: random.Random) -> str:
    name, value, unit, uncertainty = constant
    shown = f"{value:.10g} {unit}".strip()
    opening = rng.choice(
        (
            f"The {name} is {shown}.",
            f"Physicists give the value of the {name} as {shown}.",
            f"According to CODATA, the {name} equals {shown}.",
            f"What is the {name}? It is {shown}.",
        )
    )
    details = [_precision(value, uncertainty), _magnitude(value, unit), _in_words(value)]
    rng.shuffle(details)
    return " ".join([opening, *details, *_comparisons(constant, table, rng)])


def _precision(value: float, uncertainty: float) -> str:
    if not uncertainty:
        return "This value is exact by definition."
    relative = abs(uncertainty / value)
    return (
        f"Its standard uncertainty is {uncertainty:.2g}, a relative uncertainty of {relative:.1e}."
    )


def _magnitude(value: float, unit: str) -> str:
    order = math.floor(math.log10(abs(value)))
    kind = f"measured in {unit}" if unit else "a pure number without a unit"
    return f"It is {kind}, of the order of 10^{order}."


def _in_words(value: float) -> str:
    mantissa, exponent = f"{value:.3e}".split("e")
    return (
        f"Rounded to four figures the value is {mantissa} times ten to the power {int(exponent)}."
    )


def _comparisons(constant: _Constant, table: list[_Constant], rng: random.Random) -> Iterator[str]:
    """Compare with one or two other constants of the same unit."""
    name, value, unit, _ = constant
    peers = [other for other in table if other[2] == unit and other[0] != name]
    for other, other_value, _, _ in rng.sample(peers, min(len(peers), 2)):
        ratio = abs(value / other_value)
        if ratio >= 1:
            yield f"The value is {ratio:.4g} times that of the {other}."
        else:
            yield f"The {other} is {1 / ratio:.4g} times as large."
