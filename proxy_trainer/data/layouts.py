"""Token shards in the layouts that other trainers read.

``olmo-core``: flat arrays of ids without a header, whatever their ``.npy`` says, each document
ended by its token (ai2-olmo-core 3.0.0, ``olmo_core/data/utils.py`` ``load_array_slice``).
``megatron``: the same in one ``.bin`` a domain and split, and an ``.idx`` of where documents lie
(megatron-core 0.16.1, ``megatron/core/datasets/indexed_dataset.py`` ``_IndexReader``).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from proxy_trainer.data.shards import DOCS, DTYPES, IntArray, open_shard
from regmix.errors import UserError, unknown_name
from regmix.files import disk_errors, write_whole
from regmix.layout import StudyLayout, folder_name
from regmix.manifest import DataManifest, DomainManifest, Shard
from regmix.places import Place, Places, load_places

Progress = Callable[[int, int], None]
Tokens = npt.NDArray[np.unsignedinteger]
Opened = tuple[Shard, Tokens, IntArray]
SPLITS = ("train", "valid")
_HEADER = b"MMIDIDX\x00\x00"
_MEGATRON: dict[str, tuple[int, np.dtype[Any]]] = {
    "uint16": (8, np.dtype("<u2")),
    "uint32": (4, np.dtype("<i4")),
}
"""By our type: the index's code, and the type that stands in the file. Megatron has no unsigned
32 bits; ids are far below 2³¹."""
_AT_ONCE = 2**22
"""Ids that are copied at a time."""


def export_shards(
    layout: StudyLayout,
    manifest: DataManifest,
    to: str,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Path, Places]:
    """Write every domain's shards in another layout, and a mapping file beside them.

    What is there already, of the same data and whole, is kept. The mapping file is written last and
    taken away first: while it is there, it is true.

    Args:
        to: ``olmo-core`` or ``megatron``.
        folder: default: ``exports/<layout>`` in the study.
        progress: called with (files done, files in all).

    Returns:
        The mapping file's path and content.

    Raises:
        UserError: no such layout, the folder holds another mapping file, or a shard is missing or
            damaged.
    """
    if to not in LAYOUTS:
        raise unknown_name("layout", to, LAYOUTS, "--to")
    write, files, sizes = LAYOUTS[to]
    mapping = layout.exported(to) if folder is None else folder / "paths.yaml"
    root = mapping.parent.resolve()
    places = _places(manifest, to, root, files, str(mapping))
    expected = {
        root / folder_name(domain.name) / name: size
        for domain in manifest.domains
        for split in SPLITS
        for name, size in sizes(manifest, domain, split).items()
    }
    if _there(mapping, places, expected):
        return mapping, places
    mapping.unlink(missing_ok=True)
    parts = [(domain, split) for domain in manifest.domains for split in SPLITS]
    for done, (domain, split) in enumerate(parts):
        if progress:
            progress(done, len(parts))
        write(layout, manifest, domain, split, root / folder_name(domain.name))
    if progress:
        progress(len(parts), len(parts))
    places.save(mapping)
    return mapping, places


def _places(
    manifest: DataManifest,
    to: str,
    root: Path,
    files: Callable[[DomainManifest, str], list[str]],
    where: str,
) -> Places:
    domains = {}
    for domain in manifest.domains:
        below = root / folder_name(domain.name)
        train, valid = (tuple(str(below / f) for f in files(domain, s)) for s in SPLITS)
        counts = domain.train.tokens, domain.train.documents
        domains[domain.name] = Place(train, valid, *counts)
    dtype = manifest.dtype if to == "olmo-core" else None  # Megatron's index says it
    return Places(domains, where, to, manifest.tokenizer, manifest.fingerprint, dtype)


def _there(mapping: Path, places: Places, expected: Mapping[Path, int]) -> bool:
    """Whether an earlier export of the same data is still whole.

    Args:
        expected: bytes of every file.

    Raises:
        UserError: the mapping file is not one that an export in this layout wrote.
    """
    if not mapping.exists():
        return False
    found = load_places(mapping)
    if found.data is None or found.layout != places.layout:
        said = "of no layout" if found.layout is None else f"of the layout '{found.layout}'"
        raise UserError(
            f"{mapping}: is there already, {said}"
            + ("" if found.data else " and without the fingerprint ('data') of an export")
            + f", and would be replaced by one of '{places.layout}'; choose another folder (-o), "
            "or move it away"
        )
    return replace(found, where=places.where) == places and all(
        file.is_file() and file.stat().st_size == size for file, size in expected.items()
    )


def _npy(
    layout: StudyLayout, manifest: DataManifest, domain: DomainManifest, split: str, folder: Path
) -> None:
    """One file a shard; the bytes are ours."""
    names = _npy_files(domain, split)
    for name, shard in zip(names, domain.split(split).shards, strict=True):
        opened = [(shard, *open_shard(layout, shard, manifest.dtype))]
        _write(folder / name, partial(_copy, opened, DTYPES[manifest.dtype]))


def _npy_files(domain: DomainManifest, split: str) -> list[str]:
    return [f"{split}-{index:05d}.npy" for index in range(len(domain.split(split).shards))]


def _megatron(
    layout: StudyLayout, manifest: DataManifest, domain: DomainManifest, split: str, folder: Path
) -> None:
    """One ``.bin`` and ``.idx``; a sequence a document."""
    code, dtype = _MEGATRON[manifest.dtype]
    opened = [(s, *open_shard(layout, s, manifest.dtype)) for s in domain.split(split).shards]
    (prefix,) = _megatron_files(domain, split)
    _write(folder / f"{prefix}.bin", partial(_copy, opened, dtype))
    lengths = np.concatenate([np.diff(docs[:, 0], prepend=0) for _, _, docs in opened])
    index = _index(lengths, code, dtype.itemsize, folder / prefix)
    _write(folder / f"{prefix}.idx", lambda out: out.writelines(index))


def _megatron_files(_: DomainManifest, split: str) -> list[str]:
    return [split]


def _npy_sizes(manifest: DataManifest, domain: DomainManifest, split: str) -> dict[str, int]:
    width = DTYPES[manifest.dtype].itemsize
    shards = domain.split(split).shards
    names = _npy_files(domain, split)
    return {n: shard.tokens * width for n, shard in zip(names, shards, strict=True)}


def _megatron_sizes(manifest: DataManifest, domain: DomainManifest, split: str) -> dict[str, int]:
    held = domain.split(split)
    _, dtype = _MEGATRON[manifest.dtype]
    head = len(_HEADER) + struct.calcsize("<QB") + struct.calcsize("<QQ")
    index = head + held.documents * (4 + 8) + (held.documents + 1) * 8
    return {f"{split}.bin": held.tokens * dtype.itemsize, f"{split}.idx": index}


LAYOUTS = {
    "olmo-core": (_npy, _npy_files, _npy_sizes),
    "megatron": (_megatron, _megatron_files, _megatron_sizes),
}
"""By name: what writes a domain's split into a folder, the names that a trainer is given, and the
bytes of every file."""


def _index(lengths: IntArray, code: int, itemsize: int, prefix: Path) -> list[bytes]:
    """The parts of an ``.idx``: header, version, type, counts, lengths, offsets, document bounds.

    Args:
        lengths: tokens of each document, shape ``(n_documents,)``.
    """
    if len(lengths) and int(lengths.max()) >= 2**31:
        raise UserError(
            f"{prefix}: a document of {lengths.max():,} tokens; the index holds 2³¹ - 1"
        )
    starts = np.concatenate([[0], np.cumsum(lengths[:-1])]) * itemsize
    bounds = np.arange(len(lengths) + 1)  # a document is one sequence
    return [
        _HEADER,
        struct.pack("<QB", 1, code),
        struct.pack("<QQ", len(lengths), len(bounds)),
        lengths.astype("<i4").tobytes(),
        starts.astype("<i8").tobytes(),
        bounds.astype("<i8").tobytes(),
    ]


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    def whole(temporary: Path) -> None:
        with temporary.open("wb") as out:
            fill(out)

    with disk_errors(path):
        write_whole(path, whole)


def _copy(opened: Sequence[Opened], to: np.dtype[Any], out: IO[bytes]) -> None:
    """Shards' ids in another type, one after the other, checked against the manifest.

    Raises:
        UserError: they are not the ids that the manifest speaks of.
    """
    for shard, tokens, docs in opened:
        seen = hashlib.sha256()
        for chunk in _chunks(tokens):
            seen.update(chunk.tobytes())
            out.write(chunk.astype(to).tobytes())
        seen.update(docs.astype(DOCS).tobytes())
        if seen.hexdigest()[: len(shard.content)] != shard.content:
            raise UserError(
                f"{shard.file}: is not what the manifest says it is; delete it and run "
                "`regmix data build` again"
            )


def _chunks(tokens: Tokens) -> Iterator[Tokens]:
    for start in range(0, len(tokens), _AT_ONCE):
        yield tokens[start : start + _AT_ONCE]
