"""The optimiser's moments of a finished model, beside it, for a later stage to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from proxy_trainer.checkpoint import write_tensors
from regmix.errors import UserError

FILE = "optimiser.safetensors"
_STEP = "step"
_KINDS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Moments:
    """AdamW's state of one model, by parameter in transformers' names."""

    step: float
    """Steps taken, which its bias correction goes by."""
    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        """Write them whole."""
        tensors = {
            f"{kind}.{name}": tensor.contiguous()
            for kind in _KINDS
            for name, tensor in getattr(self, kind).items()
        }
        tensors[_STEP] = torch.tensor(self.step, dtype=torch.float64)
        write_tensors(folder / FILE, tensors, {})

    @classmethod
    def load(cls, folder: Path) -> Moments:
        """What :meth:`save` has written; each tensor is read when it is asked for, and not kept.

        Both moments are twice the model: no process of many holds them whole.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        path = folder / FILE
        if not path.exists():
            raise UserError(
                f"{path}: not there, so that the optimiser cannot go on; was the run trained to be "
                "gone on from? `optimiser: fresh` starts without"
            )
        names: dict[str, set[str]] = {kind: set() for kind in _KINDS}
        try:
            file: Any = safe_open(path, framework="pt")  # closed with its last reader
            step = float(file.get_tensor(_STEP))
            for key in file.keys():  # noqa: SIM118
                kind, _, name = key.partition(".")
                if name:
                    names[kind].add(name)
        except (SafetensorError, KeyError) as exc:
            raise UserError(f"{path}: not an optimiser's state ({exc})") from exc
        for name in sorted(names["exp_avg"] ^ names["exp_avg_sq"]):
            raise UserError(f"{path}: not an optimiser's state ('{name}' has one moment of two)")
        return cls(step, *(_Saved(file, kind, frozenset(names[kind])) for kind in _KINDS))


@dataclass(frozen=True)
class _Saved(Mapping[str, Tensor]):
    """One moment of every parameter, in an open file."""

    file: Any
    kind: str
    names: frozenset[str]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        found: Tensor = self.file.get_tensor(f"{self.kind}.{name}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.names))

    def __len__(self) -> int:
        return len(self.names)
