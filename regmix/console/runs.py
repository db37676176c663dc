"""Data, runs and imports: what was planned, what is there, what was left out."""

from __future__ import annotations

from typing import Protocol

import pandas as pd
from rich.markup import escape

from regmix.console.terminal import say, show, show_notes, table
from regmix.direction import sign
from regmix.imports import ImportedRuns
from regmix.manifest import DataManifest
from regmix.planning import Proposed
from regmix.quantities import amount, flops
from regmix.study import Study


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
    for d in manifest.domains:
        if d.train.contaminated:
            say(
                f"[yellow]note:[/yellow] {escape(d.name)}: {d.train.contaminated:,} training "
                "documents hold evaluation items and are left out"
            )
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
