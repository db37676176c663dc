"""Flags: runs that something is wrong with, each by a rule that is named.

A flag is no verdict: the run is shown, and leaves the fit only where the study says so
(``fit.exclude``, ``fit.flagged``). ``prediction`` judges figures by the other runs', ``curves``
what happened on the way, ``books`` what was asked for against what was done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from regmix import plain
from regmix.config import FitConfig
from regmix.errors import unknown_name
from regmix.flags import books, curves, prediction
from regmix.flags.base import COLUMNS, Flag
from regmix.observations import Observations
from regmix.store import Store

__all__ = ["Flag", "Flags", "exclude", "find", "keep"]


@dataclass(frozen=True)
class Flags:
    """What was found, run by run."""

    frame: pd.DataFrame
    """``run_id``, ``name``, ``rule``, ``metric`` (or domain, "" for neither), ``text``."""
    judged: int
    """Runs that were looked at."""

    def reasons(self) -> dict[str, str]:
        """By run id, the rules that it breaks, in words."""
        return {
            str(run): "; ".join(f"{r}: {t}" for r, t in zip(own["rule"], own["text"], strict=True))
            for run, own in self.frame.groupby("run_id", sort=False)
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {"judged": self.judged, "flags": plain.records(self.frame)}


def find(data: Observations, store: Store) -> Flags:
    """Look at the runs of a study's present cohort by every rule."""
    runs = [*data.metrics.index, *data.replicates.index.difference(data.metrics.index)]
    trails = store.trails(runs)
    names = trails.info["name"].to_dict()
    found = [
        *prediction.mispredicted(data),
        *curves.losses(trails.steps),
        *curves.crossings(trails.metrics.query("run_id in @data.metrics.index")),
        *books.shares(trails.shares),
        *books.tokens(trails.info),
        *books.copies(data),
    ]
    rows = [
        (f.run_id, str(names.get(f.run_id, f.run_id)), f.rule, f.subject, f.text) for f in found
    ]
    return Flags(pd.DataFrame(rows, columns=list(COLUMNS)), len(runs))


def exclude(data: Observations, settings: FitConfig, where: str) -> Observations:
    """The runs without those that the person left out.

    Args:
        where: file of the settings, for errors.

    Raises:
        UserError: ``fit.exclude`` names a run that is not there.
    """
    names = data.info["name"].astype(str)
    known = {*data.metrics.index, *data.replicates.index}
    gone: dict[str, str] = {}
    for wanted in settings.exclude:
        ids = [wanted] if wanted in known else list(names.index[names == wanted])
        if not ids:
            raise unknown_name("run", wanted, {*names, *known}, f"{where}: fit.exclude")
        gone |= dict.fromkeys(map(str, ids), "by fit.exclude")
    return data.without(gone)


def keep(data: Observations, found: Flags, settings: FitConfig) -> Observations:
    """The runs that are fitted: without flagged ones where the study leaves them out."""
    if settings.flagged == "keep":
        return data
    return data.without({r: f"flagged, {text}" for r, text in found.reasons().items()})
