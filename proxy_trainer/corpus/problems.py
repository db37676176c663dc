"""Worked problems: one question with its steps and answer, and sheets of several."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question, the reasoning one sentence a step, and the answer without a full stop."""

    question: str
    steps: tuple[str, ...]
    answer: str


Family = Callable[[random.Random], Problem]
"""Makes a new problem of one kind at each call."""


@dataclass(frozen=True)
class Layout:
    """How a problem is set on the page.

    `template` is filled with number, question, steps and answer; `joiner` goes between steps.
    """

    template: str
    joiner: str

    def render(self, problem: Problem, number: int) -> str:
        """Return the problem as text; `number` is its place on the sheet, from 1."""
        return self.template.format(
            number=number,
            question=problem.question,
            steps=self.joiner.join(problem.steps),
            answer=problem.answer,
        )


def sheets(
    rng: random.Random,
    families: Sequence[Family],
    layouts: Sequence[Layout],
    *,
    count: int,
    most: int,
) -> Iterator[str]:
    """Yield `count` sheets of 1 to `most` problems of different kinds, one layout a sheet."""
    for _ in range(count):
        layout = rng.choice(layouts)
        chosen = rng.sample(families, rng.randint(1, most))
        problems = (family(rng) for family in chosen)
        yield "\n\n".join(layout.render(problem, n) for n, problem in enumerate(problems, start=1))
