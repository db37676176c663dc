"""Exact checkpoints of a run: weights, optimiser state, step. No pickle.

A member of an array has a file, whatever the array: members can go on in other company. A sharded
run has a folder with a file a process (:mod:`proxy_trainer.sharded.checkpoint`). Both hold the same
tensors under the same names (:mod:`proxy_trainer.kept`), and a run goes on from either, however it
is trained now.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from proxy_trainer.kept import Kept
from proxy_trainer.retention import Retention, drop_beyond, found, name_of
from regmix.files import write_whole

PROGRESS = "progress.json"
"""Of a folder: how far the run had come, and the sizes of the other files."""
UNREADABLE = (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError)
"""What reading a checkpoint raises that was damaged."""


@dataclass(frozen=True)
class Progress:
    """How far a run had come."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Seconds of training and evaluation so far, over all attempts that were kept."""


@dataclass(frozen=True)
class Checkpoint:
    """One run at one step."""

    progress: Progress
    tensors: Mapping[str, Tensor]
    """By the names of :mod:`proxy_trainer.kept`; of a file or folder, read when asked for."""
    path: Path | None = None
    """Where it was read from."""


def save(folder: Path, checkpoint: Checkpoint, retention: Retention) -> None:
    """Write a run's checkpoint whole, as a file, and drop older ones."""
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    path = folder / f"{name_of(checkpoint.progress.step)}.safetensors"
    write_tensors(path, tensors, {"progress": json.dumps(vars(checkpoint.progress))})
    retention.drop(folder)


def at(folder: Path, step: int) -> Path | None:
    """The checkpoint of a step, if there is one that can be read."""
    for own, path in found(folder):
        if own == step:
            with suppress(*UNREADABLE):
                noted(path)
                return path
    return None


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
    """The last checkpoint of a run that can be read, file or folder; None if there is none.

    One cut short gives way to the one before: the result is the same, only later.
    """
    for _, path in found(folder):
        try:
            return read(path)
        except UNREADABLE:
            continue
    return None


def resume(folder: Path) -> Checkpoint | None:
    """The same, for the one who trains the run on; what cannot be gone on from is removed."""
    newest = load(folder)
    drop_beyond(folder, newest.progress.step if newest else 0)
    return newest


def saved_step(folder: Path) -> int:
    """The step that :func:`load` would go on from; 0 if there is nothing that can be read."""
    for _, path in found(folder):
        try:
            return noted(path).step
        except UNREADABLE:
            continue
    return 0


def read(path: Path) -> Checkpoint:
    """A checkpoint, file or folder.

    Raises: one of :data:`UNREADABLE` if it is damaged.
    """
    return Checkpoint(noted(path), Kept(path), path)


def noted(path: Path) -> Progress:
    """How far a checkpoint is, if its files are as they were written.

    Raises: one of :data:`UNREADABLE` if they are not.
    """
    if not path.is_dir():
        with safe_open(path, framework="pt") as file:
            return _progress(json.loads(file.metadata()["progress"]))
    told = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
    for name, size in told["files"].items():
        if (path / name).stat().st_size != size:
            raise ValueError(f"{path / name}: not as it was written")
        with safe_open(path / name, framework="pt") as file:
            file.keys()
    return _progress(told)


def _progress(told: dict[str, Any]) -> Progress:
    return Progress(int(told["step"]), float(told["seconds"]))
