"""Worked problems in algebra: equations, factoring, division and expansion."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from proxy_trainer.corpus.mathematics.notation import (
    VARIABLES,
    coefficients,
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


def linear_equation(rng: random.Random) -> Problem:
    """Solve a*x + b = c*x + d."""
    v = rng.choice(VARIABLES)
    a, c = rng.sample([n for n in range(-12, 13) if n], 2)
    b, d = rng.randint(-40, 40), rng.randint(-40, 40)
    solution = Fraction(d - b, a - c)
    equation = f"{polynomial([b, a], v)} = {polynomial([d, c], v)}"
    return Problem(
        rng.choice((f"Solve {equation} for {v}.", f"Find {v} such that {equation}.")),
        (
            f"Collect the terms in {v} on the left: {polynomial([b, a - c], v)} = {d}.",
            f"Move the constant: {term(a - c, v, 1)} = {d - b}.",
            f"Divide both sides by {number(a - c)}.",
        ),
        f"{v} = {solution}",
    )


def quadratic_by_factoring(rng: random.Random) -> Problem:
    """Factor a quadratic with integer roots and solve it."""
    v = rng.choice(VARIABLES)
    r, s = rng.randint(-12, 12), rng.randint(-12, 12)
    expanded = polynomial([r * s, -(r + s), 1], v)
    factored = f"({polynomial([-r, 1], v)})*({polynomial([-s, 1], v)})"
    return Problem(
        rng.choice((f"Factor {expanded} and find its roots.", f"Solve {expanded} = 0.")),
        (
            f"We look for two numbers with product {r * s} and sum {-(r + s)}.",
            f"These are {-r} and {-s}, since {number(-r)}*{number(-s)} = {r * s}.",
            f"So {expanded} = {factored}.",
        ),
        f"{v} = {r}" + (" (a double root)" if r == s else f" or {v} = {s}"),
    )


def quadratic_formula(rng: random.Random) -> Problem:
    """Apply the quadratic formula and say what kind of roots there are."""
    v = rng.choice(VARIABLES)
    c, b, a = rng.randint(-15, 15), rng.randint(-15, 15), rng.randint(1, 8)
    disc = b * b - 4 * a * c
    shown = polynomial([c, b, a], v)
    steps = (
        f"The discriminant is D = ({b})^2 - 4*{a}*{number(c)} = {disc}.",
        f"The formula gives {v} = ({-b} ± sqrt({disc}))/{2 * a}.",
    )
    if disc < 0:
        kind = "As D < 0 the roots are complex conjugates."
        answer = f"{v} = ({-b} ± i*sqrt({-disc}))/{2 * a}"
    elif math.isqrt(disc) ** 2 == disc:
        root = math.isqrt(disc)
        kind = f"D is a perfect square, sqrt({disc}) = {root}, so the roots are rational."
        low, high = Fraction(-b - root, 2 * a), Fraction(-b + root, 2 * a)
        answer = f"{v} = {low}" if disc == 0 else f"{v} = {low} or {v} = {high}"
    else:
        kind = "D is positive and no square, so there are two irrational real roots."
        low_root, high_root = (-b - math.sqrt(disc)) / (2 * a), (-b + math.sqrt(disc)) / (2 * a)
        answer = f"{v} ≈ {low_root:.3f} or {v} ≈ {high_root:.3f}"
    question = rng.choice(("Find all roots of {}.", "Use the quadratic formula on {} = 0."))
    return Problem(question.format(shown), (*steps, kind), answer)


def complete_the_square(rng: random.Random) -> Problem:
    """Bring a quadratic to vertex form."""
    v = rng.choice(VARIABLES)
    a, b, c = nonzero(rng, 6), rng.randint(-14, 14), rng.randint(-20, 20)
    h, k = Fraction(-b, 2 * a), c - Fraction(b * b, 4 * a)
    square = f"({v}{signed(-h)})^2" if h else power(v, 2)
    leading = "" if a == 1 else "-" if a == -1 else f"{a}*"
    return Problem(
        f"Complete the square in {polynomial([c, b, a], v)}.",
        (
            f"Half the linear coefficient over the leading one is {Fraction(b, 2 * a)}.",
            f"Its square times {number(a)} is {Fraction(b * b, 4 * a)}, which is taken from {c}.",
        ),
        f"{leading}{square}{signed(k)}, with vertex ({h}, {k})",
    )


def expand_product(rng: random.Random) -> Problem:
    """Multiply two polynomials out."""
    v = rng.choice(VARIABLES)
    left, right = coefficients(rng, rng.randint(1, 2)), coefficients(rng, rng.randint(1, 3))
    p, q = polynomial(left, v), polynomial(right, v)
    rows = [
        f"{term(value, v, n)} times ({q}) is {polynomial([0] * n + [value * w for w in right], v)}."
        for n, value in enumerate(left)
        if value
    ]
    return Problem(
        rng.choice((f"Expand ({p})*({q}).", f"Write ({p})*({q}) as a polynomial in {v}.")),
        (*rows, "Add the rows and collect equal powers."),
        polynomial(multiply(left, right), v),
    )


def synthetic_division(rng: random.Random) -> Problem:
    """Divide a polynomial by x - r with Horner's scheme."""
    v = rng.choice(VARIABLES)
    values, r = coefficients(rng, rng.randint(2, 4)), nonzero(rng, 5)
    carried: list[int] = []
    for value in reversed(values):
        carried.append(value + r * (carried[-1] if carried else 0))
    *quotient, remainder = carried
    divisor = polynomial([-r, 1], v)
    return Problem(
        f"Divide {polynomial(values, v)} by {divisor}.",
        (
            f"Horner's scheme with {r}: bring down {values[-1]}, multiply by {r}, add, repeat.",
            f"The row reads {', '.join(map(str, carried))}.",
            f"By the remainder theorem the last entry is p({r}) = {evaluate(values, r)}.",
        ),
        f"the quotient is {polynomial(quotient[::-1], v)} and the remainder {remainder}",
    )


def binomial_expansion(rng: random.Random) -> Problem:
    """Expand (a*x + b)^n with the binomial theorem."""
    v = rng.choice(VARIABLES)
    a, b, n = rng.randint(1, 4), nonzero(rng, 5), rng.randint(3, 5)
    row = [math.comb(n, k) for k in range(n + 1)]
    values = [row[k] * a**k * b ** (n - k) for k in range(n + 1)]
    inner = polynomial([b, a], v)
    return Problem(
        f"Expand ({inner})^{n}.",
        (
            f"The binomial coefficients for n = {n} are {', '.join(map(str, row))}.",
            f"The term in {power(v, n - 1)} is {n}*{number(a)}^{n - 1}*{number(b)} "
            f"= {values[n - 1]}, and the constant is {number(b)}^{n} = {values[0]}.",
        ),
        f"({inner})^{n} = {polynomial(values, v)}",
    )


def partial_fractions(rng: random.Random) -> Problem:
    """Split a proper fraction with two distinct linear factors."""
    v = rng.choice(VARIABLES)
    r, s = rng.sample(range(-8, 9), 2)
    p, q = nonzero(rng, 9), nonzero(rng, 9)
    top = polynomial([-p * s - q * r, p + q], v)
    left, right = polynomial([-r, 1], v), polynomial([-s, 1], v)
    return Problem(
        f"Decompose ({top})/(({left})*({right})) into partial fractions.",
        (
            f"Set it equal to A/({left}) + B/({right}) and clear the denominators:"
            f" {top} = A*({right}) + B*({left}).",
            f"At {v} = {r} this is {p * (r - s)} = {number(r - s)}*A, so A = {p}.",
            f"At {v} = {s} this is {q * (s - r)} = {number(s - r)}*B, so B = {q}.",
        ),
        f"{p}/({left}){' - ' if q < 0 else ' + '}{abs(q)}/({right})",
    )


def inequality(rng: random.Random) -> Problem:
    """Solve a linear inequality, turning it round on division by a negative number."""
    v, sign = rng.choice(VARIABLES), rng.choice(("<", ">", "<=", ">="))
    a, b, c = nonzero(rng, 9), rng.randint(-30, 30), rng.randint(-30, 30)
    turned = sign.translate(str.maketrans("<>", "><")) if a < 0 else sign
    remark = " and turn the sign round, since it is negative" if a < 0 else ""
    return Problem(
        f"For which real {v} is {polynomial([b, a], v)} {sign} {c}?",
        (
            f"Subtract {number(b)}: {term(a, v, 1)} {sign} {c - b}.",
            f"Divide by {number(a)}{remark}.",
        ),
        f"{v} {turned} {Fraction(c - b, a)}",
    )


def exponential_equation(rng: random.Random) -> Problem:
    """Solve base^(a*x + b) = base^k, or a logarithm equation."""
    v, base, k = rng.choice(VARIABLES), rng.randint(2, 7), rng.randint(1, 5)
    a, b = nonzero(rng, 6), rng.randint(-9, 9)
    inner = polynomial([b, a], v)
    if rng.random() < 0.5:
        return Problem(
            f"Solve {base}^({inner}) = {base**k}.",
            (
                f"Since {base**k} = {base}^{k}, the exponents agree: {inner} = {k}.",
                f"Then {term(a, v, 1)} = {k - b}.",
            ),
            f"{v} = {Fraction(k - b, a)}",
        )
    return Problem(
        f"Solve log_{base}({inner}) = {k}.",
        (
            f"Raise {base} to both sides: {inner} = {base}^{k} = {base**k}.",
            f"Then {term(a, v, 1)} = {base**k - b}; the argument {base**k} is positive.",
        ),
        f"{v} = {Fraction(base**k - b, a)}",
    )


def sum_and_product(rng: random.Random) -> Problem:
    """Use Vieta's formulas without solving the equation."""
    v = rng.choice(VARIABLES)
    c, b, a = nonzero(rng, 15), nonzero(rng, 15), rng.randint(1, 7)
    total, product = Fraction(-b, a), Fraction(c, a)
    return Problem(
        f"Let p and q be the roots of {polynomial([c, b, a], v)} = 0. Compute p^2 + q^2.",
        (
            f"By Vieta, p + q = {total} and p*q = {product}.",
            f"We use p^2 + q^2 = (p + q)^2 - 2*p*q = {total**2} - 2*{number(product)}.",
        ),
        f"p^2 + q^2 = {total**2 - 2 * product}",
    )


FAMILIES = (
    linear_equation,
    quadratic_by_factoring,
    quadratic_formula,
    complete_the_square,
    expand_product,
    synthetic_division,
    binomial_expansion,
    partial_fractions,
    inequality,
    exponential_equation,
    sum_and_product,
)
