"""Workers: what they will take, where they were submitted, what they wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from regmix.claims import Failure
from regmix.console.terminal import say
from regmix.estimate import Estimate, Price
from regmix.quantities import amount, duration, flops

LINES = 20
"""Of each log, at its end."""


def show_estimate(found: Estimate) -> None:
    """What training will take."""
    if not found.runs:
        say("nothing to train: every run is done, or has failed")
        return
    together = f" of up to {found.members}" if found.members > 1 else ""
    say(f"{found.runs} runs in {found.arrays} arrays{together}")
    say(f"{amount(found.tokens)} tokens, {flops(found.flops)}")
    for price in found.prices:
        say(f"{price.offer.launcher}, {price.offer.workers} workers: {_told(price)}")
    if found.speed is not None:
        how = (
            f"the mean of {found.measured} finished runs" if found.measured
            else "by trial on this machine, without evaluations"
        )  # fmt: skip
        say(f"{flops(found.speed)}/s a worker, {how}")
    if all(price.cost is None for price in found.prices):
        say("cost: set launch.cost_per_hour, of one worker, to have it told")


def _told(price: Price) -> str:
    if price.hours is None:
        return "time and cost are unknown until the first run has finished"
    cost = "" if price.cost is None else f", cost {price.cost:,.2f}"
    return f"about {duration(price.hours * 3600)}{cost}"


def show_submitted(launcher: str, jobs: Sequence[str], root: Path) -> None:
    """What was submitted, and how to go on."""
    say(f"{launcher}: {len(jobs)} jobs submitted: {escape(', '.join(jobs))}")
    say(f"regmix status {escape(str(root))}, regmix logs …, regmix cancel …", markup=False)


def show_log(paths: Sequence[Path], run_id: str | None, failures: Sequence[Failure]) -> None:
    """The ends of workers' logs; or all that they say of one run, and its failed attempts."""
    for failure in failures:
        say(f"[red]attempt failed[/red] from step {failure.step}: {escape(failure.reason)}")
    for path in paths:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = lines[-LINES:] if run_id is None else [line for line in lines if run_id in line]
        if lines:
            say(f"[bold]{escape(str(path))}[/bold]")
        for line in lines:
            say(line, markup=False)
