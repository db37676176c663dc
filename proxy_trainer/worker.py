"""A worker: claims open runs of a study, trains them, and goes on until there is none.

    python -m proxy_trainer.worker STUDY [--submission ID] [--name NAME]

Every launcher starts these; any number of them, on any nodes that see the study's folder, share its
work by claims alone. A worker ends by itself. Told to end before, by SIGTERM, SIGUSR2 or SIGINT, it
leaves checkpoints, gives its runs back and exits with ``REQUEUE``.

What goes wrong with a run is the run's, whatever it is: it is tried again from its checkpoint, by
this worker or another, and FAILED once it has failed too often; a step that never ends is a way to
fail. What every run would meet (:class:`regmix.errors.StudyFault`: other data, a full disk, another
version of the code) ends the worker and marks nothing.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy_trainer import checkpoint
from proxy_trainer.arrays import best_members, train_array
from proxy_trainer.checkpoint import Retention
from proxy_trainer.environment import WORKER
from proxy_trainer.exits import BROKEN, OK, REFUSED, REQUEUE
from proxy_trainer.launch.claims import Claimant, Lost, RunClaim, Stall
from proxy_trainer.launch.queue import Queue
from proxy_trainer.launch.submissions import Submission, submissions
from proxy_trainer.setup import set_up
from regmix import __version__
from regmix.arrays import array_key
from regmix.config import LaunchConfig
from regmix.errors import RegmixError, StudyFault, StudyRefused, UserError
from regmix.files import write_json
from regmix.layout import RunLayout, StudyLayout
from regmix.runs import NUMERICS, RunSpec

PATIENCE_SECONDS = 0.5
"""Between looks at runs that silent workers hold."""
MESSAGE_LENGTH = 400
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Task:
    """What a worker is to do."""

    study: StudyLayout
    runs: tuple[str, ...]
    """In the order in which they are begun."""
    settings: LaunchConfig
    workers: int = 1
    """How many share the runs."""

    @classmethod
    def of(cls, study: StudyLayout, submission_id: str | None) -> Task:
        """A submission's; by default the latest that was not cancelled.

        Raises:
            UserError: there is none, or it was made with another version of the toolkit.
        """
        if submission_id:
            found = [Submission.load(study, submission_id)]
        else:
            found = [s for s in submissions(study)[::-1] if not s.gang]
        chosen = next((s for s in found if not s.cancelled), None)
        if chosen is None:
            raise UserError(
                f"{study.launches}: nothing was submitted, or all was cancelled; run `regmix train`"
            )
        if chosen.regmix != __version__:
            raise UserError(
                f"this worker has regmix {__version__} ({sys.prefix} on {socket.gethostname()}), "
                f"the study was submitted with {chosen.regmix}; install the same version on every "
                "node"
            )
        return cls(study, chosen.runs, chosen.settings, chosen.order.workers)


def fail(run: RunLayout, reasons: Sequence[str]) -> None:
    """Mark a run as FAILED, with the reason of each attempt."""
    again = f" ({len(reasons)} attempts)" if len(reasons) > 1 else ""
    worker = os.environ.get(WORKER, "")
    write_json(
        run.failed,
        {"reason": reasons[-1] + again, "attempts": list(reasons), "worker": worker},
    )


class Worker:
    """One worker's loop."""

    def __init__(
        self, task: Task, name: str, on_stall: Callable[[str], object] = lambda _: None
    ) -> None:
        """A worker that has not begun.

        Args:
            on_stall: called with the reason, in another thread, once its runs were given back
                because a step never ended.
        """
        self.name = name
        stall = Stall(60 * task.settings.stall_minutes, on_stall)
        self.claimant = Claimant(task.study.runs, name, task.settings.claim_seconds, stall)
        self._task = task
        self._asked_to_end = False
        self._best: dict[str, int] = {}
        """Members of an array, by what they share, as found by trial."""
        self._queue = Queue(
            task.study,
            task.runs,
            self.claimant,
            step=lambda run: checkpoint.saved_step(run.checkpoints),
            key=_key,
            workers=task.workers,
        )

    def end(self, *_: object) -> None:
        """Ask it to leave checkpoints and end; a signal handler."""
        self._asked_to_end = True

    def run(self, on_claim: Callable[[], object] = lambda: None) -> int:
        """Train until no run is left, or until asked to end; an exit code.

        Args:
            on_claim: called whenever runs were claimed.

        Raises:
            StudyFault: the study is not as it should be.
        """
        with self.claimant.at_work():
            try:
                return self._until_none_is_left(on_claim)
            except BaseException as exc:  # whatever it is, it must not look like a killed worker
                self.claimant.release_all(reason=_short(exc))
                raise

    def _until_none_is_left(self, on_claim: Callable[[], object]) -> int:
        while not self._asked_to_end:
            claimed = self._queue.claim(self._members)
            if claimed:
                on_claim()
                self._train(claimed)
            elif self._queue.left_to_others():
                return OK
            else:
                time.sleep(PATIENCE_SECONDS)
        return REQUEUE

    def _members(self, run: RunLayout) -> int:
        """How many runs like this one to train together, and no more than this worker's share."""
        share = -(-(self._queue.length + 1) // self._task.workers)
        if self._task.settings.members != "auto":
            return self._task.settings.members
        try:
            return min(share, self._found_best(RunSpec.load(run.spec), share))
        except StudyFault:
            raise
        except Exception as exc:  # the run's own attempt, alone, will meet it and tell
            say(f"run {run.run_id}: not tried in arrays: {type(exc).__name__}: {_short(exc)}")
            return 1

    def _found_best(self, spec: RunSpec, share: int) -> int:
        key = array_key(spec)
        if share > 1 and key not in self._best:
            self._best[key] = best_members(spec, share)
            say(f"arrays of {self._best[key]} are the fastest here")
        return self._best.get(key, 1)

    def _train(self, claimed: list[RunClaim]) -> None:
        """Train an array; runs that failed before one by one, so that none fails for another."""
        again: list[list[RunClaim]] = []
        together: list[RunClaim] = []
        for claim in claimed:
            reasons = [failure.reason for failure in claim.failures()]
            if len(reasons) > self._task.settings.retries:
                fail(claim.run, reasons)
                self._let_go(claim)
            elif reasons:
                again.append([claim])
            else:
                together.append(claim)
        for part in (together, *again):
            if part and not self._asked_to_end:
                self._attempt(part)
            else:
                for claim in part:
                    self._let_go(claim, "asked to end")

    def _attempt(self, part: list[RunClaim]) -> None:
        reason, failed = "asked to end", False
        try:
            for claim in part:
                _check_numerics(claim.run)
                say(f"run {claim.run.run_id}: claimed at step {claim.step}")
            outcome = train_array(
                self._task.study,
                [claim.run for claim in part],
                checkpoint_seconds=self._task.settings.checkpoint_seconds,
                keep_going=self._keep_going,
                trackers=self._task.settings.watch,
                retention=Retention(self._task.settings.keep_last, self._task.settings.keep_every),
            )
            self.claimant.check()
            for run_id, why in outcome.diverged.items():  # and would again
                fail(self._task.study.run(run_id), [why])
        except Lost as exc:
            reason = f"left with its array ({exc})"
        except Exception as exc:
            others = f" and {len(part) - 1} with it" if len(part) > 1 else ""
            told = f"run {part[0].run.run_id}{others} could not go on: {exc}"
            if isinstance(exc, StudyFault):
                raise type(exc)(told) from exc
            if isinstance(exc, OSError) and exc.errno in _OF_THE_DISK:
                raise StudyFault(told) from exc
            # whatever it is, the other runs can go on
            kind = "" if isinstance(exc, RegmixError) else f"{type(exc).__name__}: "
            reason, failed = f"{kind}{_short(exc)}", True
        for claim in part:
            self._let_go(claim, reason, failed=failed)

    def _keep_going(self) -> bool:
        self.claimant.check()
        self.claimant.progress()
        return not self._asked_to_end

    def _let_go(self, claim: RunClaim, reason: str = "", *, failed: bool = False) -> None:
        self.claimant.drop([claim])
        run = claim.run
        try:
            claim.renew()
        except Lost as exc:
            say(str(exc))
            self._queue.return_(run)  # looked at once more: who has it may die
            return
        if run.done.exists():
            say(f"run {run.run_id}: done")
            claim.release("done")
        elif run.failed.exists():
            say(f"run {run.run_id}: failed, see {run.failed}")
            claim.release("failed")
        else:
            say(f"run {run.run_id}: {reason}")
            if claim.release(reason, failed=failed):
                self._queue.return_(run)


def _key(run: RunLayout) -> Hashable:
    """What a run shares with those that can be trained together with it; nothing if unreadable."""
    try:
        return array_key(RunSpec.load(run.spec))
    except (RegmixError, OSError):  # its own attempt will tell
        return run.run_id


def _check_numerics(run: RunLayout) -> None:
    planned = RunSpec.load(run.spec).numerics
    if planned != NUMERICS:
        raise StudyRefused(
            f"{run.spec}: planned for version {planned} of the numerics, this worker "
            f"(regmix {__version__} on {socket.gethostname()}) has {NUMERICS}; install the version "
            "that the study was proposed with, or run `regmix propose` again"
        )


def say(text: str) -> None:
    """A line for the worker's log; a full disk is told where it matters."""
    with suppress(OSError):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= MESSAGE_LENGTH else text[:MESSAGE_LENGTH] + " …"


def work(
    root: Path,
    submission_id: str | None,
    name: str,
    *,
    begin: Callable[[Worker], object] = lambda _: None,
    on_claim: Callable[[], object] = lambda: None,
    on_stall: Callable[[], object] = lambda: os._exit(REQUEUE),
) -> tuple[int, str]:
    """Be a worker of this process's own; its exit code, and what stood in its way.

    Args:
        begin: called with the worker before it begins.
        on_claim: called whenever runs were claimed.
        on_stall: called in another thread once a step hangs and its runs were given back; has to
            end the process, which holds its device for nothing.
    """

    def stalled(reason: str) -> None:
        say(f"{reason}; its runs are given back")
        on_stall()

    set_up()
    os.environ[WORKER] = name
    try:
        worker = Worker(Task.of(StudyLayout(root), submission_id), name, stalled)
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, worker.end)
        begin(worker)
        say(f"worker {name} (process {os.getpid()} on {socket.gethostname()}) begins")
        code, reason = worker.run(on_claim), ""
    except UserError as exc:
        code, reason = REFUSED, str(exc)
    except (RegmixError, OSError) as exc:
        code, reason = BROKEN, str(exc)
    except Exception as exc:  # the process's boundary: whatever it is, the person must be told
        code, reason = BROKEN, f"{type(exc).__name__}: {exc} (a defect)"
    say(reason or ("told to end" if code == REQUEUE else "no run is left"))
    return code, reason


def main() -> None:
    """Entry point of ``python -m proxy_trainer.worker``."""
    parser = argparse.ArgumentParser(prog="python -m proxy_trainer.worker", description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--submission", help="id of a `regmix train`; default: the latest")
    parser.add_argument("--name", default=f"{socket.gethostname()}.{os.getpid()}")
    given = parser.parse_args()
    code, reason = work(given.study.expanduser().resolve(), given.submission, given.name)
    if reason:
        print(f"error: {reason}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)  # skips torch's slow teardown; everything is flushed and closed by now


if __name__ == "__main__":
    main()
