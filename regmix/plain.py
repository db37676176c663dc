"""Frames and rows as plain values that JSON knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One dictionary a row; an index that has a name is its first column."""
    shown = frame.reset_index() if frame.index.name else frame
    return [row(r) for r in shown.to_dict("records")]


def row(values: Mapping[Any, Any]) -> dict[str, Any]:
    """The same values, but None for NaN and infinity, which JSON has no word for."""
    return {
        str(k): None if isinstance(v, float) and not abs(v) < float("inf") else v
        for k, v in values.items()
    }
