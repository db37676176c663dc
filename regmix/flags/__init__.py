"""Flags: runs that something is wrong with, each by a rule that is named.

A flag is no verdict: the run is shown, and leaves the fit only where the study says so
(``fit.exclude``, ``fit.flagged``). ``prediction`` judges figures by the other runs', ``ladder``
those of a larger size by the proxies'; ``curves`` what happened on the way; ``books`` what was
asked for against what was done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from regmix import plain
from regmix.config import FitConfig
from regmix.errors import unknown_name
from regmix.flags import books, curves, ladder, prediction
from regmix.flags.base import COLUMNS, Flag
from regmix.flags.ladder import Rung
from regmix.observations import Observations
from regmix.store.trails import Trails

__all__ = ["Flag", "Flags", "Rung", "excluded", "find", "left_out"]


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


def find(data: Observations, trails: Trails, larger: Sequence[Rung] = ()) -> Flags:
    """Look at the runs of a study's present proxy, and of its larger sizes, by every rule.

    Args:
        trails: what all of these runs left on their way.
        larger: a study's ladder.
    """
    values = pd.concat([data.metrics, data.replicates.reindex(columns=list(data.metric_names))])
    values = values[~values.index.duplicated()]  # a run that is repeated stands in both
    mixtures = {str(r): str(m) for r, m in data.replicates.get("mixture", pd.Series()).items()}
    found = [
        *prediction.mispredicted(data),
        *_on_the_way(trails.of(values.index), data.metrics.index),
        *books.copies(values, mixtures),
    ]
    proxies = data.metrics.drop(index=[f.run_id for f in found], errors="ignore")
    for rung in larger:
        own = rung.metrics.index
        found += [
            *ladder.off_the_line(rung, proxies),
            *_on_the_way(trails.of(own), own),
            *books.copies(rung.metrics, rung.mixtures),
        ]
    names = trails.info["name"].to_dict()
    rows = [
        (f.run_id, str(names.get(f.run_id, f.run_id)), f.rule, f.subject, f.text) for f in found
    ]
    judged = len(values) + sum(len(r.metrics) for r in larger)
    return Flags(pd.DataFrame(rows, columns=list(COLUMNS)), judged)


def _on_the_way(trails: Trails, one_seed: pd.Index) -> list[Flag]:
    """What the runs of one size did, and whether it was what was asked for.

    Args:
        one_seed: run ids whose learning curves differ by their mixtures alone.
    """
    return [
        *curves.losses(trails.steps),
        *curves.crossings(trails.metrics[trails.metrics["run_id"].isin(one_seed)]),
        *books.shares(trails.shares),
        *books.tokens(trails.info),
    ]


def excluded(names: Mapping[str, str], settings: FitConfig, where: str) -> dict[str, str]:
    """By run id, that the person left it out.

    Args:
        names: of the runs that there are, by run id.
        where: file of the settings, for errors.

    Raises:
        UserError: ``fit.exclude`` names a run that is not there.
    """
    gone: dict[str, str] = {}
    for wanted in settings.exclude:
        ids = [wanted] if wanted in names else [r for r, name in names.items() if name == wanted]
        if not ids:
            valid = {*names.values(), *names}
            raise unknown_name("run", wanted, valid, f"{where}: fit.exclude")
        gone |= dict.fromkeys(ids, "by fit.exclude")
    return gone


def left_out(found: Flags) -> dict[str, str]:
    """By run id, why a flagged run is left out where the study says ``fit.flagged: exclude``."""
    return {run: f"flagged, {text}" for run, text in found.reasons().items()}
