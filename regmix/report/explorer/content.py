"""What the explorer's part of the page is given: the compact surrogate and what surrounds it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from regmix import __version__, pareto
from regmix.choosing import Choosing
from regmix.direction import sign
from regmix.mixture import FloatArray, Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.report.explorer import payload
from regmix.report.explorer.agreement import Agreement
from regmix.report.explorer.compact import Compact
from regmix.report.explorer.export import Region, compact
from regmix.results import Fit
from regmix.solve import EXTRAPOLATES, Problem
from regmix.space import Space
from regmix.study import Study

PROPOSAL = "proposal"
LIBRARIES = ("d3.min.js", "plot.umd.min.js")
MODULES = (
    "payload", "surrogate", "objective", "space", "optimum", "mixtures", "dom", "model", "sliders",
    "metrics", "profile", "compare", "main",
)  # fmt: skip
"""In the order in which the page runs them."""


@dataclass(frozen=True)
class Explorer:
    """The explorer of one report."""

    data: str
    """JSON, safe inside a script element."""
    scripts: tuple[str, ...]
    """Sources, in order."""
    css: str
    agreement: Agreement
    domains: int
    metrics: int

    @property
    def script_hashes(self) -> str:
        """Sources of a content security policy that allows these scripts and no others."""
        digests = (hashlib.sha256(s.encode()).digest() for s in self.scripts)
        return " ".join(f"'sha256-{base64.b64encode(d).decode('ascii')}'" for d in digests)


def build(study: Study, data: Observations, fit: Fit) -> Explorer:
    """The explorer of a study's fit.

    Args:
        data: what the report shows; runs that the fit does not know are left out.
    """
    problem = Choosing(study, data).problem(fit)
    runs = data.weights.loc[data.weights.index.intersection(fit.held_out.index)]
    known = mixtures(study, fit)
    region = Region(
        study.space, np.array([m.array() for m in known.values()]), runs.to_numpy(dtype=float)
    )
    small = compact(problem, region)
    agreement = Agreement.measure(problem.surrogate, small, fit.objective, region)
    value = {
        "compact": small.as_dict(),
        "space": _space(study.space),
        "runs": {
            "names": [str(n) for n in data.info.loc[runs.index, "name"]],
            "weights": region.runs,
            "typical": fit.proposal.typical_distance,
            "limit": EXTRAPOLATES * fit.proposal.typical_distance,
        },
        "mixtures": [{"name": name, "weights": m.array()} for name, m in known.items()],
        "objective": _objective(fit.objective, small),
        "problem": _problem(problem, fit),
        "metrics": _metrics(study, data, small, agreement),
        "groups": _groups(study, data, small),
        "provenance": {
            "made_with": "report explorer",
            "study": study.config.name,
            "fit": fit.fit_id,
            "runs": int(fit.diagnostics["runs"]),
            "regmix": __version__,
        },
    }
    return Explorer(
        data=payload.dumps(value),
        scripts=_scripts(),
        css=_read("explorer", "explorer.css"),
        agreement=agreement,
        domains=len(small.domains),
        metrics=len(small.metrics),
    )


def mixtures(study: Study, fit: Fit) -> dict[str, Mixture]:
    """What a person starts from and compares with: the proposal and its alternatives, by name."""
    others = {c.name: c.mixture for c in fit.proposal.baselines}
    return {PROPOSAL: fit.best, **study.references(), **others}


def reach(space: Space) -> FloatArray:
    """The least and the largest share that each domain can have, shape ``(2, n_domains)``."""
    sides = np.eye(len(space.domains))
    return np.array(
        [[s @ space.polytope.minimise(way * s) for s in sides] for way in (1.0, -1.0)]
    ).clip(0.0, 1.0)


def _space(space: Space) -> dict[str, Any]:
    p = space.polytope
    low, high = reach(space)
    return {
        "names": [c.name for c in space.constraints],
        "notes": [c.note for c in space.constraints],
        "matrix": p.matrix,
        "lower": [float(v) if np.isfinite(v) else None for v in p.lower],
        "upper": [float(v) if np.isfinite(v) else None for v in p.upper],
        "centre": space.centre,
        "low": low,
        "high": high,
    }


def _objective(objective: Objective, small: Compact) -> dict[str, Any]:
    weights = dict(zip(objective.metrics, objective.weights, strict=True))
    values = dict(zip(objective.metrics, objective.reference_values, strict=False))
    return {
        "kind": objective.kind,
        "weights": [weights.get(m.name, 0.0) for m in small.metrics],
        "reference": objective.reference,
        "reference_values": [values.get(m.name) for m in small.metrics],
        "text": objective.describe(),
    }


def _problem(problem: Problem, fit: Fit) -> dict[str, Any]:
    return {
        "caution": problem.caution,
        "kl": problem.kl,
        "prior": None if problem.prior is None else problem.prior.array(),
        "spread": float(fit.diagnostics["objective_spread"]),
    }


def _metrics(
    study: Study, data: Observations, small: Compact, agreement: Agreement
) -> list[dict[str, Any]]:
    spread, directions = data.spread(), study.config.objective.directions
    off = {str(name): float(value) for name, value in agreement.frame["p95"].items()}
    return [
        {
            "name": m.name,
            "sign": sign(m.name, directions),
            "spread": float(spread[m.name]),
            "off": None if m.exact_mean else off[m.name],
        }
        for m in small.metrics
    ]


def _groups(study: Study, data: Observations, small: Compact) -> list[dict[str, Any]]:
    """The study's groups of metrics and, where names have parts, those that begin alike."""
    names = [m.name for m in small.metrics]
    given = study.config.objective.groups
    groups = {g: pareto.select(g, data.metric_names, given) for g in given}
    heads = dict.fromkeys(n.split("/")[0] for n in names if "/" in n)
    for head in heads:
        groups.setdefault(f"{head}/…", [n for n in names if n.startswith(f"{head}/")])
    indices = {g: [names.index(m) for m in members if m in names] for g, members in groups.items()}
    return [{"name": g, "metrics": i} for g, i in indices.items() if 0 < len(i) < len(names)]


def _scripts() -> tuple[str, ...]:
    libraries = [_read("vendor", name) for name in LIBRARIES]
    own = "\n".join(_read("explorer", "js", f"{name}.js") for name in MODULES)
    return (*libraries, own)


def _read(*path: str) -> str:
    return resources.files("regmix.report").joinpath(*path).read_text(encoding="utf-8")
