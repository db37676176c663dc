"""What a model came to on a task, as files: metrics as JSON, items beside them as parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from proxy_trainer.environment import choose_device, describe
from regmix.files import write_json, write_whole

WHOLE, SUBJECT = "test", "subject"
"""Splits of the store: what stands for a task or a group, and what is one subject's."""


@dataclass(frozen=True)
class Mean:
    """A metric."""

    name: str
    split: str
    value: float
    std_error: float | None
    """None of a single item, which tells nothing of others."""
    count: int
    """Items that it is over: questions, documents."""


@dataclass(frozen=True)
class Result:
    """One model on one task."""

    task: str
    """Its name."""
    fingerprint: str
    """The task's."""
    means: Sequence[Mean]
    items: pd.DataFrame
    """What each question or document came to."""
    excluded: Mapping[str, str]
    """Items that do not count, by file and line, and why."""
    counts: Mapping[str, int]
    """``available`` and ``asked`` items, ``excluded`` ones, and what else is worth counting."""
    notes: Sequence[str] = ()
    """What a reader of the metrics has to know."""
    seed: int | None = None
    """Of the sample, if it is one."""

    @property
    def metrics(self) -> dict[str, float]:
        """The task's own and its groups', by name."""
        return {m.name: m.value for m in self.means if m.split == WHOLE}

    def as_dict(self, **more: Any) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "task": self.task,
            "fingerprint": self.fingerprint,
            **more,
            "counts": dict(self.counts),
            "sample_seed": self.seed,
            "metrics": [asdict(mean) for mean in self.means],
            "excluded": dict(self.excluded),
            "notes": list(self.notes),
            "environment": describe(choose_device()),
        }

    def save(self, path: Path, *, items: bool = True, **more: Any) -> None:
        """Write ``path``, and before it what each item came to, as parquet beside it.

        Args:
            items: whether the latter is kept.
            more: values to stand beside the others.
        """
        if items:
            write_whole(path.with_suffix(".parquet"), lambda tmp: self.items.to_parquet(tmp))
        write_json(path, self.as_dict(**more))


def notes(
    task: str, counts: Mapping[str, int], seed: int | None, told: Mapping[str, str]
) -> list[str]:
    """Sentences on what was counted, and on the sample if there is one.

    Args:
        told: what is to be said of a count that is not 0.
    """
    found = [f"{task}: {counts[key]:,} {text}" for key, text in told.items() if counts[key]]
    if seed is not None:
        found.append(
            f"{task}: {counts['asked']:,} of {counts['available']:,}, drawn with seed {seed}; "
            "standard errors are those of so many"
        )
    return found
