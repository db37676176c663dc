"""What training some runs will take, before anything starts: arrays, tokens, FLOPs, hours, money.

The speed is that of the study's own finished runs, and of no others: a guess from a data sheet
would look as sure and be wrong by a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from regmix.arrays import count_arrays
from regmix.records import RunRecord

SAMPLE = 50
"""Finished runs that the speed is taken from."""


@dataclass(frozen=True)
class Estimate:
    """The work of some runs, and the time and money where they can be told."""

    launcher: str
    workers: int
    runs: int
    arrays: int
    members: int
    """Of an array, at most."""
    tokens: int
    flops: float
    speed: float | None
    """FLOPs a second of one worker; None before the first run has finished."""
    measured: int
    """Finished runs that the speed is taken from."""
    hours: float | None
    cost: float | None
    """In the currency of ``launch.cost_per_hour``; None without it."""


def estimate(
    open_runs: Sequence[RunRecord],
    done: Sequence[RunRecord],
    *,
    launcher: str,
    workers: int,
    members: int,
    cost_per_hour: float | None,
) -> Estimate:
    """Price runs that are still to be trained.

    The time is that of workers who share the work evenly, but never less than the longest run.

    Args:
        done: finished runs of the same study.
        workers: processes, each training one array at a time.
        members: runs that are trained together.
        cost_per_hour: of one worker.
    """
    flops = [run.spec.flops for run in open_runs]
    sample = [run.result() for run in done[-SAMPLE:]]
    seconds = sum(float(result["seconds"]) for result in sample)
    speed = sum(float(r["flops"]) for r in sample) / seconds if seconds else None
    arrays = count_arrays((run.spec for run in open_runs), members)
    hours = cost = None
    if speed is not None:
        at_work = max(1, min(workers, arrays))
        hours = max(sum(flops) / at_work, max(flops, default=0.0)) / speed / 3600
        cost = hours * at_work * cost_per_hour if cost_per_hour else None
    return Estimate(
        launcher=launcher,
        workers=workers,
        runs=len(open_runs),
        arrays=arrays,
        members=members,
        tokens=sum(run.spec.tokens for run in open_runs),
        flops=sum(flops),
        speed=speed,
        measured=len(sample),
        hours=hours,
        cost=cost,
    )
