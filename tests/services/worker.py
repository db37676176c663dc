"""Stands in for the trainer's worker: claims tasks of a folder until all are done, heeds signals.

    python worker.py STUDY TASKS SECONDS

A task is a file, made whole; half of it is kept in a checkpoint when SIGTERM or SIGUSR2 comes, and
the exit code then says that work is open. A lock that dies with its process is the claim.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

STEP_SECONDS = 0.05
stopped: list[str] = []


def stop(number: int, _: object) -> None:
    stopped.append(signal.Signals(number).name)


def work(study: Path, name: str, steps: int) -> None:
    with (study / f"{name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        done, half = study / f"{name}.done", study / f"{name}.half"
        start = int(half.read_text()) if half.exists() else 0
        if done.exists():
            return
        print(f"{name}: from step {start}", flush=True)
        for step in range(start, steps):
            if stopped:
                half.write_text(str(step))
                print(f"{name}: {stopped[0]} at step {step}", flush=True)
                sys.exit(os.EX_TEMPFAIL)
            time.sleep(STEP_SECONDS)
        done.write_text(f"{start} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}")


def main(study: Path, tasks: int, seconds: float) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, stop)
    print(f"devices {os.environ.get('CUDA_VISIBLE_DEVICES', '')!r}", flush=True)
    print(f"niceness {os.nice(0)}", flush=True)
    steps = round(seconds / STEP_SECONDS)
    while any(not (study / f"task-{i}.done").exists() for i in range(tasks)):
        for i in range(tasks):
            work(study, f"task-{i}", steps)
        time.sleep(STEP_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
