"""Runs measured elsewhere: read from CSV, joined by run id, kept in the study as handed in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regmix.errors import UserError, unknown_name
from regmix.files import read_json, write_json, write_whole
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout

ID_COLUMNS = ("run_id", "run", "id", "index", "name")
"""Columns that can hold the run's id, in the order in which they are tried."""
_MISSING = ("", "NA", "N/A", "NaN", "nan", "None", "null", "NULL")
WEIGHT_PREFIXES = ("train_", "weight/", "weight_", "weights/")
METRIC_PREFIXES = ("metric/", "metrics/", "eval/")
METRIC_SUFFIXES = ("_val_loss", "/val_loss", "_valid_loss")
RESERVED = (
    *ID_COLUMNS, "objective", "mixture", "seed", "tokens", "parameters", "cohort", "role"
)  # fmt: skip
"""Names that a metric cannot have, since results stand beside columns of these names."""
ROUNDING = 0.005
"""How far a row of published weights may sum from 1: printed with three decimals, no more."""


@dataclass(frozen=True)
class ImportedRuns:
    """One import: both frames indexed by run id, in the same order."""

    weights: pd.DataFrame
    metrics: pd.DataFrame
    stamp: str
    """Identity of the content."""
    notes: tuple[str, ...] = ()
    """What was corrected or left out, for the person to read."""


@dataclass(frozen=True)
class MixtureTable:
    """Mixtures read from a CSV."""

    id_column: str
    weights: pd.DataFrame
    """Indexed by id (as text); columns are domains."""
    notes: tuple[str, ...]


def read_mixtures(
    path: Path, domains: Sequence[str] | None = None, id_column: str | None = None
) -> MixtureTable:
    """Read mixtures from a CSV: one row a run, an id column, one column a domain.

    Known prefixes (``train_``, ``weight/`` …) are stripped. Rows whose sum is within 0.005 of 1 by
    rounding are divided by it, and the largest correction is noted.

    Args:
        domains: the domains that must be there; the columns are put in this order.
        id_column: default: the first known one whose values are unique.

    Raises:
        UserError: file, row and value of whatever is not a mixture.
    """
    frame = _read_csv(path)
    chosen = id_column or _id_columns(frame, path)[0]
    weights = _numbers(frame, chosen, path)
    weights.columns = pd.Index(_strip(weights.columns, WEIGHT_PREFIXES, ()))
    if domains is not None:
        weights = _in_order(weights, domains, path)
    values = weights.to_numpy()
    for bad, what in (
        (~np.isfinite(values), "is missing or not finite"),
        (values < 0, "is negative"),
    ):
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise UserError(
                f"{path}: run {weights.index[row]}: weight of '{weights.columns[column]}' {what} "
                f"({values[row, column]})"
            )
    sums = np.array([math.fsum(row) for row in values])  # exact, so that column order is nothing
    off = np.abs(sums - 1)
    if (off > ROUNDING).any():
        worst = int(np.argmax(off))
        raise UserError(
            f"{path}: weights of run {weights.index[worst]} sum to {sums[worst]:.4g}, not 1 "
            f"(rounding of up to {ROUNDING} is accepted; {int((off > ROUNDING).sum())} rows are "
            "further off); divide each row by its sum if only the ratios are meant"
        )
    rounded = off > 1e-9
    notes = (
        [f"{int(rounded.sum())} of {len(sums)} rows summed to 1 only up to rounding (at most "
         f"{off.max():.4f} off) and were divided by their sum"]
        if rounded.any() else []
    )  # fmt: skip
    return MixtureTable(chosen, weights.div(sums, axis=0), tuple(notes))


def read_csvs(mixtures: Path, metrics: Path, *, allow_missing: bool = False) -> ImportedRuns:
    """Read a swarm from two CSVs and join them by run id, never by position.

    Args:
        allow_missing: leave out, and note, runs that stand in only one of the files or lack a
            metric; otherwise they are errors.

    Raises:
        UserError: no common id column, ids that are not unique, a missing or non-finite value, a
            column that is not a number; with file, run and column.
    """
    left, right = _read_csv(mixtures), _read_csv(metrics)
    shared = [c for c in _id_columns(left, mixtures) if c in _id_columns(right, metrics)]
    if not shared:
        raise UserError(
            f"{mixtures} and {metrics} have no id column in common "
            f"(one of {', '.join(ID_COLUMNS)}, unique in both)"
        )
    table = read_mixtures(mixtures, id_column=shared[0])
    values = _numbers(right, shared[0], metrics)
    values.columns = pd.Index(_strip(values.columns, METRIC_PREFIXES, METRIC_SUFFIXES))
    _check_metric_names(list(values.columns), metrics)
    notes = list(table.notes)
    runs, notes_join = _join(table.weights.index, values, mixtures, metrics, allow_missing)
    weights, values = table.weights.loc[runs], values.loc[runs]
    return ImportedRuns(weights, values, _stamp(weights, values), (*notes, *notes_join))


def _stamp(*frames: pd.DataFrame) -> str:
    """Identity of content, not of files: the order of rows and columns means nothing."""
    return fingerprint([f.sort_index().sort_index(axis=1).to_dict("split") for f in frames])


def _check_metric_names(names: Sequence[str], path: Path) -> None:
    """Refuse names that tables of results give to other columns."""
    for name in names:
        if name in RESERVED:
            raise UserError(
                f"{path}: metric '{name}' is named like a column of every table of results "
                f"({', '.join(RESERVED)}); rename it"
            )
        if name.endswith("_std") and name.removesuffix("_std") in names:
            raise UserError(
                f"{path}: '{name}' stands beside '{name.removesuffix('_std')}'; predictions name "
                "standard deviations so; rename or drop it"
            )


def save(layout: StudyLayout, runs: ImportedRuns, sources: Iterable[Path]) -> Path:
    """Keep an import inside the study, where the store is built from; the same content once."""
    folder = layout.imports / runs.stamp
    write_whole(folder / "mixtures.csv", lambda t: runs.weights.to_csv(t, index_label="run_id"))
    write_whole(folder / "metrics.csv", lambda t: runs.metrics.to_csv(t, index_label="run_id"))
    record = {"sources": [str(p) for p in sources], "runs": len(runs.weights), "notes": runs.notes}
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
    for record in sorted(layout.imports.glob("*/import.json")):
        folder = record.parent
        frames = [_read_kept(folder / f) for f in ("mixtures.csv", "metrics.csv")]
        _check_unchanged(folder, frames, read_json(record)["sources"])
        for run in frames[0].index:
            if run in seen:
                raise UserError(
                    f"run '{run}' stands in both {seen[run]} and {folder}; delete one of the two"
                )
            seen[run] = str(folder)
        found.append(
            ImportedRuns(frames[0], frames[1], folder.name, tuple(read_json(record)["notes"]))
        )
    return found


def _check_unchanged(folder: Path, frames: Sequence[pd.DataFrame], sources: list[str]) -> None:
    """The folder's name is its content's identity, by which the store knows what it has read."""
    try:
        found = _stamp(*frames)
    except ValueError:  # a value was emptied; what was imported has none that is not finite
        found = "not finite"
    if found != folder.name:
        raise UserError(
            f"{folder}: mixtures.csv or metrics.csv was changed after the import (content {found}, "
            f"imported was {folder.name}); undo the change, or delete this folder and run `regmix "
            f"import` again with the changed files (they came from {', '.join(sources)})"
        )


def _read_kept(path: Path) -> pd.DataFrame:
    frame = _read_csv(path)
    if "run_id" not in frame:
        raise UserError(f"{path}: no column 'run_id'; delete {path.parent} and import again")
    return _numbers(frame, "run_id", path)


def _read_frame(path: Path) -> pd.DataFrame:
    """Everything as text: ids are text whatever they look like, ``007`` and ``NA`` too.

    Columns that are to be numbers are parsed later and exactly, so that a file that is written and
    read again keeps its identity.
    """
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in frame.columns.intersection(list(ID_COLUMNS)):
        frame[column] = frame[column].str.strip()
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        names = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].dropna()
        frame = _read_frame(path)
    except FileNotFoundError as exc:
        raise UserError(f"{path}: no such file") from exc
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as exc:
        raise UserError(f"{path}: not a CSV table ({exc})") from exc
    except OSError as exc:
        raise UserError(f"{path}: cannot be read ({exc.strerror})") from exc
    if frame.empty:
        raise UserError(f"{path}: has no rows")
    if not names.is_unique:  # pandas would call the second one `<name>.1`
        raise UserError(f"{path}: column '{names[names.duplicated()].iloc[0]}' is named twice")
    # A column without a name is the row number that `DataFrame.to_csv` writes.
    return frame.loc[:, [c for c in frame.columns if not re.fullmatch(r"Unnamed: \d+|", str(c))]]


def _id_columns(frame: pd.DataFrame, path: Path) -> list[str]:
    present = [c for c in ID_COLUMNS if c in frame]
    unique = [c for c in present if frame[c].is_unique and (frame[c] != "").all()]
    if not unique:
        if present:
            ids = frame[present[0]]
            if (ids == "").any():
                row = int(np.flatnonzero(ids == "")[0]) + 1
                raise UserError(f"{path}: row {row}: '{present[0]}' is empty")
            twice = ids[ids.duplicated()].iloc[0]
            raise UserError(f"{path}: '{present[0]}' names run {twice} twice")
        raise UserError(
            f"{path}: no id column (one of {', '.join(ID_COLUMNS)}); columns: "
            f"{', '.join(map(str, frame.columns[:8]))} …"
        )
    return unique


def _numbers(frame: pd.DataFrame, id_column: str, path: Path) -> pd.DataFrame:
    """The numeric columns, indexed by id; other known id columns are dropped."""
    values = frame.set_index(id_column).drop(columns=list(ID_COLUMNS), errors="ignore")
    if values.shape[1] == 0:
        raise UserError(f"{path}: no column but ids ({', '.join(frame.columns)})")
    values.index.name = "run_id"
    parsed = {column: _parse(values[column], path) for column in values}
    return pd.DataFrame(parsed, index=values.index)


def _parse(texts: pd.Series, path: Path) -> list[float]:
    numbers = []
    for run, text in texts.items():
        try:
            numbers.append(math.nan if text.strip() in _MISSING else float(text))
        except ValueError as exc:
            raise UserError(
                f"{path}: column '{texts.name}', run {run}: {text!r} is not a number"
            ) from exc
    return numbers


def _strip(names: Iterable[Any], prefixes: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Strip a prefix (and a suffix) where every column has it, so that names stay distinct."""
    result = [str(n) for n in names]
    for prefix in prefixes:
        if result and all(n.startswith(prefix) for n in result):
            result = [n.removeprefix(prefix) for n in result]
    for suffix in suffixes:
        if result and all(n.endswith(suffix) for n in result):
            result = [n.removesuffix(suffix) for n in result]
    return result


def _in_order(weights: pd.DataFrame, domains: Sequence[str], path: Path) -> pd.DataFrame:
    for name in weights.columns:
        if name not in domains:
            raise unknown_name("domain", name, domains, str(path))
    missing = [d for d in domains if d not in weights.columns]
    if missing:
        raise UserError(f"{path}: no column for domain {', '.join(missing)}")
    return weights[list(domains)]


def _join(
    runs: pd.Index, values: pd.DataFrame, mixtures: Path, metrics: Path, allow_missing: bool
) -> tuple[list[str], list[str]]:
    """Run ids that both files hold whole, in the order of the mixtures."""
    problems: dict[str, list[str]] = {
        f"in {mixtures} but not in {metrics}": [r for r in runs if r not in values.index],
        f"in {metrics} but not in {mixtures}": [r for r in values.index if r not in runs],
    }
    finite = pd.Series(np.isfinite(values.to_numpy()).all(axis=1), values.index)
    problems[f"without a finite value for every metric in {metrics}"] = [
        r for r in runs if r in values.index and not finite[r]
    ]
    notes = []
    for what, bad in problems.items():
        if not bad:
            continue
        shown = ", ".join(bad[:5]) + (" …" if len(bad) > 5 else "")
        if not allow_missing:
            raise UserError(
                f"{len(bad)} runs are {what}: {shown} (--allow-missing leaves them out)"
            )
        notes.append(f"left out {len(bad)} runs {what}: {shown}")
    return [r for r in runs if r in values.index and finite[r]], notes
