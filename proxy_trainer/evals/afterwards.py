"""Finished models asked questions: those of a study, or any folder of a supported family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tokenizers import Tokenizer

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.environment import choose_device
from proxy_trainer.evals import prompts
from proxy_trainer.evals.choice import Answers, ArrayReader, DecoderReader, Reader, answers
from proxy_trainer.evals.prompts import Prompts
from proxy_trainer.evals.questions import Questions
from proxy_trainer.evals.results import Result
from proxy_trainer.evals.whole import WholeModel, free_on, needed_for
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.folder import Weights, load_folder
from proxy_trainer.sharded.model import without_weights
from proxy_trainer.starts import whole
from regmix.errors import RegmixError, UserError
from regmix.files import read_json
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout
from regmix.records import RunRecord, read_runs
from regmix.sizes import ModelShape

MEMBERS = 8
"""Models of one shape that are asked together."""

Progress = Callable[[int, int], None]


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


def folder(path: Path, tasks: Sequence[Questions], progress: Progress | None) -> list[Result]:
    """One model, a task after the other.

    Raises:
        UserError: not a model's folder, or one without its tokenizer.
        RegmixError: a subject has no question that can be counted.
    """
    _, weights = load_folder(path)
    tokenizer = tokenizers.load(path / "tokenizer.json")
    found = _ask([weights], tokenizer, tasks, _steps(progress, len(tasks)))
    return [Result.of(task, asked, said, 0) for task, asked, said in found]


def study(
    layout: StudyLayout, tasks: Sequence[Questions], progress: Progress | None = None
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
    tasks: Sequence[Questions],
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
    arrays = [part for own in _alike(todo, missing) for part in _fitting(own)]
    steps = _steps(progress, sum(len(missing[own[0].spec.run_id]) for own in arrays))
    tokenizer = tokenizers.load(layout.tokenizer) if todo else None
    failed: dict[str, str] = {}
    notes: list[str] = []
    for own in arrays:
        assert tokenizer is not None
        loaded = [load_folder(r.layout.model, r.spec.model.context)[1] for r in own]
        wanted = missing[own[0].spec.run_id]
        for task, asked, said in _ask(loaded, tokenizer, wanted, steps):
            for member, record in enumerate(own):
                try:
                    result = Result.of(task, asked, said, member)
                except RegmixError as exc:
                    failed[record.spec.run_id] = str(exc)
                    continue
                path = record.layout.eval_result(task.fingerprint)
                result.save(path, run_id=record.spec.run_id)
                notes += [note for note in result.notes if note not in notes]
    without = [r.spec.name for r in done if r not in kept and missing[r.spec.run_id]]
    return Evaluated(kept, len(todo), without, failed, notes)


def _missing(record: RunRecord, tasks: Sequence[Questions]) -> list[Questions]:
    return [t for t in tasks if not record.layout.eval_result(t.fingerprint).is_file()]


def _check_names(record: RunRecord, tasks: Sequence[Questions]) -> None:
    wanted = {task.name: task.fingerprint for task in tasks}
    for found in record.evals():
        if wanted.get(found["task"], found["fingerprint"]) != found["fingerprint"]:
            path = record.layout.eval_result(found["fingerprint"])
            raise UserError(
                f"{path}: the run was asked other questions as '{found['task']}'; metrics of one "
                "name would not be of one thing: give the task another name, or delete the file"
            )


def _alike(
    records: Sequence[RunRecord], missing: dict[str, list[Questions]]
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


def _fitting(alike: list[RunRecord]) -> Iterator[list[RunRecord]]:
    """As many together as fit into the device's memory, and one at least."""
    first = alike[0]
    weights = load_folder(first.layout.model, first.spec.model.context)[1]
    count = max(1, free_on(choose_device()) // needed_for(weights))
    yield from (alike[i : i + count] for i in range(0, len(alike), count))


def _steps(progress: Progress | None, stages: int) -> Callable[[], Progress | None]:
    """Progress over several stages, each of a thousand steps; called for the next one's."""
    ended = iter(range(stages))

    def following() -> Progress | None:
        if progress is None:
            return None
        before = next(ended)
        return lambda done, total: progress(1000 * before + 1000 * done // total, 1000 * stages)

    return following


def _ask(
    models: Sequence[Weights],
    tokenizer: Tokenizer,
    tasks: Sequence[Questions],
    following: Callable[[], Progress | None],
) -> Iterator[tuple[Questions, Prompts, Answers]]:
    first = models[0]
    words = tokenizers.vocab_size(tokenizer)
    if words > first.vocab_size:
        raise UserError(
            f"{first.folder}: its embedding has {first.vocab_size:,} rows, its tokenizer "
            f"{words:,} tokens"
        )
    reader = _reader(models)
    for task in tasks:
        asked = prompts.encode(task, tokenizer, first.shape.context)
        yield task, asked, answers(reader, asked, following())


def _reader(models: Sequence[Weights]) -> Reader:
    first = models[0]
    if not isinstance(first.shape, ModelShape):
        return DecoderReader(WholeModel(first).decoder)
    array = ModelArray(first.shape, first.vocab_size, len(models))
    own = without_weights(first.shape, first.vocab_size).named_parameters()
    sizes = {name: tuple(p.shape) for name, p in own}
    for member, weights in enumerate(models):
        weights.check(first.shape, sizes)
        array.load_member(member, whole(weights))
    return ArrayReader(array.to(choose_device()))
