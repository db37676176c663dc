"""The page: reads a study once, lets frames, figures and text say what there is, fills a template.

A section whose data a study does not have (no fit, nothing trained at the target size, runs
measured elsewhere) says so in a sentence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from regmix import __version__, noise, pareto, results
from regmix.comparison import Comparison, Gain, gains
from regmix.errors import UserError
from regmix.files import write_text
from regmix.flags import Flags
from regmix.imports import ImportedRuns, read_imports
from regmix.mixture import Mixture
from regmix.noise import SeedNoise
from regmix.objective import Objective, of_themselves
from regmix.observations import Observations
from regmix.quantities import amount
from regmix.records import RunRecord
from regmix.report import explorer, figures, frames, front, tables, text
from regmix.results import Fit
from regmix.study import Study
from regmix.transfer import Verdict

OBJECTIVE_PANEL, SMALL_PANEL = 4.4, 2.5
"""Width of the held-out figures, in inches."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a report is made of, read once."""

    study: Study
    data: Observations
    records: list[RunRecord]
    imports: list[ImportedRuns]
    flags: Flags
    fit: Fit | None
    comparison: Comparison | None

    @classmethod
    def read(cls, study: Study) -> Evidence:
        """Read a study; its latest fit and its comparison only if there are any.

        Raises:
            UserError: nothing is measured yet.
        """
        data = study.fitted()
        fitted = (study.layout.fits / results.LATEST).exists()
        return cls(
            study=study,
            data=data,
            records=study.runs(),
            imports=read_imports(study.layout),
            flags=study.flags(),
            fit=study.latest_fit() if fitted else None,
            comparison=study.comparison() if fitted else None,
        )

    @property
    def objective(self) -> Objective:
        """The fit's objective; the study's own before there is a fit."""
        if self.fit is not None:
            return self.fit.objective
        refused = noise.refused(self.data)
        if set(of_themselves(self.data.metric_names)) <= set(refused):
            refused = {}  # nothing would be fitted; what was measured is shown all the same
        return Objective.from_config(
            self.study.config.objective, self.data.metric_names, refused=refused
        )

    @property
    def noise(self) -> SeedNoise:
        """Of the objective, between seeds of one mixture."""
        if self.fit is not None:
            return self.fit.objective_noise
        return SeedNoise.of(self.data, self.objective.value)

    @property
    def known_noise(self) -> float | None:
        """Its standard deviation; None where nothing was repeated."""
        return None if math.isnan(self.noise.std) else self.noise.std

    @property
    def gains(self) -> dict[str, Gain]:
        """Measured gains of the objective by reference."""
        if self.fit is None or self.comparison is None:
            return {}
        return gains(self.fit.proposal, self.comparison)

    def weights(self) -> pd.DataFrame:
        """Shares of the proposal (if there is one) and of the references."""
        named: dict[str, Mixture] = {} if self.fit is None else {frames.PROPOSAL: self.fit.best}
        return frames.weights({**named, **self.study.references()})


def render(study: Study) -> str:
    """The report as one HTML document that needs nothing beside itself.

    Raises:
        UserError: nothing is measured yet, or something in the study's files is wrong.
    """
    evidence = Evidence.read(study)
    environment = Environment(
        loader=PackageLoader("regmix.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        name=study.config.name,
        root=str(study.layout.root),
        version=__version__,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        fitted=evidence.fit is not None,
        answer=_answer(evidence),
        front=_front(evidence),
        comparison=_comparison(evidence),
        belief=_belief(evidence),
        swarm=_swarm(evidence),
        history=_history(evidence),
        explorer=explorer.context(study, evidence.data, evidence.fit),
    )


def write(study: Study) -> Path:
    """Write the report to ``report/index.html`` in the study, whole; returns its path.

    Raises:
        UserError: as :func:`render`, or the folder is not writable.
    """
    write_text(study.layout.report, render(study))
    return study.layout.report


def _answer(evidence: Evidence) -> dict[str, Any]:
    weights = evidence.weights()
    return {
        "objective": evidence.objective.describe(),
        "turned": min(evidence.objective.signs) < 0,
        "figure": figures.weights(weights) if _drawable(weights) else None,
        "weights": tables.shares(weights),
        "certainty": None if evidence.fit is None else _certainty(evidence.fit, weights.index),
        **_verdict(evidence),
    }


def _certainty(fit: Fit, order: pd.Index) -> dict[str, Any]:
    """How far the weights may move: ranges by domain, and what holds the proposal back."""
    p, decimals = fit.proposal, text.decimals_for(fit.proposal.best.objective[1])
    return {
        "table": tables.Table.of(frames.certainty(p).loc[order].reset_index(), tables.CERTAINTY),
        "refits": None if p.stability is None else p.stability.refits,
        "distance": None if p.stability is None else text.fixed(p.stability.distance, 2),
        "relaxed": [(r.constraint, text.fixed(r.gain, decimals)) for r in p.relaxed],
    }


def _front(evidence: Evidence) -> dict[str, Any] | None:
    """The front that was last computed, or the one between the study's first two groups."""
    if evidence.fit is None:
        return None
    found = pareto.latest(evidence.fit.folder)
    if found is None:
        groups = list(evidence.study.config.objective.groups)[:2]
        if len(groups) < 2:
            return None
        try:
            found = evidence.study.pareto(*groups)
        except UserError as exc:
            return {"names": groups, "problem": str(exc)}
    return {
        "names": [found.x.name, found.y.name],
        "problem": None,
        "figure": front.svg(found),
        "table": front.table(found),
        "points": len(found.front),
        "notes": found.notes,
    }


def _drawable(weights: pd.DataFrame) -> bool:
    """Whether there is more to draw than the uniform mixture."""
    return bool({frames.PROPOSAL, "natural"} & set(weights))


def _verdict(evidence: Evidence) -> dict[str, Any]:
    """The answer in a sentence, its tone, and the figures that go with it."""
    fit, known, found = evidence.fit, evidence.noise, evidence.gains
    if fit is None:
        return {"tone": "plain", "cards": []}
    predicted = frames.predicted_gains(fit.proposal)
    units = text.unit(fit.objective)
    return {
        "predicted": text.predicted(fit.objective, predicted),
        "measured": text.measured(evidence.comparison, found, known, units),
        "tone": text.tone(found, known),
        "cards": _cards(evidence, fit, predicted),
    }


def _cards(evidence: Evidence, fit: Fit, predicted: pd.DataFrame) -> list[dict[str, str]]:
    cards = []
    for name in [r for r in frames.REFERENCES if r in predicted.index]:
        gain, std = predicted["gain"][name], predicted["std"][name]
        card = {
            "label": f"predicted gain over {name}",
            "value": text.signed(gain, text.decimals_for(std)),
            "error": f"± {text.fixed(std, text.decimals_for(std))}",
            "note": f"better with probability {text.chance(predicted['probability'][name])}",
            "tone": "plain",
        }
        cards.append(card)
        if name in evidence.gains:
            word, tone = text.judgement(evidence.gains[name], evidence.noise)
            decimals = text.decimals_for(evidence.known_noise or std)
            value = text.signed(evidence.gains[name].mean, decimals)
            label = f"measured gain over {name}"
            cards.append({"label": label, "value": value, "error": "", "note": word, "tone": tone})
    scores = fit.diagnostics["objective_scores"]
    cards.append(
        {
            "label": "held-out rank correlation",
            "value": text.fixed(scores["spearman"], 2),
            "error": "",
            "note": f"of the objective, over {fit.diagnostics['runs']} runs",
            "tone": "plain",
        }
    )
    return cards


def _comparison(evidence: Evidence) -> dict[str, Any] | None:
    """The measured comparison; None if nothing was trained at the target size."""
    fit, comparison = evidence.fit, evidence.comparison
    if fit is None or comparison is None:
        return None
    degrees = noise.freedom(evidence.data)
    own = {str(m): SeedNoise(float(v), degrees) for m, v in evidence.data.noise().items()}
    directions = evidence.study.config.objective.directions
    by_metric = frames.metric_gains(comparison, fit, own, directions)
    return {
        "size": f"{amount(comparison.parameters)} non-embedding parameters, "
        f"{amount(comparison.tokens)} tokens",
        "measured": tables.measured(comparison.values, frames.target_metrics(comparison)),
        "gains": tables.gains(evidence.gains, evidence.noise),
        "unmeasured": text.unmeasured(comparison) if comparison.unmeasured else None,
        "noise": text.number(evidence.known_noise, 2),
        "freedom": evidence.noise.freedom,
        "noise_known": evidence.noise.known,
        "figures": [
            {"reference": name, "figure": figures.metric_gains(by_metric, name)}
            for name in evidence.gains
        ],
    }


def _belief(evidence: Evidence) -> dict[str, Any] | None:
    """The record by which to judge the fit; None without one."""
    fit, data = evidence.fit, evidence.data
    if fit is None:
        return None
    scores = frames.scores(fit.diagnostics)
    # A single metric is the objective, which has a figure of its own.
    drawn = frames.panels(scores["spearman"]) if len(scores) > 1 else []
    many = len(drawn) * len(data.weights) > figures.MANY_POINTS
    predictions = fit.held_out
    late = data.weights.index.difference(predictions.index)
    known, spread = evidence.known_noise, fit.diagnostics["objective_spread"]
    return {
        "transfer": [_larger(v) for v in fit.proposal.transfer],
        "links": fit.diagnostics.get("links", []),  # older fits looked for none
        "objective": figures.held_out(
            frames.held_out_objective(data, predictions, fit.surrogate, fit.objective),
            "objective",
            size=OBJECTIVE_PANEL,
        ),
        "scores": fit.diagnostics["objective_scores"],
        "panels": [
            {
                "name": name,
                "score": f"ρ {text.fixed(scores['spearman'][name], 2)}",
                "figure": figures.held_out(
                    frames.held_out(data, predictions, name), name, size=SMALL_PANEL, rasterise=many
                ),
            }
            for name in drawn
        ],
        "hidden": len(scores) - len(drawn) if drawn else 0,
        "table": tables.Table.of(scores.reset_index(), tables.SCORES),
        "candidates": tables.Table.of(frames.candidates(fit.diagnostics), tables.CANDIDATES),
        "signal": text.number(spread / known, 2) if known else None,
        "runs": fit.diagnostics["runs"],
        "late": len(late),
        "warnings": fit.diagnostics["warnings"],
        "refused": list(fit.diagnostics.get("refused", {}).items()),  # older fits refused none
    }


def _larger(verdict: Verdict) -> dict[str, Any]:
    """What a larger size says: the sentence, and the proposal's figures there."""
    rows = pd.DataFrame(
        [{"metric": m, "mean": p.mean, "std": p.std, "how": p.how}
         for m, p in verdict.predicted.items()],
        columns=["metric", "mean", "std", "how"],
    )  # fmt: skip
    return {
        "text": verdict.text,
        "notes": verdict.notes,
        "size": verdict.large,
        "table": tables.Table.of(rows, tables.LARGER),
        "linked": [
            (m, text.fixed(v.value, 4), text.fixed(v.low, 4), text.fixed(v.high, 4))
            for m, v in verdict.linked.items()
        ],
    }


def _swarm(evidence: Evidence) -> dict[str, Any]:
    data, fit = evidence.data, evidence.fit
    weights = evidence.weights()
    order = list(weights.index)
    runs = frames.run_objectives(data, evidence.objective)
    proposal = None if fit is None else fit.proposal
    return {
        "runs": len(data.weights),
        "domains": len(data.domains),
        "metrics": len(data.metric_names),
        "shares": figures.shares(
            frames.shares(data, order), frames.share_quartiles(data, order), weights
        ),
        "objectives": figures.run_objectives(
            runs, None if proposal is None else proposal.best.objective, evidence.known_noise
        ),
        "best": runs["name"].iloc[0],
        "best_value": text.number(runs["objective"].iloc[0]),
        "noise": evidence.known_noise is not None,
        "proposal": None if proposal is None else {
            "objective": text.with_error(*proposal.best.objective),
            "nearest": proposal.nearest_run,
            "distance": text.fixed(proposal.nearest_distance, 3),
            "typical": text.fixed(proposal.typical_distance, 3),
            "extrapolates": proposal.extrapolates,
            "active": proposal.active,
        },
        "excluded": data.excluded,
        "flagged": sorted(evidence.flags.reasons().items()),
        "names": evidence.flags.frame.set_index("run_id")["name"].to_dict(),
    }  # fmt: skip


def _history(evidence: Evidence) -> dict[str, Any]:
    store, records = evidence.study.store, evidence.records
    states = frames.states(records).reset_index()
    count: tables.Columns = {s: (s, str) for s in frames.STATES}
    failed = frames.failures(records)
    realised = frames.realised(store, evidence.data.domains)
    targets = [r for r in records if r.spec.role == "target"]
    return {
        "trained": bool(records),
        "states": tables.Table.of(states, {"role": ("role", str), **count}),
        "failures": tables.Table.of(
            failed, {str(c): (str(c).replace("_", " "), str) for c in failed}
        ),
        "unfinished_targets": sum(r.status in ("waiting", "started") for r in targets),
        "costs": tables.Table.of(store.costs(), tables.COSTS),
        "difference": text.fixed(100 * realised["difference"].max(), 2) if len(realised) else None,
        "realised": tables.Table.of(realised.reset_index(), tables.REALISED),
        "environment": tables.Table.of(frames.environments(store), tables.ENVIRONMENT),
        "imports": [{"runs": len(i.weights), "notes": i.notes} for i in evidence.imports],
    }
