"""Imports inside a study: ``imports/<stamp>/``, from which the store is built."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from regmix.errors import UserError
from regmix.files import read_json, write_json, write_whole
from regmix.imports.base import ImportedRuns, stamp
from regmix.imports.tables import read_rows, with_ids
from regmix.layout import StudyLayout

_FILES = ("mixtures.csv", "metrics.csv", "errors.csv")
"""Weights, metrics and, where the source had them, standard errors; by run id."""


def save(layout: StudyLayout, runs: ImportedRuns, sources: Iterable[Path]) -> Path:
    """Keep an import inside the study, where the store is built from; the same content once."""
    folder = layout.imports / runs.stamp
    for name, frame in zip(_FILES, (runs.weights, runs.metrics, runs.errors), strict=True):
        if frame is not None:
            write_whole(folder / name, frame.to_csv)
    record = {
        "sources": [str(p) for p in sources],
        "runs": len(runs.weights),
        "notes": runs.notes,
        "directions": dict(runs.directions),
    }
    write_json(folder / "import.json", record)
    return folder


def check_new(layout: StudyLayout, runs: ImportedRuns) -> None:
    """Refuse runs whose id the study holds already, unless it is the very same import.

    Raises:
        UserError: naming the first such run and where it stands.
    """
    for kept in read_imports(layout):
        if kept.stamp == runs.stamp:
            continue
        twice = runs.weights.index.intersection(kept.weights.index)
        if len(twice):
            raise UserError(
                f"run '{twice[0]}' (and {len(twice) - 1} more) stands already in "
                f"{layout.imports / kept.stamp}; delete that folder to replace it"
            )


def read_imports(layout: StudyLayout) -> list[ImportedRuns]:
    """Every import that a study keeps.

    Raises:
        UserError: two imports hold the same run id, or a file was changed after the import.
    """
    found: list[ImportedRuns] = []
    seen: dict[str, str] = {}
    for path in sorted(layout.imports.glob("*/import.json")):
        runs = _read(path.parent, read_json(path))
        for run in runs.weights.index:
            if run in seen:
                raise UserError(
                    f"run '{run}' stands in both {seen[run]} and {path.parent}; delete one of the "
                    "two"
                )
            seen[run] = str(path.parent)
        found.append(runs)
    return found


def _read(folder: Path, record: dict[str, Any]) -> ImportedRuns:
    frames = [_frame(folder / name) for name in _FILES[:2]]
    if (folder / _FILES[2]).exists():
        frames.append(_frame(folder / _FILES[2]))
    content = stamp(*frames)
    if content != folder.name:  # by which the store knows what it has read
        raise UserError(
            f"{folder}: its files were changed after the import (content {content}, imported was "
            f"{folder.name}); undo the change, or delete this folder and run `regmix import` again "
            f"with the changed files (they came from {', '.join(record['sources'])})"
        )
    return ImportedRuns(
        frames[0],
        frames[1],
        content,
        tuple(record["notes"]),
        record.get("directions", {}),  # imports of earlier versions have none
        frames[2] if len(frames) > 2 else None,
    )


def _frame(path: Path) -> pd.DataFrame:
    table = with_ids(read_rows(path), path)
    if "run_id" not in table.ids:
        raise UserError(f"{path}: no column 'run_id'; delete {path.parent} and import again")
    columns = [str(c) for c in table.rows.columns if c != table.ids["run_id"]]
    return table.numbers("run_id", columns)
