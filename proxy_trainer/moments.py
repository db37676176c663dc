"""The optimiser's moments of a finished model, beside it, for a later stage to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]

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
        """What :meth:`save` has written.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        path = folder / FILE
        if not path.exists():
            raise UserError(
                f"{path}: not there, so that the optimiser cannot go on; was the run trained to be "
                "gone on from? `optimiser: fresh` starts without"
            )
        found: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
        try:
            with safe_open(path, framework="pt") as file:
                step = float(file.get_tensor(_STEP))
                for key in file.keys():  # noqa: SIM118
                    kind, _, name = key.partition(".")
                    if name:
                        found[kind][name] = file.get_tensor(key)
        except (SafetensorError, KeyError) as exc:
            raise UserError(f"{path}: not an optimiser's state ({exc})") from exc
        return cls(step, found["exp_avg"], found["exp_avg_sq"])
