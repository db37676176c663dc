"""A running study as a person watches it: roles, workers, curves, troubles, what was spent.

Gathers; `regmix.console.screen` draws. Only files are read, and nothing is written to the study.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from regmix import claims, plain
from regmix.layout import StudyLayout
from regmix.status import STATES, Lookout, RunState, State, StudyStatus, Tracked

Trouble = Literal["failed", "attempt", "warning"]


@dataclass(frozen=True)
class Role:
    """The runs of one role, such as swarm, replicate or target."""

    role: str
    counts: dict[State, int]
    """Runs by state; every state is there."""
    tokens: int
    planned_tokens: int
    """Of the runs that have not failed."""


@dataclass(frozen=True)
class WorkerState:
    """A worker that has claimed runs and lives."""

    worker: str
    host: str
    device: str
    """As its runs' logs name it; empty before the first of them has begun."""
    runs: tuple[str, ...]
    """Ids of the runs that it trains now, side by side if several."""
    tokens_per_second: float
    finished: int
    """Runs that it has finished."""
    silent_seconds: float | None
    """Since one of its runs has logged something, by the file server's clock; None before."""


@dataclass(frozen=True)
class InTraining:
    """A run that somebody trains now."""

    state: RunState
    curve: tuple[tuple[int, float], ...]
    """Tokens and training loss, nats a token."""
    metrics: dict[str, float]
    """Held-out metrics as they were measured last."""


@dataclass(frozen=True)
class Problem:
    """What went wrong with a run."""

    kind: Trouble
    """``failed``: for good. ``attempt``: it will be tried again, or is already. ``warning``: it
    goes on."""
    run_id: str
    name: str
    text: str


@dataclass(frozen=True)
class Spent:
    """What was spent so far.

    Finished runs count by their results, as in the cost account; others by their logs, up to the
    last log point, with what was trained again.
    """

    flops: float
    """Of training."""
    device_hours: float
    """Runs that train side by side each have their part; of a gang, all its devices count."""
    cost: float | None
    """In the currency of ``launch.cost_per_hour``, which is of one worker; None without it."""


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment."""

    time: float
    """Seconds since the epoch, by this machine's clock."""
    status: StudyStatus
    roles: tuple[Role, ...]
    workers: tuple[WorkerState, ...]
    training: tuple[InTraining, ...]
    problems: tuple[Problem, ...]
    """Failed runs first, then attempts, then warnings; by run id."""
    spent: Spent

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``regmix status --json``; docs/WATCHING.md describes them."""
        status = self.status
        return {
            "time": self.time,
            "finished": bool(status.runs) and status.closed,
            "counts": {state: status.count(state) for state in STATES},
            "tokens": status.done_tokens,
            "planned_tokens": status.planned_tokens,
            "tokens_per_second": status.tokens_per_second,
            "eta_seconds": status.eta_seconds,
            "spent": asdict(self.spent),
            "roles": [asdict(role) for role in self.roles],
            "workers": [asdict(worker) for worker in self.workers],
            "training": [_latest(run) for run in self.training],
            "problems": [asdict(problem) for problem in self.problems],
            "runs": [asdict(run) for run in status.runs],
        }


def _latest(run: InTraining) -> dict[str, Any]:
    values = {**run.metrics, "loss": run.curve[-1][1]} if run.curve else run.metrics
    return {"run_id": run.state.run_id, "name": run.state.name, "values": plain.row(values)}


class Watch:
    """Takes snapshots of a study; each one reads what has changed since the last."""

    def __init__(self, layout: StudyLayout, cost_per_hour: float | None = None) -> None:
        """Nothing is read yet.

        Args:
            layout: the study's folder.
            cost_per_hour: of one worker.
        """
        self._lookout = Lookout(layout)
        self._cost_per_hour = cost_per_hour
        self._closed: dict[str, _Took] = {}
        self._attempts: dict[str, tuple[int, str]] = {}

    def look(self) -> Snapshot:
        """The study now.

        Raises:
            UserError: a file of a run is malformed.
        """
        status = self._lookout.look()
        runs = self._lookout.runs
        states = {run.run_id: run for run in status.runs}
        took = [took for run in runs if (took := self._took(run)) is not None]
        running = [run for run in runs if run.state == "running"]
        return Snapshot(
            time=time.time(),
            status=status,
            roles=_roles(status.runs),
            workers=_workers(
                running,
                states,
                Counter(t.worker for t in took if t.finished),
                self._lookout.now,
            ),
            training=tuple(
                InTraining(states[r.brief.run_id], tuple(r.log.curve), dict(r.log.metrics))
                for r in running
            ),
            problems=tuple(self._problems(runs)),
            spent=self._spent(took),
        )

    def _took(self, run: Tracked) -> _Took | None:
        """What a run took; of one that is done, computed once."""
        if run.state == "waiting":
            return None
        if run.state != "done":
            return _so_far(run)
        key = run.brief.run_id
        if key not in self._closed:
            self._closed[key] = _in_all(run)
        return self._closed[key]

    def _spent(self, took: Sequence[_Took]) -> Spent:
        hours = sum(t.process_seconds for t in took) / 3600
        return Spent(
            flops=sum(t.flops for t in took),
            device_hours=sum(t.device_seconds for t in took) / 3600,
            cost=None if self._cost_per_hour is None else hours * self._cost_per_hour,
        )

    def _problems(self, runs: Sequence[Tracked]) -> Iterator[Problem]:
        for run in runs:
            if run.state == "failed":
                yield Problem("failed", run.brief.run_id, run.brief.name, run.reason)
        for run in runs:
            text = self._attempted(run)
            if text:
                yield Problem("attempt", run.brief.run_id, run.brief.name, text)
        for run in runs:
            if run.state == "running":
                for text in run.log.warnings:
                    yield Problem("warning", run.brief.run_id, run.brief.name, text)

    def _attempted(self, run: Tracked) -> str:
        """What the last failed attempt at an open run came to; empty without one."""
        if run.holder is None or run.holder.number < 2:
            return ""
        number, text = self._attempts.get(run.brief.run_id, (0, ""))
        if number != run.holder.number:
            failures = claims.failures(claims.log(run.files.layout.claims))
            times = f" ({len(failures)} attempts failed)" if len(failures) > 1 else ""
            text = f"{failures[-1].reason}{times}" if failures else ""
            self._attempts[run.brief.run_id] = run.holder.number, text
        return text


@dataclass(frozen=True)
class _Took:
    """What one run took."""

    flops: float
    process_seconds: float
    device_seconds: float
    worker: str
    finished: bool


def _so_far(run: Tracked) -> _Took:
    flops = run.brief.flops * run.log.trained / run.brief.tokens
    return _Took(flops, run.log.process_seconds, run.log.device_seconds, "", finished=False)


def _in_all(run: Tracked) -> _Took:
    result = run.result
    seconds, environment = float(result["seconds"]), result["environment"]
    devices = seconds * int(environment.get("processes", 1))
    worker = str(environment.get("worker", ""))
    return _Took(float(result["flops"]), seconds, devices, worker, finished=True)


def _roles(runs: Sequence[RunState]) -> tuple[Role, ...]:
    """In the order of their size, larger ones first."""
    by_role: dict[str, list[RunState]] = defaultdict(list)
    for run in runs:
        by_role[run.role].append(run)
    found = []
    for role, own in sorted(by_role.items(), key=lambda item: (-len(item[1]), item[0])):
        counts = Counter(run.state for run in own)
        planned = sum(run.planned_tokens for run in own if run.state != "failed")
        found.append(
            Role(role, {s: counts[s] for s in STATES}, sum(run.tokens for run in own), planned)
        )
    return tuple(found)


def _workers(
    running: Sequence[Tracked],
    states: dict[str, RunState],
    finished: Counter[str],
    now: float,
) -> tuple[WorkerState, ...]:
    """By name."""
    by_worker: dict[str, list[Tracked]] = defaultdict(list)
    for run in running:
        assert run.holder is not None
        by_worker[run.holder.worker].append(run)
    found = []
    for worker, own in sorted(by_worker.items()):
        assert own[0].holder is not None
        told = [run.log for run in own if run.log.environment.get("worker", worker) == worker]
        heard = [log.heard for log in told if log.heard is not None]
        ids = tuple(run.brief.run_id for run in own)
        found.append(
            WorkerState(
                worker=worker,
                host=own[0].holder.process.host,
                device=next((d for t in told if (d := t.environment.get("device"))), ""),
                runs=ids,
                tokens_per_second=sum(states[run_id].tokens_per_second for run_id in ids),
                finished=finished[worker],
                silent_seconds=max(0.0, now - max(heard)) if heard else None,
            )
        )
    return tuple(found)
