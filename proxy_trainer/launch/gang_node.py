"""One node's part of a gang: its torchrun, from start to end; and what the ends come to.

Launchers differ in how they get this code to the nodes and how the nodes hear of each other. Told
to end, a node closes what its processes read: all of the gang then leave a checkpoint, and so they
do if whatever holds the other end dies.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy_trainer.exits import BUSY, KILLED, OK, REFUSED, REQUEUE
from proxy_trainer.launch import devices
from proxy_trainer.launch.crew import check_seen
from proxy_trainer.launch.environment import training_environment
from proxy_trainer.launch.gang import Gang, GangOrder
from regmix import claims

POLL_SECONDS = 0.5
MEETING_SECONDS = 300
"""How long nodes wait for each other at the start; they load torch before they can meet."""
LATE_SECONDS = 15.0
"""For torchrun to end after its processes, which end by themselves in time."""
_SAID = re.compile(r"^(?:process \d+|torchrun): (.*)$", re.MULTILINE)

# Run in torchrun's place until it becomes torchrun: signals that a scheduler sends to all processes
# of a job are for those that leave the checkpoint, and for the one that started this.
_DEAF = (
    "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "signal.signal(signal.SIGUSR2, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Meeting:
    """Where the torchruns of a gang find each other: at the first node."""

    host: str
    port: int

    @classmethod
    def here(cls, host: str) -> Meeting:
        """At a free port of this node.

        Args:
            host: what other nodes know this one by.
        """
        with socket.socket() as free:
            free.bind(("", 0))
            return cls(host, int(free.getsockname()[1]))


@dataclass(frozen=True)
class NodeEnd:
    """How the processes of one node ended."""

    code: int
    said: tuple[str, ...] = ()
    """Their last words, in so far as they were about that."""
    told: bool = False
    """Whether it was the node that was told to end."""
    lost: bool = False
    """The node went, and they with it."""


class Node:
    """The processes of one node."""

    def __init__(
        self,
        order: GangOrder,
        number: int,
        meeting: Meeting | None,
        log: Path,
        *,
        end_seconds: float,
    ) -> None:
        """Start them.

        Args:
            number: of the node, from 0.
            meeting: not needed by a gang of one node.
            log: what they write is added to it.
            end_seconds: they have for a checkpoint once they are told to end.

        Raises:
            RegmixError: this node does not see the study.
        """
        gang = order.gang
        check_seen(gang.study)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log, self._end_seconds = log, end_seconds
        self._deadline = float("inf")
        command = [sys.executable, "-c", _DEAF, sys.executable]
        command += _torchrun(gang, number, meeting) + _processes(gang, end_seconds)
        # With devices, its processes choose from those of the node by their number there.
        environment = training_environment(None if order.gpus else devices.NONE)
        begins = (
            f"{time.strftime('%Y-%m-%d %H:%M:%S')} run {gang.run_id}: {gang.processes} of "
            f"{gang.world} processes begin on {socket.gethostname()}\n"
        )
        with log.open("ab") as stream:
            stream.write(begins.encode())
            stream.flush()
            self._from = stream.tell()
            self._process = subprocess.Popen(  # noqa: S603 (the command is the project's own)
                command, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def stop(self) -> None:
        """Have them leave a checkpoint and end; said twice, it changes nothing."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
            self._deadline = time.monotonic() + self._end_seconds + LATE_SECONDS

    def ended(self) -> NodeEnd | None:
        """How they ended; None while they run."""
        if time.monotonic() > self._deadline:
            self._process.kill()  # it never came to start them
            self._process.wait()
        code = self._process.poll()
        if code is None:
            return None
        self.stop()
        code = KILLED - code if code < 0 else code
        return NodeEnd(code, self._said() or (f"torchrun ended with code {code}",) * bool(code))

    def wait(self, stop: Callable[[], bool]) -> NodeEnd:
        """Wait for their end.

        Args:
            stop: asked about twice a second; once it says so they are told to end.
        """
        while (end := self.ended()) is None:
            if stop():
                self.stop()
            time.sleep(POLL_SECONDS)
        return end

    def _said(self) -> tuple[str, ...]:
        with self._log.open("rb") as stream:
            stream.seek(self._from)
            text = stream.read().decode(errors="replace")
        return tuple(dict.fromkeys(_SAID.findall(text)))


def _torchrun(gang: Gang, number: int, meeting: Meeting | None) -> list[str]:
    own = ["-m", "proxy_trainer.sharded.torchrun", f"--nproc-per-node={gang.processes}"]
    if meeting is None:
        assert gang.nodes == 1
        return [*own, "--standalone"]
    conf = {"is_host": int(number == 0), "read_timeout": MEETING_SECONDS,
            "join_timeout": MEETING_SECONDS}  # fmt: skip
    return [
        *own, f"--nnodes={gang.nodes}", "--rdzv-backend=c10d", f"--rdzv-id={gang.run_id}",
        f"--rdzv-endpoint={meeting.host}:{meeting.port}",
        f"--rdzv-conf={','.join(f'{k}={v}' for k, v in conf.items())}",
    ]  # fmt: skip


def _processes(gang: Gang, end_seconds: float) -> list[str]:
    flags = {"--hybrid": gang.hybrid, "--recompute": gang.recompute, "--compile": gang.compiled}
    asked = {"--rows": gang.rows, "--keep-every": gang.keep_every}
    numbers = [word for f, n in asked.items() if n is not None for word in (f, str(n))]
    watch = [word for name in gang.watch for word in ("--watch", name)]
    return [
        "-m", "proxy_trainer.sharded", str(gang.study), gang.run_id,
        "--checkpoint-seconds", str(gang.checkpoint_seconds), "--keep-last", str(gang.keep_last),
        "--claim-seconds", str(gang.claim_seconds), "--timeout-seconds", str(gang.timeout_seconds),
        *(f for f, on in flags.items() if on), *numbers, *watch, "--regmix", gang.regmix,
        "--until-eof", "--end-seconds", str(end_seconds),
    ]  # fmt: skip


@dataclass(frozen=True)
class Conclusion:
    """What is to be done once all nodes of a gang have ended."""

    again: bool
    """Start it again; else it is over."""
    reason: str = ""
    """Why it is to be started again, or why it could not go on; empty where there is nothing to
    tell."""


def conclude(order: GangOrder, ends: Sequence[NodeEnd], claimed_before: int) -> Conclusion:
    """What the ends of a gang's nodes come to.

    Told to end, it is to go on. A process or a node that is lost, or an error of the run, is tried
    again up to the order's ``retries`` times, counted as for single workers: by the log of claims,
    as long as the run stays where it is. What is wrong with the study would be wrong again.

    Args:
        ends: one a node.
        claimed_before: entries in the log of claims when these nodes were started.
    """
    run = order.gang.run
    codes = {end.code for end in ends}
    if run.done.exists() or run.failed.exists() or codes == {OK}:
        return Conclusion(again=False)
    reason = "; ".join(dict.fromkeys(line for end in ends for line in end.said))
    if any(end.told for end in ends) or codes <= {OK, REQUEUE}:
        return Conclusion(again=True, reason=reason or "told to end")
    entries = claims.log(run.claims)
    lost = any(end.lost for end in ends)
    if not lost and len(entries) <= claimed_before:
        return Conclusion(again=False, reason=reason)
    if not lost and not codes & set(range(KILLED, 256)) and _is_of_the_study(codes, entries):
        return Conclusion(again=False, reason=reason)
    attempts = _attempts(entries[order.since :])
    if attempts > order.retries:
        return Conclusion(again=False, reason=f"{reason} ({attempts} attempts)")
    return Conclusion(again=True, reason=reason)


def _is_of_the_study(codes: set[int], entries: Sequence[claims.Entry]) -> bool:
    """Whether an end is nobody's failed attempt at the run."""
    last = entries[-1]
    return bool(codes & {REFUSED, BUSY}) or (last.kind != "claimed" and not last.failed)


def _attempts(entries: list[claims.Entry]) -> int:
    """Attempts that came to nothing from where the run still is."""
    if not entries:
        return 0
    last = entries[-1]
    silent = int(last.kind == "claimed")  # its process was killed before it could give the run back
    return silent + sum(found.step >= last.step for found in claims.failures(entries))
