"""What a model came to on a task, as files: metrics as JSON, questions beside them as parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from proxy_trainer.environment import choose_device, describe
from proxy_trainer.evals import choice_metrics
from proxy_trainer.evals.choice import Answers
from proxy_trainer.evals.choice_metrics import Mean
from proxy_trainer.evals.prompts import Prompts, counts
from proxy_trainer.evals.questions import Questions
from regmix.files import write_json, write_whole


@dataclass(frozen=True)
class Result:
    """One model on one task."""

    task: Questions
    means: list[Mean]
    items: pd.DataFrame
    excluded: Mapping[str, str]
    """Questions that do not count, by file and line, and why."""
    counted: Mapping[str, int]
    """Questions that were asked, and how many of them did not fit whole."""
    tokens: int
    """That the model was given to read."""

    @classmethod
    def of(cls, task: Questions, prompts: Prompts, answers: Answers, member: int) -> Result:
        """One member's.

        Raises:
            RegmixError: a subject has no question that can be counted.
        """
        table = choice_metrics.items(task, answers, member)
        excluded = {task.questions[i].place: why for i, why in prompts.excluded.items()}
        broken = table.loc[table["bpb"].isna(), "question"]
        excluded |= dict.fromkeys(broken, "a log-probability that is no finite number")
        shots = max(len(s.shots) for s in task.subjects.values())
        return cls(
            task=task,
            means=choice_metrics.means(task, table),
            items=table,
            excluded=excluded,
            counted={
                "available": task.available,
                "asked": len(task.questions),
                "excluded": len(excluded),
                **counts(answers.prompts, shots),
            },
            tokens=answers.tokens,
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the metrics has to know."""
        told = {
            "fewer_shots": "questions with fewer shots than the others, for the context",
            "cut_from_the_left": "questions that begin later than they do, for the context",
            "excluded": "questions do not count: the results name them",
        }
        found = [f"{self.task.name}: {self.counted[k]:,} {v}" for k, v in told.items()
                 if self.counted[k]]  # fmt: skip
        if self.task.seed is not None:
            found.append(
                f"{self.task.name}: {self.counted['asked']:,} of {self.counted['available']:,} "
                f"questions, drawn with seed {self.task.seed}; standard errors are those of so many"
            )
        return found

    @property
    def metrics(self) -> dict[str, float]:
        """The task's own and its groups', by name."""
        return {m.name: m.value for m in self.means if m.split == choice_metrics.WHOLE}

    def as_dict(self, **more: Any) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "task": self.task.name,
            "fingerprint": self.task.fingerprint,
            **more,
            "questions": dict(self.counted),
            "sample_seed": self.task.seed,
            "tokens": self.tokens,
            "metrics": [asdict(mean) for mean in self.means],
            "excluded": dict(self.excluded),
            "notes": self.notes,
            "environment": describe(choose_device()),
        }

    def save(self, path: Path, **more: Any) -> None:
        """Write ``path``, and before it what each question came to, as parquet beside it."""
        write_whole(path.with_suffix(".parquet"), lambda tmp: self.items.to_parquet(tmp))
        write_json(path, self.as_dict(**more))
