"""Differences of two models on the same documents and questions.

Every metric of an evaluation is a mean over groups (subjects, sources; or one group of all) of a
ratio of two sums over items: bits over bytes of documents, or what questions came to over their
number. Two models that read the same items share what is hard about them, so that the error of
their difference is that of the items' differences. Of one group, with numerators a and b of M items
and their common denominator d, and D = Σ(b - a) / Σd,

    se² = M / (M - 1) · Σ(b - a - D·d)² / (Σd)²

(the ratio estimator: W. G. Cochran, Sampling Techniques, 3rd ed., eq. 6.9, of a difference; with
d = 1 it is that of a paired t-test); of a mean over S groups √(Σ se²) / S: groups are given, items
are drawn. Where a subject is several runs, an item's numerator is its mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from regmix.files import read_json
from regmix.layout import RunLayout, StudyLayout
from regmix.tasks import MICRO

Items = dict[str, pd.DataFrame]
"""By metric: columns ``top`` and ``bottom``, index ``group`` and ``item``."""
_ABOUT = {"question", "subject", "answer", "shots", "cut", "logprob"}
"""Columns of a question that are no metrics."""


@dataclass(frozen=True)
class Paired:
    """A difference over the same items."""

    difference: float
    std_error: float
    items: int
    freedom: int
    """Items less groups."""


def difference(first: Sequence[Items], second: Sequence[Items], metric: str) -> Paired | str:
    """Of two subjects of one run or more on one metric; or why it cannot be paired."""
    known = [items.get(metric) for items in (*first, *second)]
    tables = [table for table in known if table is not None]
    if not tables or len(tables) < len(known):
        return "what the items came to is not kept of all"
    base = tables[0]
    for table in tables[1:]:
        if not table.index.equals(base.index):
            return "not all were measured on the same items"
        if not (table["bottom"] == base["bottom"]).all():
            return "items of one number are not the same"
    count = len(first)
    a, b = (
        sum((t["top"] for t in part[1:]), start=part[0]["top"]) / len(part)
        for part in (tables[:count], tables[count:])
    )
    return _of_groups(pd.DataFrame({"apart": b - a, "bottom": base["bottom"]}))


def _of_groups(items: pd.DataFrame) -> Paired | str:
    groups = items.groupby(level="group", sort=False)
    size, sums = groups.size(), groups.sum()
    if (size < 2).any():
        return f"{size.idxmin()}: one item tells nothing of others"
    ratio = sums["apart"] / sums["bottom"]
    at = items.index.get_level_values("group")
    rest = items["apart"] - ratio.loc[at].to_numpy() * items["bottom"]
    squares = (rest**2).groupby(level="group", sort=False).sum()
    variance = size / (size - 1) * squares / sums["bottom"] ** 2
    return Paired(
        float(ratio.mean()),
        math.sqrt(float(variance.sum())) / len(size),
        len(items),
        len(items) - len(size),
    )


def together(
    seeds: float, freedom: float, texts: float, text_freedom: float
) -> tuple[float, float]:
    """Both errors, and the degrees of freedom of their sum (Satterthwaite 1946).

    Where nothing was repeated, texts alone if they are paired: of errors in full, nothing.
    """
    if freedom < 1 or math.isnan(seeds):
        known = math.isfinite(text_freedom)
        return (texts, text_freedom) if known else (math.nan, 0)
    total = seeds**2 + texts**2
    if not total > 0:  # NaN too
        return math.sqrt(total), freedom
    parts = seeds**4 / freedom + (texts**4 / text_freedom if math.isfinite(text_freedom) else 0)
    return math.sqrt(total), total**2 / parts if parts > 0 else math.inf


def unpaired(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which metrics could not be paired item by item, by reason, where some could."""
    if not any(row["items"] for row in rows):
        return []
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["why"]:
            reasons.setdefault(row["why"], []).append(row["metric"])
    return [
        f"not paired over documents or questions ({why}): {', '.join(dict.fromkeys(metrics))}"
        for why, metrics in reasons.items()
    ]


def of_run(study: StudyLayout, run: RunLayout) -> Items:
    """What a finished run of a study came to, item by item; nothing of what is not kept."""
    found: Items = {}
    if run.documents.is_file():
        found |= _of_documents(pd.read_parquet(run.documents))
    for path in sorted(run.evals.glob("*.json")):
        found |= of_task(read_json(path), path.with_suffix(".parquet"), study)
    return found


def beside(path: Path, fingerprint: str) -> Path:
    """Where the items of one task are, of results that are in one file."""
    return path.with_name(f"{path.stem}.{fingerprint}.parquet")


def of_task(result: Mapping[str, Any], path: Path, study: StudyLayout) -> Items:
    """One task's, from its results and the file of its items; nothing where that is not there."""
    if not path.is_file():
        return {}
    items = pd.read_parquet(path)
    if {"nats", "bytes"} <= {*items}:
        return _of_texts(result["task"], items)
    if {"question", "subject"} <= {*items}:
        described = study.evals / result["fingerprint"] / "task.json"
        groups = read_json(described).get("groups", {}) if described.is_file() else {}
        return _of_questions(result["task"], items, groups)
    return {}  # of a kind that has no pairs


def _of_documents(items: pd.DataFrame) -> Items:
    return {
        str(metric): _table(pd.Series(0, own.index), own["document"], own["nats"], own["bytes"])
        for metric, own in items.groupby("metric", sort=False)
    }


def _of_texts(task: str, items: pd.DataFrame) -> Items:
    """A collection's sources, their mean, and all documents alike."""
    known = items[items["nats"].notna()]
    each = pd.Series(range(len(known)), known.index)
    whole = pd.Series(0, known.index)
    return {
        f"{task}/{MICRO}/bpb": _table(whole, each, known["nats"], known["bytes"]),
        **_of_documents(known),
        f"{task}/bpb": _table(known["source"], known["document"], known["nats"], known["bytes"]),
    }


def _table(group: pd.Series, item: pd.Series, nats: pd.Series, size: pd.Series) -> pd.DataFrame:
    index = pd.MultiIndex.from_arrays([group, item], names=["group", "item"])
    frame = pd.DataFrame({"top": (nats / math.log(2)).to_numpy(), "bottom": size.to_numpy()}, index)
    return frame.sort_index()


def _of_questions(task: str, items: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> Items:
    """A task's metrics over its subjects, those of its groups, and over all questions alike."""
    metrics = [str(c) for c in items if c not in _ABOUT]
    known = items[items[metrics].notna().all(axis=1)]
    found: Items = {}
    parts = {"": known, **{f"{g}/": known[known["subject"].isin(own)] for g, own in groups.items()}}
    for part, rows in parts.items():
        found |= _means(f"{task}/{part}", rows, rows["subject"], metrics)
    return found | _means(f"{task}/{MICRO}/", known, pd.Series(0, known.index), metrics)


def _means(prefix: str, rows: pd.DataFrame, group: pd.Series, metrics: Sequence[str]) -> Items:
    index = pd.MultiIndex.from_arrays([group, rows["question"]], names=["group", "item"])
    return {
        f"{prefix}{m}": pd.DataFrame({"top": rows[m].to_numpy(), "bottom": 1}, index).sort_index()
        for m in metrics
    }
