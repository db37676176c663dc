"""Questions that are answered in words, as a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat.template import exchange
from proxy_trainer.data.sources import json_lines
from proxy_trainer.evals import generation_metrics, results, rows, sampling
from proxy_trainer.evals.generate import Prompt, Sampling, Written, room
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.questions import TASK
from proxy_trainer.evals.results import Result
from proxy_trainer.evals.rows import Row
from proxy_trainer.evals.task import Outcome, Progress
from regmix.errors import RegmixError, UserError
from regmix.files import read_json, write_json, write_text
from regmix.hashing import fingerprint
from regmix.tasks import WORD, GenerationTask

SCORING = 1
"""Raised whenever the same questions would come to other figures."""
_QUESTIONS = "questions.jsonl"
_TOLD = {
    "cut_from_the_left": "questions that begin later than they do, for the context",
    "unfinished": "texts were not finished within what they may have, or the context",
    "without_answer": "texts have no answer in them, and count as wrong",
}


@dataclass(frozen=True)
class Asked:
    """A question and its answer, with what stands before it."""

    place: str
    """File, below the task's folder if it is, and line or row."""
    text: str
    """Of a model that goes on from it."""
    chat: str
    """What a user says."""
    answer: str
    """As a shot has it."""
    gold: str


@dataclass(frozen=True)
class Generation:
    """Questions with nothing left to be read; :class:`proxy_trainer.evals.task.Task`."""

    name: str
    questions: tuple[Asked, ...]
    shots: tuple[Asked, ...]
    separator: str
    extract: tuple[str, ...]
    ignore: tuple[str, ...]
    how: Sampling
    repeats: int
    available: int
    """Questions of which these are all, or a sample."""
    seed: int | None = None
    """Of the sample, if it is one."""
    kind: ClassVar[str] = "generation"

    @property
    def fingerprint(self) -> str:
        """Of everything that changes what a model comes to; not of where the files lie."""
        asked = [[q.text, q.chat, q.gold] for q in self.questions]
        shots = [[q.text, q.chat, q.answer] for q in self.shots]
        rest = [self.separator, self.extract, self.ignore, asdict(self.how), self.repeats]
        return fingerprint([SCORING, self.kind, self.name, asked, shots, rest])

    @classmethod
    def read(cls, described: GenerationTask, folder: Path) -> Self:
        """The questions of a task's files.

        Raises:
            UserError: file, line, key and value of the first row that is not as described; no
                question, or too few shots.
        """
        questions = _questions(described, folder, described.files)
        if not questions:
            raise UserError(f"task '{described.name}': no question in {_named(described.files)}")
        shots = _questions(described, folder, described.shot_files if described.shots else ())
        if len(shots) < described.shots:
            raise UserError(
                f"task '{described.name}': {len(shots)} of {described.shots} shots in "
                f"{_named(described.shot_files)}"
            )
        return cls(
            name=described.name,
            questions=questions,
            shots=shots[: described.shots],
            separator=described.separator,
            extract=described.extract,
            ignore=described.ignore,
            how=Sampling(
                described.max_tokens, described.stop, described.temperature, described.top_p,
                described.seed,
            ),
            repeats=described.repeats,
            available=len(questions),
        )  # fmt: skip

    def sample(self, limit: int, seed: int) -> Self:
        """At most so many questions; see :func:`proxy_trainer.evals.sampling.drawn`.

        Raises:
            UserError: fewer than two.
        """
        items = [(self.name, q.text, q.gold) for q in self.questions]
        kept = sampling.drawn(self.name, items, (self.name,), limit, seed)
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
        lines = (json.dumps(asdict(q), ensure_ascii=False) + "\n" for q in self.questions)
        write_text(folder / _QUESTIONS, "".join(lines))
        rest = {key: value for key, value in asdict(self).items() if key != "questions"}
        write_json(folder / TASK, {"fingerprint": self.fingerprint, "kind": self.kind, **rest})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: it is not there, or was changed by hand.
        """
        raw = read_json(folder / TASK)
        lines: list[Any] = [line for _, line in json_lines(folder / _QUESTIONS)]
        try:
            how = raw["how"]
            found = cls(
                name=raw["name"],
                questions=tuple(Asked(**line) for line in lines),
                shots=tuple(Asked(**shot) for shot in raw["shots"]),
                separator=raw["separator"],
                extract=tuple(raw["extract"]),
                ignore=tuple(raw["ignore"]),
                how=Sampling(**{**how, "stop": tuple(how["stop"])}),
                repeats=raw["repeats"],
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

    def ask(self, models: Models, progress: Progress | None = None) -> list[Outcome]:
        """Let every model write its texts, one model after the other."""
        prompts = self.prompts(models)
        found: list[Outcome] = []
        for member in range(models.members):

            def forward(done: int, total: int, before: int = member) -> None:
                if progress is not None:
                    progress(before * total + done, models.members * total)

            try:
                written = models.writer(member).write(prompts, self.how, forward)
            except UserError:
                raise
            except RegmixError as exc:
                found.append(RegmixError(f"task '{self.name}': {exc}"))
                continue
            found.append(self._result(models, prompts, written))
        return found

    def prompts(self, models: Models) -> list[Prompt]:
        """What models are to go on from: questions in order, each as often as it is asked.

        With a chat template, messages as it writes them; without one, a text that the token opens
        that opens documents.
        """
        if models.chat is None:
            before = "".join(s.text + s.answer + self.separator for s in self.shots)
            texts = [before + q.text for q in self.questions]
            encoded = models.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ids = [(models.opening, *one.ids) for one in encoded]
        else:
            shots = [m for s in self.shots for m in exchange(s.chat, s.answer.strip())]
            texts = [models.chat.render([*shots, exchange(q.chat, "")[0]]) for q in self.questions]
            special = tokenizers.with_special_tokens(models.tokenizer)
            encoded = special.encode_batch_fast(texts, add_special_tokens=False)
            ids = [tuple(one.ids) for one in encoded]
        return [
            Prompt(own, number, repeat)
            for number, own in enumerate(ids)
            for repeat in range(self.repeats)
        ]

    def _result(
        self, models: Models, prompts: Sequence[Prompt], written: Sequence[Written]
    ) -> Result:
        kept = room(models.context, self.how.max_tokens)
        items = self._items(prompts, written)
        counts = {
            "available": self.available,
            "asked": len(self.questions),
            "excluded": 0,
            "cut_from_the_left": sum(len(p.ids) > kept for p in prompts) // self.repeats,
            "unfinished": int((~items["ended"]).sum()),
            "without_answer": int(items["answer"].isna().sum()),
            "tokens_read": sum(min(len(p.ids), kept) for p in prompts),
            "tokens_written": int(items["tokens"].sum()),
        }
        return Result(
            task=self.name,
            fingerprint=self.fingerprint,
            means=generation_metrics.means(self.name, items, self.repeats),
            items=items,
            excluded={},
            counts=counts,
            notes=results.notes(self.name, counts, self.seed, _TOLD),
            seed=self.seed,
        )

    def _items(self, prompts: Sequence[Prompt], written: Sequence[Written]) -> pd.DataFrame:
        found = []
        for prompt, one in zip(prompts, written, strict=True):
            question = self.questions[prompt.number]
            answer = generation_metrics.extracted(one.text, self.extract)
            right = answer is not None and generation_metrics.plain(
                answer, self.ignore
            ) == generation_metrics.plain(question.gold, self.ignore)
            found.append(
                {
                    "question": question.place, "number": prompt.number, "repeat": prompt.repeat,
                    "text": one.text, "tokens": one.tokens, "ended": one.ended, "answer": answer,
                    "gold": question.gold, "right": right,
                }
            )  # fmt: skip
        return pd.DataFrame(found)


def _questions(task: GenerationTask, folder: Path, files: Sequence[str]) -> tuple[Asked, ...]:
    own = task.fields
    used = [*WORD.findall(task.question), *WORD.findall(task.chat_question)]
    keys = [own.question, own.answer, *used]
    return tuple(_question(task, row) for row in rows.read(task.name, folder, files, keys))


def _question(task: GenerationTask, row: Row) -> Asked:
    key = task.fields.answer
    answer = row.text(key)

    def filled(template: str) -> str:
        return WORD.sub(
            lambda word: row.text(task.fields.question if word[1] == "question" else word[1]),
            template,
        )

    gold = answer if task.gold is None else generation_metrics.extracted(answer, [task.gold])
    if gold is None or not generation_metrics.plain(gold, task.ignore):
        raise UserError(f"{row.where}: {key}: gold finds nothing in {answer!r:.200}")
    return Asked(
        row.place, filled(task.question), filled(task.chat_question),
        task.answer.replace("{answer}", answer), gold,
    )  # fmt: skip


def _named(files: Sequence[str]) -> str:
    return ", ".join(files)
