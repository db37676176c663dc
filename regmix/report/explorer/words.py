"""How far the page's surrogate is from the fit, in words and as a table."""

from __future__ import annotations

from typing import Any

from regmix import quantities
from regmix.report import tables
from regmix.report.explorer.agreement import OBJECTIVE, Agreement

_NOTHING = 0.005
"""Predicted standard deviations that are written as 0.00."""


_NUMBERS = ("median", "p95", "most", "std_p95")


def describe(agreement: Agreement) -> str:
    """What in the page is the fit's own, and how far off the rest is, in a few sentences."""
    frame = agreement.frame
    metrics = frame.drop(index=OBJECTIVE)
    judged = f"on {agreement.mixtures:,} fresh mixtures of the space"
    if agreement.exact:
        return (
            f"The page computes the fit itself: {judged} both agree within "
            f"{max(frame['most'].max(), 1e-12):.0e} predicted standard deviations."
        )
    parts = [_means(metrics.loc[~metrics["exact_mean"]], len(metrics), judged)]
    rough = metrics.loc[~metrics["exact_std"]]
    if len(rough):
        parts.append(
            f"Standard deviations of {_count(len(rough), len(metrics))} come from a stand-in that "
            f"is within {quantities.percent(rough['std_p95'].max(), 0)} of the fit’s own for 95% "
            f"of {'those mixtures' if parts[0] else judged.removeprefix('on ')}."
        )
    own = frame.loc[[OBJECTIVE], list(_NUMBERS)].astype(float).iloc[0]
    parts.append(
        f"The objective is off by {_stds(own['median'])} predicted standard deviations at the "
        f"median, by {_stds(own['p95'])} for 95% and by {_stds(own['most'])} at most; its standard "
        f"deviation by {quantities.percent(own['std_p95'], 0)} for 95%."
    )
    return " ".join(p for p in parts if p)


def _means(rough: Any, count: int, judged: str) -> str:
    if not len(rough):
        return "Expected values are the fit’s own, to rounding."
    return (
        f"The page computes expected values of {_count(count - len(rough), count)} as the fit "
        f"does; for the others a stand-in takes a part or all. Judged {judged}, it is off by "
        f"{_stds(rough['median'].max())} predicted standard deviations at the median and "
        f"{_stds(rough['p95'].max())} for 95%, in the metric where it is worst."
    )


def _count(some: int, count: int) -> str:
    return f"all {count} metrics" if some == count else f"{some} of {count} metrics"


def _stds(value: float) -> str:
    return "under 0.01" if value < _NOTHING else quantities.fixed(value, 2)


def table(agreement: Agreement) -> tables.Table | None:
    """By metric; None where everything is exact."""
    if agreement.exact:
        return None
    return tables.Table.of(agreement.frame.rename_axis("metric").reset_index(), _COLUMNS)


def _own(exact: bool) -> str:
    return "fit’s own" if exact else "stand-in"


_COLUMNS: tables.Columns = {
    "metric": ("metric", str),
    "exact_mean": ("mean", _own),
    "median": ("median", _stds),
    "p95": ("95%", _stds),
    "most": ("most", _stds),
    "exact_std": ("std", _own),
    "std_p95": ("95%", lambda share: quantities.percent(share, 1)),
}
