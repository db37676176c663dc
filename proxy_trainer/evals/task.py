"""What a model is asked, of whichever kind: the one thing that the rest has to know of a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol, Self

from proxy_trainer.evals.models import Models
from proxy_trainer.evals.results import Result
from regmix.errors import RegmixError

Progress = Callable[[int, int], None]
"""Called with what is done, and all there is to do."""
Outcome = Result | RegmixError
"""Of one model on one task: what it came to, or why nothing can be said."""


class Task(Protocol):
    """A task with nothing left to be read.

    A kind is one file with such a class, and one line in :mod:`proxy_trainer.evals.kinds`.
    """

    kind: ClassVar[str]
    """As tasks are described in YAML: :mod:`regmix.tasks`."""

    @property
    def name(self) -> str:
        """What its metrics begin with, before a slash."""

    @property
    def fingerprint(self) -> str:
        """Of everything that changes what a model comes to; not of where files lie."""

    def sample(self, limit: int, seed: int) -> Self:
        """At most so many of its items, under a name that says so; itself if it has no more.

        Raises:
            UserError: too few for a standard error.
        """

    def save(self, folder: Path) -> None:
        """Write what is asked into a study, and ``task.json`` with kind and fingerprint."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: it is not there, or was changed by hand.
        """

    def ask(self, models: Models, progress: Progress | None = None) -> list[Outcome]:
        """Ask all models together.

        Returns:
            One outcome a model, in order.
        """
