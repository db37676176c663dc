"""What workers do: pieces that one worker at a time claims, and several of which go together."""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from proxy_trainer import checkpoint
from proxy_trainer.arrays import best_members, train_array
from proxy_trainer.launch.claims import P
from proxy_trainer.retention import Retention
from proxy_trainer.version import version
from regmix.arrays import array_key
from regmix.config import LaunchConfig
from regmix.errors import RegmixError, StudyRefused
from regmix.layout import RunLayout, StudyLayout
from regmix.runs import NUMERICS, RunSpec


class Work(Protocol[P]):
    """One kind of work; what it is made of is said by the submission."""

    @property
    def pieces(self) -> Sequence[P]:
        """All that was submitted, in the order in which it is begun."""

    def step(self, piece: P) -> int:
        """How far an attempt before has come: pieces at one step go together."""

    def key(self, piece: P) -> Hashable:
        """What a piece shares with those that can be done together with it."""

    def members(self, piece: P, share: int) -> int:
        """How many pieces like this one are best done together, ``share`` at most.

        Whatever it raises, :class:`regmix.errors.StudyFault` apart, costs the piece company only.
        """

    def carry_out(self, pieces: Sequence[P], keep_going: Callable[[], bool]) -> dict[P, str]:
        """Do some that go together, each until its marker says that it is done.

        Args:
            keep_going: asked before anything is written; at the first False what is begun is left
                for another attempt. What it raises ends the work with nothing more written.

        Returns:
            Those that came to nothing and would again, with the reason.
        """


@dataclass
class Training:
    """Runs of a study."""

    study: StudyLayout
    runs: Sequence[str]
    settings: LaunchConfig
    say: Callable[[str], object]
    _best: dict[str, int] = field(default_factory=dict)
    """Members of an array, by what they share, as found by trial."""

    @property
    def pieces(self) -> list[RunLayout]:
        """The runs."""
        return [self.study.run(run_id) for run_id in self.runs]

    def step(self, piece: RunLayout) -> int:
        """Of the run's checkpoint."""
        return checkpoint.saved_step(piece.checkpoints)

    def key(self, piece: RunLayout) -> Hashable:
        """What the members of an array share; nothing if the run is unreadable."""
        try:
            return array_key(RunSpec.load(piece.spec))
        except (RegmixError, OSError):  # its own attempt will tell
            return piece.run_id

    def members(self, piece: RunLayout, share: int) -> int:
        """As many as a short trial finds the fastest."""
        spec = RunSpec.load(piece.spec)
        key = array_key(spec)
        if share > 1 and key not in self._best:
            self._best[key] = best_members(spec, share)
            self.say(f"arrays of {self._best[key]} are the fastest here")
        return min(share, self._best.get(key, 1))

    def carry_out(
        self, pieces: Sequence[RunLayout], keep_going: Callable[[], bool]
    ) -> dict[RunLayout, str]:
        """Train an array from its checkpoints; those that diverge have failed."""
        for run in pieces:
            _check_numerics(run)
        outcome = train_array(
            self.study,
            list(pieces),
            checkpoint_seconds=self.settings.checkpoint_seconds,
            keep_going=keep_going,
            trackers=self.settings.watch,
            retention=Retention(self.settings.keep_last, self.settings.keep_every),
        )
        return {self.study.run(run_id): why for run_id, why in outcome.diverged.items()}


def _check_numerics(run: RunLayout) -> None:
    planned = RunSpec.load(run.spec).numerics
    if planned != NUMERICS:
        raise StudyRefused(
            f"{run.spec}: planned for version {planned} of the numerics, this worker "
            f"(regmix {version()} on {socket.gethostname()}) has {NUMERICS}; install the version "
            "that the study was proposed with, or run `regmix propose` again"
        )
