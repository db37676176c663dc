"""The `math` domain: documentation of computer algebra packages and worked problems."""

from __future__ import annotations

from collections.abc import Iterator

from proxy_trainer.corpus.base import DomainRecipe, Shard, Source, Work, generator_shards
from proxy_trainer.corpus.docstrings import pages
from proxy_trainer.corpus.files import (
    distribution_source,
    file_shards,
    list_files,
    package_folder,
)
from proxy_trainer.corpus.mathematics import algebra, calculus, discrete, linear
from proxy_trainer.corpus.problems import Layout, sheets

_PACKAGES = ("sympy", "mpmath")
_FAMILIES = (
    *algebra.FAMILIES,
    *calculus.FAMILIES,
    *discrete.FAMILIES,
    *linear.FAMILIES,
)
_LAYOUTS = (
    Layout("Exercise {number}. {question}\n\nSolution. {steps}\n\nResult: {answer}", "\n"),
    Layout("{question}\n{steps}\nTherefore {answer}.", "\n"),
    Layout("Example {number}: {question}\n  {steps}\n  => {answer}", "\n  "),
    Layout("({number}) {question}\n\n{steps} Hence {answer}. QED", " "),
    Layout("**Task {number}** {question}\n\n1. {steps}\n\n**Solution:** {answer}", "\n1. "),
)
_PROBLEM_SHARDS = 12
_SHEETS_PER_SHARD = 250
_MOST_PROBLEMS = 4


def _sources() -> tuple[Source, ...]:
    return (
        *(distribution_source(name) for name in _PACKAGES),
        Source("problems", "1", "generated; no third-party text"),
    )


def _shards() -> Iterator[Shard]:
    for package in _PACKAGES:
        root = package_folder(package)
        if root is not None:
            yield from file_shards(package, root, list_files(root, (".py",)))
    yield from generator_shards("problems", _PROBLEM_SHARDS)


def _documents(work: Work) -> Iterator[str]:
    if work.shard.source == "problems":
        yield from sheets(
            work.rng, _FAMILIES, _LAYOUTS, count=_SHEETS_PER_SHARD, most=_MOST_PROBLEMS
        )
    for path in work.shard.files:
        yield from pages(work, path)


RECIPE = DomainRecipe(
    name="math",
    description="Documentation of sympy and mpmath with examples, and generated worked problems.",
    licence="BSD-3-Clause (sympy, mpmath); the problems are generated",
    target_bytes=3_200_000,
    sources=_sources,
    shards=_shards,
    documents=_documents,
)
