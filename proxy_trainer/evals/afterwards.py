"""Finished models asked questions: those of a study, or any folder of a supported family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import models
from proxy_trainer.evals.results import Result
from proxy_trainer.evals.task import Progress, Task
from proxy_trainer.models.folder import load_folder
from regmix.errors import RegmixError, UserError
from regmix.files import read_json
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout
from regmix.records import RunRecord, read_runs
from regmix.sizes import ModelShape

MEMBERS = 8
"""Models of one shape that are asked together."""


@dataclass
class Evaluated:
    """What was found of a study's models, and which have none."""

    runs: list[RunRecord]
    """Finished ones that keep their model."""
    asked: int
    """Models that were asked something now; the others had been before."""
    without: list[str]
    """Names of finished runs that keep no model and have not been asked at their end."""
    failed: dict[str, str]
    """Run id to why nothing can be said of it."""
    notes: list[str]


def folder(path: Path, tasks: Sequence[Task], progress: Progress | None) -> list[Result]:
    """One model, a task after the other.

    Raises:
        UserError: not a model's folder, or one without its tokenizer.
        RegmixError: nothing can be said of it on a task.
    """
    _, weights = load_folder(path)
    loaded = models.load([weights], tokenizers.load(path / "tokenizer.json"))
    steps = _steps(progress, len(tasks))
    found = []
    for task in tasks:
        [outcome] = task.ask(loaded, steps())
        if isinstance(outcome, RegmixError):
            raise outcome
        found.append(outcome)
    return found


def study(
    layout: StudyLayout, tasks: Sequence[Task], progress: Progress | None = None
) -> Evaluated:
    """Every finished model that a study keeps, on what it was not asked yet.

    Results are left in the runs' folders, where the store finds them.

    Raises:
        UserError: a run was asked another task of one of the names.
    """
    return runs(layout, read_runs(layout), tasks, progress)


def runs(
    layout: StudyLayout,
    records: Sequence[RunRecord],
    tasks: Sequence[Task],
    progress: Progress | None = None,
) -> Evaluated:
    """The same for some runs of a study.

    Raises:
        UserError: as :func:`study`.
    """
    done = [r for r in records if r.status == "done"]
    kept = [r for r in done if (r.layout.model / "config.json").is_file()]
    for record in done:
        _check_names(record, tasks)
    missing = {r.spec.run_id: _missing(r, tasks) for r in done}
    todo = [r for r in kept if missing[r.spec.run_id]]
    arrays = list(_alike(todo, missing))
    steps = _steps(progress, sum(len(missing[own[0].spec.run_id]) for own in arrays))
    tokenizer = tokenizers.load(layout.tokenizer) if todo else None
    failed: dict[str, str] = {}
    notes: list[str] = []
    for own in arrays:
        assert tokenizer is not None
        weights = [load_folder(r.layout.model, r.spec.model.context)[1] for r in own]
        loaded = models.load(weights, tokenizer)
        for task in missing[own[0].spec.run_id]:
            for record, outcome in zip(own, task.ask(loaded, steps()), strict=True):
                if isinstance(outcome, RegmixError):
                    failed[record.spec.run_id] = str(outcome)
                    continue
                path = record.layout.eval_result(task.fingerprint)
                outcome.save(path, run_id=record.spec.run_id)
                notes += [note for note in outcome.notes if note not in notes]
    without = [r.spec.name for r in done if r not in kept and missing[r.spec.run_id]]
    return Evaluated(kept, len(todo), without, failed, notes)


def _missing(record: RunRecord, tasks: Sequence[Task]) -> list[Task]:
    return [t for t in tasks if not record.layout.eval_result(t.fingerprint).is_file()]


def _check_names(record: RunRecord, tasks: Sequence[Task]) -> None:
    wanted = {task.name: task.fingerprint for task in tasks}
    for found in record.evals():
        if wanted.get(found["task"], found["fingerprint"]) != found["fingerprint"]:
            path = record.layout.eval_result(found["fingerprint"])
            raise UserError(
                f"{path}: the run was asked other questions as '{found['task']}'; metrics of one "
                "name would not be of one thing: give the task another name, or delete the file"
            )


def _alike(
    records: Sequence[RunRecord], missing: dict[str, list[Task]]
) -> Iterator[list[RunRecord]]:
    """Runs of one shape that lack the same, at most as many as are asked together."""

    def key(record: RunRecord) -> str:
        spec, config = record.spec, read_json(record.layout.model / "config.json")
        lacks = [t.fingerprint for t in missing[spec.run_id]]
        return fingerprint([config, spec.model.context, lacks])

    for _, group in groupby(sorted(records, key=key), key=key):
        own = list(group)
        native = isinstance(own[0].spec.model, ModelShape)
        step = MEMBERS if native else 1
        yield from (own[i : i + step] for i in range(0, len(own), step))


def _steps(progress: Progress | None, stages: int) -> Callable[[], Progress | None]:
    """Progress over several stages, each of a thousand steps; called for the next one's."""
    ended = iter(range(stages))

    def following() -> Progress | None:
        if progress is None:
            return None
        before = next(ended)
        return lambda done, total: progress(1000 * before + 1000 * done // total, 1000 * stages)

    return following
