"""Build the demo's corpus: run every recipe, select, split and write."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import zstandard

from proxy_trainer.corpus import selection
from proxy_trainer.corpus.base import DomainRecipe, Source
from proxy_trainer.corpus.harvest import Pool, Progress, pools
from proxy_trainer.corpus.recipes import RECIPES
from proxy_trainer.corpus.selection import Document
from proxy_trainer.corpus.summary import (
    CorpusSummary,
    DomainSummary,
    SourceSummary,
    SplitSummary,
)
from regmix.errors import RegmixError, UserError
from regmix.files import read_json, write_json, write_whole
from regmix.hashing import fingerprint

_SUMMARY_FILE = "corpus.json"
_ZSTD_LEVEL = 10


def build_corpus(
    out: Path,
    *,
    seed: int = 0,
    workers: int = 2,
    scale: float = 1.0,
    progress: Progress | None = None,
    recipes: Sequence[DomainRecipe] = RECIPES,
) -> CorpusSummary:
    """Write `out/{train,valid}/<domain>.jsonl.zst` and, last, `out/corpus.json`.

    Equal arguments and installed versions give equal bytes, whatever `workers` is; a corpus that
    is already complete is returned as it is.

    Args:
        out: the corpus folder, created where it is missing.
        seed: chooses the sample of documents and the text of the generators.
        workers: processes; 1 stays in this one.
        scale: multiplies each domain's size in bytes.
        progress: called with (domain, shards done, shards in all).
        recipes: the domains, in the order in which they keep a text that several hold.

    Raises:
        UserError: an argument is out of range, or `out` is no folder that can be written to.
        RegmixError: a domain cannot reach its minimum size, a worker died, or the disk is full.
    """
    _check_arguments(out, workers, scale)
    identity = _identity(recipes, seed, scale)
    if (finished := _finished(out, identity)) is not None:
        return finished
    # A build that stops half way must not leave the summary of an earlier one beside its files.
    (out / _SUMMARY_FILE).unlink(missing_ok=True)
    domains = []
    for recipe, pool in pools(recipes, seed, workers, progress or _silent):
        selected = selection.select(pool.documents, recipe.target_bytes, scale, seed)
        _check_minimum(recipe, selected, scale)
        domains.append(_write_domain(out, recipe, pool, selected))
    summary = CorpusSummary(out, identity, seed, float(scale), tuple(domains))
    write_json(out / _SUMMARY_FILE, summary.to_json())
    return summary


def _silent(domain: str, done: int, total: int) -> None:
    """Report nothing."""


def _check_arguments(out: Path, workers: int, scale: float) -> None:
    if workers < 1:
        raise UserError(f"workers is {workers}; use 1 or more")
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(f"scale is {scale}; use a number above 0, such as 0.35 or 1")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the corpus")


def _identity(recipes: Sequence[DomainRecipe], seed: int, scale: float) -> str:
    """Hash everything that changes the text: arguments, versions and this package's own code."""
    folder = Path(__file__).parent
    code = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }
    versions = [
        (recipe.name, recipe.target_bytes, source.name, source.version)
        for recipe in recipes
        for source in recipe.sources()
    ]
    return fingerprint([seed, float(scale), versions, code, zstandard.__version__])


def _finished(out: Path, identity: str) -> CorpusSummary | None:
    """Return the corpus in `out` if it is the one asked for and all its files are there."""
    path = out / _SUMMARY_FILE
    if not path.exists():
        return None
    try:
        summary = CorpusSummary.from_json(read_json(path), out, reused=True)
    except (KeyError, TypeError, UserError):
        return None  # written by another version, or damaged: building again puts it right
    complete = all(
        _file(out, split, domain.name).is_file()
        and _file(out, split, domain.name).stat().st_size == written.file_bytes
        for domain in summary.domains
        for split, written in domain.splits.items()
    )
    return summary if complete and summary.fingerprint == identity else None


def _check_minimum(recipe: DomainRecipe, selected: dict[str, list[Document]], scale: float) -> None:
    sizes = {split: sum(d.size for d in documents) for split, documents in selected.items()}
    asked = round(selection.MIN_DOMAIN_BYTES * min(scale, 1.0))
    found = sum(sizes.values())
    if found >= asked and sizes["valid"] >= selection.MIN_VALID_BYTES:
        return
    looked_at = ", ".join(_described(source) for source in recipe.sources())
    raise RegmixError(
        f"domain '{recipe.name}' is too small: asked for {asked} bytes of text with "
        f"{selection.MIN_VALID_BYTES} in valid, found {found} with {sizes['valid']} in valid. "
        f"Looked at: {looked_at}. Install the absent packages, or a complete Python distribution "
        "with its sources, and run again."
    )


def _described(source: Source) -> str:
    return f"{source.name} {source.version or '(absent)'}"


def _file(out: Path, split: str, domain: str) -> Path:
    return out / split / f"{domain}.jsonl.zst"


def _write_domain(
    out: Path, recipe: DomainRecipe, pool: Pool, selected: dict[str, list[Document]]
) -> DomainSummary:
    splits = {}
    for split, documents in selected.items():
        path = _file(out, split, recipe.name)
        _write_documents(path, documents)
        size = sum(document.size for document in documents)
        splits[split] = SplitSummary(len(documents), size, path.stat().st_size)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for document in (*selected["train"], *selected["valid"]):
        counts[document.source] += 1
        sizes[document.source] += document.size
    sources = tuple(
        SourceSummary(
            source.name,
            source.version,
            source.licence,
            counts[source.name],
            sizes[source.name],
            pool.unreadable.get(source.name, ()),
        )
        for source in recipe.sources()
    )
    return DomainSummary(
        recipe.name, recipe.description, recipe.licence, pool.duplicates, splits, sources
    )


def _write_documents(path: Path, documents: Sequence[Document]) -> None:
    lines = (json.dumps({"text": d.text}, ensure_ascii=False) + "\n" for d in documents)
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
    data = compressor.compress("".join(lines).encode("utf-8"))
    write_whole(path, lambda temporary: temporary.write_bytes(data))
