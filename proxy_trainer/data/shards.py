"""Token shards on disk: a flat array of ids, and where every document ends beside it.

``<name>.bin`` holds token ids (uint16 or uint32, little-endian), each document followed by the
end-of-document token. ``<name>.bin.docs`` holds two uint64 a document: the position after its
last token, and the UTF-8 bytes of its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from regmix.errors import StudyRefused
from regmix.files import disk_errors
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest, Shard

DTYPES: dict[str, np.dtype[np.unsignedinteger]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}
DOCS = np.dtype("<u8")
IntArray = npt.NDArray[np.int64]


def dtype_for(vocab_size: int) -> str:
    """The smallest type that holds every id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


class ShardWriter:
    """Writes one shard; the token file gets its name only when :meth:`close` finds it whole."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path = path
        self._dtype = DTYPES[dtype]
        self._partial = path.with_name(f".{path.name}.tmp-part")
        self._hash = hashlib.sha256()
        self._docs: list[tuple[int, int]] = []
        self._tokens = 0
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._partial.open("wb")

    def add(self, ids: list[int], text_bytes: int) -> None:
        """Append one document; ``ids`` ends with the end-of-document token."""
        raw = np.asarray(ids, dtype=self._dtype).tobytes()
        with disk_errors(self.path):
            self._stream.write(raw)
        self._hash.update(raw)
        self._tokens += len(ids)
        self._docs.append((self._tokens, text_bytes))

    def close(self, tokens_root: Path) -> Shard:
        """Finish the shard; the file's name is given relative to ``tokens_root``."""
        with disk_errors(self.path):
            self._stream.close()
            docs = np.asarray(self._docs, dtype=DOCS)
            docs.tofile(docs_path(self.path))
            self._partial.replace(self.path)
        self._hash.update(docs.tobytes())
        return Shard(
            file=self.path.relative_to(tokens_root).as_posix(),
            tokens=self._tokens,
            documents=len(self._docs),
            content=self._hash.hexdigest()[:32],
        )


class DomainTokens:
    """All documents of one split of one domain, memory-mapped and addressed as one array."""

    def __init__(self, layout: StudyLayout, manifest: DataManifest, domain: str, split: str):
        self.domain = domain
        part = manifest.domain(domain).split(split)
        maps = [open_shard(layout, shard, manifest.dtype) for shard in part.shards]
        self._shards = [tokens for tokens, _ in maps]
        self._shard_start = np.cumsum([0, *(len(t) for t in self._shards)]).astype(np.int64)
        ends = [d[:, 0] + start for (_, d), start in zip(maps, self._shard_start, strict=False)]
        self.ends: IntArray = np.concatenate(ends)
        self.text_bytes: IntArray = np.concatenate([docs[:, 1] for _, docs in maps])
        self.starts: IntArray = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        self.tokens = int(self._shard_start[-1])

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.ends)

    def take(self, positions: IntArray) -> IntArray:
        """Token ids at global positions, any shape."""
        if len(self._shards) == 1:
            return self._shards[0][positions].astype(np.int64)
        which = np.searchsorted(self._shard_start, positions, side="right") - 1
        out = np.empty(positions.shape, dtype=np.int64)
        for index in np.unique(which):
            here = which == index
            out[here] = self._shards[index][positions[here] - self._shard_start[index]]
        return out

    def pieces(self, tokens: int) -> Iterator[npt.NDArray[np.unsignedinteger]]:
        """All ids in order, at most so many at a time, as they are on disk: nothing is copied."""
        for shard in self._shards:
            for first in range(0, len(shard), tokens):
                yield shard[first : first + tokens]

    def document(self, index: int) -> IntArray:
        """Token ids of one document, its end-of-document token included."""
        return self.take(np.arange(self.starts[index], self.ends[index]))


def open_shard(
    layout: StudyLayout, shard: Shard, dtype: str
) -> tuple[npt.NDArray[np.unsignedinteger], IntArray]:
    """Token ids, memory-mapped, and an end and the text's bytes a document, shape ``(n, 2)``.

    Raises:
        StudyRefused: a file is missing, not as long as it was, or outside the study.
    """
    path = (layout.tokens / shard.file).resolve()
    if not path.is_relative_to(layout.tokens.resolve()):
        raise StudyRefused(f"{layout.manifest}: shard '{shard.file}' lies outside the study")
    check_shard_size(path, shard, dtype)
    tokens = np.memmap(path, dtype=DTYPES[dtype], mode="r", shape=(shard.tokens,))
    docs = np.fromfile(docs_path(path), dtype=DOCS).astype(np.int64)
    return tokens, docs.reshape(-1, 2)


def docs_path(shard: Path) -> Path:
    """The file of document ends and text bytes beside a token file."""
    return shard.with_name(shard.name + ".docs")


def check_shard_size(path: Path, shard: Shard, dtype: str) -> None:
    """Refuse a shard whose files are not as long as they were when it was built.

    Raises:
        StudyRefused: the file, the bytes it has and the bytes it should have.
    """
    _check_size(path, shard.tokens * DTYPES[dtype].itemsize)
    _check_size(docs_path(path), shard.documents * 2 * DOCS.itemsize)


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.exists() else None
    if found != expected:
        state = "is missing" if found is None else f"has {found:,} bytes"
        raise StudyRefused(
            f"{path}: {state}, the manifest says {expected:,}; "
            "delete it and run `regmix data build` again"
        )
