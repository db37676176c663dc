"""How far a study is, read from the runs' files alone; works while others write them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from regmix import claims
from regmix.claims import Glance
from regmix.layout import RunLayout, StudyLayout
from regmix.outline import Outline, outline
from regmix.records import RunFiles

WINDOW_SECONDS = 60.0
"""How far back the rate looks, if events are that close."""
SAMPLE = 50
"""Finished runs that tell how fast runs are, where those in training do not tell yet."""


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


@dataclass(frozen=True)
class _Seen:
    """A run at a glance."""

    files: RunFiles
    brief: Outline
    state: str

    @property
    def trained(self) -> int:
        """Tokens so far."""
        if self.state in ("done", "waiting"):
            return self.brief.tokens if self.state == "done" else 0
        return tokens_so_far(self.files)


def status(layout: StudyLayout) -> StudyStatus:
    """The state of every run, and the rate at which tokens are trained.

    Reads of most runs the names of their files and the outline of what was planned.
    """
    glance = Glance(layout.runs)
    runs = [s for folder in _folders(layout) if (s := _look(folder, glance)) is not None]
    now = glance.now()  # after all claims were looked at: the server was asked if clocks differ
    moving = [
        r for r in runs
        if r.state == "running" or (r.state == "stopped" and _touched(r, now - WINDOW_SECONDS))
    ]  # fmt: skip
    states = tuple(
        RunState(
            r.brief.run_id, r.brief.name, r.brief.role, r.state, r.trained, r.brief.tokens,
            str(r.files.failure()["reason"]) if r.state == "failed" else "",
        )
        for r in runs
    )  # fmt: skip
    return StudyStatus(states, _rate(moving, [r for r in runs if r.state == "done"], now))


def tokens_so_far(run: RunFiles) -> int:
    """Tokens that a run has trained, as its log says (to a fiftieth of the run)."""
    return max((int(e["tokens"]) for e in run.events() if e["type"] == "step"), default=0)


def _folders(layout: StudyLayout) -> list[str]:
    if not layout.runs.is_dir():
        return []
    with os.scandir(layout.runs) as found:
        return sorted(entry.path for entry in found)


def _look(folder: str, glance: Glance) -> _Seen | None:
    """A run; None if it is not planned, or not a folder."""
    try:
        names = set(os.listdir(folder))
    except NotADirectoryError:
        return None
    if "spec.yaml" not in names:
        return None
    files = RunFiles(RunLayout(Path(folder)))
    return _Seen(files, outline(files.layout.root), _state(files, names, glance))


def _state(files: RunFiles, names: set[str], glance: Glance) -> str:
    for marker, state in (("DONE", "done"), ("FAILED", "failed")):
        if marker in names:
            return state
    if "claims" in names:
        entry = claims.last(files.layout.claims)
        if entry is not None and glance.holds(entry):
            return "running"
    return "stopped" if "events.jsonl" in names else "waiting"


def _touched(run: _Seen, since: float) -> bool:
    return _written(run) > since


def _written(run: _Seen) -> float:
    """When it last said something, by the file server's clock."""
    return run.files.layout.events.stat().st_mtime


def _rate(moving: list[_Seen], done: list[_Seen], now: float) -> float:
    """Tokens a second of all runs in training.

    A run that has not logged a step yet counts at the speed of the others, per FLOP: at that of
    those in training, or else of the finished ones.
    """
    rates = [(r.brief, _own_rate(r, now)) for r in moving]
    known = [(b.flops / b.tokens * rate, 1.0) for b, rate in rates if rate is not None]
    if len(known) < len(rates) and not known:
        results = [r.files.result() for r in done[:SAMPLE]]
        known = [(float(d["flops"]), float(d["seconds"])) for d in results]
    seconds = sum(s for _, s in known)
    speed = sum(flops for flops, _ in known) / seconds if seconds else 0.0
    return sum(speed * b.tokens / b.flops if rate is None else rate for b, rate in rates)


def _own_rate(run: _Seen, now: float) -> float | None:
    """Tokens a second over a run's last events, as far apart as they may be; None before two.

    Reaches back a minute, or to the event before the last. A run that has said nothing for longer
    than that is taken to have stood still since. Times of events are the worker's, whose clock may
    be off: they are compared with each other alone.
    """
    points = _progress(run)
    if len(points) < 2:
        return None
    last, tokens = points[-1]
    since, before = next(
        (p for p in reversed(points[:-1]) if p[0] <= last - WINDOW_SECONDS), points[0]
    )
    return (tokens - before) / max(last - since, now - _written(run), 1e-3)


def _progress(run: _Seen) -> list[tuple[float, int]]:
    """Time and tokens of every event since the run was last started."""
    points: list[tuple[float, int]] = []
    for event in run.files.events():
        if event["type"] == "start":
            points = [(event["time"], int(event["step"]) * run.brief.tokens_per_step)]
        elif event["type"] == "step":
            points.append((event["time"], int(event["tokens"])))
    return points
