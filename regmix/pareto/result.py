"""A front, written for people and read back for the report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from regmix import plain
from regmix.files import expanded, read_json, write_json, write_text
from regmix.pareto.sides import Side

FOLDER, LATEST = "pareto", "latest.json"
WEIGHT = "weight/"
"""Before a domain's name, in the frames."""


@dataclass(frozen=True)
class Pareto:
    """A front and the mixtures that it is compared with."""

    x: Side
    y: Side
    front: pd.DataFrame
    """From the best ``x`` to the best ``y``, index ``point`` from 1: ``y_share`` (weight of that
    side in the sum that was solved), ``x``, ``x_std``, ``y``, ``y_std``, ``nearest_run``,
    ``nearest_distance`` (total variation), ``weight/<domain>``; ``x_plain`` and ``x_plain_std`` in
    the metrics' own unit where they share one, and so for y."""
    points: pd.DataFrame
    """Index ``name`` (natural, uniform, best run, proposal): the same without ``y_share``;
    ``allowed`` (by space and limits), ``gain_x`` (what x would gain on the front at the same y),
    ``gain_y``, ``behind`` (what both would gain at once); NaN: the front has no such point."""
    runs: pd.DataFrame
    """``x`` and ``y`` as measured, by run id."""
    notes: tuple[str, ...] = ()
    fit_id: str = ""
    csv: Path | None = field(default=None, compare=False)
    """Where it was saved."""

    @property
    def stem(self) -> str:
        """Name of its files, without an ending."""
        return f"{slug(self.x.name)}-vs-{slug(self.y.name)}"

    def table(self) -> pd.DataFrame:
        """Front and other points in one frame, as in the CSV."""
        front = self.front.assign(name=[f"front-{i}" for i in self.front.index])
        both = pd.concat([front, self.points.rename_axis("name").reset_index()], ignore_index=True)
        weights = [c for c in both if str(c).startswith(WEIGHT)]
        return both[["name", *(c for c in both if c not in ("name", *weights)), *weights]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, NaN as None, for ``--json``."""
        return {
            "x": asdict(self.x),
            "y": asdict(self.y),
            "fit_id": self.fit_id,
            "front": plain.records(self.front),
            "points": plain.records(self.points.rename_axis("name")),
            "notes": list(self.notes),
            "csv": None if self.csv is None else str(self.csv),
        }

    def save(self, folder: Path, also: Path | None = None) -> Pareto:
        """Write ``<x>-vs-<y>.csv`` for people and ``.json`` to read it back.

        Args:
            folder: for both, and the mark that this is the latest.
            also: for another copy of the CSV.

        Returns:
            The same with the place of the CSV, of the copy if there is one.
        """
        frames = {
            "front": self.front.reset_index(),
            "points": self.points.rename_axis("name").reset_index(),
            "runs": self.runs.rename_axis("run_id").reset_index(),
        }
        value = {
            "x": asdict(self.x),
            "y": asdict(self.y),
            "fit_id": self.fit_id,
            "notes": self.notes,
            **{name: _columns(frame) for name, frame in frames.items()},
        }
        places = [folder] if also is None else [folder, expanded(also).resolve()]
        for place in places:
            write_text(place / f"{self.stem}.csv", self.table().to_csv(index=False))
        write_json(folder / f"{self.stem}.json", value)
        write_json(folder / LATEST, {"name": self.stem})
        return replace(self, csv=places[-1] / f"{self.stem}.csv")

    @classmethod
    def load(cls, folder: Path, stem: str) -> Pareto:
        """Read what :meth:`save` wrote."""
        raw = read_json(folder / f"{stem}.json")
        return cls(
            x=_side(raw["x"]),
            y=_side(raw["y"]),
            fit_id=raw["fit_id"],
            front=pd.DataFrame(raw["front"]).set_index("point"),
            points=pd.DataFrame(raw["points"]).set_index("name").astype(_GAINS),
            runs=pd.DataFrame(raw["runs"]).set_index("run_id"),
            notes=tuple(raw["notes"]),
            csv=folder / f"{stem}.csv",
        )


_GAINS = dict.fromkeys(("gain_x", "gain_y", "behind"), float)


def latest(fit_folder: Path) -> Pareto | None:
    """The front that was last computed for a fit; None if none was."""
    marker = fit_folder / FOLDER / LATEST
    if not marker.exists():
        return None
    return Pareto.load(marker.parent, str(read_json(marker)["name"]))


def slug(name: str) -> str:
    """A side's name as part of a file name: ``pile_cc,mmlu*`` is ``pile_cc+mmlu``."""
    plain = re.sub(r"[^\w.+-]+", "-", name.replace(",", "+").replace("*", "")).strip("-+.")
    return plain[:80] or "all"


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Plain values by column; NaN is None."""
    return {
        str(name): [None if v != v else v for v in column.tolist()]
        for name, column in frame.items()
    }


def _side(raw: Mapping[str, Any]) -> Side:
    return Side(
        name=raw["name"],
        metrics=tuple(raw["metrics"]),
        signs=tuple(raw["signs"]),
        scales=tuple(raw["scales"]),
        middle=raw["middle"],
        unit=raw["unit"],
    )
