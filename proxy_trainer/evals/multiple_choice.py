"""Multiple choice as a task: questions, and how models are asked them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from proxy_trainer.evals import choice_metrics, prompts, questions, results
from proxy_trainer.evals.choice import Answers, answers
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.prompts import Prompts
from proxy_trainer.evals.questions import Questions
from proxy_trainer.evals.results import Result
from proxy_trainer.evals.task import Outcome, Progress
from regmix.errors import RegmixError
from regmix.tasks import ChoiceTask

_TOLD: Mapping[str, str] = {
    "fewer_shots": "questions with fewer shots than the others, for the context",
    "cut_from_the_left": "questions that begin later than they do, for the context",
    "excluded": "questions do not count: the results name them",
}


@dataclass(frozen=True)
class MultipleChoice(Questions):
    """Questions that models can be asked; :class:`proxy_trainer.evals.task.Task`."""

    @classmethod
    def read(cls, described: ChoiceTask, folder: Path) -> Self:
        """From the task's files; see :func:`proxy_trainer.evals.questions.read`."""
        found = questions.read(described, folder)
        return cls(**{f.name: getattr(found, f.name) for f in fields(found)})

    def ask(self, models: Models, progress: Progress | None = None) -> list[Outcome]:
        """Ask all models together; a subject without a question that counts is none's result."""
        asked = prompts.encode(self, models.tokenizer, models.context)
        found = answers(models.reader, asked, progress)
        return [self._outcome(asked, found, member) for member in range(models.members)]

    def _outcome(self, asked: Prompts, found: Answers, member: int) -> Outcome:
        try:
            return result(self, asked, found, member)
        except RegmixError as exc:
            return exc


def result(task: Questions, asked: Prompts, found: Answers, member: int) -> Result:
    """One member's.

    Raises:
        RegmixError: a subject has no question that can be counted.
    """
    table = choice_metrics.items(task, found, member)
    excluded = {task.questions[i].place: why for i, why in asked.excluded.items()}
    broken = table.loc[table["bpb"].isna(), "question"]
    excluded |= dict.fromkeys(broken, "a log-probability that is no finite number")
    shots = max(len(s.shots) for s in task.subjects.values())
    counts = {
        "available": task.available,
        "asked": len(task.questions),
        "excluded": len(excluded),
        **prompts.counts(found.prompts, shots),
        "tokens_read": found.tokens,
    }
    return Result(
        task=task.name,
        fingerprint=task.fingerprint,
        means=choice_metrics.means(task, table),
        items=table,
        excluded=excluded,
        counts=counts,
        notes=results.notes(task.name, counts, task.seed, _TOLD),
        seed=task.seed,
    )
