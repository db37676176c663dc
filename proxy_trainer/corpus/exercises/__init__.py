"""The `exercises` domain: generated word problems with their reasoning and answers."""

from __future__ import annotations

from collections.abc import Iterator

from proxy_trainer.corpus.base import DomainRecipe, Shard, Source, Work, generator_shards
from proxy_trainer.corpus.exercises import dates, measures, money, quantities, sequences
from proxy_trainer.corpus.problems import Layout, sheets

_FAMILIES = (
    *dates.FAMILIES,
    *measures.FAMILIES,
    *money.FAMILIES,
    *quantities.FAMILIES,
    *sequences.FAMILIES,
)
_LAYOUTS = (
    Layout("Question: {question}\nReasoning: {steps}\nAnswer: {answer}", " "),
    Layout("Q{number}. {question}\nA{number}. {steps} The answer is {answer}.", " "),
    Layout("{question}\n- {steps}\n- Answer: {answer}", "\n- "),
    Layout("Pupil: {question}\nTeacher: {steps} So we get {answer}.", " "),
    Layout("{number}. {question}\n   {steps}\n   ({answer})", "\n   "),
    Layout("{question} Let us think. {steps} That makes {answer}.", " "),
)
_SHARDS = 4
_SHEETS_PER_SHARD = 1000
_MOST_PROBLEMS = 4


def _sources() -> tuple[Source, ...]:
    return (Source("word problems", "1", "generated; no third-party text"),)


def _shards() -> Iterator[Shard]:
    return generator_shards("word problems", _SHARDS)


def _documents(work: Work) -> Iterator[str]:
    return sheets(work.rng, _FAMILIES, _LAYOUTS, count=_SHEETS_PER_SHARD, most=_MOST_PROBLEMS)


RECIPE = DomainRecipe(
    name="exercises",
    description="Word problems on money, quantities, measures, dates and sequences, worked out.",
    licence="generated; no third-party text",
    target_bytes=1_600_000,
    sources=_sources,
    shards=_shards,
    documents=_documents,
)
