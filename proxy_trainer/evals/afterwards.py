"""Models asked after their training: which of a study's are to be asked what, and any folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import checkpoints, models
from proxy_trainer.evals.questions import TASK
from proxy_trainer.evals.results import Result
from proxy_trainer.evals.task import Progress, Task
from proxy_trainer.models.folder import load_folder
from regmix.errors import RegmixError, UserError
from regmix.files import read_json
from regmix.layout import AskedLayout, StudyLayout
from regmix.records import RunRecord


@dataclass
class Evaluated:
    """What was found of a study's models, and which have none."""

    runs: list[RunRecord]
    """Those that have a model to ask: kept ones, or those with the checkpoint."""
    tasks: list[str]
    """Fingerprints of what they were asked."""
    step: int | None
    """Of the checkpoints; None for finished models."""
    asked: int
    """Models that were asked something now; the others had been before."""
    without: list[str]
    """Names of runs that have no such model, and have not been asked at this place before."""
    failed: dict[str, str]
    """Run id to why nothing can be said of it."""
    busy: list[str]
    """Run ids of what another command still asks."""
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


@dataclass(frozen=True)
class Plan:
    """Which runs can be asked some tasks, and which of them have been."""

    study: StudyLayout
    tasks: Sequence[Task]
    step: int | None
    runs: list[RunRecord]
    """That have a model to ask."""
    without: list[str]
    open: list[AskedLayout]
    """What is still to be found, when the plan was made."""

    @classmethod
    def of(
        cls,
        study: StudyLayout,
        records: Sequence[RunRecord],
        tasks: Sequence[Task],
        step: int | None = None,
    ) -> Plan:
        """Look at some runs: finished ones, or those with a checkpoint of a step.

        Raises:
            UserError: a run was asked another task of one of the names; or none has a checkpoint
                of that step.
        """
        if step is None:
            wanted = [r for r in records if r.status == "done"]
            runs = [r for r in wanted if (r.layout.model / "config.json").is_file()]
        else:
            wanted = [r for r in records if r.status != "done"]
            runs = [r for r in wanted if step in checkpoints.steps(r.layout)]
            if not runs:
                raise UserError(_no_checkpoint(study, wanted, step))
        for record in wanted:
            _check_names(record, tasks)
        names = [task.fingerprint for task in tasks]
        pieces = {
            r.spec.run_id: [p for p in study.asked([r.spec.run_id], names, step) if _is_open(p)]
            for r in wanted
        }
        without = [r.spec.name for r in wanted if r not in runs and pieces[r.spec.run_id]]
        left = [piece for r in runs for piece in pieces[r.spec.run_id]]
        return cls(study, tasks, step, runs, without, left)

    def prepare(self) -> None:
        """Take the tasks into the study, and have what failed before asked again."""
        for task in self.tasks:
            folder = self.study.evals / task.fingerprint
            if not (folder / TASK).is_file():  # which is written last
                task.save(folder)
        for piece in self.open:
            if piece.failed.exists():
                shutil.rmtree(piece.claims, ignore_errors=True)
                piece.failed.unlink(missing_ok=True)

    def evaluated(self, asked: Iterable[str] = (), busy: Iterable[str] = ()) -> Evaluated:
        """What the runs have come to now.

        Args:
            asked: runs that this command asked, however often each is named.
            busy: runs that another command asks.
        """
        failed = {
            piece.run.run_id: str(read_json(piece.failed)["reason"])
            for piece in self.open
            if piece.failed.exists()
        }
        done = [piece.done for piece in self.open if piece.done.exists()]
        notes = dict.fromkeys(note for path in done for note in read_json(path)["notes"])
        names = [task.fingerprint for task in self.tasks]
        return Evaluated(
            self.runs, names, self.step, len({*asked}), self.without, failed,
            sorted({*busy}), list(notes),
        )  # fmt: skip


def _is_open(piece: AskedLayout) -> bool:
    return not piece.done.is_file()


def _no_checkpoint(study: StudyLayout, records: Sequence[RunRecord], step: int) -> str:
    there = sorted({found for r in records for found in checkpoints.steps(r.layout)})
    return (
        f"{study.runs}: no run has a checkpoint of step {step} "
        f"(there is {', '.join(map(str, there)) or 'none'}; finished runs have none)"
    )


def _check_names(record: RunRecord, tasks: Sequence[Task]) -> None:
    wanted = {task.name: task.fingerprint for task in tasks}
    for found in record.evals():
        if wanted.get(found["task"], found["fingerprint"]) != found["fingerprint"]:
            path = record.layout.eval_result(found["fingerprint"])
            raise UserError(
                f"{path}: the run was asked other questions as '{found['task']}'; metrics of one "
                "name would not be of one thing: give the task another name, or delete the file"
            )


def _steps(progress: Progress | None, stages: int) -> Callable[[], Progress | None]:
    """Progress over several stages, each of a thousand steps; called for the next one's."""
    ended: Iterator[int] = iter(range(stages))

    def following() -> Progress | None:
        if progress is None:
            return None
        before = next(ended)
        return lambda done, total: progress(1000 * before + 1000 * done // total, 1000 * stages)

    return following
