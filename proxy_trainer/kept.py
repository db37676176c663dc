"""Tensors in safetensors files: of one file, or in pieces over those of a folder. No pickle.

What a checkpoint holds has one name for each tensor, whoever wrote it: ``model.`` and a parameter's
name in transformers' words, ``optimiser.`` with the moment behind it, ``guard.``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

_SHARDING = "DCP_SHARDING_INFO"
"""Where torch's distributed checkpoints, in their Hugging Face layout, say where pieces belong."""


class _Piece(NamedTuple):
    file: Any
    begins: list[int]
    """In every dimension of the whole tensor."""
    size: list[int]


class Kept(Mapping[str, Tensor]):
    """Whole tensors by name; each is read when it is asked for, and not kept.

    A model can be larger than the memory of those who go on from it.
    """

    def __init__(self, path: Path) -> None:
        """Open a file, or all of a folder; only headers are read.

        Raises:
            OSError, SafetensorError, ValueError: it cannot be read, or lacks pieces of a tensor.
        """
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        self._pieces: dict[str, list[_Piece]] = {}
        for one in files:
            file: Any = safe_open(one, framework="pt")  # closed with its last reader
            placed = json.loads((file.metadata() or {}).get(_SHARDING, "{}"))
            for name in file.keys():  # noqa: SIM118
                size = list(file.get_slice(name).get_shape())
                begins = placed.get(name, {}).get("saved_offsets", [0] * len(size))
                self._pieces.setdefault(name, []).append(_Piece(file, begins, size))
        for name, pieces in self._pieces.items():
            if sum(math.prod(p.size) for p in pieces) != math.prod(self.size(name)):
                raise ValueError(f"{path}: does not hold all of '{name}'")

    def size(self, name: str) -> tuple[int, ...]:
        """Of a whole tensor."""
        ends = [[b + s for b, s in zip(p.begins, p.size, strict=True)] for p in self._pieces[name]]
        return tuple(map(max, zip(*ends, strict=True)))

    def __getitem__(self, name: str) -> Tensor:
        pieces = self._pieces[name]
        first: Tensor = pieces[0].file.get_tensor(name)
        if len(pieces) == 1:
            return first
        whole = torch.empty(self.size(name), dtype=first.dtype)
        for piece in pieces:
            place = (slice(b, b + s) for b, s in zip(piece.begins, piece.size, strict=True))
            whole[tuple(place)] = piece.file.get_tensor(name)
        return whole

    def __contains__(self, name: object) -> bool:
        return name in self._pieces  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


class Part(Mapping[str, Tensor]):
    """Those of a table whose names begin and end so, by what is between; read as it reads them."""

    def __init__(self, table: Mapping[str, Tensor], prefix: str, suffix: str = "") -> None:
        self._table = table
        self._names = {
            name.removeprefix(prefix).removesuffix(suffix): name
            for name in table
            if name.startswith(prefix) and name.endswith(suffix)
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._table[self._names[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
