"""What the YAML beside it asks for: one subject's questions, and figures of one question."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

_ONLY = "only_"


def __getattr__(name: str) -> Callable[..., Any]:
    """``only_<subject>``: the rows of one subject."""
    if not name.startswith(_ONLY):
        raise AttributeError(name)
    return partial(_only, subject=name.removeprefix(_ONLY))


def _only(rows: Any, *, subject: str) -> Any:
    subjects = rows["subject"][:]  # at once: one by one it takes a hundred times as long
    found = [i for i, own in enumerate(subjects) if own == subject]
    return rows.select(found)


def figures(row: dict[str, Any], answers: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Accuracy, by characters too, and bits per byte of the right choice without its space."""
    logprob = [said for said, _ in answers]
    by_character = [said / len(c) for said, c in zip(logprob, row["choices"], strict=True)]
    gold = int(row["answer"])
    return {
        "acc": float(logprob.index(max(logprob)) == gold),
        "acc_norm": float(by_character.index(max(by_character)) == gold),
        "bpb": -logprob[gold] / (len(row["choices"][gold].encode()) * math.log(2)),
    }
