"""Gangs: processes that train one run together, on one node or several, under any launcher.

A gang is one job. It holds its nodes together, ends as one, and goes on from its checkpoint when it
is started again: what :mod:`proxy_trainer.sharded` promises of its processes, for whole nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from proxy_trainer.launch import registry, running
from proxy_trainer.launch.base import Launcher, Order, Unreachable
from proxy_trainer.launch.running import Launch, WorkersFailed
from proxy_trainer.launch.submissions import Submission, submissions
from proxy_trainer.version import version
from regmix import claims
from regmix.config import LaunchConfig
from regmix.errors import RegmixError, UserError
from regmix.layout import RunLayout, StudyLayout
from regmix.runs import RunSpec


@dataclass(frozen=True)
class Gang:
    """Processes that train one run."""

    study: Path
    """The study's folder, absolute; every node sees it under this path."""
    run_id: str
    nodes: int
    processes: int
    """Of each node, with a device each where devices are asked for."""
    hybrid: bool
    """Shard inside nodes and replicate over them."""
    recompute: bool
    """Compute activations again for the gradients instead of keeping them."""
    rows: int | None
    """Sequences that a process computes at once; as many as fit if not given."""
    compiled: bool
    """Compute blocks as torch.compile has them."""
    checkpoint_seconds: float
    claim_seconds: float = 120.0
    """A first process that is silent for so long has lost the run to others."""
    watch: tuple[str, ...] = ()
    """Trackers that show the run, beside TensorBoard."""
    regmix: str = field(default_factory=version)
    """Version and source of the command; processes of another one refuse."""
    keep_last: int = 2
    """Checkpoints that are kept."""
    keep_every: int | None = None
    """Steps: checkpoints at their multiples stay."""
    timeout_seconds: float = 600.0
    """A process that is silent for so long is given up."""

    @property
    def world(self) -> int:
        """Processes over all nodes."""
        return self.nodes * self.processes

    @property
    def run(self) -> RunLayout:
        """The files of its run."""
        return StudyLayout(self.study).run(self.run_id)


@dataclass(frozen=True, kw_only=True)
class GangOrder(Order):
    """A gang that is wanted; its workers are the gang's processes."""

    gang: Gang
    retries: int
    """Further attempts that fail without getting any further."""
    since: int
    """Entries in the run's log of claims when it was ordered: those attempts are not its own."""


@runtime_checkable
class GangLauncher(Launcher, Protocol):
    """A launcher that can start gangs; their jobs are asked after like any other."""

    def check_gang(self, order: GangOrder) -> None:
        """Refuse what cannot be started, before anything is.

        Raises:
            UserError: as :meth:`Launcher.check`.
        """

    def submit_gang(self, order: GangOrder) -> list[str]:
        """Start the gang; the id of its one job."""


def train_gang(
    study: StudyLayout,
    gang: Gang,
    settings: LaunchConfig,
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Train one run by a gang and wait for it.

    Where the jobs outlive the command that submitted them, the same command waits for the gang that
    is already there.

    Args:
        settings: which launcher, and what it needs to know.
        on_poll: called a few times a second.

    Raises:
        UserError: its batch cannot be divided among the processes, the launcher is unknown or lacks
            its library, or cannot give what is asked.
        Cancelled: it was told to end; a checkpoint is left.
        WorkersFailed: it could not go on.
        RegmixError: another command trains the run.
    """
    launch = _begun(study, gang, settings)
    if launch is not None:
        _wait(launch, on_poll)


def train_gangs(
    study: StudyLayout,
    gangs: Sequence[Gang],
    settings: LaunchConfig,
    on_poll: Callable[[], None] | None = None,
) -> dict[str, str]:
    """Train several runs, each by a gang of its own, and wait for all of them.

    Here they are trained one after another, as each has the whole machine; where jobs queue, all
    are submitted at once. One that cannot go on keeps no other from its end.

    Returns:
        Why runs could not go on, by their ids.

    Raises:
        UserError: as :func:`train_gang`.
        Cancelled: one was told to end; what queues goes on.
        RegmixError: other commands train some of the runs, or some could not be submitted; all
            others have ended.
    """
    if settings.launcher == "local":
        waits = {g.run_id: partial(train_gang, study, g, settings, on_poll) for g in gangs}
        return _failures(waits, [])
    waits, troubles = {}, []
    for gang in gangs:
        try:
            launch = _begun(study, gang, settings)
        except UserError:
            raise
        except RegmixError as exc:
            troubles.append(exc)
            continue
        if launch is not None:
            waits[gang.run_id] = partial(_wait, launch, on_poll)
    return _failures(waits, troubles)


def _failures(
    waits: Mapping[str, Callable[[], None]], troubles: list[RegmixError]
) -> dict[str, str]:
    """Wait for runs, and why some could not go on.

    Args:
        troubles: of other runs; raised once these have ended.
    """
    failures = {}
    for run_id, wait in waits.items():
        try:
            wait()
        except WorkersFailed as exc:
            failures[run_id] = str(exc)
        except _Busy as exc:
            troubles.append(exc)
    running.raise_all(troubles)
    return failures


class _Busy(RegmixError):
    """Another command trains the run."""


def _wait(launch: Launch, on_poll: Callable[[], None] | None) -> None:
    (run_id,) = launch.submission.runs
    try:
        busy = bool(launch.wait(on_poll).busy)
    except WorkersFailed as exc:  # as it does where another has the run
        last = claims.last(launch.study.run(run_id).claims)
        if last is None or not claims.Glance(launch.study.runs).holds(last):
            raise
        raise _Busy(str(exc)) from exc
    if busy:
        raise _Busy(f"run {run_id}: being trained by another command")


def _begun(study: StudyLayout, gang: Gang, settings: LaunchConfig) -> Launch | None:
    """The gang as it is under way, started if it is not; None if its run is done."""
    from proxy_trainer.sharded.ranks import part  # loads torch, which a node's watcher does without

    if gang.run.done.exists():
        return None
    part(RunSpec.load(gang.run.spec).plan.batch, 0, gang.world)
    return _under_way(study, gang, settings) or _start(study, gang, settings)


def _under_way(study: StudyLayout, gang: Gang, settings: LaunchConfig) -> Launch | None:
    """A gang that another command has submitted for the run, and that waits or runs."""
    for found in submissions(study, _warn):
        known = found.gang and found.runs == (gang.run_id,) and found.launcher == settings.launcher
        if not known or found.cancelled or found.launcher == "local":
            continue
        launch = Launch(study, found, _launcher(found.settings, f"{study.launches}"))
        try:
            jobs = launch.poll()
        except Unreachable:  # if it lives after all, the claim on the run says so
            continue
        if any(job.state in ("waiting", "running") for job in jobs):
            return launch
    return None


def _warn(trouble: RegmixError) -> None:
    print(f"warning: {trouble}", file=sys.stderr, flush=True)


def check(study: StudyLayout, gang: Gang, settings: LaunchConfig) -> None:
    """Make sure that a gang could be started, without starting it.

    Raises:
        UserError: as :func:`train_gang`.
    """
    launcher, _, order = _ordered(study, gang, settings)
    launcher.check_gang(order)


def _ordered(
    study: StudyLayout, gang: Gang, settings: LaunchConfig
) -> tuple[GangLauncher, Submission, GangOrder]:
    launcher = _launcher(settings, f"{study.config}: launch.launcher")
    gpus = min(settings.gpus_per_worker or 0, 1)
    new = Submission.new(study, [gang.run_id], settings, gang.world)
    submission = replace(new, gang=True, order=replace(new.order, gpus=gpus))
    order = GangOrder(
        **vars(submission.order),
        gang=gang,
        retries=settings.retries,
        since=len(claims.log(gang.run.claims)),
    )
    return launcher, submission, order


def _start(study: StudyLayout, gang: Gang, settings: LaunchConfig) -> Launch:
    launcher, submission, order = _ordered(study, gang, settings)
    launcher.check_gang(order)
    gang.run.failed.unlink(missing_ok=True)  # it is asked for again
    launch = Launch(study, submission, launcher)
    return running.begin(launch, lambda: launcher.submit_gang(order))


def _launcher(settings: LaunchConfig, where: str) -> GangLauncher:
    section: Any = getattr(settings, settings.launcher, None)
    found = registry.launcher(settings.launcher, section, where)
    if not isinstance(found, GangLauncher):
        raise UserError(
            f"{where}: '{settings.launcher}' starts single workers only; choose another for "
            "processes that train one run together"
        )
    return found
