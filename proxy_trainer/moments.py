"""The optimiser's moments of a finished model, beside it, for a later stage to go on from.

Under the names of checkpoints (:mod:`proxy_trainer.kept`): a file of one process, or a folder's
worth of files, one of each process of a sharded run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from proxy_trainer import checkpoint, retention
from proxy_trainer.kept import Kept, Part
from regmix.errors import UserError

FILE = "optimiser.safetensors"
KINDS = ("exp_avg", "exp_avg_sq")
_OPTIMISER = "optimiser."
_STEP = "optimiser.step"


@dataclass(frozen=True)
class Moments:
    """AdamW's state of one model, by parameter in transformers' names."""

    step: float
    """Steps taken, which its bias correction goes by."""
    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """As they are called in checkpoints."""
        found = {
            f"{_OPTIMISER}{name}.{kind}": tensor.contiguous()
            for kind in KINDS
            for name, tensor in getattr(self, kind).items()
        }
        return found | {_STEP: torch.tensor(self.step)}

    def save(self, folder: Path) -> None:
        """Write them whole; what an earlier attempt left goes."""
        for left in (folder, retention.unfinished(folder)):
            shutil.rmtree(left, ignore_errors=True)
        checkpoint.write_tensors(folder / FILE, self.tensors(), {})

    @classmethod
    def of(cls, table: Mapping[str, Tensor]) -> Moments:
        """Those among a checkpoint's tensors.

        Raises:
            KeyError, ValueError: there are none, or one of two is missing.
        """
        step = float(table[_STEP])
        kinds = [Part(table, _OPTIMISER, f".{kind}") for kind in KINDS]
        for name in sorted(kinds[0].keys() ^ kinds[1].keys()):
            raise ValueError(f"'{name}' has one moment of two")
        return cls(step, *kinds)

    @classmethod
    def load(cls, folder: Path) -> Moments:
        """What a run has left; each tensor is read when it is asked for, and not kept.

        Both moments are twice the model: no process of many holds them whole.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        if not folder.is_dir() or not any(folder.iterdir()):
            raise UserError(
                f"{folder}: not there, so that the optimiser cannot go on; was the run trained to "
                "be gone on from? `optimiser: fresh` starts without"
            )
        try:
            if (folder / checkpoint.PROGRESS).exists():
                checkpoint.noted(folder)  # all files of all processes are there
            return cls.of(Kept(folder))
        except checkpoint.UNREADABLE as exc:
            raise UserError(f"{folder}: not an optimiser's state ({exc})") from exc
