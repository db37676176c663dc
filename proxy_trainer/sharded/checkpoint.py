"""Checkpoints of a sharded run: every process writes its shards, in the background. No pickle.

A checkpoint is a folder of safetensors files (torch's distributed checkpoint in its Hugging Face
layout, whose default would unpickle what it reads) and ``progress.json``, which names the files. It
is written under a temporary name and renamed once all processes are done, so that what has its name
is whole. Any number of processes can go on from it.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult

from proxy_trainer.checkpoint import KEPT
from proxy_trainer.sharded.ranks import Ranks
from regmix.errors import RegmixError, UserError
from regmix.files import disk_errors, write_json

_NAME = re.compile(r"step-(\d+)")
_PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """How far a run had come."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Seconds of training and evaluation so far."""


class Checkpoints:
    """The checkpoints of one run; every method is called in all processes."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self._folder, self._ranks = folder, ranks
        self._pending: Future[Any] | None = None
        self._step = 0

    def save(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Begin to write; tensors may change as soon as this returns, since it works on a copy.

        Raises:
            RegmixError: the one before could not be written.
        """
        self.settle()
        self._step = progress.step
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        found = async_save(
            tensors,
            storage_writer=_Writer(self._folder, progress),
            process_group=self._ranks.background,
        )
        assert isinstance(found, Future)
        self._pending = found

    def settle(self) -> None:
        """Wait until what is under way is whole.

        Raises:
            RegmixError: it could not be written, in whichever process that was.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except CheckpointException as exc:
            reason = next(iter(exc.failures.values()))[0]
            with disk_errors(self._folder):
                if isinstance(reason, OSError):
                    raise reason from exc
            raise RegmixError(
                f"{self._folder}: the checkpoint of step {self._step} could not be written "
                f"({reason})"
            ) from exc

    def newest(self) -> Progress | None:
        """The last checkpoint that is whole; None if there is none. What is unfinished goes."""
        step, seconds = -1, 0.0
        if self._ranks.first:
            _drop_unfinished(self._folder)
            newest = next((p for _, path in found(self._folder) if (p := _whole(path))), None)
            if newest is not None:
                step, seconds = newest.step, newest.seconds
        chosen, seconds = self._ranks.of_first(step, seconds)
        if chosen < 0:
            return None
        return Progress(int(chosen), seconds)

    def load(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Fill tensors in place from a checkpoint."""
        reader = HuggingFaceStorageReader(str(_path(self._folder, progress.step)))
        with torch.no_grad():
            load(tensors, storage_reader=reader, process_group=self._ranks.control)


class _Writer(HuggingFaceStorageWriter):
    """Writes each process's shards into a temporary folder; the last act renames it."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._final = _path(folder, progress.step)
        self._temporary = folder / f".{self._final.name}.part"
        self._progress = progress
        super().__init__(str(self._temporary), save_distributed=True)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Called in one process, when all have written theirs."""
        super().finish(metadata, results)
        files = {p.name: p.stat().st_size for p in self._temporary.iterdir()}
        write_json(self._temporary / _PROGRESS, {**vars(self._progress), "files": files})
        if self._final.exists():  # damaged, or this run would have gone on from it
            shutil.rmtree(self._final)
        self._temporary.rename(self._final)
        for _, old in found(self._final.parent)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def read_model(path: Path, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A checkpoint's weights whole, in this process alone.

    Args:
        path: its folder.
        sizes: of the model's parameters, by name.

    Raises:
        UserError: it is not whole, not of this model, or not there any more.
    """
    if _whole(path) is None:
        raise UserError(f"{path}: not a whole checkpoint")
    table = {f"model.{name}": torch.empty(size) for name, size in sizes.items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is meant
            load(table, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    except (CheckpointException, OSError) as exc:
        raise UserError(f"{path}: not a checkpoint of this model ({exc})") from exc
    return {name.removeprefix("model."): value for name, value in table.items()}


def found(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of a run's sharded checkpoints, the last first; files may be cut short."""
    named = ((_NAME.fullmatch(p.name), p) for p in folder.glob("step-*") if p.is_dir())
    return sorted(((int(m[1]), p) for m, p in named if m), reverse=True)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def _drop_unfinished(folder: Path) -> None:
    for left in folder.glob(".step-*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _whole(path: Path) -> Progress | None:
    """What a checkpoint's folder holds, if all of its files are as they were written."""
    try:
        noted = json.loads((path / _PROGRESS).read_text(encoding="utf-8"))
        progress = Progress(int(noted["step"]), float(noted["seconds"]))
        for name, size in noted["files"].items():
            if (path / name).stat().st_size != size:
                return None
            with safe_open(path / name, framework="pt") as file:
                file.keys()
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return progress
