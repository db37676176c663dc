"""How far a study is, read from the runs' files alone; works while others write them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from regmix import claims
from regmix.claims import Entry, Glance
from regmix.layout import RunLayout, StudyLayout
from regmix.outline import Outline, outline
from regmix.records import RunFiles
from regmix.runlog import WINDOW_SECONDS, RunLog

SAMPLE = 50
"""Finished runs that tell how fast runs are, where those in training do not tell yet."""
State = Literal["done", "running", "waiting", "stopped", "failed"]
"""``stopped``: begun, and nobody is at it."""
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class RunState:
    """One run now."""

    run_id: str
    name: str
    role: str
    state: State
    tokens: int
    planned_tokens: int
    """Tokens of the whole run."""
    flops: float
    """FLOPs of the whole run."""
    tokens_per_second: float = 0.0
    """0 if it is not in training."""
    reason: str = ""
    """Of a run that failed."""


@dataclass(frozen=True)
class StudyStatus:
    """A study now."""

    runs: tuple[RunState, ...]

    def count(self, state: State) -> int:
        """Runs in a state."""
        return sum(r.state == state for r in self.runs)

    @property
    def closed(self) -> bool:
        """Whether every run is done, or has failed."""
        return all(r.state in ("done", "failed") for r in self.runs)

    @property
    def tokens_per_second(self) -> float:
        """All runs in training together, from their last events; 0 if none is in training."""
        return sum(r.tokens_per_second for r in self.runs)

    @property
    def done_tokens(self) -> int:
        """Tokens trained so far."""
        return sum(r.tokens for r in self.runs)

    @property
    def planned_tokens(self) -> int:
        """Tokens of every run that has not failed."""
        return sum(r.planned_tokens for r in self.runs if r.state != "failed")

    @property
    def share(self) -> float:
        """Of the work of every run that has not failed, in FLOPs: how much is done, 0 to 1."""
        all_of_it = sum(r.flops for r in self.runs if r.state != "failed")
        return 1 - self._left() / all_of_it if all_of_it else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until all are done at the present rate; None if none is in training.

        Counted in FLOPs, since runs of several sizes may be left.
        """
        rate = sum(r.tokens_per_second * r.flops / r.planned_tokens for r in self.runs)
        return self._left() / rate if rate else None

    def _left(self) -> float:
        """FLOPs to come."""
        return sum(
            r.flops * (1 - r.tokens / r.planned_tokens) for r in self.runs if r.state != "failed"
        )


class Tracked:
    """A run that is looked at again and again; what cannot change any more is read once."""

    def __init__(self, folder: str) -> None:
        """Reads what was planned.

        Raises:
            UserError: the specification is malformed.
        """
        self.files = RunFiles(RunLayout(Path(folder)))
        self.brief: Outline = outline(self.files.layout.root)
        self.state: State = "waiting"
        self.holder: Entry | None = None
        """The last entry of the claims on a run that is not closed."""
        self.reason = ""

    @cached_property
    def log(self) -> RunLog:
        """Its log, as far as it was read: of runs that are neither waiting nor done."""
        return RunLog(self.files.layout.events, self.brief.tokens_per_step)

    @cached_property
    def result(self) -> dict[str, Any]:
        """Content of ``DONE``, which never changes."""
        return self.files.result()

    def look(self, names: set[str], glance: Glance) -> None:
        """Find its state.

        Args:
            names: what is in its folder.
            glance: the time of this look.
        """
        before, self.holder = self.state, None
        self.state = self._state(names, glance)
        if self.state in ("running", "stopped") or (self.state == "failed" != before):
            self.log.read()
        if self.state == "failed" != before:
            self.reason = str(self.files.failure()["reason"])

    def _state(self, names: set[str], glance: Glance) -> State:
        if "DONE" in names:
            return "done"
        if "FAILED" in names:
            return "failed"
        if "claims" in names:
            self.holder = claims.last(self.files.layout.claims)
            if self.holder is not None and glance.holds(self.holder):
                return "running"
        return "stopped" if "events.jsonl" in names else "waiting"

    @property
    def tokens(self) -> int:
        """Trained so far."""
        if self.state in ("done", "waiting"):
            return self.brief.tokens if self.state == "done" else 0
        return self.log.tokens

    def moves(self, now: float) -> bool:
        """Whether it is in training, or was within the last minute."""
        if self.state == "stopped":
            return self.files.layout.events.stat().st_mtime > now - WINDOW_SECONDS
        return self.state == "running"

    def shown(self, rate: float) -> RunState:
        """As it is now."""
        brief = self.brief
        return RunState(
            brief.run_id, brief.name, brief.role, self.state, self.tokens, brief.tokens,
            brief.flops, rate, self.reason if self.state == "failed" else "",
        )  # fmt: skip


class Lookout:
    """Looks at a study again and again, and reads what changed; writes nothing.

    Of runs that wait it reads the names of their files, of those in training what their logs have
    grown by. A run that was seen to be done is not looked at again.
    """

    def __init__(self, layout: StudyLayout) -> None:
        self._layout = layout
        self._runs: dict[str, Tracked] = {}
        self.now = time.time()
        """When it looked last, by the file server's clock."""

    @property
    def runs(self) -> Sequence[Tracked]:
        """As of the last look, by run id."""
        return list(self._runs.values())

    def look(self) -> StudyStatus:
        """The state of every run, and the rate at which tokens are trained.

        Raises:
            UserError: a specification or a log is malformed.
        """
        glance = Glance(self._layout.runs)
        self._runs = {f: run for f in self._folders() if (run := self._look(f, glance)) is not None}
        # After all claims were looked at: the file server was asked by now, if clocks differ.
        self.now = glance.now()
        rates = pace(self.runs, self.now)
        return StudyStatus(tuple(r.shown(rates.get(r.brief.run_id, 0.0)) for r in self.runs))

    def _folders(self) -> list[str]:
        if not self._layout.runs.is_dir():
            return []
        with os.scandir(self._layout.runs) as found:
            return sorted(entry.path for entry in found)

    def _look(self, folder: str, glance: Glance) -> Tracked | None:
        """A run; None if it is not planned, not a folder, or thrown away this moment."""
        run = self._runs.get(folder)
        if run is not None and run.state == "done":
            return run
        try:
            names = set(os.listdir(folder))
        except (NotADirectoryError, FileNotFoundError):
            return None
        if "spec.yaml" not in names:
            return None
        run = run or Tracked(folder)
        run.look(names, glance)
        return run


def status(layout: StudyLayout) -> StudyStatus:
    """One look at a study, see :meth:`Lookout.look`."""
    return Lookout(layout).look()


def pace(runs: Sequence[Tracked], now: float) -> dict[str, float]:
    """Tokens a second of every run in training, by run id.

    Args:
        now: by the file server's clock.

    A run that has not logged a step yet counts at the speed of the others, per FLOP: at that of
    those in training, or else of the finished ones.
    """
    moving = [run for run in runs if run.moves(now)]
    own = {run.brief.run_id: run.log.rate(now) for run in moving}
    speed = None
    found = {}
    for run in moving:
        brief, rate = run.brief, own[run.brief.run_id]
        if rate is None:
            speed = _speed(moving, own, runs) if speed is None else speed
            rate = speed * brief.tokens / brief.flops
        found[brief.run_id] = rate
    return found


def _speed(
    moving: Sequence[Tracked], own: dict[str, float | None], runs: Sequence[Tracked]
) -> float:
    """FLOPs a second of a run in training, or else of a finished one; 0 if nothing tells."""
    known = [
        (run.brief.flops / run.brief.tokens * rate, 1.0)
        for run in moving
        if (rate := own[run.brief.run_id]) is not None
    ]
    if not known:
        results = [run.result for run in _some(runs)]
        known = [(float(d["flops"]), float(d["seconds"])) for d in results]
    seconds = sum(s for _, s in known)
    return sum(flops for flops, _ in known) / seconds if seconds else 0.0


def _some(runs: Sequence[Tracked]) -> Iterator[Tracked]:
    """The first finished ones."""
    left = SAMPLE
    for run in runs:
        if run.state == "done" and left:
            left -= 1
            yield run
