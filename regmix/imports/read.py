"""From sources to runs: which columns are weights, which are metrics, and the join by run id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from regmix import direction
from regmix.direction import Direction
from regmix.errors import UserError
from regmix.imports import lm_eval, wandb
from regmix.imports.base import (
    ID_COLUMNS,
    METRIC_PREFIXES,
    METRIC_SUFFIXES,
    WEIGHT_PREFIXES,
    ImportedRuns,
    check_metric_names,
    check_weights,
    common_start,
    join,
    strip,
)
from regmix.imports.tables import Table, read_rows, select


@dataclass(frozen=True)
class Choice:
    """Which columns to read, as glob patterns (``config.mixture.*``, ``!eval/table``).

    Empty: everything that is no id, or what can be told from names and sums where a table holds
    more than weights or metrics.
    """

    weights: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Metrics:
    """Metrics of one source before they are joined."""

    values: pd.DataFrame
    directions: Mapping[str, Direction]


def read(
    *,
    mixtures: Path | None = None,
    metrics: Path | None = None,
    runs: Path | None = None,
    choice: Choice = Choice(),
    allow_missing: bool = False,
) -> ImportedRuns:
    """Read runs from whatever they stand in.

    Args:
        mixtures: a table of weights: CSV or parquet, wide or long.
        metrics: a table of metrics, or a folder of lm-evaluation-harness results.
        runs: instead of both: one table that holds weights and metrics, as W&B exports it.

    Raises:
        UserError: other combinations than these, or as the functions below.
    """
    if runs is not None and mixtures is None and metrics is None:
        return read_runs(runs, choice=choice, allow_missing=allow_missing)
    if runs is not None or mixtures is None or metrics is None:
        given = {"--mixtures": mixtures, "--metrics": metrics, "--runs": runs}
        shown = " and ".join(name for name, path in given.items() if path is not None)
        raise UserError(
            f"import: {shown or 'no file'} given; give --mixtures and --metrics, or --runs for one "
            "file that holds both"
        )
    reader = read_lm_eval if metrics.is_dir() else read_csvs
    return reader(mixtures, metrics, choice=choice, allow_missing=allow_missing)


def read_csvs(
    mixtures: Path,
    metrics: Path,
    *,
    choice: Choice = Choice(),
    allow_missing: bool = False,
) -> ImportedRuns:
    """Read a swarm from two tables and join them by run id, never by position.

    Args:
        allow_missing: leave out, and note, runs that stand in only one of the files or lack a
            metric; otherwise they are errors.

    Raises:
        UserError: no common id column, ids that are not unique, a missing or non-finite value, a
            column that is not a number; with file, run and column.
    """
    left, right = _open(mixtures), _open(metrics)
    shared = [name for name in left.ids if name in right.ids]
    if not shared:
        raise UserError(
            f"{mixtures} and {metrics} have no id column in common "
            f"(one of {', '.join(ID_COLUMNS)}, unique in both); rename one"
        )
    weights, notes = _weights(left, shared[0], choice)
    values = _metrics(right, shared[0], choice)
    for table in (left, right):
        apart, said = wandb.unfinished(table, shared[0])
        weights, values = _without(weights, apart), _Metrics(
            _without(values.values, apart), values.directions
        )  # fmt: skip
        notes += [*table.notes, *said]
    return _joined(weights, values, (mixtures, metrics), notes, allow_missing=allow_missing)


def read_runs(
    path: Path,
    *,
    choice: Choice = Choice(),
    allow_missing: bool = False,
) -> ImportedRuns:
    """Read a swarm from one table that holds weights and metrics.

    Raises:
        UserError: as :func:`read_csvs`; or it cannot be told which columns are the weights, or
            which the metrics.
    """
    table = _open(path)
    name = next(iter(table.ids))
    by_weight = (
        select(table.values, choice.weights, "--weights", path)
        if choice.weights
        else wandb.weight_columns(table, table.values)
    )
    others = [c for c in table.values if c not in by_weight]
    if choice.metrics:
        by_metric = select(table.values, choice.metrics, "--select", path)
        both = [c for c in by_metric if c in by_weight]
        if both:
            raise UserError(f"{path}: column '{both[0]}' is chosen as a weight and as a metric")
    else:
        by_metric = wandb.metric_columns(table, others) if table.wandb else others
    weights, notes = _named_weights(table, name, by_weight, _prefix(by_weight, choice.weights))
    values = _named_metrics(table, name, by_metric)
    notes += [*table.notes, *wandb.unfinished(table, name)[1]]
    if len(by_weight) + len(by_metric) < len(table.values):
        notes.append(f"read as weights: {_shown(by_weight)}; as metrics: {_shown(by_metric)}")
    return _joined(weights, values, (path, path), notes, allow_missing=allow_missing)


def read_lm_eval(
    mixtures: Path,
    folder: Path,
    *,
    choice: Choice = Choice(),
    allow_missing: bool = False,
) -> ImportedRuns:
    """Read mixtures from a table and metrics from lm-evaluation-harness results.

    The table's id column is the one that has most of the folders' names.

    Raises:
        UserError: as :func:`read_csvs`; or no folder is called as a run.
    """
    left = _open(mixtures)
    found = lm_eval.read_results(folder)
    named = {name: set(left.rows[column]) for name, column in left.ids.items()}
    every = set[str]().union(*named.values())
    found = lm_eval.match_ids(found, every, folder)
    runs = {str(r) for r in found.values.index}
    name = max(named, key=lambda n: len(named[n] & runs))
    if not named[name] & runs:
        raise UserError(
            f"{folder}: none of its folders ({', '.join(sorted(runs)[:3])} …) has the name of a "
            f"run in {mixtures} ({', '.join(sorted(named[name])[:3])} …); rename the folders, or "
            "the ids"
        )
    weights, notes = _weights(left, name, choice)
    columns = sorted(map(str, found.values.columns))
    if choice.metrics:
        columns = select(columns, choice.metrics, "--select", folder)
    check_metric_names(columns, folder)
    stated = {m: lm_eval.direction(m, found.directions) or direction.of_name(m) for m in columns}
    values = _Metrics(found.values[columns], {m: d for m, d in stated.items() if d})
    notes += [*left.notes, *wandb.unfinished(left, name)[1], *found.notes]
    errors = found.errors.reindex(columns=columns)
    return _joined(
        weights, values, (mixtures, folder), notes, allow_missing=allow_missing, errors=errors
    )


def _open(path: Path) -> Table:
    return wandb.open_runs(read_rows(path), path)


def _weights(table: Table, id_name: str, choice: Choice) -> tuple[pd.DataFrame, list[str]]:
    """Weights of a table that is there for them alone."""
    columns = table.values
    if choice.weights:
        columns = select(columns, choice.weights, "--weights", table.path)
    elif table.wandb:
        columns = wandb.weight_columns(table, columns)
    grouped = bool(choice.weights) or table.wandb
    prefix = _prefix(columns, choice.weights) if grouped else ""
    return _named_weights(table, id_name, columns, prefix)


def _named_weights(
    table: Table, id_name: str, columns: Sequence[str], prefix: str
) -> tuple[pd.DataFrame, list[str]]:
    weights = table.numbers(id_name, columns, "--weights")
    weights.columns = pd.Index(strip(columns, (prefix, *WEIGHT_PREFIXES), ()))
    return check_weights(weights, table.path)


def _prefix(columns: Sequence[str], patterns: Sequence[str]) -> str:
    """What a pattern has before its first wildcard, or what all columns share: ``config.mixture.``.

    It ends at a separator, so that ``config.mixture.w*`` does not cut the names of the domains.
    """
    starts = {re.split(r"[*?\[]", p)[0] for p in patterns if not p.startswith("!")}
    start = starts.pop() if len(starts) == 1 else common_start(columns)
    ends = "./:_-" if start.endswith(("_", "-")) else "./:"
    return start[: max(start.rfind(c) for c in ends) + 1]


def _metrics(table: Table, id_name: str, choice: Choice) -> _Metrics:
    """Metrics of a table that is there for them alone."""
    columns = table.values
    if choice.metrics:
        columns = select(columns, choice.metrics, "--select", table.path)
    elif table.wandb:
        columns = wandb.metric_columns(table, columns)
    return _named_metrics(table, id_name, columns)


def _named_metrics(table: Table, id_name: str, columns: Sequence[str]) -> _Metrics:
    if not columns:
        raise UserError(f"{table.path}: no column beside ids and weights; where are the metrics?")
    values = table.numbers(id_name, columns, "--select")
    names = strip(columns, METRIC_PREFIXES, METRIC_SUFFIXES)
    check_metric_names(names, table.path)
    # Of the whole name: `pile_val_loss` is a loss, also when it is called `pile` from here on.
    told = {n: direction.of_name(c) for n, c in zip(names, columns, strict=True)}
    values.columns = pd.Index(names)
    return _Metrics(values, {n: d for n, d in told.items() if d})


def _without(frame: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    return frame[~frame.index.isin(list(runs))]


def _shown(columns: Sequence[str]) -> str:
    return ", ".join(sorted(columns)[:8]) + (
        f" … ({len(columns)} in all)" if len(columns) > 8 else ""
    )


def _joined(
    weights: pd.DataFrame,
    values: _Metrics,
    places: tuple[Path, Path],
    notes: Sequence[str],
    *,
    allow_missing: bool,
    errors: pd.DataFrame | None = None,
) -> ImportedRuns:
    if not len(values.values.columns):
        raise UserError(f"{places[1]}: no metric in it; nothing could be fitted")
    kept, measured, said = join(weights, values.values, places, allow_missing=allow_missing)
    return ImportedRuns.of(kept, measured, (*notes, *said), values.directions, errors)
