"""Which checkpoints a run has, by their names, and which of them are kept.

A file or a folder a step (:mod:`proxy_trainer.checkpoint`); what is in them is not looked at.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"step-(\d+)(\.safetensors)?")


@dataclass(frozen=True)
class Retention:
    """Which checkpoints of a run are kept; no part of what the run is."""

    last: int = 2
    """So many: the last one and, in case that is damaged, the one before."""
    every: int | None = None
    """Steps: at each multiple there is a checkpoint, and it stays when the run is done."""

    def stays(self, step: int) -> bool:
        """Whether the checkpoint of a step stays for good."""
        return self.every is not None and step % self.every == 0

    def drop(self, folder: Path) -> None:
        """Remove a run's older checkpoints, of either kind."""
        for step, path in found(folder)[self.last :]:
            if not self.stays(step):
                _remove(path)

    def clear(self, folder: Path) -> None:
        """Remove all that a finished run does not keep."""
        for left in folder.glob("*"):
            step = _step(left)
            # An NFS client's name for what was removed while it was open; it goes as that closes.
            if not left.name.startswith(".nfs") and (step is None or not self.stays(step)):
                _remove(left)


USUAL = Retention()


def name_of(step: int) -> str:
    """What the folder of a step's checkpoint is called; a file has an ending."""
    return f"step-{step:09d}"


def unfinished(path: Path) -> Path:
    """Where a folder is written before it gets its name."""
    return path.with_name(f".{path.name}.part")


def found(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of a run's checkpoints, the last first; they may be cut short."""
    named = ((_step(path), path) for path in folder.glob("step-*"))
    return sorted(((step, path) for step, path in named if step is not None), reverse=True)


def drop_beyond(folder: Path, step: int) -> None:
    """Remove what lies beyond the step that a run goes on from, and what was never whole.

    Newer checkpoints could not be read. As the newest ones they would stay, and every one that the
    run writes until it has passed them would go.
    """
    for left in (*folder.glob(".step-*"), *(path for at, path in found(folder) if at > step)):
        _remove(left)


def _step(path: Path) -> int | None:
    named = _NAME.fullmatch(path.name)
    return int(named[1]) if named and path.is_dir() == (named[2] is None) else None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
