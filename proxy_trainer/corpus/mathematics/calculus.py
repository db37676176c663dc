"""Worked problems in calculus: derivatives, integrals, limits and curves."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from proxy_trainer.corpus.mathematics.notation import (
    FUNCTIONS,
    VARIABLES,
    antiderivative,
    coefficients,
    derivative,
    evaluate,
    multiply,
    nonzero,
    number,
    polynomial,
    power,
    signed,
    term,
)
from proxy_trainer.corpus.problems import Problem

# Outer function → its derivative, both as text of the inner expression u.
_OUTER = {
    "sin({u})": "cos({u})",
    "cos({u})": "-sin({u})",
    "exp({u})": "exp({u})",
    "log({u})": "1/({u})",
    "tan({u})": "1/cos({u})^2",
    "sqrt({u})": "1/(2*sqrt({u}))",
    "atan({u})": "1/(1 + ({u})^2)",
    "sinh({u})": "cosh({u})",
}


def power_rule(rng: random.Random) -> Problem:
    """Differentiate a polynomial term by term."""
    v, f = rng.choice(VARIABLES), rng.choice(FUNCTIONS)
    values = coefficients(rng, rng.randint(2, 5), 12)
    shown = polynomial(values, v)
    steps = tuple(
        f"d/d{v} {term(value, v, n)} = {term(n * value, v, n - 1)}."
        for n, value in reversed(list(enumerate(values)))
        if n and value
    )
    question = rng.choice(
        (
            f"Differentiate {f}({v}) = {shown}.",
            f"Find {f}'({v}) for {f}({v}) = {shown}.",
            f"What is the derivative of {shown} with respect to {v}?",
        )
    )
    return Problem(question, steps, f"{f}'({v}) = {polynomial(derivative(values), v)}")


def product_rule(rng: random.Random) -> Problem:
    """Differentiate a product of two polynomials."""
    v = rng.choice(VARIABLES)
    left, right = coefficients(rng, rng.randint(1, 2)), coefficients(rng, rng.randint(1, 2))
    p, q = polynomial(left, v), polynomial(right, v)
    dp, dq = polynomial(derivative(left), v), polynomial(derivative(right), v)
    return Problem(
        f"Use the product rule to differentiate ({p})*({q}).",
        (
            f"Put a = {p} and b = {q}, so a' = {dp} and b' = {dq}.",
            f"(a*b)' = a'*b + a*b' = ({dp})*({q}) + ({p})*({dq}).",
        ),
        polynomial(derivative(multiply(left, right)), v),
    )


def quotient_rule(rng: random.Random) -> Problem:
    """Differentiate a ratio of linear expressions."""
    v = rng.choice(VARIABLES)
    top, bottom = coefficients(rng, 1), coefficients(rng, 1)
    p, q = polynomial(top, v), polynomial(bottom, v)
    numerator = top[1] * bottom[0] - top[0] * bottom[1]
    return Problem(
        f"Find the derivative of ({p})/({q}).",
        (
            f"The quotient rule gives ({number(top[1])}*({q}) - ({p})*{number(bottom[1])})"
            f"/({q})^2.",
            f"In the numerator the terms in {v} cancel and {numerator} is left.",
        ),
        f"the derivative is {numerator}/({q})^2",
    )


def chain_rule(rng: random.Random) -> Problem:
    """Differentiate an outer function of a polynomial."""
    v, f = rng.choice(VARIABLES), rng.choice(FUNCTIONS)
    values = coefficients(rng, rng.randint(1, 3))
    inner, slope = polynomial(values, v), polynomial(derivative(values), v)
    outer, outer_slope = rng.choice(sorted(_OUTER.items()))
    return Problem(
        f"Differentiate {f}({v}) = {outer.format(u=inner)}.",
        (
            f"Let u = {inner}. Then du/d{v} = {slope}.",
            f"The outer derivative is d/du {outer.format(u='u')} = {outer_slope.format(u='u')}.",
            "Multiply the two (chain rule).",
        ),
        f"{f}'({v}) = ({slope})*({outer_slope.format(u=inner)})",
    )


def indefinite_integral(rng: random.Random) -> Problem:
    """Integrate a polynomial."""
    v = rng.choice(VARIABLES)
    values = coefficients(rng, rng.randint(1, 4), 12)
    shown = polynomial(values, v)
    return Problem(
        rng.choice((f"Find the integral of {shown} d{v}.", f"Integrate {shown} over {v}.")),
        (
            f"By linearity we integrate each power: {power(v, 1)}^n becomes {v}^(n+1)/(n+1).",
            f"The leading term {term(values[-1], v, len(values) - 1)} gives "
            f"{term(Fraction(values[-1], len(values)), v, len(values))}.",
        ),
        f"{polynomial(antiderivative(values), v)} + C",
    )


def definite_integral(rng: random.Random) -> Problem:
    """Evaluate a definite integral with the fundamental theorem."""
    v, low = rng.choice(VARIABLES), rng.randint(-4, 3)
    high = low + rng.randint(1, 5)
    values = coefficients(rng, rng.randint(1, 3))
    primitive = antiderivative(values)
    top, bottom = evaluate(primitive, high), evaluate(primitive, low)
    return Problem(
        f"Evaluate the integral of {polynomial(values, v)} from {v} = {low} to {v} = {high}.",
        (
            f"An antiderivative is F({v}) = {polynomial(primitive, v)}.",
            f"F({high}) = {top} and F({low}) = {bottom}.",
            f"The difference is {top} - {number(bottom)}.",
        ),
        f"the integral equals {top - bottom}",
    )


def integration_by_parts(rng: random.Random) -> Problem:
    """Integrate (a*x + b) times an exponential, sine or cosine."""
    v, k = rng.choice(VARIABLES), rng.randint(2, 9)
    values = coefficients(rng, 1)
    a, p = values[1], polynomial(values, v)
    kernel, first, sign, second = rng.choice(
        (
            (f"exp({k}*{v})", f"exp({k}*{v})/{k}", -1, f"exp({k}*{v})/{k * k}"),
            (f"sin({k}*{v})", f"-cos({k}*{v})/{k}", 1, f"sin({k}*{v})/{k * k}"),
            (f"cos({k}*{v})", f"sin({k}*{v})/{k}", 1, f"cos({k}*{v})/{k * k}"),
        )
    )
    return Problem(
        f"Integrate ({p})*{kernel} by parts.",
        (
            f"Take F = {p} and G' = {kernel}; then F' = {a} and G = {first}.",
            f"The integral is F*G - int F'*G d{v}, and int {first} d{v} = "
            f"{'' if sign < 0 else '-'}{second}.",
        ),
        f"({p})*({first}){signed(sign * a)}*{second} + C",
    )


def tangent_line(rng: random.Random) -> Problem:
    """Find the tangent to a polynomial's graph."""
    v, f, at = rng.choice(VARIABLES), rng.choice(FUNCTIONS), rng.randint(-3, 3)
    values = coefficients(rng, rng.randint(2, 3))
    slope, height = evaluate(derivative(values), at), evaluate(values, at)
    return Problem(
        f"Find the tangent to the graph of {f}({v}) = {polynomial(values, v)} at {v} = {at}.",
        (
            f"The point is ({at}, {height}), as {f}({at}) = {height}.",
            f"With {f}'({v}) = {polynomial(derivative(values), v)} the slope is {slope}.",
            f"The line through the point is y = {number(slope)}*({v}{signed(-at)})"
            f"{signed(height)}.",
        ),
        f"y = {polynomial([height - slope * at, slope], v)}",
    )


def critical_points(rng: random.Random) -> Problem:
    """Find and classify the extrema of a cubic."""
    v, f = rng.choice(VARIABLES), rng.choice(FUNCTIONS)
    low, high = sorted(rng.sample(range(-6, 7), 2))
    scale, constant = 6 * nonzero(rng, 2), rng.randint(-20, 20)
    slope = multiply([-low, 1], [-high * scale, scale])
    values = antiderivative(slope)
    values[0] = constant
    kinds = ("maximum", "minimum") if scale > 0 else ("minimum", "maximum")
    return Problem(
        f"Determine the local extrema of {f}({v}) = {polynomial(values, v)}.",
        (
            f"{f}'({v}) = {polynomial(slope, v)} = {scale}*({polynomial([-low, 1], v)})"
            f"*({polynomial([-high, 1], v)}).",
            f"It vanishes at {v} = {low} and {v} = {high}.",
            f"The second derivative {polynomial(derivative(slope), v)} is "
            f"{evaluate(derivative(slope), low)} and {evaluate(derivative(slope), high)} there.",
        ),
        f"a local {kinds[0]} {evaluate(values, low)} at {v} = {low} and a local {kinds[1]} "
        f"{evaluate(values, high)} at {v} = {high}",
    )


def limit_of_ratio(rng: random.Random) -> Problem:
    """Find a limit by cancelling a common factor, or at infinity by the leading terms."""
    v = rng.choice(VARIABLES)
    if rng.random() < 0.5:
        r, s, t = rng.randint(-9, 9), rng.randint(-9, 9), rng.randint(-9, -1)
        top = polynomial(multiply([-r, 1], [-s, 1]), v)
        bottom = polynomial(multiply([-r, 1], [t - r, 1]), v)
        return Problem(
            f"Compute lim ({top})/({bottom}) as {v} -> {r}.",
            (
                f"Both sides vanish at {r}, so {polynomial([-r, 1], v)} is a common factor.",
                f"After cancelling: ({polynomial([-s, 1], v)})/({polynomial([t - r, 1], v)}).",
                f"Now insert {v} = {r}: {r - s}/{number(t)}.",
            ),
            f"the limit is {Fraction(r - s, t)}",
        )
    degree = rng.randint(1, 4)
    above, below = coefficients(rng, degree), coefficients(rng, degree)
    return Problem(
        f"Compute lim ({polynomial(above, v)})/({polynomial(below, v)}) as {v} -> infinity.",
        (
            f"Divide numerator and denominator by {power(v, degree)}.",
            "Every lower power tends to 0 and the leading coefficients stay.",
        ),
        f"the limit is {Fraction(above[-1], below[-1])}",
    )


def taylor_polynomial(rng: random.Random) -> Problem:
    """Write the first terms of the series of a known function of k*x."""
    v, k, terms = rng.choice(VARIABLES), nonzero(rng, 6), rng.randint(3, 4)
    name, exponents, sign = rng.choice(
        (
            ("exp", range(terms), 1),
            ("sin", range(1, 2 * terms, 2), -1),
            ("cos", range(0, 2 * terms, 2), -1),
            ("sinh", range(1, 2 * terms, 2), 1),
        )
    )
    values: list[int | Fraction] = [0] * (max(exponents) + 1)
    for place, n in enumerate(exponents):
        values[n] = Fraction(sign**place * k**n, math.factorial(n))
    inner = term(k, v, 1)
    return Problem(
        f"Write the first {terms} nonzero terms of the Taylor series of {name}({inner}) at 0.",
        (
            f"Insert u = {inner} into the series of {name}(u).",
            f"The powers are {', '.join(power('u', n) for n in exponents)}, each divided by the "
            "factorial of its exponent" + (", with alternating signs." if sign < 0 else "."),
        ),
        " + ".join(term(values[n], v, n) for n in exponents),
    )


FAMILIES = (
    power_rule,
    product_rule,
    quotient_rule,
    chain_rule,
    indefinite_integral,
    definite_integral,
    integration_by_parts,
    tangent_line,
    critical_points,
    limit_of_ratio,
    taylor_polynomial,
)
