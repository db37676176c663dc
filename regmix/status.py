"""How far a study is, read from the runs' files alone; works while others write them."""

from __future__ import annotations

import fcntl
import time
from dataclasses import dataclass

from regmix.layout import RunLayout, StudyLayout
from regmix.records import RunRecord, read_runs

WINDOW_SECONDS = 120.0


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
    """Over the last two minutes, all workers together; 0 if nothing moved."""

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
    now = time.time()
    states, rate = [], 0.0
    for record in read_runs(layout):
        state, tokens, moved = _look(record, now)
        reason = str(record.failure()["reason"]) if state == "failed" else ""
        spec = record.spec
        states.append(
            RunState(spec.run_id, spec.name, spec.role, state, tokens, spec.tokens, reason)
        )
        rate += moved
    return StudyStatus(tuple(states), rate)


def _look(record: RunRecord, now: float) -> tuple[str, int, float]:
    """State, tokens so far, and tokens a second over the window."""
    on_disk = record.status
    if on_disk == "waiting":
        return on_disk, 0, 0.0
    recent = record.layout.events.stat().st_mtime > now - WINDOW_SECONDS
    if on_disk == "done" and not recent:
        return on_disk, record.spec.tokens, 0.0
    points = [
        (e["time"], e.get("tokens", 0)) for e in record.events() if e["type"] in ("start", "step")
    ]
    tokens = points[-1][1] if points else 0
    inside = [p for p in points if p[0] > now - WINDOW_SECONDS]
    moved = max(0, inside[-1][1] - inside[0][1]) / WINDOW_SECONDS if len(inside) > 1 else 0.0
    began = points[0][0] if points else now
    if on_disk == "started":
        on_disk_state = "running" if is_held(record.layout) else "stopped"
        # A study younger than the window is averaged over its own age.
        return (
            on_disk_state,
            tokens,
            moved * WINDOW_SECONDS / min(WINDOW_SECONDS, max(1.0, now - began)),
        )
    return on_disk, record.spec.tokens if on_disk == "done" else tokens, 0.0


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
