"""Run the recipes' shards, in this process or in several, and pool what they give."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from proxy_trainer.corpus.base import DomainRecipe, Shard, Work
from proxy_trainer.corpus.selection import Document, make_document, unique
from proxy_trainer.processes import die_with_parent
from regmix.errors import RegmixError

Progress = Callable[[str, int, int], None]
"""Called with a domain, its shards done and its shards in all."""


@dataclass(frozen=True)
class _Harvest:
    """What one shard gave; picklable, as it comes back from a worker process."""

    source: str
    documents: tuple[Document, ...]
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class Pool:
    """Everything a domain offers, before the byte targets are applied."""

    documents: list[Document]
    duplicates: int
    unreadable: dict[str, tuple[str, ...]]


def pools(
    recipes: Sequence[DomainRecipe],
    seed: int,
    workers: int,
    progress: Progress,
) -> Iterator[tuple[DomainRecipe, Pool]]:
    """Yield each recipe with all it offers; later domains are worked on meanwhile.

    A text that several recipes offer is in the first one's pool only.

    Raises:
        RegmixError: a worker process died.
    """
    seen: set[bytes] = set()
    for recipe, total, harvests in _harvests(recipes, seed, workers):
        yield recipe, _pool(recipe, harvests, total, seen, progress)


def _harvests(
    recipes: Sequence[DomainRecipe], seed: int, workers: int
) -> Iterator[tuple[DomainRecipe, int, Iterator[_Harvest]]]:
    """Yield each recipe with its number of shards and, in their order, what they gave."""
    jobs = [(recipe, list(recipe.shards())) for recipe in recipes]
    if workers == 1:
        for recipe, shards in jobs:
            yield recipe, len(shards), (_harvest(recipe, shard, seed) for shard in shards)
        return
    # Spawned, not forked: the caller may hold threads (torch does), which a fork would break.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, die_with_parent)
    try:
        running = [
            (recipe, [executor.submit(_harvest, recipe, shard, seed) for shard in shards])
            for recipe, shards in jobs
        ]
        for recipe, futures in running:
            yield recipe, len(futures), map(_result, futures)
    finally:
        executor.shutdown(cancel_futures=True)


def _result(future: Future[_Harvest]) -> _Harvest:
    try:
        return future.result()
    except BrokenProcessPool as exc:
        raise RegmixError(
            "a worker process of the corpus build died (out of memory, or started from a script "
            "without `if __name__ == '__main__'`); run again with workers=1"
        ) from exc


def _harvest(recipe: DomainRecipe, shard: Shard, seed: int) -> _Harvest:
    """Produce one shard's documents (in a worker process)."""
    work = Work(shard, random.Random(f"{seed}/{recipe.name}/{shard.key}"))
    made = (make_document(text, shard.source) for text in recipe.documents(work))
    documents = tuple(document for document in made if document is not None)
    return _Harvest(shard.source, documents, tuple(work.unreadable))


def _pool(
    recipe: DomainRecipe,
    harvests: Iterator[_Harvest],
    total: int,
    seen: set[bytes],
    progress: Progress,
) -> Pool:
    documents: list[Document] = []
    offered = 0
    unreadable: dict[str, tuple[str, ...]] = {}
    for done, harvest in enumerate(harvests, start=1):
        documents += unique(harvest.documents, seen)
        offered += len(harvest.documents)
        unreadable[harvest.source] = unreadable.get(harvest.source, ()) + harvest.unreadable
        progress(recipe.name, done, total)
    return Pool(documents, offered - len(documents), unreadable)
