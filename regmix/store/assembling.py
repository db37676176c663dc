"""From rows of the store to what a fit is made of."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from regmix.errors import UserError
from regmix.observations import Observations
from regmix.pages import page
from regmix.store.writing import IMPORT


def largest(counts: pd.Series, wanted: Sequence[str]) -> str | None:
    """Of some cohorts the one with the most runs, the first of equals; None if none has any."""
    found = [cohort for cohort in wanted if cohort in counts.index]
    return max(found, key=lambda cohort: int(counts[cohort]), default=None)


def choose_cohort(counts: pd.Series, wanted: Sequence[str], root: str) -> str:
    """The largest of the wanted ones, or of all if none is; an import where nothing else is."""
    chosen = largest(counts, wanted or [str(c) for c in counts.index])
    if chosen is not None:
        return chosen
    if list(counts.index) == [IMPORT]:
        return IMPORT
    raise UserError(
        f"{root}: none of the {int(counts.sum())} finished runs is of the proxy and the data that "
        "the study now describes; run `regmix propose` and `regmix train`, or undo the change "
        f"({page('REUSE')} says what a change costs)"
    )


def assemble(
    runs: pd.DataFrame, weights: pd.DataFrame, metrics: pd.DataFrame, excluded: list[str]
) -> Observations:
    """Observations of finished runs of one cohort.

    Args:
        runs: ``run_id``, name, role, seed, mixture (its hash), tokens.
        weights: ``run_id``, domain, its position, and the requested share; of these and other runs.
        metrics: ``run_id``, name, value, std_error; likewise.
        excluded: what was left out before, with the reason.

    Raises:
        UserError: a run lacks a metric that others have.
    """
    info = runs.set_index("run_id")
    weights, metrics = (f[f["run_id"].isin(info.index)] for f in (weights, metrics))
    order = weights.drop_duplicates("domain").sort_values("position")["domain"]
    wide_w = weights.pivot(index="run_id", columns="domain", values="requested")
    wide_w = wide_w.loc[info.index, list(order)]
    wide_m = metrics.pivot(index="run_id", columns="name", values="value").reindex(info.index)
    incomplete = wide_m.columns[wide_m.isna().any()]
    if len(incomplete):
        example = wide_m.index[wide_m[incomplete[0]].isna()][0]
        raise UserError(
            f"metric '{incomplete[0]}' is missing in {int(wide_m[incomplete[0]].isna().sum())} of "
            f"{len(wide_m)} runs, first in {example}; evaluate them (`regmix eval`, where "
            "models are kept), or import without the metric"
        )
    errors = metrics.pivot(index="run_id", columns="name", values="std_error")
    for frame in (wide_w, wide_m, errors):
        frame.columns.name = None
    single = info["role"] == "single"
    repeated = info["mixture"].duplicated(keep=False)
    replicates = wide_m[repeated].assign(mixture=info.loc[repeated, "mixture"])
    keep = (info["role"] != "replicate") & ~single
    excluded += [f"{name} (one domain alone: a reference)" for name in info.loc[single, "name"]]
    return Observations(
        weights=wide_w[keep],
        metrics=wide_m[keep],
        info=info.loc[keep, ["name", "role", "seed", "tokens"]],
        replicates=replicates,
        replicate_weights=_by_mixture(wide_w[repeated], info["mixture"]),
        singles=wide_m[single].set_index(info.loc[single, "name"]),
        excluded=tuple(excluded),
        std_errors=errors.reindex(info.index),
        replicate_names={str(r): str(n) for r, n in info.loc[repeated, "name"].items()},
    )


def _by_mixture(weights: pd.DataFrame, mixtures: pd.Series) -> pd.DataFrame:
    """Weights by the mixture's hash, each once."""
    hashes = mixtures.loc[weights.index]
    return weights.set_axis(hashes, axis=0)[~hashes.duplicated().to_numpy()]
