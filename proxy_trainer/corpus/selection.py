"""Which documents are kept and on which side of the split, decided by their content alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

VALID_SHARE = 0.04
MIN_VALID_BYTES = 40_000
MIN_DOMAIN_BYTES = 1_000_000
MIN_DOCUMENT_BYTES = 40
SPLITS = ("train", "valid")

# What is aimed for in a split at its minimum; the last document taken may overshoot it.
_VALID_FLOOR_BYTES = 48_000
_SIDES = 2**64


@dataclass(frozen=True)
class Document:
    """A text, the source it came from, and the hash that decides its side of the split."""

    text: str
    source: str
    digest: bytes
    size: int

    @property
    def split(self) -> str:
        """`valid` for `VALID_SHARE` of all texts, `train` for the rest, at any seed and scale."""
        position = int.from_bytes(self.digest[:8], "big")
        return "valid" if position < VALID_SHARE * _SIDES else "train"


def make_document(text: str, source: str) -> Document | None:
    """Return a document of the stripped text, or None if it is too short to be one."""
    # Lone surrogates (from string escapes in docstrings) cannot be written as UTF-8.
    data = text.strip().encode("utf-8", "replace")
    if len(data) < MIN_DOCUMENT_BYTES:
        return None
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return Document(data.decode("utf-8"), source, digest, len(data))


def unique(documents: Iterable[Document], seen: set[bytes]) -> list[Document]:
    """Return the documents whose text is not in `seen`, which is extended by them."""
    kept = []
    for document in documents:
        if document.digest not in seen:
            seen.add(document.digest)
            kept.append(document)
    return kept


def split_targets(target_bytes: int, scale: float) -> dict[str, int]:
    """Return the bytes to take per split; `scale` never shrinks valid below its minimum."""
    total = target_bytes * scale
    return {
        "train": round(total * (1 - VALID_SHARE)),
        "valid": max(round(total * VALID_SHARE), _VALID_FLOOR_BYTES),
    }


def select(
    documents: Iterable[Document], target_bytes: int, scale: float, seed: int
) -> dict[str, list[Document]]:
    """Take a random sample up to the byte targets of each split, in an order set by `seed`.

    A smaller scale takes a prefix of what a larger scale takes.
    """
    key = str(seed).encode()
    order = sorted(
        documents, key=lambda d: hashlib.blake2b(d.digest, key=key, digest_size=16).digest()
    )
    targets = split_targets(target_bytes, scale)
    taken: dict[str, list[Document]] = {split: [] for split in SPLITS}
    sizes = dict.fromkeys(SPLITS, 0)
    for document in order:
        split = document.split
        if sizes[split] < targets[split]:
            taken[split].append(document)
            sizes[split] += document.size
    return taken
