"""Tokenise conversations once: files to shards and a manifest, in parallel, resumable, atomic."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat import template as templates
from proxy_trainer.data.chat.conversations import SUFFIXES, Conversation, conversations
from proxy_trainer.data.chat.encode import ChatEncoder, Encoded
from proxy_trainer.data.chat.shards import (
    VERSION,
    ChatManifest,
    ChatShardWriter,
    SourceManifest,
    check_sizes,
    source_from_dict,
)
from proxy_trainer.data.chat.template import ChatTemplate
from proxy_trainer.data.shards import dtype_for
from proxy_trainer.data.sole import sole_builder
from proxy_trainer.data.sources import Input, expand
from proxy_trainer.data.tokenise import BATCH_DOCUMENTS
from proxy_trainer.data.workers import carry_out
from regmix.chat import ChatFiles, ChatFormat, Conversations, TooLong
from regmix.config import Source
from regmix.errors import UserError
from regmix.files import disk_errors, expanded, read_json, write_json
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout, folder_name

Progress = Callable[[int, int], None]
CLAIM_SECONDS = 120.0
"""Of silence after which another process may take over."""


@dataclass(frozen=True)
class ChatTask:
    """One file to be tokenised into at most one shard."""

    layout: StudyLayout
    folder: Path
    source: str
    index: int
    item: Input
    form: ChatFormat
    pair: tuple[str, str]
    template: ChatTemplate
    tokenizer: Path
    context: int
    max_length: TooLong
    dtype: str

    @property
    def marker(self) -> Path:
        """Written last; holds what the shard holds."""
        return self._named(".json")

    @property
    def shard(self) -> Path:
        """Shard file."""
        return self._named(".bin")

    def _named(self, suffix: str) -> Path:
        return self.folder / folder_name(self.source) / f"{self.index:05d}{suffix}"


def build(
    layout: StudyLayout,
    data: Conversations,
    *,
    folder: Path,
    tokenizer: Path,
    context: int,
    workers: int = 1,
    progress: Progress | None = None,
    base: Path | None = None,
) -> ChatManifest:
    """Tokenise the conversations of a stage; what is already built from the same content is kept.

    Args:
        folder: where the stage file lies; relative paths in ``data`` start there.
        tokenizer: a ``tokenizer.json``; the files beside it may hold its own template.
        context: tokens of the longest conversation that is kept whole.
        progress: called with (files done, files in all).
        base: folder of the model that is gone on from; its template comes before the tokenizer's.

    Raises:
        UserError: a file is missing or holds something else than conversations, the template
            cannot be used, a source has nothing left, or another process builds the same data.
            Nothing half-written is left that a later stage would read.
        RegmixError: a worker process was killed; running again goes on.
    """
    given = None if data.template is None else folder / expanded(data.template)
    template = templates.find(given, tokenizer, base=base)
    # Refuses a pair that does not go together, before any work.
    turn_ends = ChatEncoder(tokenizer, template).turn_ends()
    inputs = {source.name: inputs_of(source, folder) for source in data.sources}
    identity = _identity(data, inputs, template, tokenizer, context)
    own = layout.chat_data(identity)
    with sole_builder(own, own / "claims", CLAIM_SECONDS, "command"):
        loaded = tokenizers.load(tokenizer)
        vocab_size = tokenizers.vocab_size(loaded)
        dtype = dtype_for(vocab_size)
        tasks = [
            ChatTask(
                layout, own, source.name, index, item, source.format, source.pair, template,
                tokenizer, context, data.max_length, dtype,
            )
            for source in data.sources
            for index, item in enumerate(inputs[source.name])
        ]  # fmt: skip
        done = _run(tasks, workers, progress)
        manifest = ChatManifest(
            fingerprint=identity,
            context=context,
            max_length=data.max_length,
            template=template.origin,
            special_tokens=dict(template.special_tokens),
            tokenizer=tokenizers.fingerprint(tokenizer),
            vocab_size=vocab_size,
            eod_id=tokenizers.end_of_document(loaded, tokenizer),
            dtype=dtype,
            sources=tuple(
                _joined(name, [done[t.marker] for t in tasks if t.source == name], context)
                for name in data.names
            ),
            turn_ends=turn_ends,
        )
        template.save(own)
        manifest.save(own)
    return manifest


def inputs_of(source: ChatFiles, folder: Path) -> list[Input]:
    """The files of a source in name order, each of them once.

    Raises:
        UserError: there is none, one is named twice, or holds something else by its suffix.
    """
    where = f"sources.{source.name}.files"
    found: dict[Path, str] = {}
    items = []
    for pattern in source.files:
        for item in expand(Source(path=pattern), folder, where):
            assert item.path is not None  # it was made of a path
            path = item.path.resolve()
            if not path.name.endswith(SUFFIXES):
                raise UserError(f"{where}: '{path}' has none of the suffixes {', '.join(SUFFIXES)}")
            if path in found:
                raise UserError(
                    f"{where}: '{path}' is meant by '{found[path]}' and by '{pattern}'; name it "
                    "once, and use epochs to read it more often"
                )
            found[path] = pattern
            items.append(item)
    return items


def _identity(
    data: Conversations,
    inputs: dict[str, list[Input]],
    template: ChatTemplate,
    tokenizer: Path,
    context: int,
) -> str:
    """Covers the content of everything that the shards follow from; no path and no time."""
    sources = [
        [s.name, s.format, s.pair, [_digest(i) for i in inputs[s.name]]] for s in data.sources
    ]
    return fingerprint(
        [
            VERSION, template.identity, tokenizers.fingerprint(tokenizer), context,
            data.max_length, sources,
        ]
    )  # fmt: skip


def _digest(item: Input) -> str:
    assert item.path is not None  # see _inputs
    with disk_errors(item.path), item.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _run(
    tasks: list[ChatTask], workers: int, progress: Progress | None
) -> dict[Path, SourceManifest]:
    """Results by marker file; finished tasks are read, the others carried out in processes."""
    results = {task.marker: found for task in tasks if (found := _finished(task)) is not None}
    waiting = sorted(
        (t for t in tasks if t.marker not in results), key=lambda t: t.item.size, reverse=True
    )
    if progress:
        progress(len(results), len(tasks))

    def done(task: ChatTask, result: dict[str, Any]) -> None:
        results[task.marker] = source_from_dict(result)
        if progress:
            progress(len(results), len(tasks))

    if waiting:
        carry_out(tokenise, waiting, workers, done)
    return results


def _finished(task: ChatTask) -> SourceManifest | None:
    """What an earlier build left for a task; None if it must be done (again)."""
    if not task.marker.is_file():
        return None
    found = source_from_dict(read_json(task.marker))
    try:
        check_sizes(task.folder, found.shards, task.dtype)
    except UserError:  # a shard was cut short or deleted: make it again
        return None
    return found


def tokenise(task: ChatTask) -> dict[str, Any]:
    """Tokenise one file and leave its shard and its marker.

    Raises:
        UserError: a row is not a conversation that the template can render.
    """
    assert task.item.path is not None  # see _inputs
    writer: ChatShardWriter | None = None
    encoder = ChatEncoder(task.tokenizer, task.template)
    counts = dict.fromkeys(_SUMMED, 0)
    for conversation, encoded in _encoded(encoder, task):
        counts["turns"] += conversation.turns
        kept = _fitted(encoded, task, counts)
        if kept is None:
            continue
        counts["conversations"] += 1
        counts["tokens"] += len(kept.ids)
        counts["trained_tokens"] += int(kept.trained.sum())
        counts["shared_tokens"] += int(kept.shared.sum())
        writer = writer or ChatShardWriter(task.shard, task.dtype)
        writer.add(kept.ids, kept.trained)
    shards = (writer.close(task.folder),) if writer else ()
    result = asdict(SourceManifest(name=task.source, shards=shards, **counts))
    write_json(task.marker, result)
    return result


def _encoded(encoder: ChatEncoder, task: ChatTask) -> Iterator[tuple[Conversation, Encoded]]:
    assert task.item.path is not None  # see _inputs
    stream = conversations(task.item.path, task.form, task.template, task.pair)
    while batch := list(islice(stream, BATCH_DOCUMENTS)):
        yield from zip(batch, encoder.encode(batch), strict=True)


def _fitted(encoded: Encoded, task: ChatTask, counts: dict[str, int]) -> Encoded | None:
    """The conversation as far as the context and the policy allow; what is lost is counted."""
    over = len(encoded.ids) - task.context
    if over <= 0:
        return encoded
    trained = encoded.trained[: task.context]
    if task.max_length == "drop" or not trained.any():
        counts["dropped"] += 1
        counts["cut_tokens"] += len(encoded.ids)
        return None
    counts["truncated"] += 1
    counts["cut_tokens"] += over
    return Encoded(encoded.ids[: task.context], trained, encoded.shared[: task.context])


_SUMMED = tuple(f.name for f in fields(SourceManifest) if f.name not in ("name", "shards"))


def _joined(name: str, parts: list[SourceManifest], context: int) -> SourceManifest:
    """One source's manifest out of those of its files."""
    total = {key: sum(getattr(part, key) for part in parts) for key in _SUMMED}
    if not total["conversations"]:
        raise UserError(
            f"source '{name}': none of its {total['dropped']} conversations fits into a context "
            f"of {context} tokens; use a longer context, or max_length: truncate"
        )
    return SourceManifest(name=name, shards=tuple(s for p in parts for s in p.shards), **total)
