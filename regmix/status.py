"""How far a study is, read from the runs' files alone; works while others write them."""

from __future__ import annotations

import fcntl
import time
from dataclasses import dataclass
from typing import Any

from regmix.layout import RunLayout, StudyLayout
from regmix.records import RunRecord, read_runs

WINDOW_SECONDS = 60.0
"""How far back the rate looks, if events are that close."""


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
    """All runs in training together, from their last events; 0 if none is in training."""

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
        """Seconds until all are done at the present rate; None if none is in training."""
        left = self.planned_tokens - sum(r.tokens for r in self.runs if r.state != "failed")
        return left / self.tokens_per_second if self.tokens_per_second else None


def status(layout: StudyLayout) -> StudyStatus:
    """The state of every run, and the rate at which tokens are trained."""
    now = time.time()
    records = read_runs(layout)
    states, moving = [], []
    for record in records:
        state = _state(record)
        if state == "running" or (state == "stopped" and _touched(record, now - WINDOW_SECONDS)):
            moving.append(record)
        tokens = record.spec.tokens if state == "done" else tokens_so_far(record)
        reason = str(record.failure()["reason"]) if state == "failed" else ""
        spec = record.spec
        states.append(
            RunState(spec.run_id, spec.name, spec.role, state, tokens, spec.tokens, reason)
        )
    done = [r for r, s in zip(records, states, strict=True) if s.state == "done"]
    return StudyStatus(tuple(states), _rate(moving, done, now))


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


def _rate(moving: list[RunRecord], done: list[RunRecord], now: float) -> float:
    """Tokens a second of all runs in training.

    A run that has not logged a step yet counts at the speed of the others, per FLOP: at that of
    those in training, or else of the finished ones.
    """
    rates = [(r, _own_rate(r, now)) for r in moving]
    known = [(r.spec.flops / r.spec.tokens * rate, 1.0) for r, rate in rates if rate is not None]
    if len(known) < len(rates) and not known:
        known = [(float(d["flops"]), float(d["seconds"])) for d in (r.result() for r in done)]
    seconds = sum(s for _, s in known)
    speed = sum(flops for flops, _ in known) / seconds if seconds else 0.0
    return sum(speed * r.spec.tokens / r.spec.flops if rate is None else rate for r, rate in rates)


def _own_rate(record: RunRecord, now: float) -> float | None:
    """Tokens a second over a run's last events, as far apart as they may be; None before two.

    Reaches back a minute, or to the event before the last. A run that has said nothing for longer
    than that is taken to have stood still since.
    """
    points = _progress(record)
    if len(points) < 2:
        return None
    last, tokens = points[-1]
    since, before = next(
        (p for p in reversed(points[:-1]) if p[0] <= last - WINDOW_SECONDS), points[0]
    )
    return (tokens - before) / max(last - since, now - last, 1e-3)


def _progress(record: RunRecord) -> list[tuple[float, int]]:
    """Time and tokens of every event since the run was last started."""
    points: list[tuple[float, int]] = []
    for event in record.events():
        if event["type"] == "start":
            points = [(event["time"], int(event["step"]) * record.spec.tokens_per_step)]
        elif event["type"] == "step":
            points.append((event["time"], int(event["tokens"])))
    return points
