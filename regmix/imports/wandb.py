"""Run tables of Weights & Biases: config and summary side by side, finished runs and others.

A table is one row a run, as the workspace exports it or as `wandb.Api` gives it when `run.config`
and `run.summary` are flattened into columns (``config.mixture.web``, ``eval/loss``). It has a
column ``State``; only runs that finished are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from regmix.errors import UserError
from regmix.floats import exact_sum
from regmix.imports.base import METRIC_PREFIXES, ROUNDING
from regmix.imports.tables import Table, with_ids

FINISHED = "finished"
_STATES = {FINISHED, "running", "crashed", "failed", "killed", "pending", "preempted", "preempting"}
_PREFIX = re.compile(r"^(.*[./:]|train_|weight_)[^./:]+$")


def open_runs(rows: pd.DataFrame, path: Path) -> Table:
    """A table whose unfinished runs are set apart, if it is one of W&B's; any other as it is.

    They are set apart before the ids are looked at: a run that crashed and was started again has
    its name twice.

    Raises:
        UserError: no run finished, or config and summary were not flattened.
    """
    state = next((c for c in rows.columns if str(c).casefold() == "state"), None)
    states = rows[state].str.strip().str.casefold() if state is not None else None
    if states is None or not set(states) <= _STATES:
        return with_ids(rows, path)
    for column in {"config", "summary"} & set(rows.columns):
        if rows[column].str.startswith("{").any():
            raise UserError(
                f"{path}: column '{column}' holds whole dictionaries; flatten them before writing "
                f'the file: pandas.json_normalize([dict(r.{column}) for r in runs]).add_prefix("'
                f'{column}.")'
            )
    finished = states == FINISHED
    if not finished.any():
        raise UserError(f"{path}: none of {len(rows)} runs has the {state} '{FINISHED}'")
    table = with_ids(rows[finished].reset_index(drop=True), path)
    apart = rows[~finished].assign(**{str(state): states[~finished]})
    return replace(
        table,
        rows=table.rows.drop(columns=state),
        wandb=True,
        unfinished=apart.rename(columns={state: "State"}),
    )


def unfinished(table: Table, id_name: str) -> tuple[list[str], list[str]]:
    """Ids of the runs that were set apart, and a note that names them with their state."""
    if table.unfinished is None or table.unfinished.empty:
        return [], []
    rows = table.unfinished
    named = sorted(zip(rows[table.ids[id_name]], rows["State"], strict=True))
    shown = ", ".join(f"{run} ({state})" for run, state in named[:8])
    more = " …" if len(named) > 8 else ""
    note = f"left out {len(named)} runs that did not finish: {shown}{more}"
    return [run for run, _ in named], [note]


def weight_columns(table: Table, candidates: Sequence[str]) -> list[str]:
    """The one group of columns (``config.mixture.…``) whose rows all sum to 1.

    Where the same mixture stands in two groups (config and summary), the first by name is taken.

    Raises:
        UserError: there is no such group, or several that differ; with the groups that there are.
    """
    groups: dict[str, list[str]] = {}
    for column in sorted(candidates):
        match = _PREFIX.match(column)
        if match and not column.startswith("_"):
            groups.setdefault(match.group(1), []).append(column)
    sums = {p: s for p, c in groups.items() if len(c) > 1 and (s := _sums(table, c)) is not None}
    found = [p for p, s in sums.items() if (np.abs(s - 1) <= ROUNDING).all()]
    example = "--weights 'config.mixture.*'"
    if not found:
        near = [f"{p}* ({len(groups[p])} columns, rows sum to {s.min():.4g} to {s.max():.4g})"
                for p, s in sums.items()]  # fmt: skip
        raise UserError(
            f"{table.path}: no group of columns whose rows sum to 1; name the weights, as "
            f"{example}; groups of numbers are: {', '.join(near[:6]) or 'none'}"
        )
    if len({_content(table, p, groups[p]) for p in found}) > 1:
        raise UserError(
            f"{table.path}: the rows of several groups of columns sum to 1 "
            f"({', '.join(f'{p}*' for p in found)}); name the weights, as {example}"
        )
    return groups[found[0]]


def metric_columns(table: Table, candidates: Sequence[str]) -> list[str]:
    """The columns with a prefix that says that they are metrics.

    Raises:
        UserError: there is none; with the groups of columns that there are.
    """
    found = [c for c in candidates if c.startswith(METRIC_PREFIXES)]
    if found:
        return found
    groups = {m.group(1) for c in candidates if (m := _PREFIX.match(c))}
    raise UserError(
        f"{table.path}: no column begins with {', '.join(METRIC_PREFIXES)}; name the metrics, as "
        f"--select 'eval/*'; groups of columns are: "
        f"{', '.join(f'{g}*' for g in sorted(groups)[:8]) or 'none'}"
    )


def _sums(table: Table, columns: Sequence[str]) -> np.ndarray | None:
    """Sums of the rows; None if a cell is not a number that is 0 or more, or all rows are equal."""
    try:
        values = table.numbers(next(iter(table.ids)), columns).to_numpy()
    except UserError:
        return None
    # Settings that never change are no mixtures, even if they happen to sum to 1 (a learning rate
    # of 0.002 beside a seed of 1).
    constant = len(values) > 1 and (values == values[0]).all()
    if constant or not (np.isfinite(values).all() and (values >= 0).all()):
        return None
    return np.array([exact_sum(row) for row in values])


def _content(table: Table, prefix: str, columns: Sequence[str]) -> tuple[object, ...]:
    """Domains and weights of a group, to tell whether two groups say the same."""
    frame = table.numbers(next(iter(table.ids)), columns)
    return tuple((c.removeprefix(prefix), tuple(frame[c])) for c in columns)
