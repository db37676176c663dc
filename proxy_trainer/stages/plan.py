"""What a recipe comes to once everything that it names is known: its stages, and what they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from proxy_trainer.data.chat.shards import ChatManifest
from proxy_trainer.evals.task import Task
from proxy_trainer.stages.ledger import Use
from regmix.families import Shape
from regmix.recipe import ParallelConfig, RecipeConfig, StageConfig
from regmix.runs import RunSpec, Start
from regmix.study import Study


@dataclass(frozen=True)
class Stage:
    """One stage, ready to be made into runs."""

    config: StageConfig
    variants: tuple[RunSpec, ...]
    """The runs of its sweep, each whole but for its start."""
    goes_on: bool
    """From the stage before."""
    optimiser: bool
    uses: tuple[Use, ...]
    """What its runs read; of a micro-anneal, those with its source."""
    parallel: ParallelConfig
    tasks: tuple[Task, ...]
    """What its models are asked."""
    base_uses: tuple[Use, ...] = ()
    """Of a micro-anneal: what the runs on the mixture alone read."""
    chat: ChatManifest | None = None
    """What it reads, of SFT."""

    @property
    def world(self) -> int:
        """Processes that train one run."""
        return self.parallel.processes * self.parallel.nodes

    def reads(self, run: RunSpec) -> tuple[Use, ...]:
        """What one of its runs reads."""
        alone = bool(self.base_uses) and run.mixture != self.variants[0].mixture
        return self.base_uses if alone else self.uses

    def runs(self, start: Start | None) -> list[RunSpec]:
        """The runs of the stage, from what the stage before came to."""
        return [replace(v, start=start) if self.goes_on else v for v in self.variants]


@dataclass(frozen=True)
class Recipe:
    """A recipe as a whole."""

    path: Path
    config: RecipeConfig
    study: Study
    shape: Shape
    stages: tuple[Stage, ...]
    held_out: ChatManifest | None = None
    """Conversations that are only measured."""

    def uses(self, chosen: Sequence[RunSpec] = ()) -> list[Use]:
        """What the final model reads: in the last stage from scratch and those after.

        Args:
            chosen: the run of each stage that is over; the first planned one of the others.
        """
        return self._through([s.reads(run) for s, run in zip(self.stages, chosen, strict=False)])

    def possible_uses(self) -> list[list[Use]]:
        """As :meth:`uses`, for every model that micro-anneals may choose."""
        each = [(s.uses, s.base_uses) if s.base_uses else (s.uses,) for s in self.stages]
        return [self._through(own) for own in product(*each)]

    def _through(self, known: Sequence[tuple[Use, ...]]) -> list[Use]:
        planned = [stage.uses for stage in self.stages[len(known) :]]
        found: list[Use] = []
        for stage, uses in zip(self.stages, [*known, *planned], strict=True):
            found = [*found, *uses] if stage.goes_on else list(uses)
        return found
