"""How far a study is; loads little, as it is asked often."""

from __future__ import annotations

from rich.markup import escape

from regmix.console.terminal import say
from regmix.quantities import amount, duration
from regmix.status import STATES, StudyStatus


def show_status(status: StudyStatus) -> None:
    """How far a study is."""
    say("   ".join(f"{status.count(s)} {s}" for s in STATES))
    rate, eta = status.tokens_per_second, status.eta_seconds
    if rate:
        left = f", ETA {duration(eta)}" if eta else ""
        say(f"{amount(rate)} tokens/s{left}")
    say(f"{amount(status.done_tokens)} of {amount(status.planned_tokens)} tokens")
    for run in status.runs:
        if run.state == "failed":
            say(f"[red]failed[/red] {run.run_id} {escape(run.name)}: {escape(run.reason)}")
        if run.state == "running":
            say(f"running {run.run_id} {escape(run.name)} {run.tokens / run.planned_tokens:.0%}")
