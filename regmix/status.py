"""How far a study is, read from the runs' files alone; works while others write them."""

from __future__ import annotations

import fcntl
import time
from dataclasses import dataclass
from typing import Any

from regmix.layout import RunLayout, StudyLayout
from regmix.records import RunRecord, read_runs

WINDOW_SECONDS = 60.0


@dataclass(frozen=True)
class RunState:
    """One run now."""

    run_id: str
    name: str
    role: str
    state: str
    """``done``, ``running``, ``failed``, ``waiting``, or ``stopped`` (begun, nobody at it)."""
    tokens: int
    planned: int
    reason: str = ""


@dataclass(frozen=True)
class StudyStatus:
    """A study now."""

    runs: tuple[RunState, ...]
    tokens_per_second: float
    """Over the last minute, all workers together; 0 if nothing moved."""

    def count(self, state: str) -> int:
        """Runs in a state."""
        return sum(r.state == state for r in self.runs)

    @property
    def done_tokens(self) -> int:
        """Tokens trained so far."""
        return sum(r.tokens for r in self.runs)

    @property
    def planned_tokens(self) -> int:
        """Tokens of every run that has not failed."""
        return sum(r.planned for r in self.runs if r.state != "failed")

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until all are done at the present rate; None if nothing moves."""
        left = self.planned_tokens - sum(r.tokens for r in self.runs if r.state != "failed")
        return left / self.tokens_per_second if self.tokens_per_second else None


def status(layout: StudyLayout) -> StudyStatus:
    """The state of every run, and the rate at which tokens are trained."""
    since = time.time() - WINDOW_SECONDS
    states, points = [], []
    for record in read_runs(layout):
        state = _state(record)
        events = _progress_events(record) if _touched(record, since) else []
        points += _moves(events, since)
        tokens = record.spec.tokens if state == "done" else tokens_so_far(record)
        reason = str(record.failure()["reason"]) if state == "failed" else ""
        spec = record.spec
        states.append(
            RunState(spec.run_id, spec.name, spec.role, state, tokens, spec.tokens, reason)
        )
    return StudyStatus(tuple(states), _rate(points))


def tokens_so_far(record: RunRecord) -> int:
    """Tokens that a run has trained, as its log says (to a fiftieth of the run)."""
    return max((int(e["tokens"]) for e in _progress_events(record)), default=0)


def is_held(run: RunLayout) -> bool:
    """Whether a process on this machine is training the run."""
    if not run.lock.exists():
        return False
    with run.lock.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _state(record: RunRecord) -> str:
    on_disk = record.status
    if on_disk in ("started", "waiting") and is_held(record.layout):
        return "running"
    return "stopped" if on_disk == "started" else on_disk


def _touched(record: RunRecord, since: float) -> bool:
    events = record.layout.events
    return events.exists() and events.stat().st_mtime > since


def _progress_events(record: RunRecord) -> list[dict[str, Any]]:
    return [e for e in record.events() if e["type"] == "step"]


def _moves(events: list[dict[str, Any]], since: float) -> list[tuple[float, int]]:
    """Time and tokens of every bit of progress inside the window."""
    moves, before = [], 0
    for event in events:
        if event["time"] > since:
            moves.append((event["time"], max(0, event["tokens"] - before)))
        before = event["tokens"]
    return moves


def _rate(moves: list[tuple[float, int]]) -> float:
    """Tokens a second; a swarm younger than the window is averaged over its own age."""
    if len(moves) < 2:
        return 0.0
    age = time.time() - min(when for when, _ in moves)
    return sum(tokens for _, tokens in moves) / max(1.0, min(WINDOW_SECONDS, age))
