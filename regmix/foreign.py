"""Models that a study does not know, by what ``regmix eval MODEL -o FILE.json`` wrote of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from regmix import paired
from regmix.errors import UserError
from regmix.files import read_json
from regmix.layout import StudyLayout
from regmix.paired import Items

ROLE = "model"
"""Of one of them, among the roles of runs."""


@dataclass(frozen=True)
class Foreign:
    """What one of them came to."""

    metrics: pd.DataFrame
    """``value`` and ``std_error`` by metric."""
    items: Items


def is_file(name: str) -> bool:
    """Whether a name is that of such a file."""
    return name.endswith(".json") and Path(name).is_file()


def read(names: Sequence[str], study: StudyLayout) -> dict[str, Foreign]:
    """Those among some names.

    Raises:
        UserError: a JSON file is not one of those.
    """
    return {name: _read(Path(name), study) for name in names if is_file(name)}


def _read(path: Path, study: StudyLayout) -> Foreign:
    raw = read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("results"), list):
        raise UserError(f"{path}: not what `regmix eval MODEL -o FILE.json` writes")
    items: Items = {}
    rows = []
    for index, result in enumerate(raw["results"]):
        _check(result, f"{path}: results.{index}")
        rows += [m for m in result["metrics"] if m["split"] != "subject"]
        items |= paired.of_task(result, paired.beside(path, result["fingerprint"]), study)
    table = pd.DataFrame(rows, columns=["name", "value", "std_error"]).set_index("name")
    return Foreign(table.astype(float), items)


def _check(result: Any, where: str) -> None:
    """Refuse what is not one task's results.

    Raises:
        UserError: with the key.
    """
    if not isinstance(result, dict):
        raise UserError(f"{where}: {result!r:.80} is not a task's results")
    for key in ("task", "fingerprint"):
        value = result.get(key)
        if not isinstance(value, str) or (key == "fingerprint" and "/" in value):
            raise UserError(f"{where}.{key}: {value!r:.80} is not the {key} of a task")
    metrics = result.get("metrics")
    if not isinstance(metrics, list):
        raise UserError(f"{where}.metrics: {metrics!r:.80} is not a list")
    for index, metric in enumerate(metrics):
        _check_metric(metric, f"{where}.metrics.{index}")


def _check_metric(metric: Any, where: str) -> None:
    if not isinstance(metric, dict):
        raise UserError(f"{where}: {metric!r:.80} is not a metric")
    for key in ("name", "split"):
        if not isinstance(metric.get(key), str):
            raise UserError(f"{where}.{key}: {metric.get(key)!r:.80} is not text")
    for key in ("value", "std_error"):
        value = metric.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{where}.{key}: {value!r:.80} is not a number")


def beside(
    models: Mapping[str, Foreign], info: pd.DataFrame, values: pd.DataFrame, errors: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The frames of :meth:`regmix.store.Store.measured` with these models as runs.

    Each is a cohort of its own, of no mixture and no seed.
    """
    if not models:
        return info, values, errors
    rows = {name: {"name": name, "role": ROLE, "cohort": f"model {name}"} for name in models}
    more = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=info.columns)
    figures = [
        pd.DataFrame({name: own.metrics[column] for name, own in models.items()}).T
        for column in ("value", "std_error")
    ]
    return (
        pd.concat([info.astype(object), more.astype(object)]).infer_objects(),
        pd.concat([values, figures[0]]),
        pd.concat([errors, figures[1]]),
    )
