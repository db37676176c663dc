"""Claiming runs, what they are asked, token shards: one worker at each, and nobody in charge.

The log and how it is read are in :mod:`regmix.claims`. What a worker owes it: it takes a run only
by writing the log's next entry; renews its entry a few times before it would expire; and, unless it
has heard within a third of that time that the run is still its own, asks before it writes anything.
A worker that was stopped for long, and lost its run, so learns it at the first step it takes.

The heartbeat is a thread, and would go on beside work that hangs (a device or a file server that
never answers). So it renews only while the work says now and then that it gets on; then it gives
back what the worker holds, as a failed attempt with its reason.

What a worker can still write in the moment between asking and writing does no harm: a checkpoint is
whole, and of the same run, as one seed determines it; lines are appended whole, and a step logged
twice counts once; ``DONE`` is created exclusively, and the worker that comes second has lost.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from regmix import claims
from regmix.claims import Entry, Failure, SharedClock, elapsed
from regmix.errors import RegmixError
from regmix.files import write_new
from regmix.layout import Piece


def ask_again(log: Path) -> None:
    """Forget the attempts at what failed, and take it from whoever may still hold it.

    By an entry more and not by removing the log: an entry that is numbered anew would be taken, by
    a worker that wakes late, for its own.
    """
    while (last := claims.last(log)) is not None and last.kind != "again":
        entry = claims.again(log / f"{last.number + 1}.json")
        write_new(entry.path, claims.to_text(entry), durable=False)


class Lost(RegmixError):
    """It is not this worker's any more: stop at once, and write nothing more to it."""


class Claim:
    """What is this process's own, until it is released or lost."""

    def __init__(self, title: str, entry: Entry) -> None:
        """What an entry of this process's claims.

        Args:
            title: what messages call it.
        """
        self._title = title
        self._entry = entry
        self._heard = elapsed()
        self._lost = False
        self._given_up = False
        self._turn = threading.Lock()

    @property
    def log(self) -> Path:
        """Folder of the log that the claim stands in."""
        return self._entry.path.parent

    @property
    def lost(self) -> bool:
        """Whether it is known not to be this process's any more."""
        return self._lost or self._given_up

    def renew(self) -> None:
        """Show that this worker lives, and hear whether it still has what it claimed.

        Raises:
            Lost: it has not.
        """
        with self._turn:
            asked = elapsed()
            try:
                os.utime(self._entry.path)
                self._lost |= self._next().exists()
            except FileNotFoundError:  # somebody has thrown it away
                self._lost = True
            except OSError:  # a server that does not answer; what counts is when it last did
                self._lost |= asked - self._heard > self._entry.seconds
            else:
                self._heard = asked
        self._raise_if_lost()

    def check(self) -> None:
        """Make sure that it still has it; asks only if it has not heard for a while.

        Raises:
            Lost: it has not.
        """
        self._raise_if_lost()
        if elapsed() - self._heard > self._entry.seconds / 3:
            self.renew()

    def release(self, reason: str, *, failed: bool = False) -> bool:
        """Give it back for others to go on with; False if it was lost before.

        Args:
            reason: kept in the log.
            failed: whether this counts as a failed attempt.
        """
        entry = claims.released(self._entry, reason, failed=failed)
        return write_new(entry.path, claims.to_text(entry), durable=False)

    def give_up(self, reason: str) -> None:
        """Release it over the head of a worker that hangs: should that wake, it has lost it."""
        self._given_up = True  # not under the lock, which the worker may hang in
        self.release(reason, failed=True)

    def _next(self) -> Path:
        return claims.released(self._entry, "", failed=False).path

    def _raise_if_lost(self) -> None:
        if self.lost:
            how = (
                "given back as its step hung" if self._given_up else "taken over by another worker"
            )
            raise Lost(f"{self._title}: {how}")


P = TypeVar("P", bound=Piece)


class PieceClaim(Claim, Generic[P]):
    """A piece of work, such as a run, that is this process's own."""

    def __init__(self, piece: P, entry: Entry) -> None:
        super().__init__(piece.title, entry)
        self.piece = piece

    @property
    def step(self) -> int:
        """Of the run's checkpoint when it was claimed; 0 of what has none."""
        return self._entry.step

    def failures(self) -> list[Failure]:
        """Attempts that came to nothing from where it still is.

        A run that goes on a little with each attempt is not one that fails every time: nodes that
        are taken away again and again must not end it.
        """
        found = claims.failures(claims.log(self.log))
        return [failure for failure in found if failure.step >= self.step]


@dataclass(frozen=True)
class Stall:
    """When a worker whose heart beats is given up all the same, as it gets nowhere."""

    seconds: float
    """Of its own running time without progress; while it is stopped or asleep none passes."""
    then: Callable[[str], object]
    """Called with the reason, by the heartbeat, once all that it held is given back."""


class Claimant:
    """One worker: it claims, and renews its claims in the background."""

    def __init__(
        self, folder: Path, worker: str, seconds: float, stall: Stall | None = None
    ) -> None:
        """Nothing is claimed yet.

        Args:
            folder: below which all that it may claim lies, so that one clock does for it.
            worker: its name, for the logs.
            seconds: after which others may take what it did not renew.
            stall: how long claims are renewed without :meth:`progress`; None: for ever.
        """
        self.worker = worker
        self.clock = SharedClock(folder)
        self._seconds = seconds
        self._stall = stall
        self._idle = 0.0
        self._held: dict[Path, Claim] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="claims")

    @contextmanager
    def at_work(self) -> Iterator[Claimant]:
        """Renew claims until the end of the block; what is still held then is left as it is."""
        self._thread.start()
        try:
            yield self
        finally:
            self._end.set()

    @property
    def held(self) -> tuple[Claim, ...]:
        """What is this worker's now."""
        return tuple(self._held.values())

    def take(self, piece: P, step: int = 0) -> PieceClaim[P] | None:
        """Claim a piece of work; None if another worker has it, was faster, or has finished it.

        Args:
            step: of a run's checkpoint.

        Raises:
            RegmixError: the disk is full, or the folder not writable.
        """
        entry = self._next_entry(piece.claims, step)
        if entry is None:
            return None
        claim = PieceClaim(piece, entry)
        if piece.done.exists() or piece.failed.exists():  # since it was looked at
            claim.release("closed already")
            return None
        self._held[claim.log] = claim
        return claim

    def take_folder(self, log: Path, title: str) -> Claim | None:
        """Claim what has no runs: a folder, by a log of its own; None if another has it.

        Args:
            log: folder of the log.
            title: what messages call it.

        Raises:
            RegmixError: the disk is full, or the folder not writable.
        """
        entry = self._next_entry(log, step=0)
        if entry is None:
            return None
        claim = Claim(title, entry)
        self._held[claim.log] = claim
        return claim

    def _next_entry(self, log: Path, step: int) -> Entry | None:
        """Write the log's next entry; None if another worker has the claim, or was faster."""
        before = claims.last(log)
        if before is not None and before.holds(self.clock.now):
            return None
        if before is not None and not self._void(before):
            return None
        self.progress()
        number = 1 if before is None else before.number + 1
        entry = claims.made(log / f"{number}.json", self.worker, self._seconds, step)
        return entry if write_new(entry.path, claims.to_text(entry), durable=False) else None

    def _void(self, entry: Entry) -> bool:
        """Whether a claim that seems to have expired has, asked of the server and not a memory."""
        return entry.kind != "claimed" or entry.process.gone or not entry.holds(self.clock.read)

    def drop(self, claims_: Iterable[Claim]) -> None:
        """Stop renewing: they were released, finished or lost."""
        for claim in claims_:
            self._held.pop(claim.log, None)

    def check(self) -> None:
        """Make sure that all it holds is still this worker's own.

        Raises:
            Lost: one is not.
        """
        for claim in self.held:
            claim.check()

    def progress(self) -> None:
        """Say that the work gets on: its heartbeat vouches for a worker only so long without."""
        self._idle = 0.0

    def release_all(self, reason: str) -> None:
        """Give back all of it, as a worker does that is told to end."""
        for claim in self.held:
            with suppress(RegmixError, OSError):
                claim.release(reason)
        self._held.clear()

    def _beat(self) -> None:
        pause = self._seconds / claims.BEATS
        while not self._end.wait(pause):
            # Beats are counted, not a clock: a process that was stopped, or a laptop asleep, made
            # no step either, and does not hang.
            working = any(not claim.lost for claim in self.held)
            self._idle = self._idle + pause if working else 0.0
            if self._stall is not None and self._idle > self._stall.seconds:
                self._give_up(self._stall)
            for claim in self.held:
                with suppress(Lost):  # the worker is told when it next asks
                    claim.renew()

    def _give_up(self, stall: Stall) -> None:
        where = f"worker {self.worker} (process {os.getpid()} on {socket.gethostname()})"
        reason = f"no step done in {stall.seconds / 60:g} minutes by {where}"
        for claim in self.held:
            with suppress(RegmixError, OSError):  # not renewed any more, it expires
                claim.give_up(reason)
        stall.then(reason)
