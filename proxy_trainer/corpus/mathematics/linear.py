"""Worked problems in linear algebra, geometry and complex numbers."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from proxy_trainer.corpus.mathematics.notation import number, polynomial, signed
from proxy_trainer.corpus.problems import Problem

Matrix = list[list[int]]


def _matrix(rng: random.Random, size: int, limit: int = 9) -> Matrix:
    return [[rng.randint(-limit, limit) for _ in range(size)] for _ in range(size)]


def _rows(matrix: Matrix) -> str:
    return "[" + "; ".join(" ".join(map(str, row)) for row in matrix) + "]"


def _determinant_2(matrix: Matrix) -> int:
    (a, b), (c, d) = matrix
    return a * d - b * c


def _minor(matrix: Matrix, column: int) -> Matrix:
    return [row[:column] + row[column + 1 :] for row in matrix[1:]]


def system_of_two(rng: random.Random) -> Problem:
    """Solve a 2x2 system by Cramer's rule or show that it has no single solution."""
    matrix = _matrix(rng, 2)
    (a, b), (c, d) = matrix
    x, y = rng.randint(-9, 9), rng.randint(-9, 9)
    e, f = a * x + b * y, c * x + d * y
    det = _determinant_2(matrix)
    question = (
        f"Solve the system {number(a)}*x + {number(b)}*y = {e}, "
        f"{number(c)}*x + {number(d)}*y = {f}."
    )
    if det == 0:
        steps = (f"The determinant {a}*{number(d)} - {number(b)}*{number(c)} is 0.",)
        return Problem(question, steps, f"not unique; one solution is x = {x}, y = {y}")
    steps_cramer = (
        f"The determinant is {a}*{number(d)} - {number(b)}*{number(c)} = {det}.",
        f"Cramer's rule: x = ({e}*{number(d)} - {number(b)}*{number(f)})/{number(det)} and "
        f"y = ({a}*{number(f)} - {number(e)}*{number(c)})/{number(det)}.",
    )
    return Problem(question, steps_cramer, f"x = {x}, y = {y}")


def determinant(rng: random.Random) -> Problem:
    """Expand a 3x3 determinant along its first row."""
    matrix = _matrix(rng, 3, 6)
    minors = [_determinant_2(_minor(matrix, column)) for column in range(3)]
    det = sum((-1) ** j * matrix[0][j] * minors[j] for j in range(3))
    steps = tuple(
        f"The minor of {matrix[0][j]} is det {_rows(_minor(matrix, j))} = {minors[j]}."
        for j in range(3)
    )
    return Problem(f"Compute the determinant of A = {_rows(matrix)}.", steps, f"det A = {det}")


def inverse(rng: random.Random) -> Problem:
    """Invert a 2x2 matrix, or say why it has no inverse."""
    matrix = _matrix(rng, 2)
    (a, b), (c, d) = matrix
    det = _determinant_2(matrix)
    question = rng.choice(("Invert the matrix {}.", "Find the inverse of M = {}."))
    first = f"det = {number(a)}*{number(d)} - {number(b)}*{number(c)} = {det}."
    if det == 0:
        return Problem(question.format(_rows(matrix)), (first,), "the matrix is singular")
    entries = [[str(Fraction(v, det)) for v in row] for row in ((d, -b), (-c, a))]
    shown = "; ".join(" ".join(row) for row in entries)
    steps = (first, f"Swap {a} and {d}, negate {b} and {c}, and divide by {det}.")
    return Problem(question.format(_rows(matrix)), steps, f"the inverse is [{shown}]")


def matrix_product(rng: random.Random) -> Problem:
    """Multiply two 2x2 matrices."""
    left, right = _matrix(rng, 2), _matrix(rng, 2)
    product = [
        [sum(left[i][k] * right[k][j] for k in range(2)) for j in range(2)] for i in range(2)
    ]
    steps = tuple(
        f"Entry ({i + 1},{j + 1}): {left[i][0]}*{number(right[0][j])} + "
        f"{number(left[i][1])}*{number(right[1][j])} = {product[i][j]}."
        for i in range(2)
        for j in range(2)
    )
    question = f"Multiply A = {_rows(left)} and B = {_rows(right)}."
    return Problem(question, steps, f"A*B = {_rows(product)}")


def eigenvalues(rng: random.Random) -> Problem:
    """Find the eigenvalues of a 2x2 matrix from its characteristic polynomial."""
    r, s, b, t = rng.randint(-6, 6), rng.randint(-6, 6), rng.randint(-4, 4), rng.randint(-3, 3)
    # Conjugating the triangular matrix [r b; 0 s] by [1 0; t 1] keeps the eigenvalues r and s.
    matrix = [[r - b * t, b], [t * (r - s) - b * t * t, s + b * t]]
    return Problem(
        f"Find the eigenvalues of {_rows(matrix)}.",
        (
            f"The trace is {r + s} and the determinant {r * s}.",
            f"The characteristic polynomial is {polynomial([r * s, -(r + s), 1], 'λ')}.",
            f"It factors as (λ{signed(-r)})*(λ{signed(-s)}).",
        ),
        f"λ = {r}" + (" with multiplicity 2" if r == s else f" and λ = {s}"),
    )


def vectors(rng: random.Random) -> Problem:
    """Compute the dot and cross products of two vectors and the angle between them."""
    a = [rng.randint(-9, 9) for _ in range(3)]
    b = [rng.randint(-9, 9) for _ in range(3)]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    squares = sum(x * x for x in a), sum(x * x for x in b)
    if 0 in squares:
        return vectors(rng)
    cosine = max(-1.0, min(1.0, dot / math.sqrt(squares[0] * squares[1])))
    return Problem(
        f"Let a = {tuple(a)} and b = {tuple(b)}. Find a·b, a×b and the angle between them.",
        (
            f"a·b = {' + '.join(f'{number(x)}*{number(y)}' for x, y in zip(a, b, strict=True))}"
            f" = {dot}.",
            f"a×b = {cross}.",
            f"cos(angle) = {dot}/sqrt({squares[0]}*{squares[1]}) = {cosine:.4f}.",
        ),
        f"a·b = {dot}, a×b = {cross}, angle ≈ {math.degrees(math.acos(cosine)):.1f}°",
    )


def complex_arithmetic(rng: random.Random) -> Problem:
    """Multiply and divide two complex numbers."""
    a, b, c, d = (rng.randint(-9, 9) for _ in range(4))
    if c == d == 0:
        return complex_arithmetic(rng)
    norm = c * c + d * d
    real, imaginary = Fraction(a * c + b * d, norm), Fraction(b * c - a * d, norm)
    z, w = f"{a}{signed(b)}i", f"{c}{signed(d)}i"
    return Problem(
        f"Given z = {z} and w = {w}, compute z*w and z/w.",
        (
            f"z*w = ({a * c} - {number(b * d)}) + ({a * d} + {number(b * c)})i.",
            f"For the quotient multiply by the conjugate {c}{signed(-d)}i; |w|^2 = {norm}.",
        ),
        f"z*w = {a * c - b * d}{signed(a * d + b * c)}i and z/w = {real}{signed(imaginary)}i",
    )


def line_through_points(rng: random.Random) -> Problem:
    """Find the line through two points and their distance."""
    (x0, x1), y0, y1 = rng.sample(range(-12, 13), 2), rng.randint(-12, 12), rng.randint(-12, 12)
    slope = Fraction(y1 - y0, x1 - x0)
    squared = (x1 - x0) ** 2 + (y1 - y0) ** 2
    return Problem(
        f"Find the line through P = ({x0}, {y0}) and Q = ({x1}, {y1}), and the distance PQ.",
        (
            f"The slope is ({y1} - {number(y0)})/({x1} - {number(x0)}) = {slope}.",
            f"The intercept is {y0} - {number(slope)}*{number(x0)} = {y0 - slope * x0}.",
            f"The squared distance is {(x1 - x0) ** 2} + {(y1 - y0) ** 2} = {squared}.",
        ),
        f"y = {polynomial([y0 - slope * x0, slope], 'x')} and PQ = sqrt({squared}) "
        f"≈ {math.sqrt(squared):.3f}",
    )


def circle(rng: random.Random) -> Problem:
    """Read centre and radius off a circle's general equation."""
    h, k, r = rng.randint(-9, 9), rng.randint(-9, 9), rng.randint(1, 12)
    constant = h * h + k * k - r * r
    return Problem(
        f"Find centre and radius of x^2 + y^2{signed(-2 * h)}*x{signed(-2 * k)}*y"
        f"{signed(constant)} = 0.",
        (
            f"Complete both squares: (x{signed(-h)})^2 + (y{signed(-k)})^2 = "
            f"{h * h} + {k * k} - {number(constant)}.",
            f"The right side is {r * r} = {r}^2.",
        ),
        f"centre ({h}, {k}), radius {r}",
    )


FAMILIES = (
    system_of_two,
    determinant,
    inverse,
    matrix_product,
    eigenvalues,
    vectors,
    complex_arithmetic,
    line_through_points,
    circle,
)
