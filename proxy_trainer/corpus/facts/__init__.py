"""The `facts` domain: data tables that installed packages ship, told in sentences."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proxy_trainer.corpus.base import DomainRecipe, Shard, Source, Work, generator_shards
from proxy_trainer.corpus.facts import (
    characters,
    computing,
    constants,
    languages,
    measurements,
    places,
)
from proxy_trainer.corpus.files import distribution_source, python_source


def _unicode_source() -> Source:
    return Source("unicode", unicodedata.unidata_version, "Unicode-3.0")


@dataclass(frozen=True)
class _Table:
    """A kind of facts, left out where its source is not installed."""

    source: Callable[[], Source]
    shards: int
    documents: Callable[[Work], Iterator[str]]


_TABLES: dict[str, _Table] = {
    "unicode": _Table(_unicode_source, 4, characters.documents),
    "python": _Table(python_source, 1, computing.documents),
    "tzdata": _Table(lambda: distribution_source("tzdata"), 4, places.documents),
    "scipy": _Table(lambda: distribution_source("scipy"), 1, constants.documents),
    "scikit-learn": _Table(lambda: distribution_source("scikit-learn"), 2, measurements.documents),
    "datasets": _Table(lambda: distribution_source("datasets"), 1, languages.documents),
}


def _sources() -> tuple[Source, ...]:
    return tuple(table.source() for table in _TABLES.values())


def _shards() -> Iterator[Shard]:
    for name, table in _TABLES.items():
        if table.source().version is not None:
            yield from generator_shards(name, table.shards)


def _documents(work: Work) -> Iterator[str]:
    return _TABLES[work.shard.source].documents(work)


RECIPE = DomainRecipe(
    name="facts",
    description="Characters, places, constants, measurements and codes, told in sentences.",
    licence="that of each table; see the sources",
    target_bytes=2_400_000,
    sources=_sources,
    shards=_shards,
    documents=_documents,
)
