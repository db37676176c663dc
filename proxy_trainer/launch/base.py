"""What every launcher can do: start workers, say how they are, stop them, show their logs.

A launcher starts *workers*. A worker claims open runs of the study by itself until none is left
(:mod:`proxy_trainer.worker`), so that nothing has to stay alive to hand out work: a launcher is
done once its workers are submitted, and any later command can ask after them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from regmix.errors import UserError

JobState = Literal["waiting", "running", "ended", "failed"]
"""``ended``: the worker found no more work, or was cancelled. ``failed``: it could not go on."""


@dataclass(frozen=True)
class Order:
    """Workers that are wanted."""

    study: Path
    """The study's folder, absolute; every node sees it under this path."""
    workers: int
    """Processes, each with its own device or core."""
    gpus: int = 0
    """Devices a worker; 0: it computes on one core, and sees no device."""
    submission: str = ""
    """Under which ``launch/<id>.json`` it is kept; workers are given it, see :func:`command`."""
    detached: bool = False
    """Whether the command ends before they do; refuse it where they would end with the command."""


@dataclass(frozen=True)
class Job:
    """One submitted job: one worker, or as many as its system starts together."""

    job_id: str
    """In the words of its system: a process id, a Slurm job id, a Ray job id."""
    state: JobState
    reason: str = ""
    """Of ``waiting`` and ``failed``, where the system tells it."""


def command(order: Order) -> list[str]:
    """What one worker of an order is started with, where the launcher starts it by a command.

    It is named for its submission, so that a command knows the runs that its own workers trained.
    """
    given = ["--submission", order.submission] if order.submission else []
    return [sys.executable, "-m", "proxy_trainer.worker", str(order.study), *given]


class Unreachable(UserError):
    """The system that has the jobs does not answer: nobody knows whether they live."""


class Launcher(Protocol):
    """Starts workers on one kind of system.

    Job ids are all that has to be kept between :meth:`submit` and the other calls, which may come
    from another process on another day. What all of this comes to, `regmix.testing` tries.
    """

    name: ClassVar[str]

    def check(self, order: Order) -> None:
        """Refuse what cannot be started, before anything is.

        Raises:
            UserError: the system or its library is missing (with the extra to install), or does
                not know a partition, an account or a device that is asked for.
        """

    def submit(self, order: Order) -> list[str]:
        """Start the workers; the ids of their jobs."""

    def poll(self, study: Path, job_ids: list[str]) -> list[Job]:
        """The jobs' states, in the order of the ids.

        Raises:
            RegmixError: the system does not tell them now; whoever waits asks again.
        """

    def cancel(self, study: Path, job_ids: list[str]) -> None:
        """Ask the workers to leave a checkpoint and end; jobs that have ended are left alone."""

    def logs(self, study: Path, job_ids: list[str]) -> list[Path]:
        """What the workers of these jobs wrote to their standard output and error."""
