"""What each part of the page says, as values that its template is filled with.

A part whose data a study does not have (no fit, nothing trained at the target size, runs measured
elsewhere) says so in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from markupsafe import Markup

from regmix import quantities
from regmix.errors import UserError
from regmix.imports import read_imports
from regmix.plot import Evidence, Figure, Plots, frames, of_front
from regmix.quantities import amount, duration, flops
from regmix.report import tables, text
from regmix.results import Fit
from regmix.transfer import Verdict


def _shown(figure: Figure) -> dict[str, Any]:
    svg = Markup(figure.svg())  # noqa: S704 - our own drawing
    return {"svg": svg, "caption": figure.caption, "title": figure.title}


def _if_any(make: Callable[[], Figure]) -> dict[str, Any]:
    """A figure, or why this study has none."""
    try:
        return {**_shown(make()), "problem": None}
    except UserError as exc:
        return {"svg": None, "caption": None, "title": None, "problem": str(exc)}


def answer(plots: Plots) -> dict[str, Any]:
    """The mixture, what is predicted and measured of it, the larger sizes' verdict, the cost."""
    e = plots.evidence
    drawable = {frames.PROPOSAL, "natural"} & set(e.weights)
    return {
        "objective": e.objective.describe(),
        "turned": min(e.objective.signs) < 0,
        "figure": _shown(plots.weights()) if drawable else None,
        "gains": None if e.fit is None else _shown(plots.gains()),
        "weights": tables.shares(e.weights),
        "certainty": None if e.fit is None else _certainty(e.fit, e.weights.index),
        "transfer": None if e.fit is None else [_larger(v) for v in e.fit.proposal.transfer],
        "ladder": _if_any(plots.transfer),
        **_verdict(e),
    }


def _certainty(fit: Fit, order: pd.Index) -> dict[str, Any]:
    """How far the weights may move: ranges by domain, and what holds the proposal back."""
    p, decimals = fit.proposal, quantities.decimals_for(fit.proposal.best.objective[1])
    return {
        "table": tables.Table.of(frames.certainty(p).loc[order].reset_index(), tables.CERTAINTY),
        "refits": None if p.stability is None else p.stability.refits,
        "distance": None if p.stability is None else quantities.fixed(p.stability.distance, 2),
        "relaxed": [(r.constraint, quantities.fixed(r.gain, decimals)) for r in p.relaxed],
    }


def _verdict(evidence: Evidence) -> dict[str, Any]:
    """The answer in a sentence, its tone, and the figures that go with it."""
    fit, known, found = evidence.fit, evidence.noise, evidence.gains
    if fit is None:
        return {"tone": "plain", "cards": [*_cost(evidence)]}
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
        decimals = quantities.decimals_for(std)
        chance = quantities.chance(predicted["probability"][name])
        cards.append(
            _card(
                f"predicted gain over {name}",
                quantities.signed(gain, decimals),
                f"better with probability {chance}",
                error=f"± {quantities.fixed(std, decimals)}",
            )
        )
        if name in evidence.gains:
            word, tone = text.judgement(evidence.gains[name], evidence.noise)
            decimals = quantities.decimals_for(evidence.known_noise or std)
            value = quantities.signed(evidence.gains[name].mean, decimals)
            cards.append(_card(f"measured gain over {name}", value, word, tone=tone))
    scores = fit.diagnostics["objective_scores"]
    cards.append(
        _card(
            "held-out rank correlation",
            quantities.fixed(scores["spearman"], 2),
            f"of the objective, over {fit.diagnostics['runs']} runs",
        )
    )
    return [*cards, *_cost(evidence)]


def _card(
    label: str, value: str, note: str, *, error: str = "", tone: text.Tone = "plain"
) -> dict[str, str]:
    return {"label": label, "value": value, "error": error, "note": note, "tone": tone}


def _cost(evidence: Evidence) -> list[dict[str, str]]:
    """What the finished runs took; nothing where none was trained here."""
    costs = evidence.store.costs()
    if costs.empty:
        return []
    spent = costs[["runs", "tokens", "flops", "seconds"]].sum()
    note = f"{spent['runs']:.0f} runs, {amount(spent['tokens'])} tokens, {flops(spent['flops'])}"
    hourly = evidence.study.config.launch.cost_per_hour
    if hourly is not None:
        note += f"; {spent['seconds'] / 3600 * hourly:.4g} at {hourly:g} an hour"
    return [_card("training time, summed", duration(spent["seconds"]), note)]


def comparison(plots: Plots) -> dict[str, Any] | None:
    """The measured comparison; None if nothing was trained at the target size."""
    e = plots.evidence
    found = e.comparison
    if found is None:
        return None
    return {
        "size": f"{amount(found.parameters)} non-embedding parameters, "
        f"{amount(found.tokens)} tokens",
        "measured": tables.measured(found.values, frames.target_metrics(found)),
        "gains": tables.gains(e.gains, e.noise),
        "unmeasured": text.unmeasured(found) if found.unmeasured or found.unknown else None,
        "noise": quantities.number(e.known_noise, 2),
        "freedom": e.noise.freedom,
        "noise_known": e.noise.known,
        "figures": [{"reference": name, **_shown(plots.metric_gains(name))} for name in e.gains],
    }


def belief(plots: Plots) -> dict[str, Any] | None:
    """The record by which to judge the fit; None without one."""
    e = plots.evidence
    fit, data = e.fit, e.data
    if fit is None:
        return None
    scores = frames.scores(fit.diagnostics)
    # A single metric is the objective, which has a figure of its own.
    drawn = frames.panels(scores["spearman"]) if len(scores) > 1 else []
    known, spread = e.known_noise, fit.diagnostics["objective_spread"]
    return {
        "links": fit.diagnostics.get("links", []),  # older fits looked for none
        "objective": _shown(plots.held_out()),
        "scores": fit.diagnostics["objective_scores"],
        "panels": [
            {
                "name": name,
                "score": f"ρ {quantities.fixed(scores['spearman'][name], 2)}",
                "svg": _shown(plots.held_out(name, small=True))["svg"],
            }
            for name in drawn
        ],
        "hidden": len(scores) - len(drawn) if drawn else 0,
        "table": tables.Table.of(scores.reset_index(), tables.SCORES),
        "candidates": tables.Table.of(frames.candidates(fit.diagnostics), tables.CANDIDATES),
        "signal": _times(spread / known) if known else None,
        "runs": fit.diagnostics["runs"],
        "late": len(data.weights.index.difference(fit.held_out.index)),
        "warnings": fit.diagnostics["warnings"],
        "refused": list(fit.diagnostics.get("refused", {}).items()),  # older fits refused none
        "noise": _if_any(plots.noise_floor),
        "learning": _if_any(plots.learning),
        "distances": _shown(plots.distances()),
        **_place(fit),
    }


def _times(ratio: float) -> str:
    return quantities.fixed(ratio, 0) if ratio >= 10 else quantities.fixed(ratio, 1)


def _place(fit: Fit) -> dict[str, Any]:
    """Where the proposal lies among the runs."""
    p = fit.proposal
    return {
        "predicted": quantities.with_error(*p.best.objective),
        "nearest": p.nearest_run,
        "distance": quantities.fixed(p.nearest_distance, 3),
        "typical": quantities.fixed(p.typical_distance, 3),
        "extrapolates": p.extrapolates,
        "active": p.active,
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
            (m, *(quantities.fixed(v, 4) for v in (link.value, link.low, link.high)))
            for m, link in verdict.linked.items()
        ],
    }


def drivers(plots: Plots) -> dict[str, Any] | None:
    """What the shares do; None without a fit."""
    fit = plots.evidence.fit
    if fit is None:
        return None
    one = len(fit.surrogate.metrics) == 1
    return {
        "effects": _if_any(plots.effects),
        # Of one metric the curves say all.
        "matrix": None if one else _if_any(plots.matrix),
        "interactions": _if_any(plots.interactions),
    }


def front(plots: Plots) -> dict[str, Any] | None:
    """The front that was last computed, or the usual one; None where there is none to compute."""
    try:
        found = plots.evidence.usual_front()
    except UserError as exc:
        return {"names": plots.evidence.usual_sides, "problem": str(exc)}
    if found is None:
        return None
    return {
        "names": [found.x.name, found.y.name],
        "problem": None,
        "figure": _shown(of_front(found)),
        "table": tables.front(found),
        "notes": found.notes,
    }


def swarm(plots: Plots) -> dict[str, Any]:
    """What the runs tried and came to, and what is wrong with which."""
    e = plots.evidence
    runs = frames.run_objectives(e.data, e.objective)
    flags = e.measured.flags
    return {
        "runs": len(e.data.weights),
        "domains": len(e.data.domains),
        "metrics": len(e.data.metric_names),
        "shares": _shown(plots.shares()),
        "objectives": _shown(plots.objectives()),
        "best": runs["name"].iloc[0],
        "best_value": quantities.number(runs["objective"].iloc[0]),
        "excluded": e.data.excluded,
        "flagged": sorted(flags.reasons().items()),
        "names": flags.frame.set_index("run_id")["name"].to_dict(),
    }


def history(plots: Plots) -> dict[str, Any]:
    """States, failures, speed, costs, and what was trained against what was asked for."""
    e = plots.evidence
    store, records = e.store, e.records
    states = frames.states(records).reset_index()
    count: tables.Columns = {s: (s, str) for s in frames.STATES}
    failed = frames.failures(records)
    realised = frames.realised(store, e.data.domains)
    most = quantities.fixed(100 * realised["difference"].max(), 2) if len(realised) else None
    targets = [r for r in records if r.spec.role == "target"]
    costs = store.costs()
    return {
        "trained": bool(records),
        "states": tables.Table.of(states, {"role": ("role", str), **count}),
        "failures": tables.Table.of(
            failed, {str(c): (str(c).replace("_", " "), str) for c in failed}
        ),
        "unfinished_targets": sum(r.status in ("waiting", "started") for r in targets),
        "costs": tables.Table.of(tables.with_speed(costs), tables.COSTS),
        "throughput": _if_any(plots.throughput),
        "difference": most,
        "realised": tables.Table.of(realised.reset_index(), tables.REALISED),
        "environment": tables.Table.of(frames.environments(store), tables.ENVIRONMENT),
        "imports": [
            {"runs": len(i.weights), "notes": i.notes} for i in read_imports(e.study.layout)
        ],
    }
