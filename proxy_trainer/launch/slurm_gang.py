"""What every node of a gang's Slurm job runs: its part of the gang; the first one concludes.

Nodes hear of each other through files of the job in the study. They carry the number of times that
Slurm has started the job, so that none is taken for one of an earlier turn.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxy_trainer.exits import BROKEN, OK
from proxy_trainer.launch.crew import JobFiles
from proxy_trainer.launch.gang import GangOrder
from proxy_trainer.launch.gang_node import (
    LATE_SECONDS,
    MEETING_SECONDS,
    POLL_SECONDS,
    Conclusion,
    Meeting,
    Node,
    NodeEnd,
    conclude,
)
from proxy_trainer.launch.slurm_job import again, caught, own_id, why
from proxy_trainer.launch.slurm_system import was_cancelled
from regmix import claims
from regmix.errors import RegmixError
from regmix.files import read_json, write_json


@dataclass(frozen=True)
class Turn:
    """What the nodes of one job tell each other, in one of its turns."""

    files: JobFiles
    number: int
    nodes: int

    @classmethod
    def this(cls, order: GangOrder) -> Turn:
        """Of the job and the turn that this process belongs to."""
        files = JobFiles.of(order.study, "slurm", own_id())
        return cls(files, int(os.environ.get("SLURM_RESTART_COUNT", "0")), order.gang.nodes)

    def call(self, meeting: Meeting) -> None:
        """Say where the nodes meet; the first one's part."""
        self._write(self._meeting, asdict(meeting))

    def called(self) -> Meeting | None:
        """Where they meet, once that is known."""
        found = self._read(self._meeting)
        return None if found is None else Meeting(**found)

    def end(self, node: int, end: NodeEnd) -> None:
        """Say how a node has ended."""
        self._write(self._end(node), asdict(end))

    def ends(self) -> dict[int, NodeEnd]:
        """How the nodes have ended that have."""
        found = {node: self._read(self._end(node)) for node in range(self.nodes)}
        return {
            node: NodeEnd(**{**values, "said": tuple(values["said"])})
            for node, values in found.items()
            if values is not None
        }

    @property
    def _meeting(self) -> Path:
        return self.files.folder / f"{self.files.job_id}.meeting.json"

    def _end(self, node: int) -> Path:
        return self.files.folder / f"{self.files.job_id}.node-{node}.json"

    def _write(self, path: Path, values: dict[str, Any]) -> None:
        write_json(path, {"turn": self.number, **values})

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        values: dict[str, Any] = read_json(path)
        return values if values.pop("turn") == self.number else None


@dataclass(frozen=True)
class SlurmGang:
    """One node's work; sent to each by submitit."""

    order: GangOrder
    grace_seconds: float
    """Between the first signal and the end of what has left no checkpoint by then."""
    requeue: bool

    def __call__(self) -> None:
        """Be this node's part; of the first one, the exit code is the job's."""
        turn, node = Turn.this(self.order), int(os.environ["SLURM_NODEID"])
        signals = caught()
        claimed_before = len(claims.log(self.order.gang.run.claims))
        if node == 0:
            turn.files.ending.unlink(missing_ok=True)
        if turn.files.cancelled.exists():
            end = NodeEnd(OK, told=True)
        else:
            end = self._take_part(turn, node, signals)
        turn.end(node, end)
        if node:
            return  # with 0 whatever it was: the first one is still at work
        ends = self._all_ends(turn)
        code = self._conclude(turn.files, ends, claimed_before, signals)
        if code:
            raise SystemExit(code)

    def _take_part(self, turn: Turn, node: int, signals: list[int]) -> NodeEnd:
        def told() -> bool:
            # The file is looked at too: a signal to a job that is only just starting is lost.
            return bool(signals) or turn.files.cancelled.exists()

        def stop() -> bool:
            over = turn.files.ending.exists()  # the first one waits no longer
            return told() or over or any(end.code for end in turn.ends().values())

        try:
            meeting = self._meet(turn, node, stop) if self.order.gang.nodes > 1 else None
            log = turn.files.log(node)
            part = Node(self.order, node, meeting, log, end_seconds=self.grace_seconds)
        except RegmixError as exc:
            return NodeEnd(BROKEN, (str(exc),), told())
        end = part.wait(stop)
        return NodeEnd(end.code, end.said, told())

    def _meet(self, turn: Turn, node: int, stop: Callable[[], bool]) -> Meeting:
        """Where the nodes meet; the first one says so.

        Raises:
            RegmixError: it does not, or the gang was told to end before it did.
        """
        if node == 0:
            turn.call(Meeting.here(socket.gethostname()))
        deadline = time.monotonic() + MEETING_SECONDS
        while (found := turn.called()) is None:
            if stop():
                raise RegmixError(f"node {node}: told to end before the nodes had met")
            if time.monotonic() > deadline:
                raise RegmixError(
                    f"node {node} ({socket.gethostname()}): the first node said nothing for "
                    f"{MEETING_SECONDS} seconds; do all nodes see {turn.files.folder}?"
                )
            time.sleep(POLL_SECONDS)
        return found

    def _all_ends(self, turn: Turn) -> list[NodeEnd]:
        """How every node has ended; those that do not say are given time, and not more."""
        deadline = time.monotonic() + self.grace_seconds + 2 * LATE_SECONDS
        while len(ends := turn.ends()) < turn.nodes and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        silent = (n for n in range(turn.nodes) if n not in ends)
        return list(ends.values()) + [
            NodeEnd(BROKEN, (f"node {n} does not say how it ended",), lost=True) for n in silent
        ]

    def _conclude(
        self, files: JobFiles, ends: list[NodeEnd], claimed_before: int, signals: list[int]
    ) -> int:
        codes = [end.code for end in ends]
        found = conclude(self.order, ends, claimed_before)
        told = any(end.told for end in ends)
        if files.cancelled.exists() or (told and found.again and was_cancelled(files.job_id)):
            found = Conclusion(again=False)
        if found.again:
            reason = why(signals) if signals else found.reason
            print(f"to be started again: {reason}", flush=True)
            return again(files, codes, reason, requeue=self.requeue)
        reason = f"{found.reason}; see {files.folder}" if found.reason else ""
        files.end(codes, reason)
        return 1 if reason else 0
