"""Tables: frames as text, each column with its heading and the way its values are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from regmix.comparison import Gain
from regmix.noise import SeedNoise
from regmix.quantities import amount, duration, flops
from regmix.report import frames, text

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
        weights: as :func:`regmix.report.frames.weights`.
    """
    shown = weights.rename_axis("domain").reset_index()
    columns: Columns = {"domain": ("domain", str)}
    columns |= {str(name): (str(name), text.percent) for name in weights}
    if "natural" in weights and frames.PROPOSAL in weights:
        shown["change"] = (weights[frames.PROPOSAL] - weights["natural"]).to_numpy()
        columns["change"] = ("against natural", _points)
    return Table.of(shown, columns)


def _points(share: float) -> str:
    return f"{text.signed(100 * share, 1)} pp"


def _apart(share: float) -> str:
    return f"{text.fixed(100 * share, 2)} pp"


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
        decimals = text.decimals_for(noise.std if noise.std > 0 else gain.predicted_std)
        measured = [text.signed(gain.by_seed.get(s), decimals) for s in seeds]
        word, _ = text.judgement(gain, noise)
        predicted = text.with_error(gain.predicted, gain.predicted_std, sign=True)
        mean = text.signed(gain.mean, decimals)
        rows.append(
            (name, predicted, *measured, mean, text.fixed(gain.limit(noise), decimals), word)
        )
    return Table(head, tuple(rows))


def _five(value: float) -> str:
    return text.number(value, 5)


def _three(value: float) -> str:
    return text.fixed(value, 3)


def _brief(value: float) -> str:
    return text.number(value, 3)


def _whole(value: float) -> str:
    return text.percent(value, 0)


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
    "tied_low": ("as good from", text.percent),
    "tied_high": ("to", text.percent),
    "refit_low": ("refits from", text.percent),
    "refit_high": ("to", text.percent),
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
