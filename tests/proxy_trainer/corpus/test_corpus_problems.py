"""The generated problems are right: answers are worked out again by other means."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction

import pytest
import sympy

from proxy_trainer.corpus import RECIPES, Work
from proxy_trainer.corpus.exercises import dates, measures, money, quantities, sequences
from proxy_trainer.corpus.mathematics import algebra, calculus, discrete, linear
from proxy_trainer.corpus.mathematics.notation import antiderivative, derivative, polynomial
from proxy_trainer.corpus.problems import Family, Problem

MATHEMATICS = (*algebra.FAMILIES, *calculus.FAMILIES, *discrete.FAMILIES, *linear.FAMILIES)
EXERCISES = (
    *dates.FAMILIES,
    *measures.FAMILIES,
    *money.FAMILIES,
    *quantities.FAMILIES,
    *sequences.FAMILIES,
)
NAMED = [pytest.param(family, id=family.__name__) for family in (*MATHEMATICS, *EXERCISES)]


def made(family: Family, count: int = 25) -> Iterator[Problem]:
    rng = random.Random(family.__name__)
    return (family(rng) for _ in range(count))


def _text(problem: Problem) -> str:
    return " ".join((problem.question, *problem.steps, problem.answer))


def read(text: str) -> sympy.Expr:
    return sympy.sympify(text.replace("^", "**"))


@pytest.mark.parametrize("family", NAMED)
def test_every_family_is_complete_and_varied(family: Family) -> None:
    problems = list(made(family, 200))
    assert all(p.question and p.answer and p.steps and all(p.steps) for p in problems)
    assert len({p.question for p in problems}) > 60
    assert not any(re.search(r"[{}]|\b(nan|inf|None|Fraction)\b", _text(p)) for p in problems)


@pytest.mark.parametrize("family", [algebra.expand_product, algebra.binomial_expansion])
def test_expansions_agree_with_sympy(family: Family) -> None:
    for problem in made(family):
        factors = re.search(r"\(.+\)(\^\d)?", problem.question)
        assert factors is not None
        expanded = problem.answer.rpartition("= ")[2]
        assert sympy.expand(read(factors.group()) - read(expanded)) == 0


def test_factored_quadratics_have_the_roots_they_state() -> None:
    for problem in made(algebra.quadratic_by_factoring):
        left, _, right = problem.steps[2].removeprefix("So ").removesuffix(".").partition(" = ")
        assert sympy.expand(read(left) - read(right)) == 0
        variable = sympy.Symbol(problem.answer[0])
        stated = {int(root) for root in re.findall(r"= (-?\d+)", problem.answer)}
        assert set(sympy.roots(read(left), variable)) == stated


def test_linear_equations_are_solved() -> None:
    for problem in made(algebra.linear_equation):
        equation = re.search(r"(?:Solve|that) (.+?) = (.+?)(?: for .)?\.$", problem.question)
        assert equation is not None
        variable, _, value = problem.answer.partition(" = ")
        difference = read(equation[1]) - read(equation[2])
        assert difference.subs(variable, sympy.Rational(value)) == 0


def test_integrals_by_parts_differentiate_back() -> None:
    for problem in made(calculus.integration_by_parts, 15):
        integrand = problem.question.removeprefix("Integrate ").removesuffix(" by parts.")
        primitive = read(problem.answer.removesuffix(" + C"))
        (variable,) = primitive.free_symbols
        assert sympy.simplify(sympy.diff(primitive, variable) - read(integrand)) == 0


def test_chain_rule_agrees_with_sympy_at_a_point() -> None:
    for problem in made(calculus.chain_rule):
        variable = problem.question[len("Differentiate f(")]
        expression = problem.question.partition(" = ")[2].removesuffix(".")
        stated = read(problem.answer.partition(" = ")[2])
        difference = sympy.diff(read(expression), variable) - stated
        assert abs(difference.subs(variable, sympy.Rational(3, 7)).evalf(50)) < 1e-9


def test_limits_agree_with_sympy() -> None:
    for problem in made(calculus.limit_of_ratio):
        match = re.fullmatch(r"Compute lim (.+) as (.) -> (.+)\.", problem.question)
        assert match is not None
        point = sympy.oo if match[3] == "infinity" else int(match[3])
        stated = sympy.Rational(problem.answer.removeprefix("the limit is "))
        assert sympy.limit(read(match[1]), sympy.Symbol(match[2]), point) == stated


def test_eigenvalues_and_determinants_agree_with_sympy() -> None:
    for family in (linear.eigenvalues, linear.determinant):
        for problem in made(family):
            shown = re.search(r"\[(.+)\]", problem.question)
            assert shown is not None
            rows = [[int(value) for value in row.split()] for row in shown[1].split(";")]
            matrix, numbers = sympy.Matrix(rows), re.findall(r"= (-?\d+)", problem.answer)
            if family is linear.determinant:
                assert matrix.det() == int(numbers[0])
            else:
                assert {int(value) for value in matrix.eigenvals()} == set(map(int, numbers))


def test_congruences_hold() -> None:
    for problem in made(discrete.congruence):
        a, b, modulus = map(int, re.findall(r"\d+", problem.question))
        x = int(re.findall(r"\d+", problem.answer)[0])
        assert a * x % modulus == b


def test_roman_numerals_read_back() -> None:
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    for problem in made(sequences.roman_numeral):
        letters = re.findall(r"\b[IVXLCDM]+\b", f"{problem.question} {problem.answer}")[-1]
        worth = [values[letter] for letter in letters]
        total = sum(
            -value if value < after else value
            for value, after in zip(worth, [*worth[1:], 0], strict=True)
        )
        assert str(total) in f"{problem.question} {problem.answer}".replace(".", "").split()


def test_polynomials_are_written_as_people_do() -> None:
    assert polynomial([0], "x") == "0"
    assert polynomial([-1, 1, 0, -1], "x") == "-x^3 + x - 1"
    assert polynomial([Fraction(1, 2), Fraction(-3, 4)], "t") == "-(3/4)*t + 1/2"
    assert derivative(antiderivative([3, 0, 5])) == [3, 0, 5]


def test_a_generated_shard_depends_on_its_seed_alone() -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.name == "exercises")
    shard = next(iter(recipe.shards()))
    runs = [list(recipe.documents(Work(shard, random.Random(seed)))) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
