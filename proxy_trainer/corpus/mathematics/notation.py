"""How numbers, polynomials and sums are written in the worked problems."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

Number = int | Fraction

VARIABLES = "xyztsnm"
FUNCTIONS = "fghpqFG"


def nonzero(rng: random.Random, limit: int) -> int:
    """Return a random integer from -limit to limit that is not 0."""
    return rng.choice((-1, 1)) * rng.randint(1, limit)


def coefficients(rng: random.Random, degree: int, limit: int = 9) -> list[int]:
    """Return `degree + 1` integers, lowest power first; the leading one is not 0."""
    lower = [rng.randint(-limit, limit) for _ in range(degree)]
    return [*lower, nonzero(rng, limit)]


def number(value: Number) -> str:
    """Write a number; negative ones and fractions in brackets, as inside a product."""
    text = str(value)
    return f"({text})" if value < 0 or "/" in text else text


def signed(value: Number) -> str:
    """Write a number as the next term of a sum: ` + 3` or ` - 3`."""
    return f" - {-value}" if value < 0 else f" + {value}"


def power(variable: str, exponent: int) -> str:
    """Write `x^n`, with x for x^1 and 1 for x^0."""
    if exponent == 0:
        return "1"
    return variable if exponent == 1 else f"{variable}^{exponent}"


def term(coefficient: Number, variable: str, exponent: int) -> str:
    """Write one term of a polynomial, such as `-3*x^2`, `x` or `5`."""
    if exponent == 0:
        return str(coefficient)
    if abs(coefficient) == 1:
        return ("-" if coefficient < 0 else "") + power(variable, exponent)
    shown = number(coefficient) if isinstance(coefficient, Fraction) else str(coefficient)
    return f"{shown}*{power(variable, exponent)}"


def polynomial(values: Sequence[Number], variable: str) -> str:
    """Write a polynomial, highest power first; `values` holds the lowest first."""
    text = ""
    for exponent in range(len(values) - 1, -1, -1):
        value = values[exponent]
        if value == 0:
            continue
        shown = term(-value if value < 0 else value, variable, exponent)
        if text:
            text += f" - {shown}" if value < 0 else f" + {shown}"
        else:
            text = f"-{shown}" if value < 0 else shown
    return text or "0"


def derivative(values: Sequence[Number]) -> list[Number]:
    """Return the coefficients of the derivative, lowest power first."""
    return [exponent * value for exponent, value in enumerate(values)][1:] or [0]


def antiderivative(values: Sequence[Number]) -> list[Number]:
    """Return the coefficients of the antiderivative that is 0 at 0, lowest power first."""
    return [0, *(Fraction(value) / (exponent + 1) for exponent, value in enumerate(values))]


def evaluate(values: Sequence[Number], point: Number) -> Number:
    """Return the polynomial's value at a point (Horner's rule)."""
    total: Number = 0
    for value in reversed(values):
        total = total * point + value
    return total


def multiply(left: Sequence[Number], right: Sequence[Number]) -> list[Number]:
    """Return the coefficients of a product of polynomials, lowest power first."""
    product: list[Number] = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            product[i + j] += a * b
    return product
