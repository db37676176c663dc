"""Workers on this machine: one per core or device, for as long as the command lives.

The job is the command itself: its workers are its children and end with it. It starts a worker
again that was killed from outside, as a cluster's scheduler would.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path
from typing import Any, ClassVar

from proxy_trainer.exits import BROKEN, OK, REQUEUE, UNFIT, UNFIT_STARTS
from proxy_trainer.launch import devices
from proxy_trainer.launch.base import Job, JobState, Order
from proxy_trainer.launch.environment import training_environment
from proxy_trainer.launch.gang import GangOrder
from proxy_trainer.launch.gang_node import Node, conclude
from proxy_trainer.launch.submissions import Submission
from regmix import claims
from regmix.claims import Process
from regmix.errors import UserError
from regmix.layout import StudyLayout

Child = ForkServerProcess | SpawnProcess
FALSE_STARTS = 3
"""Times that a worker may be killed before it has claimed a run; then it is not started again."""
END_SECONDS = 30.0
"""For workers to leave their checkpoints."""
GANG_END_SECONDS = 60.0
"""For a gang to leave its checkpoint, which is that of a large model."""
CANCELLED = "cancelled"


def cores() -> list[int]:
    """Cores that this process may use; where the system does not tell, as many as there are."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@dataclass
class _Place:
    """A worker's place, which outlives the worker."""

    number: int
    process: Child
    messages: Connection
    """What the worker says: that it claimed a run, that it is unfit, or why it could not go on."""
    false_starts: int = 0
    unfit: str = ""
    """Why the process came to nothing, and another is to begin in its place."""
    unfit_starts: int = 0
    reason: str = ""
    """Why it could not go on; the place then stays empty."""


@dataclass(frozen=True)
class _Unfit:
    """What an unfit worker says."""

    reason: str
    got_on: bool
    """Whether a run came to a step before."""


@dataclass(frozen=True)
class _JobId:
    """The command that is the job, and its submission."""

    host: str
    pid: int
    started: str
    submission: str

    @classmethod
    def parse(cls, text: str) -> _JobId:
        host, pid, started, submission = text.split("/")
        return cls(host, int(pid), started, submission)

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.started}/{self.submission}"

    @classmethod
    def mine(cls, order: Order) -> _JobId:
        me = Process.this()
        return cls(me.host, me.pid, me.started, order.submission)

    @property
    def here(self) -> bool:
        return self.host == Process.this().host

    @property
    def lives(self) -> bool:
        me = Process.this()
        return not Process(me.host, me.boot, me.space, self.pid, self.started).gone


class LocalLauncher:
    """Workers that are children of the command."""

    name: ClassVar[str] = "local"

    def __init__(self) -> None:
        self._order: Order | None = None
        self._places: list[_Place] = []
        self._shares: list[str] = []
        """The devices of each place."""
        self._gang: _LocalGang | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._asked_to_end = False
        self._told_to_end = False

    def check(self, order: Order) -> None:
        """Count the devices; cores may be shared."""
        if order.detached:
            raise UserError("launch.launcher: workers of 'local' end with their command")
        found = len(devices.visible()) if order.gpus else 0
        if found < order.workers * order.gpus:
            raise UserError(
                f"launch: {order.workers} workers with {order.gpus} devices each, this machine "
                f"has {found}; lower launch.workers or launch.gpus_per_worker (0: on cores)"
            )

    def submit(self, order: Order) -> list[str]:
        """Start the workers; the one job is this process, which SIGTERM then ends in good order."""
        self._begin(order)
        visible = devices.visible() if order.gpus else []
        self._shares = devices.shares(visible, order.workers, order.gpus)
        self._places = [self._start(number) for number in range(order.workers)]
        return [str(_JobId.mine(order))]

    def check_gang(self, order: GangOrder) -> None:
        """See :meth:`GangLauncher.check_gang`; there is one node."""
        if order.gang.nodes > 1:
            raise UserError(
                f"{order.gang.nodes} nodes: the launcher 'local' has one; choose slurm or ray"
            )
        self.check(order)

    def submit_gang(self, order: GangOrder) -> list[str]:
        """See :meth:`GangLauncher.submit_gang`; it ends with this process, however that ends."""
        self._begin(order)
        self._gang = _LocalGang(order)
        return [str(_JobId.mine(order))]

    def _begin(self, order: Order) -> None:
        self._order = order
        _logs(order.study, order.submission).mkdir(parents=True, exist_ok=True)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR2):
                self._handlers[number] = signal.signal(number, lambda *_: self._end())

    def poll(self, study: Path, job_ids: list[str]) -> list[Job]:
        """Look after the workers, if they are this process's; else whether their command lives."""
        return [self._look_after(i) if self._is_mine(i) else _look(study, i) for i in job_ids]

    def cancel(self, study: Path, job_ids: list[str]) -> None:
        """Ask commands to end their workers.

        Raises:
            UserError: a command runs on another machine.
        """
        for job_id in job_ids:
            job = _JobId.parse(job_id)
            if self._is_mine(job_id):
                if self._look_after(job_id).state == "running":  # else it stays as it ended
                    self._end()
            elif not job.here:
                raise UserError(f"job {job_id}: started on {job.host}; run `regmix cancel` there")
            elif job.lives:
                os.kill(job.pid, signal.SIGTERM)

    def logs(self, study: Path, job_ids: list[str]) -> list[Path]:
        """One file a worker."""
        folders = (_logs(study, _JobId.parse(i).submission) for i in job_ids)
        return [log for folder in folders for log in sorted(folder.glob("*.log"))]

    def close(self) -> None:
        """End what still runs, with checkpoints if there is time, and leave nothing behind."""
        self._end()
        self._tell()
        if self._gang is not None:
            self._gang.close()
            self._gang = None
        deadline = time.monotonic() + END_SECONDS
        for place in self._places:
            place.process.join(max(0.0, deadline - time.monotonic()))
            if place.process.exitcode is None:
                place.process.kill()
                place.process.join()
            place.messages.close()
        self._places = []
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _is_mine(self, job_id: str) -> bool:
        return self._order is not None and job_id == str(_JobId.mine(self._order))

    def _end(self) -> None:
        self._asked_to_end = True

    def _tell(self) -> None:
        if self._asked_to_end and not self._told_to_end:
            self._told_to_end = True
            if self._gang is not None:
                self._gang.node.stop()
            for place in self._places:
                if place.process.exitcode is None:
                    place.process.terminate()

    def _look_after(self, job_id: str) -> Job:
        self._tell()
        if self._gang is not None:
            return self._gang.look_after(job_id, asked_to_end=self._asked_to_end)
        for place in self._places:
            self._hear(place)
            if place.process.exitcode not in (None, OK, REQUEUE) and not place.reason:
                self._replace(place)
        if any(place.process.exitcode is None for place in self._places):
            return Job(job_id, "running")
        reasons = dict.fromkeys(place.reason for place in self._places if place.reason)
        if self._asked_to_end:
            return Job(job_id, "ended", CANCELLED)
        state: JobState = "failed" if reasons else "ended"
        return Job(job_id, state, "; ".join(reasons))

    def _hear(self, place: _Place) -> None:
        while place.messages.poll():
            try:
                text = place.messages.recv()
            except EOFError:  # killed; or ended, with everything said
                return
            if text is None:
                place.false_starts = 0
            elif isinstance(text, _Unfit):
                place.unfit = text.reason
                place.unfit_starts = 0 if text.got_on else place.unfit_starts
            else:
                place.reason = text

    def _replace(self, place: _Place) -> None:
        """Put a new worker where one was killed, or was unfit."""
        place.reason = self._counted_as_unfit(place) if place.unfit else self._counted(place)
        if place.reason:
            return
        place.messages.close()
        fresh = self._start(place.number)
        place.process, place.messages, place.unfit = fresh.process, fresh.messages, ""

    def _counted(self, place: _Place) -> str:
        """Count a worker that was killed; why there is to be no other, if so."""
        place.false_starts += 1
        if not self._asked_to_end and place.false_starts <= FALSE_STARTS:
            return ""
        return (
            f"worker {place.number} ended with code {place.process.exitcode} before it had "
            f"claimed a run, {place.false_starts} times in a row; killed for want of memory? "
            "Set launch.workers lower, and run again"
        )

    def _counted_as_unfit(self, place: _Place) -> str:
        """The same of one that was unfit."""
        place.unfit_starts += 1
        if not self._asked_to_end and place.unfit_starts <= UNFIT_STARTS:
            return ""
        return f"worker {place.number}: {place.unfit}"

    def _start(self, number: int) -> _Place:
        assert self._order is not None
        os.environ.update(training_environment())
        # A fork server imports torch once; a process from it starts in milliseconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["proxy_trainer.worker"])
        ours, theirs = context.Pipe(duplex=False)
        core = _core(self._order, number)
        process = context.Process(
            target=_work, args=(self._order, number, core, self._shares[number], theirs)
        )
        process.daemon = True
        process.start()
        theirs.close()
        return _Place(number, process, ours)


class _LocalGang:
    """A gang's processes, started again after an attempt that failed."""

    def __init__(self, order: GangOrder) -> None:
        self._order = order
        self.node = self._started()

    def _started(self) -> Node:
        self._claimed_before = len(claims.log(self._order.gang.run.claims))
        log = _logs(self._order.study, self._order.submission) / "node-0.log"
        return Node(self._order, 0, None, log, end_seconds=GANG_END_SECONDS)

    def look_after(self, job_id: str, *, asked_to_end: bool) -> Job:
        end = self.node.ended()
        if end is None:
            return Job(job_id, "running")
        if asked_to_end:
            return Job(job_id, "ended", CANCELLED)
        found = conclude(self._order, [end], self._claimed_before)
        if found.again and end.code != REQUEUE:
            self.node = self._started()
            return Job(job_id, "running")
        if found.again or not found.reason:
            return Job(job_id, "ended")
        return Job(job_id, "failed", found.reason)

    def close(self) -> None:
        self.node.wait(lambda: True)


def _core(order: Order, number: int) -> int | None:
    """The core to pin a worker to; none if others may want some of them, and the system knows."""
    mine = cores()
    return mine[number] if len(mine) == order.workers and not order.gpus else None


def _work(order: Order, number: int, core: int | None, share: str, messages: Connection) -> None:
    """A worker's process: its log in a file, its last words to the command."""
    from proxy_trainer import worker
    from proxy_trainer.processes import die_with_parent

    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    os.environ[devices.VISIBLE] = share  # read as CUDA begins, which importing torch does not
    log = (_logs(order.study, order.submission) / f"worker-{number}.log").open("a")
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log.fileno(), stream.fileno())
    made: list[worker.Worker] = []

    def begin(own: worker.Worker) -> None:
        made.append(own)
        die_with_parent(lambda: own.claimant.release_all("the command ended"))

    code, reason = worker.work(
        order.study,
        order.submission,
        f"{order.submission}.{number}",
        begin=begin,
        on_claim=lambda: messages.send(None),
        on_stall=lambda: os._exit(BROKEN),  # the command starts another in its place
    )
    if code == UNFIT:
        messages.send(_Unfit(reason, made[0].fitness.got_on))
    elif reason:
        messages.send(reason)
    os._exit(code)  # skips torch's slow teardown; everything is flushed and closed by now


def _look(study: Path, job_id: str) -> Job:
    job = _JobId.parse(job_id)
    if job.here:
        return Job(job_id, "running" if job.lives else "ended")
    layout = StudyLayout(study)
    submission = Submission.load(layout, job.submission)
    glance = claims.Glance(layout.runs)
    # The other machine may be gone for good, as containers go; what it holds tells.
    saved = (layout.launches / f"{job.submission}.json").stat().st_mtime
    fresh = glance.within(saved, submission.settings.claim_seconds)
    last = (claims.last(piece.claims) for piece in submission.pieces(layout))
    held = any(e is not None and e.process.host == job.host and glance.holds(e) for e in last)
    return Job(job_id, "running" if fresh or held else "ended")


def _logs(study: Path, submission: str) -> Path:
    return StudyLayout(study).launches / submission
