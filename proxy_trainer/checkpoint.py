"""Exact checkpoints of an unfinished run: weights, optimiser state, step. No pickle.

One file a run, whatever array it is trained in: members can go on in other company.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from regmix.errors import UserError
from regmix.files import write_whole

KEPT = 2
"""The last one and, in case that is cut short, the one before."""
_PARTS = ("model", "optimiser", "guard")
_NAME = re.compile(r"step-(\d+)\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """One run at one step."""

    step: int
    """Steps done."""
    seconds: float
    """Seconds of training and evaluation so far, over all attempts that were kept."""
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    guard: dict[str, Tensor]
    """What the spike guard has seen."""


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a run's checkpoint whole, and drop the one before the last."""
    tensors = {
        f"{part}.{name}": tensor.contiguous()
        for part in _PARTS
        for name, tensor in getattr(checkpoint, part).items()
    }
    progress = {"step": checkpoint.step, "seconds": checkpoint.seconds}
    path = folder / f"step-{checkpoint.step:09d}.safetensors"
    write_tensors(path, tensors, {"progress": json.dumps(progress)})
    for _, old in found(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def found(folder: Path) -> list[tuple[int, Path]]:
    """Step and file of a run's checkpoints, the last first; they may be cut short."""
    named = ((_NAME.fullmatch(p.name), p) for p in folder.glob("step-*.safetensors"))
    return sorted(((int(m[1]), p) for m, p in named if m), reverse=True)


def clear(folder: Path) -> None:
    """Drop all checkpoints of a run, sharded ones too; others may be at the same."""
    for left in folder.glob("*"):
        if left.is_dir():
            with suppress(FileNotFoundError):
                shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


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


def load(folder: Path) -> Checkpoint | None:
    """The last checkpoint of a run that can be read; None if there is none.

    A file cut short gives way to the one before: the result is the same, only later.
    """
    for _, path in found(folder):
        try:
            return _read(path)
        except (SafetensorError, KeyError, TypeError, ValueError):
            continue
    return None


def saved_step(folder: Path) -> int:
    """The step that :func:`load` would go on from; 0 if there is nothing that can be read."""
    for step, path in found(folder):
        try:
            with safe_open(path, framework="pt"):
                return step
        except (OSError, SafetensorError):
            continue
    return 0


def read_model(path: Path) -> dict[str, Tensor]:
    """A checkpoint's weights alone, as :attr:`Checkpoint.model`.

    Raises:
        UserError: the file is not whole, or not there any more.
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys = [key for key in file.keys() if key.startswith("model.")]  # noqa: SIM118
            return {key.removeprefix("model."): file.get_tensor(key) for key in keys}
    except (OSError, SafetensorError) as exc:
        raise UserError(f"{path}: not a checkpoint that can be read ({exc})") from exc


def _read(path: Path) -> Checkpoint:
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
        for key in file.keys():  # noqa: SIM118
            part, _, name = key.partition(".")
            parts[part][name] = file.get_tensor(key)
    return Checkpoint(int(progress["step"]), float(progress["seconds"]), **parts)
