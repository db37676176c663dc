"""Tokenised conversations on disk: token ids, which of them carry loss, where each one ends.

``<name>.bin`` holds token ids as the shards of documents do; ``<name>.bin.trained`` one byte a
token, 1 where it carries loss; ``<name>.bin.ends`` three uint64 a conversation: the position after
its last token, how many of its tokens carry loss, and a digest of its tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proxy_trainer.data.chat.encode import BoolArray
from proxy_trainer.data.shards import DOCS, DTYPES, IntArray
from regmix.errors import UserError, unknown_name
from regmix.files import disk_errors, read_json, write_json
from regmix.hashing import fingerprint

VERSION = 2
MANIFEST = "manifest.json"
_TRAINED, _ENDS = ".trained", ".ends"
_END_FIELDS = 3
_AGAIN = "delete the folder and build the conversations again"


@dataclass(frozen=True)
class ChatShard:
    """The conversations of one file."""

    file: str
    """Path below the folder of the manifest."""
    conversations: int
    tokens: int
    content: str
    """SHA-256 of ids, mask and ends."""


@dataclass(frozen=True)
class SourceManifest:
    """What there is of one source."""

    name: str
    conversations: int
    turns: int
    """Of the assistant, in what was read."""
    tokens: int
    trained_tokens: int
    """Tokens that carry loss."""
    shared_tokens: int
    """Tokens that hold the assistant's text and the template's as well, and so carry none."""
    dropped: int
    """Conversations left out: longer than the context, or cut to it without a turn left."""
    truncated: int
    """Conversations cut to the context."""
    cut_tokens: int
    """Tokens lost by both."""
    shards: tuple[ChatShard, ...]

    @property
    def contents(self) -> tuple[str, ...]:
        """Identity of the conversations of every file, whatever the source is called."""
        return tuple(shard.content for shard in self.shards)


@dataclass(frozen=True)
class ChatManifest:
    """All sources of one set, in the order in which they were listed."""

    fingerprint: str
    """Identity of files, formats, template, tokenizer, context and policy; the folder's name."""
    context: int
    max_length: str
    template: str
    """Where the template came from; a copy is ``chat_template.jinja`` beside the manifest."""
    special_tokens: dict[str, str]
    tokenizer: str
    """Fingerprint of the ``tokenizer.json``."""
    vocab_size: int
    eod_id: int
    """Fills blocks up; it carries no loss there."""
    dtype: str
    sources: tuple[SourceManifest, ...]
    turn_ends: tuple[int, ...] = ()
    """Tokens of their own that end the assistant's turns, by the template."""

    @property
    def names(self) -> tuple[str, ...]:
        """Source names."""
        return tuple(s.name for s in self.sources)

    @property
    def content(self) -> str:
        """Identity of what the shards hold."""
        return fingerprint([[s.name, [shard.content for shard in s.shards]] for s in self.sources])

    @property
    def tokens(self) -> int:
        """Tokens of all sources, once."""
        return sum(s.tokens for s in self.sources)

    def source(self, name: str) -> SourceManifest:
        """One source by name."""
        for source in self.sources:
            if source.name == name:
                return source
        raise unknown_name("source", name, self.names)

    def save(self, folder: Path) -> None:
        """Write it whole, last of all."""
        write_json(folder / MANIFEST, {"version": VERSION, "content": self.content, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> ChatManifest:
        """Read the manifest of a folder of conversations.

        Raises:
            UserError: missing, of another version, of another folder, or edited by hand.
        """
        path = folder / MANIFEST
        if not path.exists():
            raise UserError(f"{path}: no conversations were built there")
        raw = read_json(path)
        try:
            version, content = raw.pop("version"), raw.pop("content")
            if version != VERSION:
                raise UserError(f"{path}: version {version}, expected {VERSION}; {_AGAIN}")
            sources = tuple(source_from_dict(source) for source in raw.pop("sources"))
            ends = tuple(raw.pop("turn_ends", ()))
            manifest = cls(**raw, sources=sources, turn_ends=ends)
        except (AttributeError, KeyError, TypeError) as exc:
            raise UserError(f"{path}: not a manifest of conversations ({exc!r}); {_AGAIN}") from exc
        if manifest.content != content or manifest.fingerprint != folder.name:
            raise UserError(f"{path}: changed since it was built; {_AGAIN}")
        return manifest


def source_from_dict(raw: dict[str, Any]) -> SourceManifest:
    """A source's manifest from its JSON form."""
    return SourceManifest(**{**raw, "shards": tuple(ChatShard(**s) for s in raw["shards"])})


class ChatShardWriter:
    """Writes one shard; the token file gets its name last, when all of it is there."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._path, self._dtype = path, DTYPES[dtype]
        self._partial = path.with_name(f".{path.name}.tmp-part")
        self._hash = hashlib.sha256()
        self._ends: list[tuple[int, int, int]] = []
        self._tokens = 0
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._ids = self._partial.open("wb")
            self._trained = _beside(path, _TRAINED).open("wb")

    def add(self, ids: IntArray, trained: BoolArray) -> None:
        """Append one conversation, ``(tokens,)`` each."""
        raw, mask = ids.astype(self._dtype).tobytes(), trained.astype(np.uint8).tobytes()
        with disk_errors(self._path):
            self._ids.write(raw)
            self._trained.write(mask)
        self._hash.update(raw)
        self._hash.update(mask)
        self._tokens += len(ids)
        digest = hashlib.blake2b(raw, digest_size=8).digest()
        self._ends.append((self._tokens, int(trained.sum()), int.from_bytes(digest, "little")))

    def close(self, root: Path) -> ChatShard:
        """Finish the shard; the file's name is given relative to ``root``."""
        ends = np.asarray(self._ends, dtype=DOCS)
        with disk_errors(self._path):
            self._ids.close()
            self._trained.close()
            ends.tofile(_beside(self._path, _ENDS))
            self._partial.replace(self._path)
        self._hash.update(ends.tobytes())
        return ChatShard(
            file=self._path.relative_to(root).as_posix(),
            conversations=len(ends),
            tokens=self._tokens,
            content=self._hash.hexdigest()[:32],
        )


class ChatTokens:
    """All conversations of one source, memory-mapped and numbered through."""

    def __init__(self, folder: Path, manifest: ChatManifest, source: str) -> None:
        """Open the shards.

        Raises:
            UserError: one of them is missing, or not as long as it was when it was built.
        """
        self.source = source
        shards = manifest.source(source).shards
        opened = [_open(folder, shard, manifest.dtype) for shard in shards]
        self._ids = [ids for ids, _, _ in opened]
        self._trained = [trained for _, trained, _ in opened]
        self._first = np.cumsum([0, *(len(ends) for _, _, ends in opened)])
        self._ends = [ends[:, 0].astype(np.int64) for _, _, ends in opened]
        self.lengths: IntArray = np.concatenate([np.diff(e, prepend=0) for e in self._ends])
        self.trained: IntArray = np.concatenate([ends[:, 1] for _, _, ends in opened]).astype(
            np.int64
        )
        self.digests: npt.NDArray[np.uint64] = np.concatenate([ends[:, 2] for _, _, ends in opened])
        """Of each conversation's tokens: the same for the same conversation, in any source."""

    @property
    def conversations(self) -> int:
        """Number of conversations."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all of them."""
        return int(self.lengths.sum())

    def conversation(self, index: int) -> tuple[IntArray, BoolArray]:
        """Token ids of one, and which carry loss, ``(tokens,)`` each."""
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        end = int(self._ends[shard][index - self._first[shard]])
        own = slice(end - int(self.lengths[index]), end)
        return self._ids[shard][own].astype(np.int64), self._trained[shard][own] != 0


def open_sources(folder: Path, manifest: ChatManifest) -> dict[str, ChatTokens]:
    """Every source's conversations, by name.

    Raises:
        UserError: as :class:`ChatTokens`.
    """
    return {name: ChatTokens(folder, manifest, name) for name in manifest.names}


def check_sizes(folder: Path, shards: Sequence[ChatShard], dtype: str) -> None:
    """Refuse shards whose files are not as long as they were when they were built.

    Raises:
        UserError: the file, the bytes it has and the bytes it should have.
    """
    for shard in shards:
        path = folder / shard.file
        for file, expected in (
            (path, shard.tokens * DTYPES[dtype].itemsize),
            (_beside(path, _TRAINED), shard.tokens),
            (_beside(path, _ENDS), shard.conversations * _END_FIELDS * DOCS.itemsize),
        ):
            found = file.stat().st_size if file.exists() else None
            if found != expected:
                state = "is missing" if found is None else f"has {found:,} bytes"
                raise UserError(f"{file}: {state}, the manifest says {expected:,}; {_AGAIN}")


def _open(
    folder: Path, shard: ChatShard, dtype: str
) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    path = (folder / shard.file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{folder / MANIFEST}: shard '{shard.file}' lies outside its folder")
    check_sizes(folder, [shard], dtype)
    ids = np.memmap(path, dtype=DTYPES[dtype], mode="r", shape=(shard.tokens,))
    trained = np.memmap(_beside(path, _TRAINED), dtype=np.uint8, mode="r", shape=(shard.tokens,))
    ends = np.fromfile(_beside(path, _ENDS), dtype=DOCS)
    return ids, trained, ends.reshape(-1, _END_FIELDS)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
