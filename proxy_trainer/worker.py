"""One process, one run: lock it, train it, leave DONE or FAILED."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

import torch

from proxy_trainer.train import Diverged, train
from regmix.errors import RegmixError
from regmix.files import write_json
from regmix.layout import RunLayout, StudyLayout

OK, BUSY, FAILED, BROKEN = 0, 3, 4, 1
"""Exit codes: trained; another process is at it; diverged and marked; could not go on."""


@contextmanager
def claimed(run: RunLayout) -> Iterator[bool]:
    """Whether this process now holds the run; the system lets go of it when the process dies."""
    with run.lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def work(root: Path, run_id: str, checkpoint_seconds: float) -> int:
    """Train one run of a study unless it is done or another process is at it."""
    torch.set_num_threads(1)
    study = StudyLayout(root)
    run = study.run(run_id)
    with claimed(run) as mine:
        if not mine:
            return BUSY
        if run.done.exists():
            return OK
        run.failed.unlink(missing_ok=True)
        try:
            train(study, run, checkpoint_seconds=checkpoint_seconds)
        except Diverged as exc:
            write_json(run.failed, {"reason": str(exc)})
            return FAILED
    return OK


def main(root: str, run_id: str, checkpoint_seconds: float) -> None:
    """Entry point of a worker process: an error is one line in ``runs/<id>/error.txt``."""
    _die_with_parent()
    run = StudyLayout(Path(root)).run(run_id)
    message = run.root / "error.txt"
    message.unlink(missing_ok=True)
    try:
        code = work(Path(root), run_id, checkpoint_seconds)
    except (RegmixError, OSError) as exc:
        message.write_text(f"{exc}\n", encoding="utf-8")
        code = BROKEN
    os._exit(code)  # skips torch's slow teardown; everything is flushed and closed by now


def _die_with_parent() -> None:
    """End this process when the command that started it does, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(BROKEN)

    threading.Thread(target=watch, daemon=True).start()
