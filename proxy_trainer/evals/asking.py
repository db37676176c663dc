"""Asking models afterwards, as work that is claimed: of a run and a task, by one worker at a time.

What was asked stays asked: the result file closes the piece. Models of one shape are asked
together, and stay loaded for the next task.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import checkpoints, kinds, models
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.task import Task
from proxy_trainer.models.folder import load_folder
from regmix.errors import RegmixError
from regmix.layout import AskedLayout, RunLayout, StudyLayout
from regmix.manifest import DataManifest
from regmix.runs import RunSpec
from regmix.sizes import ModelShape

MEMBERS = 8
"""Models of one shape that are asked together."""


class _ToldToEnd(Exception):
    """In the middle of a task."""


@dataclass
class Asking:
    """Models of some runs and what they are asked; :class:`proxy_trainer.work.Work`."""

    study: StudyLayout
    runs: Sequence[str]
    tasks: Sequence[str]
    """Fingerprints of tasks that were taken into the study."""
    after: int | None = None
    """The step of the checkpoints that are asked; the finished models if not given."""
    _specs: dict[RunLayout, RunSpec] = field(default_factory=dict)
    _read: dict[str, Task] = field(default_factory=dict)
    _loaded: tuple[list[RunLayout], Models] | None = None

    @property
    def pieces(self) -> list[AskedLayout]:
        """Every run on every task."""
        return self.study.asked(self.runs, self.tasks, self.after)

    def step(self, piece: AskedLayout) -> int:
        """An attempt leaves nothing to go on from."""
        return 0

    def key(self, piece: AskedLayout) -> Hashable:
        """The task, and what models of one array share."""
        spec = self._spec(piece.run)
        return piece.fingerprint, spec.model, spec.vocab_size, spec.chat

    def members(self, piece: AskedLayout, share: int) -> int:
        """Models of the families are asked one by one."""
        return min(share, MEMBERS) if isinstance(self._spec(piece.run).model, ModelShape) else 1

    def carry_out(
        self, pieces: Sequence[AskedLayout], keep_going: Callable[[], bool]
    ) -> dict[AskedLayout, str]:
        """Ask several models one task; those of which nothing can be said have failed."""

        def progress(done: int, total: int) -> None:
            if not keep_going():
                raise _ToldToEnd

        task = self._task(pieces[0].fingerprint)
        loaded = self._models([piece.run for piece in pieces])
        try:
            outcomes = task.ask(loaded, progress)
        except _ToldToEnd:
            return {}
        given_up: dict[AskedLayout, str] = {}
        for piece, outcome in zip(pieces, outcomes, strict=True):
            keep_going()  # what is found is kept, unless others have taken over
            if isinstance(outcome, RegmixError):
                given_up[piece] = str(outcome)
            else:
                outcome.save(piece.done, **place(self._spec(piece.run), piece.step))
        return given_up

    def _models(self, runs: list[RunLayout]) -> Models:
        if self._loaded is None or self._loaded[0] != runs:
            self._loaded = None  # before others are loaded
            self._loaded = runs, self._load(runs)
        return self._loaded[1]

    def _load(self, runs: list[RunLayout]) -> Models:
        tokenizer = tokenizers.load(self.study.tokenizer)
        if self.after is not None:
            specs = [self._spec(run) for run in runs]
            opening = DataManifest.load(self.study.manifest).eod_id
            found = checkpoints.load(runs, specs, self.after, tokenizer, opening)
            return of_run(found, self.study, specs[0])
        weights = [load_folder(run.model, self._spec(run).model.context)[1] for run in runs]
        return models.load(weights, tokenizer)

    def _spec(self, run: RunLayout) -> RunSpec:
        if run not in self._specs:
            self._specs[run] = RunSpec.load(run.spec)
        return self._specs[run]

    def _task(self, fingerprint: str) -> Task:
        if fingerprint not in self._read:
            self._read[fingerprint] = kinds.load(self.study.evals / fingerprint)
        return self._read[fingerprint]


def of_run(found: Models, study: StudyLayout, spec: RunSpec) -> Models:
    """Models of a run's weights, with how its conversations are written, if it reads any."""
    return found.of_conversations(study.chat_data(spec.chat)) if spec.chat else found


def place(spec: RunSpec, step: int | None) -> dict[str, Any]:
    """What a result says of where it stands in a run: after a step, or at its end if not given."""
    last = 0 if spec.merge else spec.plan.steps
    after = last if step is None else step
    return {"run_id": spec.run_id, "step": after, "tokens": after * spec.tokens_per_step}
