"""What a Slurm job runs: its node's workers, and itself again when they were stopped too early.

Slurm signals a job's steps before the time limit (SIGUSR2, as its script asks) and at preemption
(SIGTERM). Workers then leave checkpoints and say by their exit code that work is open. The job
requeues itself on that code, unless it was cancelled: Slurm does not requeue a job that ends
within its grace time, nor one that reaches its time limit, and submitit's own checkpoint gives up
after a number of time limits and knows one process a job.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy_trainer.exits import REQUEUE
from proxy_trainer.launch.crew import Crew, JobFiles, ask_to_stop, failure
from proxy_trainer.launch.slurm_system import answer, was_cancelled
from regmix.errors import RegmixError

POLL_SECONDS = 0.5
REQUEUE_TRIES = 5
REQUEUE_SECONDS = 5.0


def own_id() -> str:
    """This job's id as sbatch and squeue say it."""
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ["SLURM_JOB_ID"]
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job


def again(files: JobFiles, codes: Sequence[int], why: str, *, requeue: bool) -> int:
    """Have Slurm run this job again, or write down that it will not; the job's exit code.

    Args:
        why: it was stopped before its work was done.
        requeue: whether it may be.
    """
    if not requeue:
        files.end(codes, f"stopped before its work was done ({why}); not requeued, as "
                  "launch.slurm.requeue is false; train again to go on")  # fmt: skip
        return REQUEUE
    told = ""
    for attempt in range(REQUEUE_TRIES):
        if attempt:
            time.sleep(REQUEUE_SECONDS)
        try:
            answer("scontrol", "requeue", files.job_id)
        except RegmixError as exc:
            told = str(exc)
            print(f"not requeued yet: {told}", flush=True)
            continue
        print("requeued", flush=True)
        return REQUEUE
    files.end(codes, f"stopped before its work was done, and not requeued: {told}")
    return REQUEUE


def caught() -> list[int]:
    """The signals that this job is told to end by, as they come from now on."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda n, _: signals.append(n))
    return signals


def why(signals: Sequence[int]) -> str:
    """What told a job to end."""
    return signal.Signals(signals[0]).name if signals else "cancelled"


@dataclass
class SlurmJob:
    """One job's work; sent to its node by submitit."""

    crew: Crew
    grace_seconds: float
    """Between the first signal and SIGKILL, for checkpoints; a time limit or preemption that
    leaves less kills earlier."""
    requeue: bool
    _signals: list[int] = field(default_factory=list)

    def __call__(self) -> None:
        """Run the workers; the exit code is the worst of theirs."""
        files = JobFiles.of(self.crew.study, "slurm", own_id())
        files.ending.unlink(missing_ok=True)
        self._signals = caught()
        try:
            codes = [] if files.cancelled.exists() else self._work(files)
        except RegmixError as exc:
            files.end([], str(exc))
            raise
        code = self._conclude(files, codes)
        if code:
            raise SystemExit(code)

    def _work(self, files: JobFiles) -> list[int]:
        processes = self.crew.start(files)
        deadline = float("inf")
        while any(p.poll() is None for p in processes):
            time.sleep(POLL_SECONDS)
            # The file is looked at too: a signal to a job that is only just starting is lost.
            if deadline == float("inf") and (self._signals or files.cancelled.exists()):
                print(f"asked to stop ({why(self._signals)}); waiting for checkpoints", flush=True)
                ask_to_stop(processes)
                deadline = time.monotonic() + self.grace_seconds
            if time.monotonic() > deadline:
                for process in processes:
                    process.kill()
        return [p.returncode for p in processes]

    def _conclude(self, files: JobFiles, codes: list[int]) -> int:
        if files.cancelled.exists() or (self._signals and was_cancelled(files.job_id)):
            files.end(codes)
            return 0
        if REQUEUE in codes or (self._signals and any(codes)):
            return again(files, codes, why(self._signals), requeue=self.requeue)
        reason = failure(codes, files.folder / f"{files.job_id}.worker-*.log")
        files.end(codes, reason)
        return 1 if reason else 0
