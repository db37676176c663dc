"""Questions of a multiple-choice task, out of its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from proxy_trainer.data.sources import json_lines, utf8
from proxy_trainer.evals import rows, sampling
from proxy_trainer.evals.rows import Row
from regmix.errors import UserError, unknown_name
from regmix.files import read_json, to_json, write_text
from regmix.hashing import fingerprint
from regmix.tasks import MICRO, WORD, ChoiceTask

SCORING = 1
"""Raised whenever the same questions would come to other figures."""
TASK, _QUESTIONS = "task.json", "questions.jsonl"


@dataclass(frozen=True)
class Question:
    """One question, as it stands in a prompt."""

    place: str
    """File, below the task's folder if it is, and line or row."""
    subject: str
    text: str
    choices: tuple[str, ...]
    """What may follow, white space before it included."""
    answer: int

    @property
    def shot(self) -> str:
        """The question with its answer."""
        return self.text + self.choices[self.answer]


@dataclass(frozen=True)
class Subject:
    """What stands before the questions of a subject."""

    header: str
    shots: tuple[str, ...]

    def before(self, shots: int) -> str:
        """Header and the first few shots."""
        return self.header + "".join(self.shots[:shots])


@dataclass(frozen=True)
class Questions:
    """A task with nothing left to be read."""

    name: str
    subjects: Mapping[str, Subject]
    groups: Mapping[str, tuple[str, ...]]
    questions: tuple[Question, ...]
    available: int
    """Questions of which these are all, or a subsample."""
    seed: int | None = None
    """Of the subsample, if it is one."""
    kind: ClassVar[str] = "choice"

    @property
    def fingerprint(self) -> str:
        """Of everything that changes what a model comes to; not of where the files lie."""
        asked = [[q.subject, q.text, q.choices, q.answer] for q in self.questions]
        subjects = {name: asdict(s) for name, s in self.subjects.items()}
        return fingerprint([SCORING, self.name, subjects, dict(self.groups), asked])

    def sample(self, limit: int, seed: int) -> Self:
        """At most so many questions; see :func:`proxy_trainer.evals.sampling.drawn`.

        Raises:
            UserError: fewer than two for every subject.
        """
        items = [(q.subject, q.text, q.choices) for q in self.questions]
        kept = sampling.drawn(self.name, items, tuple(self.subjects), limit, seed)
        if len(kept) == len(items):
            return self
        return replace(
            self,
            name=sampling.named(self.name, limit, seed),
            questions=tuple(self.questions[i] for i in kept),
            seed=seed,
        )

    def save(self, folder: Path) -> None:
        """Write them where :meth:`load` finds them."""
        lines = [json.dumps(asdict(q), ensure_ascii=False) + "\n" for q in self.questions]
        write_text(folder / _QUESTIONS, "".join(lines))
        rest = {key: value for key, value in asdict(self).items() if key != "questions"}
        found = {"fingerprint": self.fingerprint, "kind": self.kind, **rest}
        write_text(folder / TASK, to_json(found))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: it is not there, or was changed by hand.
        """
        raw = read_json(folder / TASK)
        lines = [row for _, row in json_lines(folder / _QUESTIONS)]
        try:
            found = cls(
                name=raw["name"],
                subjects={
                    name: Subject(s["header"], tuple(s["shots"]))
                    for name, s in raw["subjects"].items()
                },
                groups={name: tuple(own) for name, own in raw["groups"].items()},
                questions=tuple(_kept(line) for line in lines),
                available=raw["available"],
                seed=raw["seed"],
            )
        except (KeyError, TypeError) as exc:
            raise UserError(f"{folder}: not a task's questions ({exc})") from exc
        if found.fingerprint != folder.name:
            raise UserError(
                f"{folder}: its questions are those of {found.fingerprint}; they were changed by "
                "hand or written by another version; run `regmix data build` again"
            )
        return found


def _kept(row: Any) -> Question:
    return Question(**{**row, "choices": tuple(row["choices"])})


def read(task: ChoiceTask, folder: Path) -> Questions:
    """A task's questions and shots.

    Args:
        folder: that relative paths of the task start at.

    Raises:
        UserError: file, line, key and value of the first row that is not as described; a subject
            with too few shots; a group of subjects that there are none of.
    """
    questions = tuple(_questions(task, folder, task.files))
    if not questions:
        raise UserError(f"task '{task.name}': no question in {', '.join(task.files)}")
    names = tuple(dict.fromkeys(q.subject for q in questions))
    shots: dict[str, list[str]] = {name: [] for name in names}
    for shot in _questions(task, folder, task.shot_files) if task.shots else ():
        shots.setdefault(shot.subject, []).append(shot.shot + task.separator)
    for name in names:
        if len(shots[name]) < task.shots:
            raise UserError(
                f"task '{task.name}': subject '{name}' has {len(shots[name])} of {task.shots} "
                f"shots in {', '.join(task.shot_files)}"
            )
    _check_groups(task, names)
    return Questions(
        name=task.name,
        subjects={
            name: Subject(
                task.header.replace("{subject}", _spaced(name)), tuple(shots[name][: task.shots])
            )
            for name in names
        },
        groups=dict(task.groups),
        questions=questions,
        available=len(questions),
    )


def _check_groups(task: ChoiceTask, subjects: Sequence[str]) -> None:
    if MICRO in subjects:
        raise UserError(f"task '{task.name}': a subject '{MICRO}'; the name is for all questions")
    for group, members in task.groups.items():
        if group in subjects:
            raise UserError(f"task '{task.name}': groups: '{group}' is a subject's name too")
        for name in members:
            if name not in subjects:
                raise unknown_name("subject", name, subjects, f"task '{task.name}': groups.{group}")


def _questions(task: ChoiceTask, folder: Path, files: Sequence[str]) -> Iterator[Question]:
    own = task.fields
    keys = [own.question, own.choices, own.answer, own.subject or "", *WORD.findall(task.question)]
    return (_question(task, row) for row in rows.read(task.name, folder, files, keys))


def _question(task: ChoiceTask, row: Row) -> Question:
    own = task.fields
    subject = task.name
    if own.subject is not None:
        subject = row.text(own.subject)
        if "/" in subject:
            raise UserError(
                f"{row.where}: {own.subject}: a subject is not empty and has no '/' "
                f"(found {subject!r})"
            )
    choices = _choices(row.where, own.choices, row.value(own.choices))
    answer = _answer(task, row.where, row.value(own.answer), choices)

    def filled(name: str) -> str:
        if name == "subject":
            return _spaced(subject)
        return row.text(own.question if name == "question" else name)

    return Question(
        place=row.place,
        subject=subject,
        text=WORD.sub(lambda word: filled(word[1]), task.question),
        choices=tuple(task.choice.replace("{choice}", choice) for choice in choices),
        answer=answer,
    )


def _choices(place: str, key: str, value: object) -> list[str]:
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        raise UserError(f"{place}: {key}: expected a list of two choices or more (found {value!r})")
    for choice in value:
        # An empty one is the reader's to judge: it is a question without a figure, not a bad file.
        if not isinstance(choice, str):
            raise UserError(f"{place}: {key}: expected texts (found {choice!r:.60})")
        utf8(choice, f"{place}: {key}")
    return list(value)


def _answer(task: ChoiceTask, place: str, value: object, choices: Sequence[str]) -> int:
    key, count = task.fields.answer, len(choices)
    if task.answer_is == "text":
        if value not in choices or choices.count(str(value)) > 1:
            raise UserError(f"{place}: {key}: {value!r} is not one of the choices {choices}")
        return choices.index(str(value))
    if task.answer_is == "letter":
        valid = [chr(ord("A") + i) for i in range(count)]
        if value not in valid:
            raise UserError(f"{place}: {key}: {value!r} is none of {', '.join(valid)}")
        return valid.index(str(value))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise UserError(
            f"{place}: {key}: {value!r} is no index of its {count} choices (0 to {count - 1})"
        )
    return value


def _spaced(subject: str) -> str:
    return subject.replace("_", " ")
