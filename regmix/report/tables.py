"""Tables: frames as text, each column with its heading and the way its values are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from regmix import quantities
from regmix.comparison import Gain
from regmix.noise import SeedNoise
from regmix.pareto import Pareto
from regmix.plot import frames
from regmix.quantities import amount, duration, flops
from regmix.report import text

Columns = dict[str, tuple[str, Callable[[Any], str]]]
"""Columns of a frame to show: heading, and how a value is written."""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names its row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Columns) -> Table:
        """A frame's columns in this order, each with its heading and how its values are written."""
        rows = zip(
            *([write(v) for v in frame[name]] for name, (_, write) in columns.items()), strict=True
        )
        return cls(tuple(heading for heading, _ in columns.values()), tuple(rows))


def shares(weights: pd.DataFrame) -> Table:
    """Shares by domain and mixture, and how the proposal differs from the natural one.

    Args:
        weights: as :func:`regmix.plot.frames.weights`.
    """
    shown = weights.rename_axis("domain").reset_index()
    columns: Columns = {"domain": ("domain", str)}
    columns |= {str(name): (str(name), quantities.percent) for name in weights}
    if "natural" in weights and frames.PROPOSAL in weights:
        shown["change"] = (weights[frames.PROPOSAL] - weights["natural"]).to_numpy()
        columns["change"] = ("against natural", _points)
    return Table.of(shown, columns)


def _points(share: float) -> str:
    return f"{quantities.signed(100 * share, 1)} pp"


def _apart(share: float) -> str:
    return f"{quantities.fixed(100 * share, 2)} pp"


def measured(values: pd.DataFrame, metrics: Sequence[str]) -> Table:
    """Objective and metrics by mixture and seed.

    Args:
        values: as :attr:`regmix.comparison.Comparison.values`.
        metrics: those to show.
    """
    columns: Columns = {
        "mixture": ("mixture", str),
        "seed": ("seed", str),
        "objective": ("objective", _five),
    }
    columns |= {m: (m, _five) for m in metrics if m not in columns}
    return Table.of(values, columns)


def gains(found: Mapping[str, Gain], noise: SeedNoise) -> Table:
    """Predicted and measured gains of the objective, by reference.

    Args:
        found: as :func:`regmix.comparison.gains`.
        noise: of the objective, between seeds.
    """
    seeds = sorted({seed for gain in found.values() for seed in gain.by_seed})
    head = ("against", "predicted", *(f"seed {s}" for s in seeds), "mean measured", "counts from",
            "verdict")  # fmt: skip
    rows = []
    for name, gain in found.items():
        decimals = quantities.decimals_for(noise.std if noise.std > 0 else gain.predicted_std)
        measured = [quantities.signed(gain.by_seed.get(s), decimals) for s in seeds]
        word, _ = text.judgement(gain, noise)
        predicted = quantities.with_error(gain.predicted, gain.predicted_std, sign=True)
        mean = quantities.signed(gain.mean, decimals)
        rows.append(
            (name, predicted, *measured, mean, quantities.fixed(gain.limit(noise), decimals), word)
        )
    return Table(head, tuple(rows))


def _five(value: float) -> str:
    return quantities.number(value, 5)


def _three(value: float) -> str:
    return quantities.fixed(value, 3)


def _brief(value: float) -> str:
    return quantities.number(value, 3)


def _whole(value: float) -> str:
    return quantities.percent(value, 0)


def front(found: Pareto) -> Table:
    """Front and named mixtures in words and numbers: sides, distances, nearest run."""
    shown = found.table()
    columns: Columns = {"name": ("mixture", str)}
    for side, name in (("x", found.x.name), ("y", found.y.name)):
        shown[f"{side}_shown"] = _errors(shown, side)
        columns[f"{side}_shown"] = (name, str)
        if f"{side}_plain" in shown:
            unit = (found.x if side == "x" else found.y).unit
            shown[f"{side}_plain_shown"] = _errors(shown, f"{side}_plain")
            columns[f"{side}_plain_shown"] = (f"{name}, {unit}", str)
    columns["behind"] = ("behind the front", lambda v: quantities.fixed(v, 2))
    columns["nearest_distance"] = ("to the nearest run", lambda v: quantities.fixed(v, 3))
    return Table.of(shown, columns)


def with_speed(costs: pd.DataFrame) -> pd.DataFrame:
    """Costs by role, as :meth:`regmix.store.Store.costs`, with tokens a second as ``speed``."""
    seconds = costs["seconds"].where(costs["seconds"] > 0)
    return costs.assign(speed=(costs["tokens"] / seconds).fillna(0.0))


def _errors(shown: pd.DataFrame, name: str) -> list[str]:
    pairs = zip(shown[name], shown[f"{name}_std"], strict=True)
    return [quantities.with_error(v, s) for v, s in pairs]


SCORES: Columns = {
    "metric": ("metric", str),
    "regressor": ("regressor", str),
    "spearman": ("Spearman ρ", _three),
    "r2": ("R²", _three),
    "mae": ("MAE", _brief),
    "coverage90": ("in 90% interval", _whole),
    "spread": ("spread", _brief),
    "noise": ("seed noise", _brief),
    "snr": ("spread / noise", _brief),
}
CANDIDATES: Columns = {
    "metric": ("metric", str),
    "regressor": ("regressor", str),
    "chosen": ("chosen", lambda chosen: "✓" if chosen else ""),
    "spearman": ("Spearman ρ", _three),
    "r2": ("R²", _three),
    "mae": ("MAE", _brief),
    "rmse": ("RMSE", _brief),
    "coverage90": ("in 90% interval", _whole),
}
CERTAINTY: Columns = {
    "domain": ("domain", str),
    "tied_low": ("as good from", quantities.percent),
    "tied_high": ("to", quantities.percent),
    "refit_low": ("refits from", quantities.percent),
    "refit_high": ("to", quantities.percent),
}
LARGER: Columns = {
    "metric": ("metric", str),
    "mean": ("predicted", _five),
    "std": ("± std", _brief),
    "how": ("by", str),
}
COSTS: Columns = {
    "role": ("role", str),
    "runs": ("finished runs", str),
    "tokens": ("tokens", amount),
    "flops": ("FLOPs", flops),
    "seconds": ("training time, summed", duration),
    "speed": ("tokens a second", amount),
}
REALISED: Columns = {
    "domain": ("domain", str),
    "runs": ("runs", str),
    "difference": ("largest difference", _apart),
    "epochs": ("most epochs in a run", _brief),
}
ENVIRONMENT: Columns = {
    "key": ("what", str),
    "value": ("value", str),
    "runs": ("runs", str),
}
