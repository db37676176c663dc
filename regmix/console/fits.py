"""A fit: its held-out record, the proposal beside its alternatives, and how sure all that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from regmix.console.terminal import say, show, table
from regmix.results import Fit

_MANY_DOMAINS = 24
_MANY_METRICS = 20
_MANY_FLAGGED = 8
_MANY_REFUSED = 12


def show_fit(fit: Fit, mixture_path: object) -> None:
    """Held-out accuracy per metric, the proposal, its alternatives, and how sure all that is."""
    d = fit.diagnostics
    _show_accuracy(d)
    _show_candidates(fit)
    show_weights(fit)
    show_distance(fit)
    _show_certainty(fit)
    show_remarks(fit)
    for text in fit.diagnostics.get("links", ()):  # older fits looked for none
        say(f"[dim]{escape(text)}[/dim]")
    say(f"mixture  {escape(str(mixture_path))}\nfit      {escape(str(fit.folder))}")


def _show_accuracy(d: Mapping[str, Any]) -> None:
    """Metrics by name, or the worst predicted ones of many, then the objective."""
    shown = table(
        f"Held-out accuracy ({d['runs']} runs)",
        "metric", "regressor", "Spearman", "R²", "MAE", "in 90 %", "spread/noise",
    )  # fmt: skip
    metrics = d["metrics"]
    names = list(metrics)
    if len(names) > _MANY_METRICS:
        names = sorted(names, key=lambda m: metrics[m]["scores"]["spearman"])[:_MANY_METRICS]
    for name in names:
        m = metrics[name]
        row = _scores(m["scores"], _ratio(m["spread"], m["noise"]))
        shown.add_row(escape(name), m["regressor"], *row)
    row = _scores(d["objective_scores"], _ratio(d["objective_spread"], d["objective_noise"]))
    shown.add_row("objective", "", *row, style="bold")
    show(shown)
    if len(names) < len(metrics):
        rest = [m["scores"]["spearman"] for n, m in metrics.items() if n not in names]
        say(
            f"[dim]{len(rest)} more metrics, predicted better (Spearman {min(rest):.3f} to "
            f"{max(rest):.3f}), are in the fit's diagnostics.json[/dim]"
        )


def _scores(s: Mapping[str, float], ratio: str) -> tuple[str, ...]:
    return (
        f"{s['spearman']:.3f}", f"{s['r2']:.3f}", f"{s['mae']:.4f}", f"{s['coverage90']:.0%}", ratio
    )  # fmt: skip


def _ratio(spread: float, noise: float | None) -> str:
    return f"{spread / noise:.1f}" if noise else "–"


def _show_candidates(fit: Fit) -> None:
    shown = table(
        f"Objective: {fit.objective.describe()}",
        "mixture", "predicted", "± std", "worse by", "± std", "P(beaten)", "nearest run",
    )  # fmt: skip
    best = fit.proposal.best
    shown.add_row(
        "proposal", f"{best.objective[0]:.4f}", f"{best.objective[1]:.4f}", "", "", "",
        f"{best.nearest_distance:.3f}", style="bold",
    )  # fmt: skip
    for c in fit.proposal.baselines:
        shown.add_row(
            escape(c.name), f"{c.objective[0]:.4f}", f"{c.objective[1]:.4f}",
            f"{c.gain[0]:+.4f}", f"{c.gain[1]:.4f}", _chance(c.probability_beaten),
            f"{c.nearest_distance:.3f}",
        )  # fmt: skip
    show(shown)
    single = fit.diagnostics["best_single"]
    if single:
        name, value = escape(single["name"]), single["objective"]
        say(f"best single domain that was run: {name}, measured {value:.4f}")


def _chance(probability: float) -> str:
    """In per cent, and never certain."""
    if probability > 0.99:
        return ">99%"
    return "<1%" if probability < 0.01 else f"{probability:.0%}"


def show_remarks(fit: Fit) -> None:
    """Runs that were left out, by reason, and the fit's warnings."""
    by_reason: dict[str, list[str]] = {}
    for text in fit.diagnostics["excluded"]:
        name, _, reason = text.partition(" (")
        by_reason.setdefault(reason.removesuffix(")"), []).append(name)
    for reason, names in by_reason.items():
        shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
        say(f"left out {len(names)} runs ({escape(reason)}): {escape(shown)}")
    _show_refused(fit)
    _show_flagged(fit)
    for warning in fit.diagnostics["warnings"]:
        say(f"[yellow]note:[/yellow] {escape(warning)}")


def _show_refused(fit: Fit) -> None:
    """Metrics that are noise, those of whole tasks first, and how to have them all the same."""
    refused: Mapping[str, str] = fit.diagnostics.get("refused", {})  # older fits refused none
    names = sorted(refused, key=lambda m: m.count("/"))
    for name in names[:_MANY_REFUSED]:
        say(f"[yellow]not fitted:[/yellow] {escape(name)}: {escape(refused[name])}")
    if names:
        more = len(names) - _MANY_REFUSED
        rest = f"and {more} more, in the fit's diagnostics.json; " if more > 0 else ""
        say(
            f"[dim]{rest}{len(names)} of the metrics are not fitted: --target or "
            "objective.weights takes one by name all the same[/dim]"
        )


def _show_flagged(fit: Fit) -> None:
    """Runs that something is wrong with, and what they do to the proposal."""
    flagged = fit.diagnostics.get("flagged", {"runs": {}})  # older fits looked for none
    if not flagged["runs"]:
        return
    done, else_ = ("left out", "with") if flagged["excluded"] else ("kept", "without")
    for name, reason in list(flagged["runs"].items())[:_MANY_FLAGGED]:
        say(f"[yellow]flagged:[/yellow] {escape(name)}: {escape(reason)}")
    other = flagged.get("other")
    change = ""
    if other:
        change = (
            f"; {else_} them the proposal would be {other['distance']:.3f} away (total variation), "
            f"objective {other['objective']:.4f} instead of {fit.proposal.best.objective[0]:.4f} "
            "by this fit"
        )
    elif "why" in flagged:
        change = f"; there is no proposal {else_} them: {flagged['why']}"
    say(f"{len(flagged['runs'])} flagged runs {done} (fit.flagged, fit.exclude){escape(change)}")


def show_weights(fit: Fit) -> None:
    """Each domain's weight, how far it may move, and what the obvious alternatives give it."""
    p = fit.proposal
    columns = [c for c in p.baselines if c.name in ("natural", "uniform", "unimax", "best run")]
    refits = {} if p.stability is None else p.stability.weights
    heads = ["proposal", "as good", *(["refits"] if refits else []), *(c.name for c in columns)]
    shown = table("Mixture", "domain", *heads)
    weights = fit.best.as_dict()
    names = sorted(weights, key=lambda d: -weights[d])[:_MANY_DOMAINS]
    for name in names:
        ranges = [_range(p.tied[name]), *([_range(refits[name])] if refits else [])]
        row = [f"{fit.best[name]:.4f}", *ranges, *(f"{c.mixture[name]:.4f}" for c in columns)]
        shown.add_row(escape(name), *row)
    show(shown)
    if len(weights) > len(names):
        say(f"[dim]{len(weights) - len(names)} domains with less are in the file[/dim]")


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2f}–{interval[1]:.2f}"


def show_distance(fit: Fit) -> None:
    """How far the proposal is from what was measured."""
    p = fit.proposal
    far = ": an extrapolation" if p.extrapolates else ""
    say(
        f"nearest run {escape(p.nearest_run)}, total variation {p.nearest_distance:.3f} "
        f"(runs lie {p.typical_distance:.3f} apart){far}"
    )


def _show_certainty(fit: Fit) -> None:
    """How it was found, how it moves with the runs, what holds it back."""
    p = fit.proposal
    how = f"found by {p.method}"
    say(how + (f", at most {p.gap:.1g} above the least there is" if p.gap is not None else ""))
    if p.stability:
        say(
            f"optima of {p.stability.refits} refits to resampled runs lie "
            f"{p.stability.distance:.3f} apart"
        )
    if p.relaxed:
        parts = [f"{escape(r.constraint)} ({r.gain:+.4f})" for r in p.relaxed]
        say(f"held back by (gain without it): {', '.join(parts)}")
    if p.pulled:
        parts = [f"{q.strength:g}: {q.distance:.2f} away, {q.loss:+.4f}" for q in p.pulled]
        say(f"[dim]a KL pull to {_prior(fit)} would change it to ({'; '.join(parts)})[/dim]")


def _prior(fit: Fit) -> str:
    return "natural" if fit.proposal.baseline("natural") else "uniform"
