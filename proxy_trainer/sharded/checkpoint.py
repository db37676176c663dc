"""Checkpoints of a sharded run: every process writes its shards, in the background. No pickle.

A checkpoint is a folder of safetensors files (torch's distributed checkpoint in its Hugging Face
layout, whose default would unpickle what it reads) and ``progress.json``, which names the files. It
is written under a temporary name and renamed once all processes are done, so that what has its name
is whole. Any number of processes can go on from it, one of an array too; and these from what that
has left (:mod:`proxy_trainer.checkpoint`). While processes wait for a disk they hear of each other.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

from proxy_trainer import checkpoint
from proxy_trainer.checkpoint import PROGRESS, Progress
from proxy_trainer.kept import Kept
from proxy_trainer.retention import USUAL, Retention, name_of, unfinished
from proxy_trainer.sharded.model import fill
from proxy_trainer.sharded.ranks import Ranks
from regmix.errors import RegmixError
from regmix.files import disk_errors, write_json


class Stands(NamedTuple):
    """Where a run stands."""

    progress: Progress
    path: Path
    """Its checkpoint, a folder or a file."""


class Checkpoints:
    """The checkpoints of one run; every method is called in all processes."""

    def __init__(self, folder: Path, ranks: Ranks, retention: Retention = USUAL) -> None:
        self._folder, self._ranks, self.retention = folder, ranks, retention
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
            storage_writer=_Writer(
                self._folder / name_of(progress.step),
                progress,
                lambda: self.retention.drop(self._folder),
            ),
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
            self._ranks.heard(pending)
        except CheckpointException as exc:
            what = f"the checkpoint of step {self._step}"
            raise _could_not(self._folder, what, exc) from exc

    def newest(self) -> Stands | None:
        """The last checkpoint that is whole; None if there is none. What is unfinished goes."""

        def look() -> tuple[float, float, float]:
            if not self._ranks.first:
                return 0, 0, 0
            newest = checkpoint.resume(self._folder)
            if newest is None:
                return -1, 0, 0
            assert newest.path is not None
            return newest.progress.step, newest.progress.seconds, newest.path.is_dir()

        step, seconds, sharded = self._ranks.of_first(*self._ranks.together(look))
        if step < 0:
            return None
        name = name_of(int(step)) + ("" if sharded else ".safetensors")
        return Stands(Progress(int(step), seconds), self._folder / name)

    def load(self, tensors: dict[str, Tensor], stands: Stands) -> None:
        """Fill tensors in place from a checkpoint."""
        with torch.no_grad():
            if not stands.path.is_dir():
                _fill_all(tensors, Kept(stands.path))
                return
            reader = HuggingFaceStorageReader(str(stands.path))
            load(tensors, storage_reader=reader, process_group=self._ranks.background)


class _Writer(HuggingFaceStorageWriter):
    """Writes each process's shards into a temporary folder; the last act renames it."""

    def __init__(
        self, final: Path, progress: Progress, then: Callable[[], object] = lambda: None
    ) -> None:
        """Nothing is written yet.

        Args:
            then: called in one process, once all is there.
        """
        self._final, self._progress, self._then = final, progress, then
        self._temporary = unfinished(final)
        super().__init__(str(self._temporary), save_distributed=True)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Called in one process, when all have written theirs."""
        super().finish(metadata, results)
        files = {p.name: p.stat().st_size for p in self._temporary.iterdir()}
        write_json(self._temporary / PROGRESS, {**vars(self._progress), "files": files})
        if self._final.exists():  # damaged, or this run would have gone on from it
            shutil.rmtree(self._final)
        self._temporary.rename(self._final)
        self._then()


def write(folder: Path, tensors: dict[str, Tensor], progress: Progress, ranks: Ranks) -> None:
    """Write tensors as one folder, each process its shards; it is whole when this returns.

    Raises:
        RegmixError: it could not be written, in whichever process that was.
    """
    if ranks.first:  # nobody writes there before all have come to what follows
        shutil.rmtree(unfinished(folder), ignore_errors=True)
    writer = _Writer(folder, progress)
    group = ranks.background
    try:
        ranks.together(lambda: save(tensors, storage_writer=writer, process_group=group))
    except CheckpointException as exc:
        raise _could_not(folder, folder.name, exc) from exc


def _could_not(folder: Path, what: str, exc: CheckpointException) -> RegmixError:
    reason = next(iter(exc.failures.values()))[0]
    with disk_errors(folder):
        if isinstance(reason, OSError):
            raise reason from exc
    return RegmixError(f"{folder}: {what} could not be written ({reason})")


def _fill_all(tensors: Mapping[str, Tensor], kept: Kept) -> None:
    """From whole tensors, one by one; every process reads all."""
    for name, into in tensors.items():
        if isinstance(into, DTensor):
            fill(into, kept[name])
        else:
            into.copy_(kept[name])


def _drop_unfinished(folder: Path) -> None:
    for left in folder.glob(".step-*.part"):
        shutil.rmtree(left, ignore_errors=True)
