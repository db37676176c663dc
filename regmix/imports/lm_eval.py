"""Results of the lm-evaluation-harness, 0.4 and later: a folder a model, a file an evaluation.

`lm_eval --output_path OUT` writes ``OUT/<model name, / as __>/results_<time>.json``. The folder's
name is the run's id. Metrics are named ``<task>/<metric>``; a filter other than ``none`` is part of
the name (``gsm8k/exact_match/strict-match``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from regmix.direction import Direction
from regmix.errors import UserError
from regmix.files import read_json
from regmix.floats import as_float
from regmix.imports.base import common_start, named

PATTERN = "results_*.json"
_STDERR = "_stderr"


@dataclass(frozen=True)
class Results:
    """What a folder of results holds, indexed by run id; NaN where a run lacks a task."""

    values: pd.DataFrame
    errors: pd.DataFrame
    """Standard errors, as far as they are given."""
    directions: dict[str, Direction]
    """What the tasks themselves say (``higher_is_better``)."""
    notes: tuple[str, ...]


@dataclass
class _Run:
    """One run's metrics while its files are read, the latest first."""

    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, Path] = field(default_factory=dict)
    """The file that a task was taken from."""


def read_results(folder: Path) -> Results:
    """Read every run's results; of a task that was evaluated twice, the latest.

    Raises:
        UserError: there are none, a file is not such a result, a run has no metric, or two folders
            have one name.
    """
    folders: dict[str, Path] = {}
    for path in sorted(folder.rglob(PATTERN)):
        name = path.resolve().parent.name
        if folders.setdefault(name, path.parent) != path.parent:
            raise UserError(
                f"{folder}: two folders are called '{name}', which would be the run's id: "
                f"{folders[name]} and {path.parent}; rename one after its run"
            )
    if not folders:
        raise UserError(
            f"{folder}: no {PATTERN} in it or below; `lm_eval --output_path` writes "
            "<model>/results_<time>.json"
        )
    runs: dict[str, _Run] = {}
    directions: dict[str, Direction] = {}
    notes: list[str] = []
    for name, place in sorted(folders.items()):
        runs[name] = _Run()
        files = sorted(place.glob(PATTERN), reverse=True)  # ISO times: the latest first
        for path in files:
            notes += _add(runs[name], name, path, directions)
        if not runs[name].values:
            raise UserError(
                f"{files[0]}: no metric in it (such as 'acc,none' of a task); results of the "
                "lm-evaluation-harness 0.4 or later are read: evaluate again with such a version"
            )
    return Results(
        pd.DataFrame.from_dict({n: r.values for n, r in runs.items()}, orient="index"),
        pd.DataFrame.from_dict({n: r.errors for n, r in runs.items()}, orient="index"),
        directions,
        tuple(notes),
    )


def _add(run: _Run, name: str, path: Path, directions: dict[str, Direction]) -> Iterator[str]:
    """Add the tasks that no later file has; yields notes."""
    content = read_json(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not all(isinstance(v, dict) for v in results.values()):
        raise UserError(f"{path}: no 'results' by task in it; not a result of lm_eval 0.4 or later")
    limit = _section(content, "config", path).get("limit")
    groups, better = (_section(content, key, path) for key in ("groups", "higher_is_better"))
    if limit is not None:
        yield f"run {name}: {path.name} was evaluated on a part of each task only (limit {limit})"
    replaced = []
    for task, entries in {**groups, **results}.items():
        if task in run.tasks:
            replaced.append(task)
            continue
        if not isinstance(entries, dict):
            raise UserError(f"{path}: groups.{task}: {_shown(entries)} is not a mapping of metrics")
        run.tasks[task] = path
        _add_task(run, task, entries, path)
        stated = better.get(task)
        for metric, higher in (stated if isinstance(stated, dict) else {}).items():
            if isinstance(higher, bool):
                directions.setdefault(f"{task}/{metric}", "higher" if higher else "lower")
    if replaced:
        yield f"run {name}: {path.name} is older and was not read for {named(replaced)}"
    elif len({*run.tasks.values()}) > 1:
        yield f"run {name}: tasks of several files were put together, {path.name} among them"


def _section(content: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """A mapping of the file; empty where it is absent or null."""
    found = content.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: {key}: {_shown(found)} is not a mapping")
    return found


def _add_task(run: _Run, task: str, entries: dict[str, Any], path: Path) -> None:
    for key, value in entries.items():
        metric, comma, chosen = key.partition(",")
        if not comma:  # alias, sample_len: about the task, not measured
            continue
        is_error = (
            metric.endswith(_STDERR) and f"{metric.removesuffix(_STDERR)},{chosen}" in entries
        )
        name = f"{task}/{metric.removesuffix(_STDERR) if is_error else metric}"
        name += "" if chosen == "none" else f"/{chosen}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_error:
            run.errors[name] = as_float(value) if number else math.nan  # "N/A" where there is none
        elif number:
            run.values[name] = as_float(value)
        else:
            raise UserError(f"{path}: results.{task}.{key}: {_shown(value)} is not a number")


def _shown(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def direction(metric: str, stated: dict[str, Direction]) -> Direction | None:
    """What the task says of a metric, whatever its filter."""
    task_and_metric = "/".join(metric.split("/")[:2])
    return stated.get(metric) or stated.get(task_and_metric)


def match_ids(found: Results, wanted: Collection[str], folder: Path) -> Results:
    """Name the runs as the mixtures do.

    `lm_eval` names a folder after the whole path of the model. Where no folder has the name of a
    run, what all names share at their beginning and end, up to ``__``, is taken away and noted.
    """
    names = [str(n) for n in found.values.index]
    if set(names) & set(wanted) or len(names) < 2:
        return found
    head = common_start(names)
    head = head[: head.rfind("__") + 2] if "__" in head else ""
    tail = common_start([n[::-1] for n in names])[::-1]
    tail = tail[tail.find("__") :] if "__" in tail else ""
    short = {n: n.removeprefix(head).removesuffix(tail) for n in names}
    if not set(short.values()) & set(wanted):
        return found
    kept = " and ".join(f"'{part}'" for part in (head, tail) if part)
    note = f"{folder}: run ids are the folders' names without {kept}"
    return Results(
        found.values.rename(index=short),
        found.errors.rename(index=short),
        found.directions,
        (*found.notes, note),
    )
