"""Gangs: processes that train one run together, on one node or several, under any launcher.

A gang is one job. It holds its nodes together, ends as one, and goes on from its checkpoint when it
is started again: what :mod:`proxy_trainer.sharded` promises of its processes, for whole nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from proxy_trainer.launch import registry, running
from proxy_trainer.launch.base import Launcher, Order, Unreachable
from proxy_trainer.launch.running import Launch
from proxy_trainer.launch.submissions import Submission, submissions
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
    watch: tuple[str, ...] = ()
    """Trackers that show the run, beside TensorBoard."""

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
        RegmixError: it could not go on, or another command trains the run.
    """
    from proxy_trainer.sharded.ranks import part  # loads torch, which a node's watcher does without

    if gang.run.done.exists():
        return
    part(RunSpec.load(gang.run.spec).plan.batch, 0, gang.world)
    launch = _under_way(study, gang, settings) or _start(study, gang, settings)
    if launch.wait(on_poll).busy:
        raise RegmixError(f"run {gang.run_id}: being trained by another command")


def _under_way(study: StudyLayout, gang: Gang, settings: LaunchConfig) -> Launch | None:
    """A gang that another command has submitted for the run, and that waits or runs."""
    for found in submissions(study):
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


def _start(study: StudyLayout, gang: Gang, settings: LaunchConfig) -> Launch:
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
