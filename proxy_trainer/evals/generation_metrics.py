"""Answers in texts that models wrote, and how many are right.

Of a question with k texts, of which r have the right answer, the figure is r / k; ``avg@k`` is the
mean over questions. Its standard error is s / √n over the questions' figures: texts of one question
are alike, and no more than one draw of questions. ``pass@k`` is the share of questions with r > 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from proxy_trainer.evals.results import WHOLE, Mean


def extracted(text: str, patterns: Sequence[str]) -> str | None:
    """The last match of the first pattern that matches, or its group; None if none does."""
    for pattern in patterns:
        found = list(re.finditer(pattern, text))
        if found:
            last = found[-1]
            return str(last[1] if last.re.groups else last[0])
    return None


def plain(answer: str, ignored: Sequence[str]) -> str:
    """What is compared of an answer."""
    for pattern in ignored:
        answer = re.sub(pattern, "", answer)
    return answer.strip().lower()


def means(task: str, items: pd.DataFrame, repeats: int) -> list[Mean]:
    """A task's metrics.

    Args:
        items: ``number`` of the question and ``right``, a text a row.
    """
    share = items.groupby("number")["right"].mean().to_numpy(float)
    found = [_mean(f"{task}/avg@{repeats}", share)]
    if repeats > 1:
        found.append(_mean(f"{task}/pass@{repeats}", (share > 0).astype(float)))
    return found


def _mean(name: str, values: np.ndarray) -> Mean:
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    return Mean(name, WHOLE, float(values.mean()), error, count)
