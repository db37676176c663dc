"""What a fit leaves behind: written to ``fits/<fit_id>/``, read by report, export and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from regmix import assess, markup, quantities, yaml_io
from regmix.errors import UserError
from regmix.files import read_json, write_json, write_text
from regmix.fit import FitResult
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout
from regmix.mixture import Mixture, MixtureFile
from regmix.noise import SeedNoise, freedom
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.solve import Proposal
from regmix.surrogate import Surrogate

LATEST = "latest.json"
SURROGATE, HELD_OUT, DIAGNOSTICS = "surrogate.json.gz", "held_out.csv", "diagnostics.json"


@dataclass(frozen=True)
class Fit:
    """A fit on disk: surrogate, objective, proposal and the record by which to judge them."""

    fit_id: str
    folder: Path
    objective: Objective
    proposal: Proposal
    diagnostics: dict[str, Any]

    @cached_property
    def surrogate(self) -> Surrogate:
        """The fitted regressors; read once."""
        return Surrogate.load(self.folder / SURROGATE)

    @property
    def held_out(self) -> pd.DataFrame:
        """Held-out predictions by run id: ``<metric>`` and ``<metric>_std``."""
        return _read_held_out(self.folder)

    @property
    def objective_noise(self) -> SeedNoise:
        """Of the objective, between proxies that differ by their seed alone."""
        std = self.diagnostics["objective_noise"]
        # Older fits did not keep how well they know it: by them nothing counts.
        degrees = int(self.diagnostics.get("objective_freedom", 0))
        return SeedNoise(float("nan") if std is None else float(std), degrees)

    @property
    def mixture_name(self) -> str:
        """Name of the mixture file that the fit wrote."""
        return str(self.diagnostics["mixture_name"])

    @property
    def best(self) -> Mixture:
        """The proposed mixture."""
        return self.proposal.best.mixture

    def _repr_html_(self) -> str:
        """For notebooks: the held-out record, then the proposal."""
        scores = {
            "objective": ("", self.diagnostics["objective_scores"]),
            **{m: (e["regressor"], e["scores"]) for m, e in self.diagnostics["metrics"].items()},
        }
        rows = [
            (name, regressor, quantities.fixed(own["spearman"], 3), quantities.fixed(own["r2"], 3),
             quantities.percent(own["coverage90"], 0))
            for name, (regressor, own) in scores.items()
        ]  # fmt: skip
        head = ("held out", "regressor", "Spearman ρ", "R²", "in 90% interval")
        told = f"fit {self.fit_id}, {self.diagnostics['runs']} runs: {self.objective.describe()}"
        return markup.table(head, rows, told) + self.proposal._repr_html_()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``: what the fit's folder has, without predictions by run."""
        return {
            "fit_id": self.fit_id,
            "folder": str(self.folder),
            "objective": self.objective.describe(),
            "proposal": self.proposal.as_dict(),
            "diagnostics": self.diagnostics,
        }


def surrogate_id(data: Observations, metrics: Sequence[str], settings: Any) -> str:
    """Identity of a surrogate: everything that changes its predictions."""
    ordered = data.frame().sort_index()
    repeats = data.replicates.sort_index().round(12)
    return fingerprint(
        [
            ordered.index.tolist(),
            ordered.drop(columns=data.info.columns).round(12).to_dict("list"),
            repeats.to_dict("list"),
            list(data.domains),  # a surrogate takes shares in this order
            sorted(metrics),
            settings,
        ],
        length=12,
    )


def fit_id(surrogate: str, objective: Objective, settings: Any) -> str:
    """Identity of a fit: of its surrogate, and of everything that changes the proposal."""
    return fingerprint([surrogate, asdict(objective), settings], length=12)


def find_surrogate(layout: StudyLayout, identity: str) -> FitResult | None:
    """A surrogate that an earlier fit left behind: a changed objective never refits."""
    for path in sorted(layout.fits.glob("*/diagnostics.json")):
        if read_json(path).get("surrogate_id") == identity:
            folder = path.parent
            return FitResult(Surrogate.load(folder / SURROGATE), _read_held_out(folder))
    return None


def save(
    layout: StudyLayout,
    identity: str,
    result: FitResult,
    proposal: Proposal,
    diagnostics: dict[str, Any],
    provenance: dict[str, Any],
) -> Fit:
    """Write a fit's folder and the mixture file, and make it the latest."""
    folder = layout.fits / identity
    result.surrogate.save(folder / SURROGATE)
    write_text(folder / HELD_OUT, result.held_out.rename_axis("run_id").to_csv())
    write_text(folder / "proposal.yaml", yaml_io.dump(proposal.as_dict()))
    name = diagnostics["mixture_name"]
    predicted = {m: {"mean": v, "std": s} for m, (v, s) in proposal.best.metrics.items()}
    mixture = MixtureFile(name, proposal.best.mixture, {**provenance, "predicted": predicted})
    mixture.save(folder / "mixture.yaml")
    # Last: a folder without diagnostics is not a fit yet.
    write_json(folder / DIAGNOSTICS, diagnostics)
    return publish(layout, identity)


def publish(layout: StudyLayout, identity: str) -> Fit:
    """Make a fit on disk the latest, and its mixture the one of that name."""
    found = _read(layout, identity)
    kept = MixtureFile.load(found.folder / "mixture.yaml")
    kept.save(layout.mixture(found.mixture_name))
    write_json(layout.fits / LATEST, {"fit_id": identity})
    return found


def exists(layout: StudyLayout, identity: str) -> bool:
    """Whether a fit was finished."""
    return (layout.fits / identity / DIAGNOSTICS).exists()


def diagnose(
    data: Observations,
    result: FitResult,
    objective: Objective,
    identity: Mapping[str, str],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """What a fit records about itself, as plain values.

    Args:
        identity: ``fit_id``, ``surrogate_id`` and ``mixture_name``.
        notes: what else to be careful about; they come first.
    """
    surrogate = result.surrogate
    noise, spread = data.noise(), data.spread()
    scores = assess.objective_scores(data, result.held_out, surrogate, objective)
    return {
        **identity,
        "runs": len(data.weights),
        "domains": list(data.domains),
        "objective": {**asdict(objective), "text": objective.describe()},
        "objective_scores": asdict(scores),
        "objective_noise": _or_none(data.objective_noise(objective.value)),
        "objective_freedom": freedom(data),
        "objective_spread": data.objective_spread(objective.value),
        "best_single": best_single(data, objective),
        "metrics": {
            m.name: {
                "regressor": m.regressor,
                "scores": asdict(m.scores),
                "candidates": {k: asdict(s) for k, s in m.candidates.items()},
                "spread": float(spread[m.name]),
                "noise": _or_none(float(noise[m.name])),
            }
            for m in surrogate.metrics
        },
        "warnings": [*notes, *assess.warnings(data, surrogate, objective, scores)],
        "excluded": list(data.excluded),
    }


def load(layout: StudyLayout, domains: Sequence[str], identity: str | None = None) -> Fit:
    """A fit by id; default: the latest.

    Args:
        domains: the study's, in its order.

    Raises:
        UserError: there is none, or it is over other domains.
    """
    if identity is None:
        latest = layout.fits / LATEST
        if not latest.exists():
            raise UserError(f"{layout.root}: nothing is fitted yet; run `regmix fit {layout.root}`")
        identity = str(read_json(latest)["fit_id"])
    folder = layout.fits / identity
    known = sorted(p.parent.name for p in layout.fits.glob("*/diagnostics.json"))
    if identity not in known:
        raise UserError(
            f"no fit '{identity}' in {layout.fits}; there are: {', '.join(known) or 'none'}"
        )
    found = _read(layout, identity)
    own = found.best.domains
    if own != tuple(domains):
        raise UserError(
            f"{layout.config}: domains: the study lists {', '.join(domains)}; the fit in {folder} "
            f"is over {', '.join(own)}, in this order; run `regmix fit {layout.root}` again"
        )
    return found


def _read(layout: StudyLayout, identity: str) -> Fit:
    folder = layout.fits / identity
    diagnostics = read_json(folder / "diagnostics.json")
    raw = diagnostics["objective"]
    objective = Objective(
        metrics=tuple(raw["metrics"]),
        weights=tuple(raw["weights"]),
        signs=tuple(raw["signs"]),
        kind=raw["kind"],
        reference=raw["reference"],
        reference_values=tuple(raw["reference_values"]),
    )
    proposal = Proposal.of(yaml_io.load(folder / "proposal.yaml"))
    return Fit(identity, folder, objective, proposal, diagnostics)


def objective_values(data: Observations, objective: Objective) -> pd.Series:
    """The objective of every run, by run id."""
    return pd.Series(assess.values(data, objective), index=data.weights.index, name="objective")


def best_single(data: Observations, objective: Objective) -> dict[str, Any] | None:
    """The best run on one domain alone and its measured objective; None if there was none."""
    if data.singles.empty:
        return None
    values = objective.value({m: data.singles[m].to_numpy() for m in objective.metrics})
    best = int(values.argmin())
    return {"name": str(data.singles.index[best]), "objective": float(values[best])}


def _or_none(value: float) -> float | None:
    return None if value != value else value


def _read_held_out(folder: Path) -> pd.DataFrame:
    frame = pd.read_csv(folder / HELD_OUT, dtype=str, keep_default_na=False)
    return frame.set_index("run_id").astype(float)  # as text first: exact in every pandas
