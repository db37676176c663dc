"""Worked problems in number theory, counting and series."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from proxy_trainer.corpus.mathematics.notation import nonzero, number
from proxy_trainer.corpus.problems import Problem


def euclid(rng: random.Random) -> Problem:
    """Find a greatest common divisor with its divisions."""
    common = rng.randint(1, 40)
    a, b = common * rng.randint(20, 200), common * rng.randint(5, 90)
    steps, x, y = [], a, b
    while y:
        steps.append(f"{x} = {x // y}*{y} + {x % y}.")
        x, y = y, x % y
    return Problem(
        rng.choice((f"Find gcd({a}, {b}).", f"Use Euclid's algorithm on {a} and {b}.")),
        (*steps, f"The last nonzero remainder is {x}."),
        f"gcd({a}, {b}) = {x} and lcm({a}, {b}) = {a * b // x}",
    )


def factorise(rng: random.Random) -> Problem:
    """Factor an integer into primes by trial division."""
    n = rng.randint(300, 9000)
    steps, factors, rest, prime = [], [], n, 2
    while prime * prime <= rest:
        while rest % prime == 0:
            steps.append(f"{rest} / {prime} = {rest // prime}.")
            factors.append(prime)
            rest //= prime
        prime += 1
    factors.append(rest)
    steps.append(f"{rest} has no divisor up to its square root, so it is prime.")
    divisors = math.prod(factors.count(p) + 1 for p in set(factors))
    answer = f"{n} = {' * '.join(map(str, factors))}, which has {divisors} divisors"
    return Problem(f"Factor {n} into primes and count its divisors.", tuple(steps), answer)


def modular_power(rng: random.Random) -> Problem:
    """Compute a power modulo m by repeated squaring."""
    base, exponent, modulus = rng.randint(2, 60), rng.randint(9, 200), rng.randint(7, 101)
    steps, square, weight = [f"The exponent is {exponent:b} in binary."], base % modulus, 1
    while weight <= exponent:
        used = "used" if exponent & weight else "skipped"
        steps.append(f"{base}^{weight} ≡ {square} (mod {modulus}), {used}.")
        square, weight = square * square % modulus, 2 * weight
    answer = f"{base}^{exponent} ≡ {pow(base, exponent, modulus)} (mod {modulus})"
    return Problem(f"Compute {base}^{exponent} modulo {modulus}.", tuple(steps), answer)


def congruence(rng: random.Random) -> Problem:
    """Solve a linear congruence with a modular inverse."""
    modulus = rng.choice((7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61))
    a, b = rng.randint(2, modulus - 1), rng.randint(1, modulus - 1)
    inverse = pow(a, -1, modulus)
    return Problem(
        f"Solve {a}*x ≡ {b} (mod {modulus}).",
        (
            f"{modulus} is prime, so {a} is invertible; its inverse is {inverse}, because "
            f"{a}*{inverse} = {a * inverse} = {a * inverse // modulus}*{modulus} + 1.",
            f"Multiply by it: x ≡ {inverse}*{b} = {inverse * b}.",
        ),
        f"x ≡ {inverse * b % modulus} (mod {modulus})",
    )


def change_base(rng: random.Random) -> Problem:
    """Write an integer in another base by repeated division."""
    n, base = rng.randint(50, 5000), rng.randint(2, 9)
    steps, digits, rest = [], "", n
    while rest:
        steps.append(f"{rest} = {base}*{rest // base} + {rest % base}.")
        digits, rest = str(rest % base) + digits, rest // base
    question = rng.choice((f"Write {n} in base {base}.", f"Convert {n} from base 10 to {base}."))
    return Problem(question, (*steps, "Read the remainders upwards."), f"{n} = ({digits})_{base}")


def choose(rng: random.Random) -> Problem:
    """Count selections with and without order."""
    n = rng.randint(6, 15)
    k = rng.randint(2, 5)
    group = rng.choice(("committee", "subset", "hand of cards", "team", "sample"))
    if rng.random() < 0.5:
        return Problem(
            f"How many ways are there to choose a {group} of {k} out of {n}?",
            (
                "The order does not matter, so we count combinations.",
                f"C({n}, {k}) = {n}!/({k}!*{n - k}!) = {math.perm(n, k)}/{math.factorial(k)}.",
            ),
            f"{math.comb(n, k)} ways",
        )
    factors = "*".join(str(n - i) for i in range(k))
    return Problem(
        f"In how many orders can {k} of {n} distinct objects be placed in a row?",
        (f"There are {n} choices for the first place, one fewer for each next: {factors}.",),
        f"{math.perm(n, k)} orders",
    )


def letters(rng: random.Random) -> Problem:
    """Count the arrangements of a word with repeated letters."""
    words = "banana letters success balloon parallel committee pepper assess coffee indeed".split()
    drawn = "".join(rng.choices("abcde", k=rng.randint(5, 8)))
    word = rng.choice(words) if rng.random() < 0.3 else drawn
    counts = {letter: word.count(letter) for letter in sorted(set(word)) if word.count(letter) > 1}
    ways = math.factorial(len(word)) // math.prod(map(math.factorial, counts.values()))
    repeats = ", ".join(f"{letter} {count} times" for letter, count in counts.items())
    below = "*".join(f"{count}!" for count in counts.values()) or "1"
    return Problem(
        f"How many distinct arrangements has the word '{word}'?",
        (
            f"It has {len(word)} letters; repeated are: {repeats or 'none'}.",
            f"The multinomial coefficient is {len(word)}!/({below}).",
        ),
        f"{ways} arrangements",
    )


def arithmetic_series(rng: random.Random) -> Problem:
    """Sum an arithmetic series."""
    first, step, n = rng.randint(-20, 40), nonzero(rng, 12), rng.randint(8, 80)
    last = first + (n - 1) * step
    terms = ", ".join(str(first + i * step) for i in range(3))
    return Problem(
        f"Sum the first {n} terms of the arithmetic progression {terms}, ...",
        (
            f"The common difference is {step} and the last term is "
            f"{first} + {n - 1}*{number(step)} = {last}.",
            f"S = n*(first + last)/2 = {n}*({first + last})/2.",
        ),
        f"S = {n * (first + last) // 2}",
    )


def geometric_series(rng: random.Random) -> Problem:
    """Sum a geometric series, finite or infinite."""
    first = nonzero(rng, 12)
    if rng.random() < 0.5:
        ratio, n = rng.choice((-3, -2, 2, 3, 4)), rng.randint(4, 8)
        return Problem(
            f"Find the sum of {n} terms of the geometric series with first term {first} "
            f"and ratio {ratio}.",
            (f"S = a*(1 - r^n)/(1 - r) with r^n = {ratio**n} and 1 - r = {1 - ratio}.",),
            f"S = {first * (1 - ratio**n) // (1 - ratio)}",
        )
    ratio_part = Fraction(nonzero(rng, 5), rng.randint(6, 11))
    return Problem(
        f"Does sum {first}*({ratio_part})^k, k = 0, 1, 2, ..., converge? If so, find its value.",
        (
            f"The ratio {ratio_part} has absolute value below 1, so the series converges.",
            f"Its sum is a/(1 - r) = {first}/({1 - ratio_part}).",
        ),
        f"it converges to {first / (1 - ratio_part)}",
    )


def induction(rng: random.Random) -> Problem:
    """Prove that a form a^n - b^n is divisible by a - b."""
    b = rng.randint(1, 9)
    d = rng.randint(2, 12)
    a = b + d
    n = rng.randint(3, 6)
    return Problem(
        f"Prove by induction that {d} divides {a}^n - {b}^n for every n >= 1.",
        (
            f"Base case: for n = 1 the difference is {d}.",
            f"Step: {a}^(n+1) - {b}^(n+1) = {a}*({a}^n - {b}^n) + ({a} - {b})*{b}^n.",
            f"Both terms are multiples of {d}: the first by hypothesis, the second since "
            f"{a} - {b} = {d}.",
            f"For instance {a}^{n} - {b}^{n} = {a**n - b**n} = {d}*{(a**n - b**n) // d}.",
        ),
        f"the claim holds for all n, and {d} | {a}^n - {b}^n",
    )


FAMILIES = (
    euclid,
    factorise,
    modular_power,
    congruence,
    change_base,
    choose,
    letters,
    arithmetic_series,
    geometric_series,
    induction,
)
