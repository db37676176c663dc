"""CSV and parquet tables: one row a run, or one row a run and domain (or metric)."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regmix.errors import UserError, unknown_name
from regmix.imports.base import ID_COLUMNS, WEIGHT_PREFIXES, check_weights, strip

_MISSING = ("", "NA", "N/A", "NaN", "nan", "None", "null", "NULL")
_LONG = (
    (("domain", "source"), ("weight", "ratio", "share", "value"), "0"),
    (("metric",), ("value",), ""),
)
"""Long tables: what the key's and the value's column are called, and what an absent row means. A
domain that is not listed has no weight; the sum of the row proves it."""


@dataclass(frozen=True)
class Table:
    """A table as text, one row a run; numbers are parsed where they are asked for, and exactly."""

    path: Path
    rows: pd.DataFrame
    ids: dict[str, str]
    """Columns that identify every row: one of :data:`ID_COLUMNS` to the column's own name."""
    notes: tuple[str, ...] = ()
    wandb: bool = False
    """Whether it is a run table of Weights & Biases: beside weights and metrics, anything."""
    unfinished: pd.DataFrame | None = None
    """Rows that were set apart because their run did not finish; same columns."""

    @property
    def columns(self) -> list[str]:
        """Columns that are no ids."""
        lower = {str(c): str(c).casefold() for c in self.rows.columns}
        return [c for c, name in lower.items() if name not in ID_COLUMNS]

    @property
    def values(self) -> list[str]:
        """The same, where there must be some.

        Raises:
            UserError: there is none.
        """
        if not self.columns:
            raise UserError(f"{self.path}: no column but ids ({', '.join(self.ids.values())})")
        return self.columns

    def numbers(self, id_name: str, columns: Sequence[str], option: str = "") -> pd.DataFrame:
        """Some columns as numbers, indexed by run id; a missing value is NaN.

        Args:
            option: of the command line, by which a column could be left out.

        Raises:
            UserError: column, run and value of what is not a number.
        """
        index = pd.Index(self.rows[self.ids[id_name]], name="run_id")
        parsed = {}
        for column in columns:
            hint = f"; leave the column out with {option} '!{column}'" if option else ""
            parsed[column] = _parse(column, index, self.rows[column], self.path, hint)
        return pd.DataFrame(parsed, index=index)


@dataclass(frozen=True)
class MixtureTable:
    """Mixtures read from a table."""

    id_column: str
    weights: pd.DataFrame
    """Indexed by id (as text); columns are domains."""
    notes: tuple[str, ...]


def read_mixtures(path: Path, domains: Sequence[str] | None = None) -> MixtureTable:
    """Read mixtures from a CSV or parquet table, wide or long, with an id column.

    Known prefixes (``train_``, ``weight/`` …) are stripped. Rows whose sum is within 0.005 of 1 by
    rounding are divided by it, and the largest correction is noted.

    Args:
        domains: the domains that must be there; the columns are put in this order.

    Raises:
        UserError: file, row and value of whatever is not a mixture.
    """
    table = with_ids(read_rows(path), path)
    chosen = next(iter(table.ids))
    weights = table.numbers(chosen, table.values)
    weights.columns = pd.Index(strip(weights.columns, WEIGHT_PREFIXES, ()))
    if domains is not None:
        weights = _in_order(weights, domains, path)
    weights, notes = check_weights(weights, path)
    return MixtureTable(table.ids[chosen], weights, (*table.notes, *notes))


def read_rows(path: Path) -> pd.DataFrame:
    """Every cell as text: ids are text whatever they look like, ``007`` and ``NA`` too.

    Raises:
        UserError: the file is missing, is no table, has no rows, or a column twice.
    """
    try:
        frame = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    except FileNotFoundError as exc:
        raise UserError(f"{path}: no such file") from exc
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as exc:
        kind = "parquet" if path.suffix == ".parquet" else "CSV"
        raise UserError(f"{path}: not a {kind} table ({exc})") from exc
    except OSError as exc:
        raise UserError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    if not len(frame):
        raise UserError(f"{path}: has no rows")
    # A column without a name is the row number that `DataFrame.to_csv` writes.
    frame = frame.loc[:, [not re.fullmatch(r"Unnamed: \d+|", str(c)) for c in frame.columns]]
    for column in frame.columns:
        if str(column).casefold() in ID_COLUMNS:
            frame[column] = frame[column].str.strip()
    return frame


def _csv(path: Path) -> pd.DataFrame:
    separator = "\t" if ".tsv" in path.suffixes else ","
    names = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str).iloc[0].dropna()
    if not names.is_unique:  # pandas would call the second one `<name>.1`
        raise UserError(f"{path}: column '{names[names.duplicated()].iloc[0]}' is named twice")
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)


def _parquet(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"{path}: column '{twice}' is named twice")
    return pd.DataFrame({str(c): [_text(v) for v in frame[c].tolist()] for c in frame}, dtype=str)


def _text(value: Any) -> str:
    """A cell as a CSV would have it, floats with all their digits and whole ones without a dot."""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    return "" if value is None or value is pd.NA or value is pd.NaT else str(value)


def with_ids(rows: pd.DataFrame, path: Path) -> Table:
    """Turn a long table into a wide one, and find the columns that identify its rows.

    Raises:
        UserError: there is none; or a row without an id, or an id twice.
    """
    notes: list[str] = []
    for keys, values, absent in _LONG:
        lower = {str(c).casefold(): str(c) for c in rows.columns}
        key = next((lower[k] for k in keys if k in lower), None)
        value = next((lower[v] for v in values if v in lower), None)
        if key and value:
            rows, notes = _widen(rows, key, value, absent, path)
            break
    present = _present_ids(rows)
    ids = {n: c for n, c in present.items() if rows[c].is_unique and (rows[c] != "").all()}
    if not ids:
        raise _no_id(rows, present, path)
    return Table(path, rows, ids, tuple(notes))


def _present_ids(rows: pd.DataFrame) -> dict[str, str]:
    """Id columns by the name that they are known by; `name` goes before `Name`."""
    found: dict[str, str] = {}
    for name in ID_COLUMNS:
        same = sorted((str(c) for c in rows.columns if str(c).casefold() == name), reverse=True)
        if same:
            found[name] = same[0]
    return found


def _no_id(rows: pd.DataFrame, present: dict[str, str], path: Path) -> UserError:
    if not present:
        return UserError(
            f"{path}: no id column (one of {', '.join(ID_COLUMNS)}); columns: "
            f"{', '.join(map(str, rows.columns[:8]))} …"
        )
    column = next(iter(present.values()))
    ids = rows[column]
    if (ids == "").any():
        row = int(np.flatnonzero(ids == "")[0]) + 1
        return UserError(f"{path}: row {row}: '{column}' is empty")
    return UserError(f"{path}: '{column}' names run {ids[ids.duplicated()].iloc[0]} twice")


def _widen(
    rows: pd.DataFrame, key: str, value: str, absent: str, path: Path
) -> tuple[pd.DataFrame, list[str]]:
    """One row a run out of one row a run and domain (or metric)."""
    ids = _present_ids(rows)
    if not ids:
        raise _no_id(rows, ids, path)
    column = next(iter(ids.values()))
    for part in (column, key):
        if (rows[part].str.strip() == "").any():
            row = int(np.flatnonzero(rows[part].str.strip() == "")[0]) + 1
            raise UserError(f"{path}: row {row}: '{part}' is empty")
    rows = rows.assign(**{key: rows[key].str.strip()})
    twice = rows.duplicated([column, key])
    if twice.any():
        run, name = rows.loc[twice, [column, key]].iloc[0]
        raise UserError(f"{path}: run {run} has {key} '{name}' twice")
    others = [str(c) for c in rows.columns if c not in (*ids.values(), key, value)]
    notes = [f"{path}: columns that are not read: {', '.join(sorted(others))}"] if others else []
    wide = rows.pivot(index=column, columns=key, values=value)
    missing = int(wide.isna().to_numpy().sum())
    if missing and absent:
        notes.append(f"{path}: {missing} rows of a run and a {key} are absent and count as 0")
    wide = wide.fillna(absent).reset_index()
    wide.columns.name = None
    return wide, notes


def _parse(column: str, index: pd.Index, texts: pd.Series, path: Path, hint: str) -> list[float]:
    numbers = []
    for run, text in zip(index, texts, strict=True):
        try:
            numbers.append(math.nan if text.strip() in _MISSING else float(text))
        except ValueError as exc:
            shown = text if len(text) <= 40 else f"{text[:40]}…"
            raise UserError(
                f"{path}: column '{column}', run {run}: {shown!r} is not a number{hint}"
            ) from exc
    return numbers


def select(
    columns: Sequence[str], patterns: Sequence[str], option: str, place: object
) -> list[str]:
    """The columns that glob patterns name: ``*`` is anything, a pattern after ``!`` takes away.

    Raises:
        UserError: a pattern names no column (the nearest is suggested), or none is left.
    """
    kept = list(columns) if patterns[0].startswith("!") else []
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        found = [c for c in columns if fnmatchcase(c, bare)]
        if not found:
            near = difflib.get_close_matches(bare, columns, n=3, cutoff=0.3)
            shown = ", ".join(near or list(columns[:8]))
            raise UserError(
                f"{place}: {option} '{pattern}' names no column; "
                f"{'near' if near else 'there'} are: {shown or '(none)'}"
            )
        if pattern.startswith("!"):
            kept = [c for c in kept if c not in found]
        else:
            kept += [c for c in found if c not in kept]
    if not kept:
        raise UserError(f"{place}: {option} {' '.join(patterns)} leaves no column")
    return kept


def _in_order(weights: pd.DataFrame, domains: Sequence[str], path: Path) -> pd.DataFrame:
    for name in weights.columns:
        if name not in domains:
            raise unknown_name("domain", name, domains, str(path))
    missing = [d for d in domains if d not in weights.columns]
    if missing:
        raise UserError(f"{path}: no column for domain {', '.join(missing)}")
    return weights[list(domains)]
