"""One input to token shards: what a worker process of the data build does, and what it leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.screen import Screen
from proxy_trainer.data.shards import ShardWriter, check_shard_size
from proxy_trainer.data.sources import Counts, Input, documents
from regmix.errors import UserError
from regmix.files import read_json, write_json
from regmix.layout import StudyLayout
from regmix.manifest import SplitManifest, split_from_dict

BATCH_DOCUMENTS = 256


@dataclass(frozen=True)
class Task:
    """One input to be tokenised into at most one shard per split."""

    layout: StudyLayout
    domain: str
    index: int
    item: Input
    split: str
    """``train``, ``valid``, or ``both`` when the valid split is set apart by hash."""
    valid_share: float
    dtype: str
    eod_id: int
    identity: str
    """Changes whenever the shard's content could."""
    screen: Path | None = None
    """Evaluation items, :class:`proxy_trainer.data.screen.Screen`: training documents that hold
    one are left out."""

    @property
    def folder(self) -> Path:
        """All tokens of the study."""
        return self.layout.tokens

    @property
    def marker(self) -> Path:
        """Written last; holds what the shards hold."""
        return self.layout.domain_tokens(self.domain) / f"{self.split}-{self.index:05d}.json"

    def shard(self, split: str) -> Path:
        """Shard file for one split."""
        return self.layout.domain_tokens(self.domain) / f"{split}-{self.index:05d}.bin"

    def split_of(self, text: str) -> str:
        """The split that a document belongs to."""
        if self.split != "both":
            return self.split
        return "valid" if is_valid_document(text, self.valid_share) else "train"


def is_valid_document(text: str, share: float) -> bool:
    """Whether a document belongs to the valid split: decided by its content alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def finished(task: Task) -> dict[str, Any] | None:
    """What an earlier build left for a task; None if it must be done (again)."""
    if not task.marker.is_file():
        return None
    found: dict[str, Any] = read_json(task.marker)
    if found["identity"] != task.identity:
        return None
    try:
        for part in found["splits"].values():
            for shard in split_from_dict(part).shards:
                check_shard_size(task.layout.tokens / shard.file, shard, task.dtype)
    except UserError:  # a shard was cut short or deleted: make it again
        return None
    return found


def tokenise(task: Task) -> dict[str, Any]:
    """Tokenise one input and leave its shards and its marker.

    Raises:
        UserError: as :func:`proxy_trainer.data.sources.documents`.
    """
    counts = Counts()
    writers, text_bytes, contaminated = _write_shards(task, counts)
    splits = {}
    for split, writer in writers.items():
        shard = writer.close(task.layout.tokens)
        splits[split] = SplitManifest(shard.tokens, shard.documents, text_bytes[split], (shard,))
    # What was skipped has no content to hash; it is counted with train where there is one.
    own = next(
        (s for s in ("train", "valid") if s in splits),
        "valid" if task.split == "valid" else "train",
    )
    kept = splits.get(own, SplitManifest(0, 0, 0, ()))
    splits[own] = replace(
        kept,
        skipped_no_text=counts.no_text,
        skipped_empty=counts.empty,
        contaminated=contaminated,
    )
    result = {
        "identity": task.identity,
        "input": task.item.label,
        "splits": {split: asdict(part) for split, part in splits.items()},
    }
    write_json(task.marker, result)
    return result


def _write_shards(task: Task, counts: Counts) -> tuple[dict[str, ShardWriter], dict[str, int], int]:
    """Every document of the input into its split's shard.

    Shards by split, their text's bytes, and how many training documents hold evaluation items.
    """
    tokenizer = tokenizers.load(task.layout.tokenizer)
    screen = Screen.load(task.screen) if task.screen else None
    writers: dict[str, ShardWriter] = {}
    text_bytes: dict[str, int] = {}
    contaminated = 0
    stream = documents(task.item, counts)
    while batch := list(islice(stream, BATCH_DOCUMENTS)):
        for text, encoding in zip(batch, _encode(tokenizer, batch), strict=True):
            split = task.split_of(text)
            if screen is not None and split == "train" and screen.found(text):
                contaminated += 1
                continue
            if split not in writers:
                writers[split] = ShardWriter(task.shard(split), task.dtype)
            size = len(text.encode())
            writers[split].add([*encoding, task.eod_id], size)
            text_bytes[split] = text_bytes.get(split, 0) + size
    return writers, text_bytes, contaminated


def _encode(tokenizer: Any, batch: list[str]) -> Iterable[list[int]]:
    return (e.ids for e in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
