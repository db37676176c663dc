"""What a fit leaves behind: written to ``fits/<fit_id>/``, read by report, export and notebooks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from regmix import yaml_io
from regmix.errors import UserError
from regmix.files import read_json, write_json, write_text
from regmix.fit import FitResult
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout
from regmix.mixture import Mixture, MixtureFile
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.solve import Candidate, Proposal
from regmix.surrogate import Surrogate

LATEST = "latest.json"


@dataclass(frozen=True)
class Fit:
    """A fit on disk: surrogate, objective, proposal and the record by which to judge them."""

    fit_id: str
    folder: Path
    objective: Objective
    proposal: Proposal
    diagnostics: dict[str, Any]

    @property
    def surrogate(self) -> Surrogate:
        """The fitted regressors."""
        return Surrogate.load(self.folder / "surrogate.json.gz")

    @property
    def held_out(self) -> pd.DataFrame:
        """Held-out predictions by run id: ``<metric>`` and ``<metric>_std``."""
        return pd.read_csv(self.folder / "held_out.csv", dtype={"run_id": str}).set_index("run_id")

    @property
    def mixture_name(self) -> str:
        """Name of the mixture file that the fit wrote."""
        return str(self.diagnostics["mixture_name"])

    @property
    def best(self) -> Mixture:
        """The proposed mixture."""
        return self.proposal.best.mixture


def fit_id(data: Observations, metrics: list[str], objective: Objective, settings: Any) -> str:
    """Identity of a fit: everything that changes its result."""
    ordered = data.frame().sort_index()
    return fingerprint(
        [
            ordered.index.tolist(),
            ordered.drop(columns=data.info.columns).round(12).to_dict("list"),
            metrics,
            asdict(objective),
            settings,
        ],
        length=12,
    )


def save(
    layout: StudyLayout,
    identity: str,
    result: FitResult,
    objective: Objective,
    proposal: Proposal,
    data: Observations,
    mixture_name: str,
) -> Fit:
    """Write a fit's folder and the mixture file, and make it the latest."""
    folder = layout.fits / identity
    surrogate = result.surrogate
    surrogate.save(folder / "surrogate.json.gz")
    held_out = result.held_out.rename_axis("run_id").to_csv()
    write_text(folder / "held_out.csv", held_out)
    noise, spread = data.noise(), data.spread()
    diagnostics = {
        "fit_id": identity,
        "mixture_name": mixture_name,
        "runs": len(data.weights),
        "domains": list(data.domains),
        "objective": {**asdict(objective), "text": objective.describe()},
        "objective_scores": asdict(result.objective_scores),
        "objective_noise": _or_none(data.objective_noise(objective.value)),
        "objective_spread": float(objective_values(data, objective).std()),
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
        "warnings": list(result.warnings),
        "excluded": list(data.excluded),
    }
    write_json(folder / "diagnostics.json", diagnostics)
    write_text(folder / "proposal.yaml", yaml_io.dump(_proposal_dict(proposal)))
    provenance = {
        "fit": identity,
        "objective": objective.describe(),
        "runs": len(data.weights),
        "predicted": {m: {"mean": v, "std": s} for m, (v, s) in proposal.best.metrics.items()},
    }
    mixture = MixtureFile(mixture_name, proposal.best.mixture, provenance)
    mixture.save(layout.mixture(mixture_name))
    mixture.save(folder / "mixture.yaml")
    write_json(layout.fits / LATEST, {"fit_id": identity})
    return Fit(identity, folder, objective, proposal, diagnostics)


def load(layout: StudyLayout, identity: str | None = None) -> Fit:
    """A fit by id; default: the latest.

    Raises:
        UserError: there is none.
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
    diagnostics = read_json(folder / "diagnostics.json")
    raw = diagnostics["objective"]
    objective = Objective(tuple(raw["metrics"]), tuple(raw["weights"]), tuple(raw["signs"]))
    proposal = _proposal_from_dict(yaml_io.load(folder / "proposal.yaml"))
    return Fit(identity, folder, objective, proposal, diagnostics)


def objective_values(data: Observations, objective: Objective) -> pd.Series:
    """The objective of every run, by run id."""
    values = objective.value({m: data.y(m) for m in objective.metrics})
    return pd.Series(values, index=data.weights.index, name="objective")


def best_single(data: Observations, objective: Objective) -> dict[str, Any] | None:
    """The best run on one domain alone and its measured objective; None if there was none."""
    if data.singles.empty:
        return None
    values = objective.value({m: data.singles[m].to_numpy() for m in objective.metrics})
    best = int(values.argmin())
    return {"name": str(data.singles.index[best]), "objective": float(values[best])}


def _or_none(value: float) -> float | None:
    return None if value != value else value


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "weights": candidate.mixture.as_dict(),
        "objective": {"mean": candidate.objective[0], "std": candidate.objective[1]},
        "metrics": {m: {"mean": v, "std": s} for m, (v, s) in candidate.metrics.items()},
        "probability_beaten": candidate.probability_beaten,
    }


def _candidate_from_dict(raw: dict[str, Any]) -> Candidate:
    return Candidate(
        name=raw["name"],
        mixture=Mixture.of(raw["weights"]),
        objective=(raw["objective"]["mean"], raw["objective"]["std"]),
        metrics={m: (v["mean"], v["std"]) for m, v in raw["metrics"].items()},
        probability_beaten=raw["probability_beaten"],
    )


def _proposal_dict(proposal: Proposal) -> dict[str, Any]:
    return {
        "kind": "proposal",
        "best": _candidate_dict(proposal.best),
        "baselines": [_candidate_dict(c) for c in proposal.baselines],
        "active_constraints": list(proposal.active),
        "nearest_run": proposal.nearest_run,
        "nearest_distance": proposal.nearest_distance,
        "typical_distance": proposal.typical_distance,
        "extrapolates": proposal.extrapolates,
    }


def _proposal_from_dict(raw: dict[str, Any]) -> Proposal:
    return Proposal(
        best=_candidate_from_dict(raw["best"]),
        baselines=tuple(_candidate_from_dict(c) for c in raw["baselines"]),
        active=tuple(raw["active_constraints"]),
        nearest_run=raw["nearest_run"],
        nearest_distance=raw["nearest_distance"],
        typical_distance=raw["typical_distance"],
    )
