"""Tokenise once: sources to token shards and a manifest, in parallel, resumable, atomic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from proxy_trainer.data import contamination
from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat import template as templates
from proxy_trainer.data.chat.build import inputs_of
from proxy_trainer.data.contamination import Conversations, Overlap, Search
from proxy_trainer.data.shards import dtype_for
from proxy_trainer.data.sole import sole_builder
from proxy_trainer.data.sources import Counts, Input, documents, expand
from proxy_trainer.data.tokenise import Task, finished, is_valid_document, tokenise
from proxy_trainer.data.workers import carry_out
from proxy_trainer.launch.claims import Claim
from regmix.config import Benchmark, DecontaminateConfig, Domain, Source, StudyConfig
from regmix.errors import UserError
from regmix.files import expanded, read_json, write_json, write_whole
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest, DomainManifest, Shard, SplitManifest, split_from_dict

Progress = Callable[[int, int], None]
_SKIPPED = ("skipped_no_text", "skipped_empty")
FEW = 10
"""Held-out documents of a domain below which the build says so."""


def build(
    layout: StudyLayout, config: StudyConfig, *, workers: int = 1, progress: Progress | None = None
) -> DataManifest:
    """Tokenise every source of a study; what is already built from the same input is kept.

    Args:
        progress: called with (inputs done, inputs in all).

    Raises:
        UserError: a source is missing or empty, a text cannot be read, too many documents lack
            the text field, a split is empty, or another process builds this study. Nothing
            half-written is left that a later stage would read.
        RegmixError: a worker process was killed, or this process was silent for so long that
            another has taken over; running again goes on.
    """
    with sole_builder(
        layout.tokens, layout.tokens_claims, config.launch.claim_seconds, "`regmix data build`"
    ) as claim:
        return _build(layout, config, workers, progress, claim)


def _build(
    layout: StudyLayout,
    config: StudyConfig,
    workers: int,
    progress: Progress | None,
    claim: Claim,
) -> DataManifest:
    inputs = {domain.name: _inputs(domain, layout.root) for domain in config.domains}
    tokenizer_path = _ensure_tokenizer(layout, config, inputs)
    tokenizer = tokenizers.load(tokenizer_path)
    vocab_size = tokenizers.vocab_size(tokenizer)
    dtype = dtype_for(vocab_size)
    eod_id = tokenizers.end_of_document(tokenizer, tokenizer_path)
    identity = tokenizers.fingerprint(tokenizer_path)
    screen = _screen(layout, config)
    screened = [] if screen is None else [screen.name]
    tasks = [
        Task(
            layout, domain.name, index, item, split, domain.valid_share, dtype, eod_id,
            fingerprint([identity, item.stamp, split, domain.valid_share, *screened]), screen,
        )
        for domain in config.domains
        for index, (split, item) in enumerate(inputs[domain.name])
    ]  # fmt: skip
    done = _run(tasks, workers, progress, claim)
    results = {d: [done[t.marker] for t in tasks if t.domain == d] for d in config.domain_names}
    domains = tuple(_domain_manifest(d, results[d.name], config) for d in config.domains)
    notes = [n for d, found in results.items() for n in _notes(d, found, layout.root)]
    notes += [n for d, own in zip(config.domains, domains, strict=True) for n in _thin(d, own)]
    manifest = DataManifest(
        domains=domains,
        vocab_size=vocab_size,
        eod_id=eod_id,
        dtype=dtype,
        tokenizer=identity,
        notes=tuple(notes),
        settings=config.data_settings(),
    )
    claim.check()
    manifest.save(layout.manifest)
    return manifest


def _screen(layout: StudyLayout, config: StudyConfig) -> Path | None:
    """What training documents must not hold, if the study says so."""
    settings = config.data.decontaminate
    if settings is None:
        return None
    where = "data.decontaminate.benchmarks"
    benchmarks = [
        contamination.read_items(b, layout.root, f"{where}.{b.name}") for b in settings.benchmarks
    ]
    return contamination.screen_file(layout, benchmarks, settings.ngram)


def contaminations(
    layout: StudyLayout,
    config: StudyConfig,
    benchmarks: Sequence[Benchmark] = (),
    chats: Sequence[Conversations] = (),
    *,
    ngram: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Overlap]:
    """What the training text of every domain holds of evaluation items, before any is left out.

    Args:
        benchmarks: default: those of ``data.decontaminate``.
        chats: conversations to look in too.
        ngram: consecutive words that are looked for; default: as there, or 13.
        progress: called with (inputs done, inputs in all).

    Raises:
        UserError: no benchmark is given anywhere, or something cannot be read.
    """
    settings = config.data.decontaminate
    given = benchmarks or (settings.benchmarks if settings else ())
    if not given:
        raise UserError(
            f"{layout.config}: data.decontaminate: names no benchmark, and none is given; try "
            "`--file items.jsonl --field question`"
        )
    length = ngram or (settings or DecontaminateConfig(benchmarks=tuple(given))).ngram
    items = tuple(contamination.read_items(b, layout.root, f"benchmark '{b.name}'") for b in given)
    searches = [
        Search(layout, d.name, item, 0.0 if d.valid else d.valid_share, items, length)
        for d in config.domains
        for split, item in _inputs(d, layout.root)
        if split != "valid"
    ]
    searches += [
        Search(layout, chat.label, item, 0.0, items, length, chat.source)
        for chat in chats
        for item in inputs_of(chat.source, chat.folder)
    ]
    return contamination.overlaps(searches, workers, progress)


def load_manifest(layout: StudyLayout, config: StudyConfig) -> DataManifest:
    """The manifest of a built study, checked against its settings and its tokenizer.

    Raises:
        UserError: not built, built with another tokenizer, or for other domains or sources.
    """
    manifest = DataManifest.load(layout.manifest)
    manifest.check_settings(config, layout)
    wanted = _given_tokenizer(layout, config) or layout.tokenizer
    found = tokenizers.fingerprint(wanted) if wanted.is_file() else "missing"
    if found != manifest.tokenizer:
        raise UserError(
            f"{wanted}: tokenizer {found} is not the one the shards were built with "
            f"({manifest.tokenizer}); run `regmix data build` again"
        )
    return manifest


def _inputs(domain: Domain, root: Path) -> list[tuple[str, Input]]:
    if not domain.train:
        raise UserError(f"domains.{domain.name}.train: no source given")
    train_split = "train" if domain.valid else "both"
    named: list[tuple[str, tuple[Source, ...]]] = [(train_split, domain.train)]
    if domain.valid:
        named.append(("valid", domain.valid))
    return [
        (split, item)
        for split, sources in named
        for source in sources
        for item in expand(source, root, f"domains.{domain.name}.{split}")
    ]


def _given_tokenizer(layout: StudyLayout, config: StudyConfig) -> Path | None:
    given = config.data.tokenizer.path
    return None if given is None else layout.root / expanded(given)


def _ensure_tokenizer(
    layout: StudyLayout, config: StudyConfig, inputs: dict[str, list[tuple[str, Input]]]
) -> Path:
    """Put the study's tokenizer at its place: copied, trained, or already there."""
    settings = config.data.tokenizer
    given = _given_tokenizer(layout, config)
    if given is not None:
        templates.copy_beside(given.parent, layout.tokens)
    record = layout.tokens / "tokenizer_from.json"
    if given is not None:
        tokenizers.load(given)
        origin: Any = {"path": settings.path, "content": tokenizers.fingerprint(given)}
    else:
        stamps = {d: [i.stamp for _, i in items] for d, items in inputs.items()}
        shares = {d.name: d.valid_share for d in config.domains if not d.valid}
        origin = {
            "settings": settings.model_dump(), "inputs": fingerprint(stamps), "valid_share": shares,
        }  # fmt: skip
    if layout.tokenizer.is_file() and record.is_file() and _same(read_json(record), origin):
        return layout.tokenizer
    if given is not None:
        content = given.read_bytes()
        write_whole(layout.tokenizer, lambda tmp: tmp.write_bytes(content))
    else:
        texts = _tokenizer_text(config, inputs)
        tokenizers.save(tokenizers.train_bpe(texts, settings.vocab_size), layout.tokenizer)
    write_json(record, origin)
    return layout.tokenizer


def _same(found: dict[str, Any], origin: dict[str, Any]) -> bool:
    """Whether a tokenizer's record is that of this input; an older one says less."""
    return bool(found) and found == {k: v for k, v in origin.items() if k in found}


def _tokenizer_text(
    config: StudyConfig, inputs: dict[str, list[tuple[str, Input]]]
) -> Iterator[str]:
    """Training text in equal parts per domain, so that no domain owns the vocabulary.

    Documents of the valid split are not among it: what a proxy is measured on shapes nothing.
    """
    for domain in config.domains:
        taken = 0
        for text in _training_texts(domain, inputs[domain.name]):
            yield text
            taken += len(text)
            if taken >= config.data.tokenizer.train_bytes:
                break


def _training_texts(domain: Domain, items: list[tuple[str, Input]]) -> Iterator[str]:
    for split, item in items:
        if split == "valid":
            continue
        for text in documents(item, Counts()):
            if split == "train" or not is_valid_document(text, domain.valid_share):
                yield text


def _run(
    tasks: list[Task], workers: int, progress: Progress | None, claim: Claim
) -> dict[Path, dict[str, Any]]:
    """Results by marker file; finished tasks are read, the others carried out in processes."""
    results = {task.marker: found for task in tasks if (found := finished(task)) is not None}
    waiting = sorted(
        (t for t in tasks if t.marker not in results), key=lambda t: t.item.size, reverse=True
    )
    if progress:
        progress(len(results), len(tasks))
    if not waiting:
        return results
    # Shards are about to change; until all have, no manifest may say what they hold.
    claim.check()
    waiting[0].layout.manifest.unlink(missing_ok=True)

    def done(task: Task, result: dict[str, Any]) -> None:
        claim.check()
        results[task.marker] = result
        if progress:
            progress(len(results), len(tasks))

    carry_out(tokenise, waiting, workers, done)
    return results


def _domain_manifest(
    domain: Domain, results: list[dict[str, Any]], config: StudyConfig
) -> DomainManifest:
    splits = {}
    for split in ("train", "valid"):
        parts = [split_from_dict(r["splits"][split]) for r in results if split in r["splits"]]
        _check_skipped(domain.name, split, parts, config.data.max_missing_text)
        if not any(p.documents for p in parts):
            read = [r["input"] for r in results if split in r["splits"]]
            raise UserError(
                f"domain '{domain.name}': its {split} split is empty: no document for it in "
                f"{_listed(read or [r['input'] for r in results])}; "
                + ("add documents, or raise valid_share" if split == "valid" else "add sources")
            )
        shards: tuple[Shard, ...] = tuple(s for p in parts for s in p.shards)
        splits[split] = SplitManifest(
            tokens=sum(p.tokens for p in parts),
            documents=sum(p.documents for p in parts),
            text_bytes=sum(p.text_bytes for p in parts),
            shards=shards,
            skipped_no_text=sum(p.skipped_no_text for p in parts),
            skipped_empty=sum(p.skipped_empty for p in parts),
            contaminated=sum(p.contaminated for p in parts),
        )
    return DomainManifest(domain.name, splits["train"], splits["valid"])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _notes(domain: str, results: list[dict[str, Any]], root: Path) -> list[str]:
    """Inputs out of which no document came: counted and said, since the others carry on."""
    notes = []
    for result in results:
        parts = [split_from_dict(part) for part in result["splits"].values()]
        if any(part.documents for part in parts):
            continue
        path = Path(result["input"])
        shown = path.relative_to(root) if path.is_relative_to(root) else result["input"]
        no_text, empty = (sum(getattr(p, k) for p in parts) for k in _SKIPPED)
        notes.append(
            f"domain '{domain}': {shown} holds no document with text "
            f"({no_text} without the text field, {empty} empty)"
        )
    return notes


def _thin(domain: Domain, found: DomainManifest) -> list[str]:
    """Held-out text that is a handful of documents: its bits per byte would be of these alone."""
    held_out = found.valid
    if held_out.documents >= FEW:
        return []
    more = "more of them under valid" if domain.valid else f"valid_share above {domain.valid_share}"
    return [
        f"domain '{domain.name}': its bits per byte rest on {held_out.documents} held-out "
        f"document{'s' * (held_out.documents > 1)} ({held_out.tokens:,} tokens), with fewer than "
        f"{FEW} of which chance weighs: give it {more}"
    ]


def _check_skipped(name: str, split: str, parts: list[SplitManifest], limit: float) -> None:
    missing = sum(p.skipped_no_text for p in parts)
    seen = missing + sum(p.documents + p.skipped_empty for p in parts)
    if seen and missing / seen > limit:
        raise UserError(
            f"domain '{name}', {split}: {missing} of {seen} documents ({missing / seen:.1%}) have "
            f"no text in the text field; at most {limit:.1%} may (data.max_missing_text); "
            "is text_field right?"
        )
