"""Runs on this machine: one process per core, one run per process."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess, SpawnProcess

from proxy_trainer import worker
from regmix.errors import RegmixError
from regmix.layout import StudyLayout

POLL_SECONDS = 0.05
Process = ForkServerProcess | SpawnProcess


@dataclass
class Outcome:
    """How the runs of one command ended."""

    done: list[str] = field(default_factory=list)
    """Trained by this command."""
    failed: list[str] = field(default_factory=list)
    """Diverged; marked FAILED."""
    busy: list[str] = field(default_factory=list)
    """Held by another command, and not done when this one ended."""
    elsewhere: list[str] = field(default_factory=list)
    """Done, but trained by another command meanwhile."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_runs(
    study: StudyLayout,
    run_ids: Sequence[str],
    *,
    workers: int,
    checkpoint_seconds: float,
    on_poll: Callable[[], None] | None = None,
) -> Outcome:
    """Train runs in order, ``workers`` at a time, and wait for all of them.

    A run that diverges is marked and the others go on. A run whose process cannot go on (full disk,
    killed from outside) stops the command after the runs in progress; run again, it resumes.

    Args:
        on_poll: called a few times a second while runs are in progress.

    Raises:
        RegmixError: a process could not go on, with its message.
    """
    waiting, running, outcome = deque(run_ids), dict[str, Process](), Outcome()
    broken: list[str] = []
    try:
        while running or (waiting and not broken):
            while waiting and len(running) < workers and not broken:
                run_id = waiting.popleft()
                running[run_id] = _start(study, run_id, checkpoint_seconds)
            time.sleep(POLL_SECONDS)
            for run_id in [r for r, p in running.items() if p.exitcode is not None]:
                _sort(study, run_id, running.pop(run_id).exitcode, outcome, broken)
            if on_poll:
                on_poll()
    finally:
        for process in running.values():
            process.kill()
    if broken:
        raise RegmixError("; ".join(broken))
    finished = [r for r in outcome.busy if study.run(r).done.exists()]
    outcome.busy = [r for r in outcome.busy if r not in finished]
    outcome.elsewhere += finished
    return outcome


def _start(study: StudyLayout, run_id: str, checkpoint_seconds: float) -> Process:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # A fork server imports torch once; a process from it starts in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["proxy_trainer.worker"])
    process = context.Process(
        target=worker.main, args=(str(study.root), run_id, checkpoint_seconds), daemon=True
    )
    process.start()
    return process


def _sort(
    study: StudyLayout, run_id: str, code: int | None, outcome: Outcome, broken: list[str]
) -> None:
    if code == worker.OK:
        outcome.done.append(run_id)
    elif code == worker.FAILED:
        outcome.failed.append(run_id)
    elif code == worker.BUSY:
        outcome.busy.append(run_id)
    elif code == worker.THERE:
        outcome.elsewhere.append(run_id)
    else:
        broken.append(f"run {run_id} could not go on: {_reason(study, run_id, code)}")


def _reason(study: StudyLayout, run_id: str, code: int | None) -> str:
    run = study.run(run_id)
    note = run.root / "error.txt"
    if code == worker.MUTE:
        return f"{run.root}: no space left on the disk, or not writable; free some and run again"
    if code == worker.BROKEN and note.exists():
        return note.read_text(encoding="utf-8").strip()
    return f"its process ended with code {code}; run again, it goes on from its checkpoint"
