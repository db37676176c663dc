"""One process, one run: lock it, train it, leave DONE or FAILED."""

from __future__ import annotations

import os
from pathlib import Path

import torch

# The first optimiser of a process imports this for seconds: once in the fork server, not per run.
import torch._dynamo

from proxy_trainer.processes import claimed, die_with_parent
from proxy_trainer.train import train
from regmix.errors import RegmixError
from regmix.files import write_json
from regmix.layout import StudyLayout

OK, BUSY, FAILED, BROKEN, MUTE, THERE = 0, 3, 4, 1, 5, 6
"""Exit codes: trained; another process is at it; diverged and marked; could not go on; could
neither go on nor write why, as on a full disk; done already, by another process."""


def work(root: Path, run_id: str, checkpoint_seconds: float) -> int:
    """Train one run of a study unless it is done or another process is at it."""
    torch.set_num_threads(1)
    study = StudyLayout(root)
    run = study.run(run_id)
    with claimed(run.lock) as mine:
        if not mine:
            return BUSY
        if run.done.exists():
            return THERE
        run.failed.unlink(missing_ok=True)
        outcome = train(study, [run], checkpoint_seconds=checkpoint_seconds)
        if outcome.diverged:
            write_json(run.failed, {"reason": outcome.diverged[run_id]})
            return FAILED
    return OK


def main(root: str, run_id: str, checkpoint_seconds: float) -> None:
    """Entry point of a worker process: an error is one line in ``runs/<id>/error.txt``."""
    die_with_parent()
    run = StudyLayout(Path(root)).run(run_id)
    message = run.root / "error.txt"
    try:
        message.unlink(missing_ok=True)
        code = work(Path(root), run_id, checkpoint_seconds)
    except (RegmixError, OSError) as exc:
        code = _explain(message, str(exc))
    except Exception as exc:  # the process's boundary: whatever it is, the person must be told
        code = _explain(message, f"{type(exc).__name__}: {exc} (a defect)")
    os._exit(code)  # skips torch's slow teardown; everything is flushed and closed by now


def _explain(path: Path, reason: str) -> int:
    try:
        path.write_text(f"{reason}\n", encoding="utf-8")
    except OSError:
        return MUTE
    return BROKEN
