"""Exact checkpoints of an unfinished run: weights, optimiser state, step. No pickle."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from regmix.files import write_whole

FILE = "last.safetensors"
_STATE = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Progress:
    """How far a run had come."""

    step: int
    seconds: float
    """Seconds of training and evaluation so far, over all attempts that were kept."""


def save(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress
) -> None:
    """Replace the run's checkpoint, whole."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for key in _STATE:
            tensors[f"optim.{name}.{key}"] = optimiser.state[parameter][key]
    write_tensors(folder / FILE, tensors, {"progress": json.dumps(vars(progress))})


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole.

    Raises:
        RegmixError: the disk is full.
        UserError: the folder is not writable.
    """

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as exc:  # keeps the system's error only in its text
            found = re.search(r"os error (\d+)", str(exc))
            if found is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from exc

    write_whole(path, write)


def load(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress | None:
    """Restore the run's checkpoint in place; None if there is none that can be read.

    A file cut short starts the run over: the result is the same, only later.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            optimiser.state[parameter] = {k: tensors[f"optim.{name}.{k}"] for k in _STATE}
    return progress


def saved_step(folder: Path) -> int:
    """The step that :func:`load` would go on from; 0 if there is nothing that can be read."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            return Progress(**json.loads(file.metadata()["progress"])).step
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return 0
