"""What a person sees in the terminal: progress with ETA, aligned tables, one summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from itertools import chain
from typing import Any, Protocol

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

from regmix import sizes
from regmix.comparison import Comparison, gains
from regmix.demo import Cost, Summary
from regmix.direction import sign
from regmix.errors import RegmixError
from regmix.imports import ImportedRuns
from regmix.manifest import DataManifest
from regmix.quantities import amount, duration, flops
from regmix.records import RunRecord
from regmix.results import Fit
from regmix.runs import RunSpec
from regmix.status import StudyStatus, tokens_so_far
from regmix.study import Proposed, Study

console = Console(highlight=False, emoji=False)
say = partial(console.print, soft_wrap=True)
"""Prints a line as long as it is, so that paths can be copied."""
POLL_SECONDS = 0.5
_MANY_DOMAINS = 24
_MANY_METRICS = 20


class _Eta(ProgressColumn):
    """Time left at the mean rate since the bar began; what was done before does not count."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields.get("begun", 0.0)
        if not task.total or done <= 0 or task.finished:
            return Text("")
        left = (task.elapsed or 0.0) * (task.total - task.completed) / done
        return Text(f"ETA {duration(left)}")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        _Eta(),
        console=console,
    )


class TerminalDisplay:
    """Progress bars, one a stage."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A bar over countable work; yields ``progress(done, total)``."""
        with _bar() as bar:
            task = bar.add_task(title, total=1, note="")

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, note=f"{done}/{total}")

            yield progress
            total = bar.tasks[0].total or 1
            bar.update(task, completed=total)

    @contextmanager
    def training(
        self, study: Study, run_ids: Sequence[str], title: str
    ) -> Iterator[Callable[[], None]]:
        """A bar over the tokens of some runs; yields what to call while they train."""
        records = {r.spec.run_id: r for r in study.runs() if r.spec.run_id in set(run_ids)}
        with _bar() as bar:
            watch = _Watch(records)
            total = sum(r.spec.flops for r in records.values())
            task = bar.add_task(escape(title), total=total, note="", begun=watch.look()[0])

            def poll(*, now: bool = False) -> None:
                if watch.due() or now:
                    work, note = watch.look()
                    bar.update(task, completed=work, note=note)

            poll(now=True)
            yield poll
            poll(now=True)


class _Watch:
    """Reads how far runs are, a few times a second; finished ones are read once."""

    def __init__(self, records: dict[str, RunRecord]) -> None:
        self._records = records
        self._done: set[str] = set()
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() >= self._next

    def look(self) -> tuple[float, str]:
        """FLOPs so far and a note for the bar."""
        self._next = time.monotonic() + POLL_SECONDS
        work = failed = 0.0
        for run_id, record in self._records.items():
            if run_id not in self._done and record.status in ("done", "failed"):
                self._done.add(run_id)
            share = 1.0 if run_id in self._done else tokens_so_far(record) / record.spec.tokens
            work += share * record.spec.flops
            failed += record.status == "failed"
        note = f"{len(self._done)}/{len(self._records)} runs"
        return work, note + (f", {failed:.0f} failed" if failed else "")


def table(title: str | None = None, *columns: str) -> Table:
    """A plain table under an optional heading; the first column is text, the others numbers."""
    if title:
        say(f"[bold]{escape(title)}[/bold]")
    made = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        made.add_column(escape(name), justify="left" if i == 0 else "right")
    return made


def show(shown: Table) -> None:
    """Print a table as wide as it is: a narrow terminal may wrap it, but no figure is cut off."""
    wide = console.options.update(width=10_000)
    wide = wide.update(width=console.measure(shown, options=wide).maximum)
    lines = console.render_lines(shown, wide, pad=False, new_lines=True)
    console.print(Segments(chain.from_iterable(lines)), crop=False, soft_wrap=True, end="")


def show_frame(frame: pd.DataFrame, *, csv: bool) -> None:
    """A query's result, as an aligned table or as CSV."""
    if csv:
        console.file.write(frame.to_csv(index=False))
        return
    shown = table(None, *map(str, frame.columns))
    for row in frame.itertuples(index=False):
        shown.add_row(*(escape(f"{v:.6g}" if isinstance(v, float) else str(v)) for v in row))
    show(shown)
    say(f"[dim]{len(frame)} rows[/dim]")


def show_proposed(proposed: Proposed) -> None:
    """What ``propose`` planned."""
    roles = pd.Series([s.role for s in proposed.specs]).value_counts()
    parts = ", ".join(f"{count} {role}" for role, count in roles.items())
    first = proposed.specs[0]
    tokens = sum(s.tokens for s in proposed.specs)
    work = sum(s.flops for s in proposed.specs)
    say(f"{len(proposed.specs)} runs ({parts}), {proposed.new} of them new")
    say(
        f"proxy: {amount(first.model.parameters)} non-embedding parameters, "
        f"{amount(first.tokens)} tokens; all runs: {amount(tokens)} tokens, "
        f"{flops(work)}"
    )
    say(
        f"space: {proposed.acceptance:.0%} of the drawn mixtures were allowed as they fell, "
        f"{proposed.pulled} were pulled inside"
    )
    for note in proposed.notes:
        say(f"[yellow]note:[/yellow] {escape(note)}")


def show_status(status: StudyStatus) -> None:
    """How far a study is."""
    states = ("done", "running", "waiting", "stopped", "failed")
    say("   ".join(f"{status.count(s)} {s}" for s in states))
    rate, eta = status.tokens_per_second, status.eta_seconds
    if rate:
        left = f", ETA {duration(eta)}" if eta else ""
        say(f"{amount(rate)} tokens/s{left}")
    say(f"{amount(status.done_tokens)} of {amount(status.planned_tokens)} tokens")
    for run in status.runs:
        if run.state == "failed":
            say(f"[red]failed[/red] {run.run_id} {escape(run.name)}: {escape(run.reason)}")
        if run.state == "running":
            say(f"running {run.run_id} {escape(run.name)} {run.tokens / run.planned:.0%}")


def show_fit(fit: Fit, mixture_path: object) -> None:
    """Held-out accuracy per metric, the proposal, its alternatives, and how sure all that is."""
    d = fit.diagnostics
    _show_accuracy(d)
    _show_candidates(fit)
    _show_weights(fit)
    _show_distance(fit)
    _show_certainty(fit)
    _show_remarks(fit)
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


def _show_remarks(fit: Fit) -> None:
    """Runs that were left out, by reason, and the fit's warnings."""
    by_reason: dict[str, list[str]] = {}
    for text in fit.diagnostics["excluded"]:
        name, _, reason = text.partition(" (")
        by_reason.setdefault(reason.removesuffix(")"), []).append(name)
    for reason, names in by_reason.items():
        shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
        say(f"left out {len(names)} runs ({escape(reason)}): {escape(shown)}")
    for warning in fit.diagnostics["warnings"]:
        say(f"[yellow]note:[/yellow] {escape(warning)}")


def _show_weights(fit: Fit) -> None:
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


def _show_distance(fit: Fit) -> None:
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
    noise = fit.diagnostics["objective_noise"]
    for gain in gains(fit.proposal, comparison).values():
        by_seed = ", ".join(f"{v:+.4f}" for v in gain.by_seed.values())
        say(
            f"against {escape(gain.reference):<8} measured gain {gain.mean:+.4f}"
            + (f" ({by_seed})" if len(gain.by_seed) > 1 else "")
            + f", predicted {gain.predicted:+.4f} ± {gain.predicted_std:.4f}: "
            f"[bold]{_words(gain.verdict(noise))}[/bold]"
        )
    if comparison.unmeasured:
        names = escape(", ".join(comparison.unmeasured))
        say(f"[yellow]note:[/yellow] no gain without measurements of {names}")
    if noise:
        say(
            "[dim]seed noise: between proxies that differ by their seed alone; the larger models[/]"
        )
        say("[dim]share their seeds, so that differences between them are less noisy[/]")


def _words(verdict: str) -> str:
    return {"better": "better", "worse": "WORSE", "tied": "no difference beyond seed noise"}[
        verdict
    ]


def show_summary(summary: Summary) -> None:
    """The end of the demo: mixture, prediction beside measurement, cost, paths."""
    study, fit = summary.study, summary.fit
    say()
    _show_weights(fit)
    _show_distance(fit)
    _show_record(fit)
    _show_remarks(fit)
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


def show_manifest(manifest: DataManifest) -> None:
    """What the shards hold, per domain."""
    shown = table("Tokens", "domain", "train", "documents", "bytes/token", "valid", "skipped")
    natural = manifest.natural()
    for d in manifest.domains:
        skipped = sum(s.skipped_empty + s.skipped_no_text for s in (d.train, d.valid))
        shown.add_row(
            f"{escape(d.name)} ({natural[d.name]:.1%})", amount(d.train.tokens),
            amount(d.train.documents), f"{d.train.text_bytes / d.train.tokens:.2f}",
            amount(d.valid.tokens), str(skipped),
        )  # fmt: skip
    show(shown)
    show_notes(manifest.notes)
    say(f"vocabulary {manifest.vocab_size}, data {manifest.fingerprint}")


class Outcome(Protocol):
    """How the runs of one training command ended: run ids; `proxy_trainer.launch` has it."""

    done: list[str]
    failed: list[str]
    busy: list[str]
    elsewhere: list[str]


def show_trained(study: Study, outcome: Outcome) -> None:
    """How a training command ended: what it did itself, and what another one did meanwhile."""
    say(f"{len(outcome.done)} runs trained, {len(outcome.failed)} failed")
    if outcome.elsewhere or outcome.busy:
        say(
            f"by another command: {len(outcome.elsewhere)} runs trained, "
            f"{len(outcome.busy)} still in training"
        )
    for run_id in outcome.failed:
        say(f"[red]failed[/red] {run_id}: see {escape(str(study.layout.run(run_id).failed))}")


def show_import(study: Study, runs: ImportedRuns) -> None:
    """What was taken in, and which way round every metric counts."""
    show_notes(runs.notes)
    say(
        f"{len(runs.weights)} runs, {runs.weights.shape[1]} domains, {runs.metrics.shape[1]} "
        f"metrics in {escape(str(study.layout.root))}"
    )
    given = study.config.objective.directions
    told = {**runs.directions, **given}
    names = list(map(str, runs.metrics))
    high = [m for m in names if sign(m, given) < 0]
    low = [m for m in names if m in told and m not in high]
    silent = [m for m in names if m not in told and m not in high]
    for words, group in (
        ("better high", high),
        ("better low", low),
        ("counted as better low, for their names do not tell (objective.directions in study.yaml "
         "does)", silent),
    ):  # fmt: skip
        if group:
            more = f" … ({len(group)} in all)" if len(group) > 6 else ""
            say(f"{words}: {escape(', '.join(group[:6]))}{more}")


def show_notes(notes: Sequence[str]) -> None:
    """Corrections and exclusions."""
    for note in notes:
        say(f"[yellow]note:[/yellow] {escape(note)}")


def show_plan(spec: RunSpec) -> None:
    """What a single run will train."""
    say(
        f"{escape(spec.name)}: {amount(spec.model.parameters)} non-embedding parameters, "
        f"{amount(spec.tokens)} tokens, {flops(spec.flops)}, run {spec.run_id}"
    )


def show_model(study: Study, spec: RunSpec) -> None:
    """A finished run's metrics and where its model is.

    Raises:
        RegmixError: the run did not finish.
    """
    record = RunRecord(study.layout.run(spec.run_id), spec)
    if record.status == "failed":
        raise RegmixError(f"run {spec.run_id} failed: {record.failure()['reason']}")
    result = record.result()
    shown = table(None, "metric", "value")
    for name, value in result["metrics"].items():
        shown.add_row(escape(name), f"{value:.4f}")
    show(shown)
    domains = table(None, "domain", "requested", "realised", "epochs")
    for d in result["domains"]:
        values = (d["requested"], d["realised"], d["epochs"])
        domains.add_row(escape(d["domain"]), *(f"{v:.4f}" for v in values))
    show(domains)
    say(f"model {escape(str(record.layout.model))}")
