"""A worker: claims open work of a study, does it, and goes on until there is none.

    python -m proxy_trainer.worker STUDY [--submission ID] [--name NAME]

Every launcher starts these; any number of them, on any nodes that see the study's folder, share its
work by claims alone. The work is runs to train, or finished ones to ask
(:mod:`proxy_trainer.work`, :mod:`proxy_trainer.evals.asking`), as the submission says. A worker
ends by itself. Told to end before, by SIGTERM, SIGUSR2 or SIGINT, it leaves checkpoints, gives its
runs back and exits with ``REQUEUE``.

What goes wrong with a run is the run's, whatever it is: it is tried again from its checkpoint, by
this worker or another, and FAILED once it has failed too often; a step that never ends is a way to
fail. A process in which one run after the other fails, or its device, ends itself, and another
begins in its place (:mod:`proxy_trainer.fitness`). What every run would meet
(:class:`regmix.errors.StudyFault`: other data, a full disk, another version of the code) ends the
worker and marks nothing.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy_trainer.environment import WORKER
from proxy_trainer.evals.asking import Asking
from proxy_trainer.exits import BROKEN, OK, REFUSED, REQUEUE, UNFIT, UNFIT_STARTS
from proxy_trainer.fitness import Fitness, Unfit
from proxy_trainer.launch.claims import Claimant, Lost, PieceClaim, Stall
from proxy_trainer.launch.queue import Queue
from proxy_trainer.launch.submissions import Submission, other_version, submissions
from proxy_trainer.setup import set_up
from proxy_trainer.version import version
from proxy_trainer.work import Training, Work
from regmix.config import LaunchConfig
from regmix.errors import RegmixError, StudyFault, UserError
from regmix.files import write_json
from regmix.layout import Piece, StudyLayout

PATIENCE_SECONDS = 0.5
"""Between looks at runs that silent workers hold."""
MESSAGE_LENGTH = 400
UNFIT_BEFORE = "REGMIX_UNFIT"
"""Environment variable with how many unfit processes in a row had this one's place before it."""
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
    tasks: tuple[str, ...] = ()
    """Fingerprints of what finished runs are to be asked; none if they are to be trained."""
    step: int | None = None
    """After which they are asked, by their checkpoints; at their end if not given."""

    @classmethod
    def of(cls, study: StudyLayout, submission_id: str | None) -> Task:
        """A submission's; by default the latest that was not cancelled.

        Raises:
            UserError: there is none, or it was made with another version of the toolkit.
        """
        if submission_id:
            found = [Submission.load(study, submission_id)]
        else:
            found = [
                s
                for s in submissions(study, lambda exc: say(str(exc)))[::-1]
                if not (s.gang or s.tasks)
            ]
        chosen = next((s for s in found if not s.cancelled), None)
        if chosen is None:
            raise UserError(
                f"{study.launches}: nothing was submitted, or all was cancelled; run `regmix train`"
            )
        if chosen.regmix != version():
            path = study.launches / f"{chosen.submission_id}.json"
            raise other_version(chosen.regmix, str(path))
        return cls(
            study, chosen.runs, chosen.settings, chosen.order.workers, chosen.tasks, chosen.step
        )

    @property
    def work(self) -> Work[Any]:
        """What is to be done with the runs."""
        if self.tasks:
            return Asking(self.study, self.runs, self.tasks, self.step)
        return Training(self.study, self.runs, self.settings, say)


def fail(run: Piece, reasons: Sequence[str]) -> None:
    """Mark a run, or a run on a task, as FAILED, with the reason of each attempt."""
    again = f" ({len(reasons)} attempts)" if len(reasons) > 1 else ""
    worker = os.environ.get(WORKER, "")
    write_json(
        run.failed,
        {"reason": reasons[-1] + again, "attempts": list(reasons), "worker": worker},
    )


def is_of_the_study(exc: BaseException) -> bool:
    """Whether every run would meet it: a full disk, say, whoever says so."""
    of_the_disk = isinstance(exc, OSError) and exc.errno in _OF_THE_DISK
    return of_the_disk or isinstance(exc, StudyFault)


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
        self.fitness = Fitness()
        self._task = task
        self.asked_to_end = False
        """Whether it is to leave checkpoints and end."""
        self._work = task.work
        self._queue: Queue[Any] = Queue(
            self._work.pieces,
            self.claimant,
            step=self._work.step,
            key=self._work.key,
            workers=task.workers,
        )

    def end(self, *_: object) -> None:
        """Ask it to leave checkpoints and end; a signal handler."""
        self.asked_to_end = True

    def run(self, on_claim: Callable[[], object] = lambda: None) -> int:
        """Work until nothing is left, or until asked to end; an exit code.

        Args:
            on_claim: called whenever something was claimed.

        Raises:
            StudyFault: the study is not as it should be.
            Unfit: this process comes to nothing.
        """
        with self.claimant.at_work():
            try:
                return self._until_none_is_left(on_claim)
            except BaseException as exc:  # whatever it is, it must not look like a killed worker
                self.claimant.release_all(reason=_short(exc))
                raise

    def _until_none_is_left(self, on_claim: Callable[[], object]) -> int:
        while not self.asked_to_end:
            claimed = self._queue.claim(self._members)
            if claimed:
                on_claim()
                self._do(claimed)
            elif self._queue.left_to_others():
                return OK
            else:
                time.sleep(PATIENCE_SECONDS)
        return REQUEUE

    def _members(self, piece: Piece) -> int:
        """How many like this one to do together, and no more than this worker's share."""
        share = -(-(self._queue.length + 1) // self._task.workers)
        if self._task.settings.members != "auto":
            return self._task.settings.members
        try:
            return self._work.members(piece, share)
        except StudyFault:
            raise
        except Exception as exc:  # its own attempt, alone, will meet it and tell
            say(f"{piece.title}: not tried in arrays: {type(exc).__name__}: {_short(exc)}")
            return 1

    def _do(self, claimed: list[PieceClaim[Any]]) -> None:
        """Do what goes together; or one that failed before, so that none fails for another."""
        again: list[PieceClaim[Any]] = []
        together: list[PieceClaim[Any]] = []
        for claim in claimed:
            reasons = [failure.reason for failure in claim.failures()]
            if len(reasons) > self._task.settings.retries:
                fail(claim.piece, reasons)
                self._let_go(claim)
            elif reasons:
                again.append(claim)
            else:
                together.append(claim)
        part, others = (together, again) if together else (again[:1], again[1:])
        for claim in others:
            self._let_go(claim, "failed before, and is tried alone")
        if part and not self.asked_to_end:
            self._attempt(part)
        else:
            for claim in part:
                self._let_go(claim, "asked to end")

    def _attempt(self, part: list[PieceClaim[Any]]) -> None:
        reason, failed, unfit = "asked to end", False, ""
        self.fitness.begin()
        try:
            for claim in part:
                say(f"{claim.piece.title}: claimed at step {claim.step}")
            given_up = self._work.carry_out([claim.piece for claim in part], self._keep_going)
            self.fitness.step()
            self.claimant.check()
            for piece, why in given_up.items():  # and would come to the same again
                fail(piece, [why])
        except Lost as exc:
            reason = f"left with its array ({exc})"
        except Exception as exc:
            others = f" and {len(part) - 1} with it" if len(part) > 1 else ""
            told = f"{part[0].piece.title}{others} could not go on: {exc}"
            if is_of_the_study(exc):
                raise (type(exc) if isinstance(exc, StudyFault) else StudyFault)(told) from exc
            # whatever it is, the others can go on
            kind = "" if isinstance(exc, RegmixError) else f"{type(exc).__name__}: "
            reason, failed = f"{kind}{_short(exc)}", self.fitness.counts(exc)
            unfit = self.fitness.failed([claim.piece.title for claim in part], exc)
        for claim in part:
            self._let_go(claim, reason, failed=failed)
        if unfit and not self.asked_to_end:
            raise Unfit(f"{unfit}; the last: {part[0].piece.title}: {reason}")

    def _keep_going(self) -> bool:
        self.fitness.step()
        self.claimant.check()
        self.claimant.progress()
        return not self.asked_to_end

    def _let_go(self, claim: PieceClaim[Any], reason: str = "", *, failed: bool = False) -> None:
        self.claimant.drop([claim])
        piece = claim.piece
        try:
            claim.renew()
        except Lost as exc:
            say(str(exc))
            self._queue.return_(piece)  # looked at once more: who has it may die
            return
        if piece.done.exists():
            say(f"{piece.title}: done")
            claim.release("done")
        elif piece.failed.exists():
            say(f"{piece.title}: failed, see {piece.failed}")
            claim.release("failed")
        else:
            say(f"{piece.title}: {reason}")
            if claim.release(reason, failed=failed):
                self._queue.return_(piece, failed=bool(claim.failures()))


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
    except Unfit as exc:
        code, reason = UNFIT, str(exc)
    except UserError as exc:
        code, reason = REFUSED, str(exc)
    except (RegmixError, OSError) as exc:
        code, reason = BROKEN, str(exc)
    except Exception as exc:  # the process's boundary: whatever it is, the person must be told
        code, reason = BROKEN, f"{type(exc).__name__}: {exc} (a defect)"
    say(reason or ("told to end" if code == REQUEUE else "no run is left"))
    return code, reason


def _begin_anew(got_on: bool) -> None:
    """Become a process anew in an unfit one's place; returns where that was tried too often.

    Whoever started the worker sees it go on: a job of Slurm's would wait for its other workers.

    Args:
        got_on: whether the unfit one had come to a step before.
    """
    before = 0 if got_on else int(os.environ.get(UNFIT_BEFORE, "0"))
    if before < UNFIT_STARTS:
        os.environ[UNFIT_BEFORE] = str(before + 1)
        last = max(map(int, os.listdir("/dev/fd")))
        os.closerange(3, last + 1)  # an open device would keep what was held on it
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 (as it was started)


def main() -> None:
    """Entry point of ``python -m proxy_trainer.worker``."""
    parser = argparse.ArgumentParser(prog="python -m proxy_trainer.worker", description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--submission", help="id of a `regmix train`; default: the latest")
    parser.add_argument("--name", help="default: the submission, host and process")
    given = parser.parse_args()
    parts = (given.submission, socket.gethostname(), str(os.getpid()))
    name = given.name or ".".join(part for part in parts if part)
    made: list[Worker] = []
    code, reason = work(
        given.study.expanduser().resolve(), given.submission, name, begin=made.append
    )
    if reason:
        print(f"error: {reason}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if code == UNFIT and made[0].asked_to_end:
        code = REQUEUE
    if code == UNFIT:
        _begin_anew(made[0].fitness.got_on)
    os._exit(code)  # skips torch's slow teardown; everything is flushed and closed by now


if __name__ == "__main__":
    main()
