"""Who trains a run: a log of claims in its folder, read by whoever wants to know.

``runs/<id>/claims/<n>.json`` is the n-th entry: a worker has *claimed* the run, or has *released*
it, or the person has asked for the run *again* after it had failed. Entries are created exclusively
and never change, and no number is used twice, so that of all who would write entry n + 1 — workers
that want the run, and the one that gives it back — exactly one does. The last entry tells who holds
the run.

A holder shows that it lives by the time stamp of its entry, which it renews. Time stamps are
compared with each other alone, as the file server sets them: a node whose clock is off neither
loses its claims nor takes those of others. A holder on this machine whose process is gone is known
to be dead at once.

Whoever builds token shards claims them in the same way, in ``tokens/.claims/``.

Writing is the trainer's (`proxy_trainer.launch.claims`).
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

UNREADABLE_SECONDS = 120.0
"""How long an entry that cannot be read holds a run; it may be half-written, by someone."""
BEATS = 8
"""How often a holder renews its time stamp before the claim would expire."""


@dataclass(frozen=True)
class Process:
    """One process among all nodes and all time."""

    host: str
    boot: str
    """Of the kernel it runs under; pids start anew with it."""
    space: str
    """Its namespace of pids: two containers on a machine may have the same pids."""
    pid: int
    started: str
    """In ticks since boot, as a pid is used again; empty where the system does not tell."""

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        host, boot, space = _machine()
        return cls(host, boot, space, os.getpid(), _started(os.getpid()) or "")

    @property
    def here(self) -> bool:
        """Whether this machine can tell if it lives."""
        return bool(self.started) and (self.host, self.boot, self.space) == _machine()

    @property
    def gone(self) -> bool:
        """Whether it is known to be dead."""
        return self.here and not _lives(self.pid, self.started)


@dataclass(frozen=True)
class Entry:
    """One entry of a run's log of claims."""

    path: Path
    kind: Literal["claimed", "released", "again"]
    worker: str
    process: Process
    seconds: float
    """A claim that was not renewed for so long is void."""
    step: int
    """Of the run's checkpoint when it was claimed."""
    reason: str
    """Of a release: why."""
    failed: bool
    """Of a release: whether the attempt had failed."""
    renewed: float
    """Time stamp, by the file server's clock."""

    @property
    def number(self) -> int:
        """Its place in the log, from 1."""
        return int(self.path.stem)

    def holds(self, now: Callable[[], float]) -> bool:
        """Whether its worker has the run.

        Args:
            now: the time by the clock that set ``renewed``; asked only where it matters.
        """
        if self.kind != "claimed" or self.process.gone:
            return False
        return now() - self.renewed <= self.seconds

    def heard(self, now: float) -> bool:
        """Whether its worker, on this machine, lives and renews its claim as it should."""
        return self.process.here and now - self.renewed <= 3 * self.seconds / BEATS


@dataclass(frozen=True)
class Failure:
    """An attempt at a run that came to nothing."""

    reason: str
    step: int
    """Of the checkpoint that it started from."""


class SharedClock:
    """The clock of the file server that a folder lives on, read by writing to the folder.

    Read once in a while; in between this machine's own clock, which may be wrong but runs evenly,
    says how much time has passed.
    """

    REFRESH_SECONDS = 300.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ahead: float | None = None
        self._read = 0.0

    def now(self) -> float:
        """The time by the file server's clock, in seconds since the epoch."""
        if self._ahead is None or elapsed() - self._read > self.REFRESH_SECONDS:
            return self.read()
        return elapsed() + self._ahead

    def read(self) -> float:
        """The same, asked of the server now.

        Raises:
            OSError: nothing can be written to the folder.
        """
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".clock.tmp-") as file:
            os.utime(file.name)
            stamp = os.stat(file.name).st_mtime
        self._read = elapsed()
        self._ahead = stamp - self._read
        return stamp


class Glance:
    """The time for one look at a study: this machine's, the server's where the two must differ.

    Looking writes nothing as long as every claim is of a plausible age; otherwise the server is
    asked, once, by a file that is gone again at once. Where that is not allowed, this machine's
    clock has to do.
    """

    def __init__(self, folder: Path) -> None:
        self._clock = SharedClock(folder)
        self._asked: float | None = None

    def holds(self, entry: Entry) -> bool:
        """Whether the entry's worker has the run."""
        if entry.kind != "claimed" or entry.process.gone:
            return False
        return self.within(entry.renewed, entry.seconds)

    def within(self, stamp: float, seconds: float) -> bool:
        """Whether a file whose time stamp that is was written so few seconds ago."""
        if self._asked is None and not -1 <= time.time() - stamp <= seconds:
            self._asked = self._ask()
        return self.now() - stamp <= seconds

    def now(self) -> float:
        """The server's time if it was asked, else this machine's."""
        return time.time() if self._asked is None else self._asked

    def _ask(self) -> float:
        try:
            return self._clock.read()
        except OSError:
            return time.time()


def elapsed() -> float:
    """Seconds of a clock that nobody sets, and that runs on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def last(folder: Path) -> Entry | None:
    """The last entry of a log; None if nobody has claimed the run yet."""
    numbers = _numbers(folder)
    return _read(folder / f"{numbers[-1]}.json") if numbers else None


def log(folder: Path) -> list[Entry]:
    """All entries in order."""
    found = (_read(folder / f"{n}.json") for n in _numbers(folder))
    return [entry for entry in found if entry is not None]


def failures(entries: list[Entry]) -> list[Failure]:
    """The attempts that came to nothing: with an error, or without a word.

    A claim that another claim follows was not released: its worker was killed, or fell silent for
    so long that the run was taken from it. A release that was asked for by a signal is no failure.
    Attempts from before the run was asked for again do not count.
    """
    anew = max((n for n, entry in enumerate(entries) if entry.kind == "again"), default=0)
    found = []
    for entry, after in pairwise(entries[anew:]):
        if entry.kind == "claimed" and after.kind == "claimed":
            where = f"worker {entry.worker} (process {entry.process.pid} on {entry.process.host})"
            found.append(Failure(f"{where} was killed, or fell silent", entry.step))
        elif after.failed:
            found.append(Failure(after.reason, entry.step))
    return found


def to_text(entry: Entry) -> str:
    """An entry as its file has it."""
    values = {**vars(entry), "process": vars(entry.process)}
    del values["path"], values["renewed"]
    return json.dumps(values) + "\n"


def made(path: Path, worker: str, seconds: float, step: int) -> Entry:
    """An entry by which this process claims a run."""
    return Entry(
        path, "claimed", worker, Process.this(), seconds, step, reason="", failed=False, renewed=0.0
    )


def again(path: Path) -> Entry:
    """An entry by which all attempts before it are forgotten; nobody holds the run by it."""
    return replace(made(path, "", seconds=0.0, step=0), kind="again")


def released(entry: Entry, reason: str, *, failed: bool) -> Entry:
    """The entry by which a claim is given back."""
    path = entry.path.with_name(f"{entry.number + 1}.json")
    return replace(entry, path=path, kind="released", reason=reason, failed=failed)


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def _read(path: Path) -> Entry | None:
    """An entry; None if its run was thrown away this moment."""
    try:
        with path.open(encoding="utf-8") as stream:  # opened: a network folder's news, not a cache
            renewed = os.fstat(stream.fileno()).st_mtime
            text = stream.read()
    except FileNotFoundError:
        return None
    try:
        values = json.loads(text)
        return Entry(
            path=path, renewed=renewed, **{**values, "process": Process(**values["process"])}
        )
    except (ValueError, TypeError, KeyError):
        nobody = Process("", "", "", 0, "")
        return Entry(
            path, "claimed", "unknown", nobody, UNREADABLE_SECONDS, 0, "", False, renewed
        )  # fmt: skip


@cache
def _machine() -> tuple[str, str, str]:
    return socket.gethostname(), _boot(), _space()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started; empty if only its remains are there, None if none can be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def _lives(pid: int, started: str) -> bool:
    """Whether a process lives, as far as can be told; others' are hidden where /proc is mounted so.

    One that is hidden counts as the one meant: if it is not, its claims expire.
    """
    found = _started(pid)
    if found is not None:
        return found == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another person's
        return True
    return True
