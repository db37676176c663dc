"""Tasks: what describes one, of each kind, and which ones a study's runs are measured on.

A task is described in YAML; its ``kind`` says what is done: ``choice`` (questions with choices),
``texts`` (bits per byte of held-out text), ``generation`` (questions that are answered in words),
``lm-eval`` (a task of lm-evaluation-harness). What a study is measured on is taken in when its data
are built, so that runs do not depend on files elsewhere: ``evals/<fingerprint>/`` has what a task
asks, ``evals/tasks.json`` says which tasks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from regmix.config import EvaluateConfig
from regmix.config.base import AsTuple, Name, Names, Positive, Strict
from regmix.errors import UserError
from regmix.files import expanded, read_json
from regmix.layout import StudyLayout

WORD = re.compile(r"\{(\w+)\}")
"""A place in a template that a field of the row fills."""
MICRO = "micro"
"""Of metrics over all questions or documents alike, whatever their subject or source."""
_TAKEN = ("bpb", "chat")
"""What the metrics of every run's own text and conversations begin with."""


def _pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as exc:
        raise ValueError(f"{value!r} is no regular expression ({exc})") from exc
    if groups > 1:
        raise ValueError(f"{value!r} has {groups} groups; one at most, or (?:…)")
    return value


Pattern = Annotated[str, AfterValidator(_pattern)]
"""A regular expression; with a group, that is what is meant of a match."""
Patterns = Annotated[tuple[Pattern, ...], AsTuple]
AnswerForm = Literal["index", "letter", "text"]


def _one_part(value: str) -> str:
    if "/" in value:
        raise ValueError("a task's name has no '/', which stands before its metrics")
    if value in _TAKEN:
        raise ValueError(f"metrics of the name '{value}/…' are those of the study's own text")
    return value


TaskName = Annotated[Name, AfterValidator(_one_part)]
Files = Annotated[Names, Field(min_length=1)]
"""Files or globs, relative to the file that describes the task: JSON lines or parquet."""


class Fields(Strict):
    """Keys of a row; dots lead into mappings, as in ``choices.text``."""

    question: str = "question"
    choices: str = "choices"
    answer: str = "answer"
    subject: str | None = None
    """Empty: the task is one subject, of its own name."""


class ChoiceTask(Strict):
    """A multiple-choice task in the cloze form: every choice is a continuation of the question."""

    kind: Literal["choice"] = "choice"
    name: TaskName
    files: Files
    """Of questions."""
    shot_files: Names = ()
    """Of questions with answers that are shown before each question, of its own subject."""
    shots: Annotated[int, Field(ge=0)] = 0
    """How many: the first of the subject."""
    fields: Fields = Fields()
    answer_is: AnswerForm = "index"
    """``index`` from 0, ``letter`` from A, or ``text`` that is one of the choices."""
    header: str = ""
    """Before everything; ``{subject}`` is the subject with spaces for underscores."""
    question: str = "Question: {question}\nAnswer:"
    """``{question}``, ``{subject}``, or any other field of the row."""
    choice: str = " {choice}"
    """What follows the question. Bytes and characters are counted without the white space that it
    begins with."""
    separator: str = "\n\n"
    """After each shot."""
    groups: dict[str, Annotated[Names, Field(min_length=1)]] = Field(default_factory=dict)
    """Subjects that have an average of their own."""

    @model_validator(mode="after")
    def _checked(self) -> ChoiceTask:
        if self.shots and not self.shot_files:
            raise ValueError(f"shots: {self.shots} need shot_files")
        if WORD.findall(self.choice) != ["choice"]:
            raise ValueError(f"choice: {self.choice!r} must hold {{choice}} once, and no other")
        if set(WORD.findall(self.header)) - {"subject"}:
            raise ValueError(f"header: {self.header!r} may hold {{subject}} alone")
        if not self.question.strip():
            raise ValueError("question: is empty, so that choices would follow nothing")
        if MICRO in self.groups:
            raise ValueError(f"groups: '{MICRO}' stands for all questions")
        return self


class TextCollection(Strict):
    """Bits per byte of held-out text from named sources, as Paloma has them."""

    kind: Literal["texts"]
    name: TaskName
    sources: Annotated[dict[str, Files], Field(min_length=1)]
    """Name to files of documents."""
    text_field: str = "text"
    """Key of a row; dots lead into mappings."""

    @field_validator("sources")
    @classmethod
    def _named(cls, value: dict[str, Names]) -> dict[str, Names]:
        for name in value:
            if not name.strip() or "/" in name or name in (MICRO, "bpb"):
                raise ValueError(
                    f"a source's name is not empty, has no '/' and is neither '{MICRO}', which is "
                    f"for all documents, nor 'bpb' (found {name!r})"
                )
        return value


class AnswerFields(Strict):
    """Keys of a row; dots lead into mappings."""

    question: str = "question"
    answer: str = "answer"


class GenerationTask(Strict):
    """Questions that are answered in words, of which a pattern finds the answer itself."""

    kind: Literal["generation"]
    name: TaskName
    files: Files
    """Of questions."""
    shot_files: Names = ()
    """Of questions with answers that are shown before each question."""
    shots: Annotated[int, Field(ge=0)] = 0
    """How many: the first."""
    fields: AnswerFields = AnswerFields()
    question: str = "Question: {question}\nAnswer:"
    """``{question}``, or any other field of the row."""
    chat_question: str = "{question}"
    """What the user says, to models that have a chat template."""
    answer: str = " {answer}"
    """What follows the question of a shot."""
    separator: str = "\n\n"
    """After each shot."""
    gold: Pattern | None = None
    """What of a row's answer is right: its last match, or that match's group; all of it if
    empty."""
    extract: Annotated[Patterns, Field(min_length=1)]
    """What of a text is its answer: the last match of the first of them that matches."""
    ignore: Patterns = ()
    """What is taken out of both before they are compared, without regard to case."""
    stop: Names = ()
    """Texts at which a model is stopped."""
    max_tokens: Positive = 256
    """Of each text."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: always the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repeats: Positive = 1
    """Texts for each question: the ``k`` of ``avg@k``."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _checked(self) -> GenerationTask:
        if self.shots and not self.shot_files:
            raise ValueError(f"shots: {self.shots} need shot_files")
        if self.repeats > 1 and not self.temperature:
            raise ValueError(f"repeats: {self.repeats} texts of temperature 0 would be one text")
        if WORD.findall(self.answer) != ["answer"]:
            raise ValueError(f"answer: {self.answer!r} must hold {{answer}} once, and no other")
        for name in ("question", "chat_question"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name}: is empty")
        if any(not stop for stop in self.stop):
            raise ValueError("stop: an empty text would stop a model at once")
        return self


class HarnessTask(Strict):
    """A task or group of lm-evaluation-harness, with its own files."""

    kind: Literal["lm-eval"]
    name: TaskName
    """What its metrics begin with."""
    task: str | None = None
    """What lm-evaluation-harness calls it; the name if empty."""
    include: str | None = None
    """Folder of more of its tasks, relative to the file that describes this."""
    data: str | None = None
    """Folder that relative paths in a task's YAML start at; the current one if empty."""

    @property
    def called(self) -> str:
        """What lm-evaluation-harness calls it."""
        return self.task or self.name


def _kind(value: object) -> object:
    """Tasks of questions, which were there first, need not say so."""
    own = value.get("kind", "choice") if isinstance(value, dict) else getattr(value, "kind", None)
    return own if isinstance(own, str) else repr(own)


AnyTask = Annotated[
    Annotated[ChoiceTask, Tag("choice")]
    | Annotated[TextCollection, Tag("texts")]
    | Annotated[GenerationTask, Tag("generation")]
    | Annotated[HarnessTask, Tag("lm-eval")],
    Discriminator(_kind),
]


class TasksFile(Strict):
    """A file of tasks."""

    tasks: Annotated[tuple[AnyTask, ...], AsTuple, Field(min_length=1)]


def taken_in(layout: StudyLayout, config: EvaluateConfig) -> tuple[str, ...]:
    """Fingerprints of the tasks that runs are measured on, as they were taken in.

    Raises:
        UserError: they were not, or with other settings than the study has now.
    """
    if not config.tasks:
        return ()
    build = f"run `regmix data build {layout.root}`"
    if not layout.tasks.is_file():
        raise UserError(f"{layout.config}: evaluate: its tasks are not taken in; {build}")
    found = read_json(layout.tasks)
    if found["settings"] != settings(config):
        raise UserError(f"{layout.config}: evaluate: changed since the data were built; {build}")
    return tuple(task["fingerprint"] for task in found["tasks"])


def settings(config: EvaluateConfig) -> dict[str, Any]:
    """What decides what is taken in."""
    return config.model_dump(mode="json", exclude={"points"})


def relative_to(folder: Path, name: str) -> Path:
    """A path as a file in a folder means it."""
    return folder / expanded(name)
