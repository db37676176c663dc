"""What every format comes to: weights and metrics by run id, checked, with an identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from regmix.direction import Direction
from regmix.errors import UserError
from regmix.floats import exact_sum
from regmix.hashing import fingerprint

ID_COLUMNS = ("run_id", "run", "id", "index", "name")
"""Columns that can hold the run's id, in the order in which they are tried; in any case."""
WEIGHT_PREFIXES = ("train_", "weight/", "weight_", "weights/")
METRIC_PREFIXES = ("summary.", "metric/", "metrics/", "eval/")
METRIC_SUFFIXES = ("_val_loss", "/val_loss", "_valid_loss")
RESERVED = (
    *ID_COLUMNS, "objective", "mixture", "seed", "tokens", "parameters", "cohort", "role"
)  # fmt: skip
"""Names that a metric cannot have, since results stand beside columns of these names."""
ROUNDING = 0.005
"""How far a row of published weights may sum from 1: printed with three decimals, no more."""
SHOWN = 5
"""Run ids that a message names before it says how many more there are."""


@dataclass(frozen=True)
class ImportedRuns:
    """One import: frames indexed by run id, rows and columns in sorted order.

    Sorted, because the order of a file's rows and columns means nothing and must change nothing.
    """

    weights: pd.DataFrame
    metrics: pd.DataFrame
    stamp: str
    """Identity of the content."""
    notes: tuple[str, ...] = ()
    """What was corrected or left out, for the person to read."""
    directions: Mapping[str, Direction] = field(default_factory=dict)
    """Whether a metric is better low or high, as far as the source or the metric's name says."""
    errors: pd.DataFrame | None = None
    """Standard errors of metrics where the source has them, NaN elsewhere; not fitted."""

    @classmethod
    def of(
        cls,
        weights: pd.DataFrame,
        metrics: pd.DataFrame,
        notes: Iterable[str],
        directions: Mapping[str, Direction],
        errors: pd.DataFrame | None = None,
    ) -> ImportedRuns:
        """Put joined frames into their order and identify them."""
        if errors is not None:
            errors = errors.reindex(weights.index)
            errors = errors.loc[:, errors.notna().any()]
        given = (weights, metrics) if errors is None or errors.empty else (weights, metrics, errors)
        frames = [frame.sort_index().sort_index(axis=1) for frame in given]
        for frame in frames:
            frame.index.name = "run_id"
            frame.columns.name = None
        return cls(
            frames[0],
            frames[1],
            stamp(*frames),
            tuple(notes),
            {m: directions[m] for m in sorted(directions) if m in metrics},
            frames[2] if len(frames) > 2 else None,
        )


def stamp(*frames: pd.DataFrame) -> str:
    """Identity of content, not of files: the order of rows and columns means nothing."""
    parts = []
    for frame in frames:
        ordered = frame.sort_index().sort_index(axis=1)
        known = ordered.astype(object).where(ordered.notna(), None)  # JSON has no NaN
        parts.append(known.to_dict("split"))
    return fingerprint(parts)


def named(runs: Sequence[str]) -> str:
    """The first few of some runs, in an order that does not depend on the file's."""
    ordered = sorted(runs)
    return ", ".join(ordered[:SHOWN]) + (" …" if len(ordered) > SHOWN else "")


def common_start(names: Sequence[str]) -> str:
    """The characters that all names begin with."""
    first, last = min(names), max(names)
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(same, min(len(first), len(last)))]


def check_weights(weights: pd.DataFrame, place: object) -> tuple[pd.DataFrame, list[str]]:
    """Mixtures that sum to 1: rounding is divided out and noted, anything else is an error.

    Raises:
        UserError: place, run, domain and value of what is missing, negative, or sums to another
            number.
    """
    values = weights.to_numpy()
    for bad, what in (
        (~np.isfinite(values), "is missing or not finite"),
        (values < 0, "is negative"),
    ):
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise UserError(
                f"{place}: run {weights.index[row]}: weight of '{weights.columns[column]}' {what} "
                f"({values[row, column]})"
            )
    sums = np.array([exact_sum(row) for row in values])  # exact, so that column order is nothing
    off = np.abs(sums - 1)
    if (off > ROUNDING).any():
        worst = int(np.argmax(off))
        raise UserError(
            f"{place}: weights of run {weights.index[worst]} sum to {sums[worst]:.4g}, not 1 "
            f"(rounding of up to {ROUNDING} is accepted; {int((off > ROUNDING).sum())} rows are "
            "further off); divide each row by its sum if only the ratios are meant"
        )
    rounded = off > 1e-9
    notes = (
        [f"{int(rounded.sum())} of {len(sums)} rows summed to 1 only up to rounding (at most "
         f"{off.max():.4f} off) and were divided by their sum"]
        if rounded.any() else []
    )  # fmt: skip
    return weights.div(sums, axis=0), notes


def check_metric_names(names: Sequence[str], place: object) -> None:
    """Refuse names that tables of results give to other columns, and names that came out twice.

    Raises:
        UserError: the name and what it would be taken for.
    """
    for name in names:
        if name in RESERVED or name.startswith("weight/"):
            raise UserError(
                f"{place}: metric '{name}' is named like a column of every table of results "
                f"({', '.join(RESERVED)}, weight/…); rename it"
            )
        if name.endswith("_std") and name.removesuffix("_std") in names:
            raise UserError(
                f"{place}: '{name}' stands beside '{name.removesuffix('_std')}'; predictions name "
                "standard deviations so; rename or drop it"
            )


def strip(names: Iterable[Any], prefixes: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Strip a prefix (and a suffix) where every column has it, so that names stay distinct."""
    result = [str(n) for n in names]
    for prefix in prefixes:
        if result and all(n.startswith(prefix) and n != prefix for n in result):
            result = [n.removeprefix(prefix) for n in result]
    for suffix in suffixes:
        if result and all(n.endswith(suffix) and n != suffix for n in result):
            result = [n.removesuffix(suffix) for n in result]
    return result


def join(
    weights: pd.DataFrame,
    values: pd.DataFrame,
    places: tuple[object, object],
    *,
    allow_missing: bool,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Keep the runs that both frames hold whole, in the order of the weights.

    Args:
        places: where the weights and where the metrics come from, for messages.
        allow_missing: leave out, and note, what is not whole; otherwise it is an error.

    Raises:
        UserError: the runs that stand on one side alone, or lack a metric, and which.
    """
    runs, (mixtures, metrics) = weights.index, places
    lacking = {run: m for run, m in _lacking(values).items() if run in runs}
    problems = {
        f"in {mixtures} but not in {metrics}": [r for r in runs if r not in values.index],
        f"in {metrics} but not in {mixtures}": [r for r in values.index if r not in runs],
        f"without a finite value for every metric in {metrics}": [
            f"{run} ({metric})" for run, metric in lacking.items()
        ],
    }
    notes = []
    for what, bad in problems.items():
        if not bad:
            continue
        if not allow_missing:
            raise UserError(
                f"{len(bad)} runs are {what}: {named(bad)} (--allow-missing leaves them out)"
            )
        notes.append(f"left out {len(bad)} runs {what}: {named(bad)}")
    whole = [r for r in runs if r in values.index and r not in lacking]
    if not whole:
        raise UserError(f"{mixtures} and {metrics}: no run is whole in both")
    return weights.loc[whole], values.loc[whole], notes


def _lacking(values: pd.DataFrame) -> dict[str, str]:
    """Runs without a finite value for every metric, each with the first metric that it lacks."""
    finite = np.isfinite(values.to_numpy())
    return {
        str(run): str(values.columns[~row][0])
        for run, row in zip(values.index, finite, strict=True)
        if not row.all()
    }
