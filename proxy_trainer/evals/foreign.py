"""Results of a model that no study knows: one JSON file, and what each item came to beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proxy_trainer.evals.results import Result
from regmix import paired
from regmix.files import write_json, write_whole


def save(path: Path, model: Path, results: Sequence[Result]) -> None:
    """Write ``path``, and before it the items of every task, where :mod:`regmix.paired` looks."""
    found = [result.as_dict() for result in results]
    for result, described in zip(results, found, strict=True):
        items = result.items
        beside = paired.beside(path, described["fingerprint"])
        write_whole(beside, lambda tmp, items=items: items.to_parquet(tmp))  # type: ignore[misc]
    write_json(path, {"model": str(model), "results": found})
