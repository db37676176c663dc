"""Metrics of multiple choice, with the standard errors of their means.

Of a question with choices i of log-probability l_i (nats), c_i characters and b_i bytes, both
without the white space that a choice begins with, and the right choice g:

    acc               l_g is the largest l_i
    acc_norm          l_g / c_g is the largest l_i / c_i (lm-evaluation-harness)
    acc_bytes         l_g / b_g is the largest l_i / b_i
    bpb               −l_g / (b_g ln 2)
    choice_logprob    l_g − ln Σ_i exp(l_i)
    choice_prob_norm  exp(−bits_g) / Σ_i exp(−bits_i), bits_i = −l_i / (b_i ln 2)

The last two are those of Levanter (``levanter/eval_harness``). Of equal choices the first counts.

A metric of a subject is the mean over its questions, its standard error s / √n. That of a group of
subjects, and of the task, is the mean over subjects, each of which counts the same however many
questions it has; subjects are given, questions are drawn, so that the variance is the mean of the
subjects' divided by their number: √(Σ se²) / S. ``micro`` is the mean over all questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from proxy_trainer.evals.choice import Answers
from proxy_trainer.evals.questions import Questions
from proxy_trainer.evals.results import SUBJECT, WHOLE, Mean
from regmix.errors import RegmixError
from regmix.tasks import MICRO

METRICS = ("acc", "acc_norm", "acc_bytes", "bpb", "choice_logprob", "choice_prob_norm")
FloatArray = npt.NDArray[np.float64]


def items(task: Questions, answers: Answers, member: int) -> pd.DataFrame:
    """One member's figures, a question a row; those that are no number are kept, as NaN.

    Columns are ``question`` (file and line), ``subject``, ``answer``, ``shots``, ``cut``,
    ``logprob`` (of every choice) and the metrics.
    """
    rows = []
    for prompt, logprob_KC in zip(answers.prompts, answers.logprob, strict=True):
        question = task.questions[prompt.index]
        texts = [choice.lstrip() for choice in question.choices]
        logprob = logprob_KC[member]
        rows.append(
            {
                "question": question.place,
                "subject": question.subject,
                "answer": question.answer,
                "shots": prompt.shots,
                "cut": prompt.cut,
                "logprob": logprob.tolist(),
                **of_question(
                    logprob,
                    np.asarray([len(t) for t in texts]),
                    np.asarray([len(t.encode()) for t in texts]),
                    question.answer,
                ),
            }
        )
    columns = ["question", "subject", "answer", "shots", "cut", "logprob", *METRICS]
    return pd.DataFrame(rows, columns=columns)  # which are there if no question is


def of_question(
    logprob: FloatArray, characters: npt.NDArray[np.int64], size: npt.NDArray[np.int64], gold: int
) -> dict[str, float]:
    """All metrics of one question; NaN if any of its log-probabilities is no finite number.

    Args:
        size: bytes of each choice.
    """
    if not np.isfinite(logprob).all():
        return dict.fromkeys(METRICS, math.nan)
    bits = -logprob / (size * math.log(2))
    return {
        "acc": float(logprob.argmax() == gold),
        "acc_norm": float((logprob / characters).argmax() == gold),
        "acc_bytes": float(bits.argmin() == gold),
        "bpb": float(bits[gold]),
        "choice_logprob": float(logprob[gold] - np.logaddexp.reduce(logprob)),
        "choice_prob_norm": float(math.exp(-bits[gold] - np.logaddexp.reduce(-bits))),
    }


def means(task: Questions, table: pd.DataFrame) -> list[Mean]:
    """The task's metrics, its groups', and its subjects'.

    Args:
        table: of :func:`items`; rows without figures do not count.

    Raises:
        RegmixError: a subject has no question with figures.
    """
    known = table[table["bpb"].notna()]
    by_subject = {
        name: _by_metric(part) for name, part in known.groupby("subject", sort=False)[[*METRICS]]
    }
    empty = [name for name in task.subjects if name not in by_subject]
    if empty:
        raise RegmixError(
            f"task '{task.name}': subject '{empty[0]}' has no question left that can be counted "
            f"({len(empty)} such subjects)"
        )
    found = _over_subjects(task.name, list(by_subject.values()))
    if len(task.subjects) > 1:
        found += _named(f"{task.name}/{MICRO}", WHOLE, _by_metric(known))
        for group, names in task.groups.items():
            found += _over_subjects(f"{task.name}/{group}", [by_subject[n] for n in names])
        for name in task.subjects:
            found += _named(f"{task.name}/{name}", SUBJECT, by_subject[name])
    return found


_One = tuple[float, float | None, int]
"""Mean, its standard error, and of how many questions."""


def _by_metric(part: pd.DataFrame) -> dict[str, _One]:
    return {metric: _mean(part[metric].to_numpy(dtype=float)) for metric in METRICS}


def _mean(values: FloatArray) -> _One:
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    return math.fsum(values) / count, error, count


def _over_subjects(name: str, subjects: Sequence[Mapping[str, _One]]) -> list[Mean]:
    """Every subject counts the same."""
    found = {}
    for metric in METRICS:
        values, errors, counts = zip(*(s[metric] for s in subjects), strict=True)
        squares = [e * e for e in errors if e is not None]
        whole = len(squares) == len(errors)
        error = math.sqrt(math.fsum(squares)) / len(errors) if whole else None
        found[metric] = (math.fsum(values) / len(values), error, sum(counts))
    return _named(name, WHOLE, found)


def _named(name: str, split: str, found: Mapping[str, _One]) -> list[Mean]:
    return [
        Mean(f"{name}/{metric}", split, value, error, count)
        for metric, (value, error, count) in found.items()
    ]
