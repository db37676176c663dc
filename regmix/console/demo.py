"""The end of the demo: mixture, prediction beside measurement, cost, paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from rich.markup import escape

from regmix import sizes
from regmix.comparison import Comparison, gains
from regmix.console.fits import show_distance, show_remarks, show_weights
from regmix.console.terminal import say, show, table
from regmix.demo import Cost, Summary
from regmix.quantities import amount, duration, flops
from regmix.results import Fit
from regmix.study import Study


def show_outcome(study: Study, fit: Fit, comparison: Comparison) -> None:
    """Every metric: predicted at proxy size, measured at the larger size, and the seed noise."""
    values, best = comparison.values, fit.proposal.best
    shown = {best.name: best, **{c.name: c for c in fit.proposal.baselines}}
    names = [n for n in dict.fromkeys(values["mixture"]) if n in shown]
    proxy = sizes.shape(study.config.proxy.model)
    plan = sizes.plan(study.config.proxy.train, proxy)
    tokens = plan.steps * plan.batch * proxy.context
    seeds = values["seed"].nunique()
    made = table(
        f"Predicted for {amount(proxy.parameters)} parameters and {amount(tokens)} tokens; "
        f"measured at {amount(comparison.parameters)} and {amount(comparison.tokens)} "
        f"({seeds} seed{'s' if seeds > 1 else ''})",
        "\nmetric", *(f"predicted\n{n} ±sd" for n in names), *(f"measured\n{n}" for n in names),
        "seed\nnoise",
    )  # fmt: skip
    means = values.groupby("mixture").mean(numeric_only=True)
    for metric, style in [*((m, None) for m in best.metrics), ("objective", "bold")]:
        own = metric == "objective"
        entry = fit.diagnostics["metrics"].get(metric, {})
        noise = fit.diagnostics["objective_noise"] if own else entry.get("noise")
        predicted = [shown[n].objective if own else shown[n].metrics[metric] for n in names]
        measured = [means[metric].get(n) if metric in means else None for n in names]
        made.add_row(
            escape(metric), *(f"{mean:.4f} ±{sd:.4f}" for mean, sd in predicted),
            *map(_four, measured), _four(noise), style=style,
        )  # fmt: skip
    show(made)
    _show_gains(fit, comparison)


def _four(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"


def _show_gains(fit: Fit, comparison: Comparison) -> None:
    noise = fit.objective_noise
    for gain in gains(fit.proposal, comparison).values():
        by_seed = ", ".join(f"{v:+.4f}" for v in gain.by_seed.values())
        say(
            f"against {escape(gain.reference):<8} measured gain {gain.mean:+.4f}"
            + (f" ({by_seed})" if len(gain.by_seed) > 1 else "")
            + f", predicted {gain.predicted:+.4f} ± {gain.predicted_std:.4f}: "
            f"[bold]{_words(gain.verdict(noise))}[/bold]"
        )
    if comparison.unknown:
        say(f"[yellow]note:[/yellow] no gain of the objective: {escape(comparison.unknown)}")
    elif comparison.unmeasured:
        names = escape(", ".join(comparison.unmeasured))
        say(f"[yellow]note:[/yellow] no gain without measurements of {names}")
    if noise.known:
        say(
            "[dim]seed noise: between proxies that differ by their seed alone; the larger models[/]"
        )
        say("[dim]share their seeds, so that differences between them are less noisy[/]")


def _words(verdict: str) -> str:
    return {
        "better": "better",
        "worse": "WORSE",
        "tied": "no difference beyond seed noise",
        "not known": "seed noise not known",
    }[verdict]


def show_summary(summary: Summary) -> None:
    """The end of the demo: mixture, prediction beside measurement, cost, paths."""
    study, fit = summary.study, summary.fit
    say()
    show_weights(fit)
    show_distance(fit)
    _show_record(fit)
    show_remarks(fit)
    say()
    show_outcome(study, fit, summary.comparison)
    say()
    show_costs(summary.costs)
    say(
        f"\nstudy    {escape(str(study.layout.root))}\n"
        f"mixture  {escape(str(study.layout.mixture('best')))}\n"
        f"report   {escape(str(summary.report))}"
    )


def _show_record(fit: Fit) -> None:
    """The record of the fit in a line; `regmix fit` and the report have it by metric."""
    d = fit.diagnostics
    own = d["objective_scores"]
    ranks = {name: m["scores"]["spearman"] for name, m in d["metrics"].items()}
    worst = min(ranks, key=lambda m: ranks[m])
    say(
        f"held out: rank correlation {own['spearman']:.3f}, R² {own['r2']:.3f} (objective, "
        f"{d['runs']} runs); lowest {ranks[worst]:.3f} ({escape(worst)})"
    )


def show_costs(costs: Sequence[Cost]) -> None:
    """What each stage took, and all together."""
    shown = table("Cost", "stage", "runs", "tokens", "FLOPs", "core-seconds", "time")
    total = Cost(
        "all", *(sum(getattr(c, f.name) for c in costs) for f in fields(Cost) if f.name != "stage")
    )
    for cost in (*costs, total):
        work = (str(cost.runs), amount(cost.tokens), flops(cost.flops), f"{cost.core_seconds:.0f}")
        shown.add_row(
            cost.stage, *(work if cost.runs else ("–",) * len(work)), duration(cost.seconds),
            style="bold" if cost is total else None,
        )  # fmt: skip
    show(shown)
