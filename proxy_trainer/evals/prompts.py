"""Questions as tokens: what is shared, what each choice adds, what does not fit.

A prompt is the header of its subject, shots, and the question; each choice follows it. The tokens
of a choice are those that the prompt with the choice has beyond the prompt's own, as in
lm-evaluation-harness: nothing is put before the prompt. Header and shots are tokenised once for all
questions that have as many shots, at a place where tokens end in every one of them.

A prompt that is too long for the context with its longest choice loses shots, the last first; one
that is too long without any is cut from the left. Both are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from proxy_trainer.data.shards import IntArray
from proxy_trainer.evals.questions import Question, Questions

_AT_ONCE = 512
"""Texts that the tokenizer is given together."""


@dataclass(frozen=True)
class Prompt:
    """One question as a model is asked it."""

    index: int
    """Of the question in its task."""
    own: IntArray
    """Tokens after those that the prompt shares with others."""
    choices: tuple[IntArray, ...]
    """Tokens of each."""
    shots: int
    cut: int
    """Tokens that were cut off at the left."""

    @property
    def inputs(self) -> int:
        """Tokens that a model is given beyond those shared, with the choices side by side."""
        return len(self.own) + sum(len(c) - 1 for c in self.choices)


@dataclass
class Prompts:
    """A task's questions for one tokenizer and one context."""

    groups: list[tuple[IntArray, list[Prompt]]] = field(default_factory=list)
    """Tokens that prompts share, which may be none, and those prompts."""
    excluded: dict[int, str] = field(default_factory=dict)
    """Questions that have no figure, and why, whichever model is asked."""

    @property
    def all(self) -> list[Prompt]:
        """Every prompt, by question."""
        return sorted((p for _, own in self.groups for p in own), key=lambda p: p.index)

    @property
    def tokens(self) -> int:
        """That each model reads, what prompts share counted once."""
        return sum(len(shared) + sum(p.inputs for p in own) for shared, own in self.groups)


def encode(task: Questions, tokenizer: Tokenizer, context: int) -> Prompts:
    """A task's questions as tokens.

    Args:
        context: positions that a model has.
    """
    return _Encoder(task, tokenizer, context).prompts()


@dataclass(frozen=True)
class _Beginning:
    """Header and some shots of a subject."""

    text: str
    ids: IntArray
    apart: bool
    """Whether the tokens of what follows do not depend on it, nor its on what follows."""


class _Encoder:
    def __init__(self, task: Questions, tokenizer: Tokenizer, context: int) -> None:
        self._task, self._tokenizer, self._context = task, tokenizer, context
        self._beginnings: dict[tuple[str, int], _Beginning] = {}
        # What holds where one question begins holds in all that begin with the same character.
        first = {q.text[:1] for q in task.questions}
        self._alike = len(first) == 1 and not first.pop().isspace()

    def prompts(self) -> Prompts:
        found = Prompts()
        shared: dict[tuple[str, int], list[Prompt]] = {}
        alone: list[Prompt] = []
        for index, (question, own, choices) in enumerate(self._pieces()):
            wrong = self._unscorable(question, own, choices)
            if wrong:
                found.excluded[index] = wrong
                continue
            prompt, key = self._prompt(index, question, own, choices)
            (alone if key is None else shared.setdefault(key, [])).append(prompt)
        found.groups = [(self._beginnings[key].ids, own) for key, own in shared.items()]
        if alone:
            found.groups.append((np.zeros(0, dtype=np.int64), alone))
        return found

    def _unscorable(self, question: Question, own: IntArray, choices: Sequence[IntArray]) -> str:
        if not len(own):
            return "a question without a token"
        for text, ids in zip(question.choices, choices, strict=True):
            if not text.strip() or not len(ids):
                return f"a choice without a token ({text!r})"
            if len(ids) > self._context:
                return f"a choice of {len(ids)} tokens, in a context of {self._context}"
        return ""

    def _prompt(
        self, index: int, question: Question, own: IntArray, choices: tuple[IntArray, ...]
    ) -> tuple[Prompt, tuple[str, int] | None]:
        """The prompt with as many shots as fit, and where what it shares is kept, if it shares."""
        room = self._context + 1 - max(map(len, choices))
        """For the prompt: the last token of a choice is never given to the model."""
        whole = own
        for shots in range(len(self._task.subjects[question.subject].shots), -1, -1):
            beginning = self._beginning(question, shots, own)
            if beginning.apart:
                if len(beginning.ids) + len(own) <= room:
                    prompt = Prompt(index, own, choices, shots, 0)
                    return prompt, (question.subject, shots) if len(beginning.ids) else None
                whole = np.concatenate([beginning.ids, own]) if shots == 0 else whole
                continue
            whole = self._ids([beginning.text + question.text])[0]
            if len(whole) <= room:
                return Prompt(index, whole, choices, shots, 0), None
        cut = len(whole) - room
        return Prompt(index, whole[cut:], choices, 0, cut), None

    def _beginning(self, question: Question, shots: int, own: IntArray) -> _Beginning:
        """Kept by subject, since all questions of it begin alike, with what the template says."""
        key = (question.subject, shots)
        if key not in self._beginnings:
            text = self._task.subjects[question.subject].before(shots)
            whole = self._ids([text + question.text])[0]
            split = len(whole) - len(own)
            apart = split >= 0 and np.array_equal(whole[split:], own)
            apart = apart and (self._alike or not text)
            self._beginnings[key] = _Beginning(text, whole[: max(0, split)], apart)
        return self._beginnings[key]

    def _pieces(self) -> list[tuple[Question, IntArray, tuple[IntArray, ...]]]:
        """Questions with their own tokens and those of their choices."""
        questions = self._task.questions
        own = self._ids([q.text for q in questions])
        ends = [_last_line(q.text) for q in questions]
        end_ids = self._ids(ends)
        whole = iter(
            self._ids([end + c for end, q in zip(ends, questions, strict=True) for c in q.choices])
        )
        found = []
        for q, ids, end, ending in zip(questions, own, ends, end_ids, strict=True):
            with_choice = [next(whole) for _ in q.choices]
            before = ending
            if len(end) < len(q.text) and not np.array_equal(ids[len(ids) - len(ending) :], ending):
                before = ids  # the last line is tokenised otherwise where it stands
                with_choice = self._ids([q.text + c for c in q.choices])
            found.append((q, ids, tuple(w[len(before) :] for w in with_choice)))
        return found

    def _ids(self, texts: Sequence[str]) -> list[IntArray]:
        found = []
        for start in range(0, len(texts), _AT_ONCE):
            part = self._tokenizer.encode_batch_fast(
                list(texts[start : start + _AT_ONCE]), add_special_tokens=False
            )
            found += [np.asarray(e.ids, dtype=np.int64) for e in part]
        return found


def _last_line(text: str) -> str:
    return text[text.rfind("\n") + 1 :] or text


def counts(prompts: Sequence[Prompt], shots: int) -> dict[str, int]:
    """Questions that did not fit the context whole, of a task with so many shots."""
    return {
        "fewer_shots": sum(p.shots < shots for p in prompts),
        "cut_from_the_left": sum(p.cut > 0 for p in prompts),
    }
