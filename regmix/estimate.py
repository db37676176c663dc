"""What training some runs will take, before anything starts: arrays, tokens, FLOPs, hours, money.

The speed is that of the study's own finished runs. Before the first has finished it is that of a
short trial of its steps, where the workers compute on what the trial did, and never a guess from a
data sheet, which would look as sure and be wrong by a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from regmix.arrays import count_arrays
from regmix.records import RunRecord

SAMPLE = 50
"""Finished runs that the speed is taken from."""


@dataclass(frozen=True)
class Offer:
    """Workers that a launcher would start."""

    launcher: str
    workers: int
    tried: bool
    """Whether they compute on what the trial was of: a device, or a core."""


@dataclass(frozen=True)
class Price:
    """What the work will take with one launcher's workers."""

    offer: Offer
    hours: float | None
    cost: float | None
    """In the currency of ``launch.cost_per_hour``; None without it."""


@dataclass(frozen=True)
class Estimate:
    """The work of some runs, and the time and money where they can be told."""

    runs: int
    arrays: int
    members: int
    """Of an array, at most."""
    tokens: int
    flops: float
    speed: float | None
    """FLOPs a second of one worker; None where nothing has told it yet."""
    measured: int
    """Finished runs that the speed is taken from; 0: it is that of a trial."""
    prices: tuple[Price, ...]
    """In the order of the offers."""


def estimate(
    open_runs: Sequence[RunRecord],
    done: Sequence[RunRecord],
    *,
    offers: Sequence[Offer],
    members: int,
    trial: float | None,
    cost_per_hour: float | None,
) -> Estimate:
    """Price runs that are still to be trained.

    The time is that of workers who share the work evenly, but never less than the longest run.

    Args:
        done: finished runs of the same study.
        offers: workers by launcher, each training one array at a time.
        members: runs that are trained together.
        trial: FLOPs a second of one worker, by a trial; None if there was none.
        cost_per_hour: of one worker.
    """
    flops = [run.spec.flops for run in open_runs]
    sample = [run.result() for run in done[-SAMPLE:]]
    seconds = sum(float(result["seconds"]) for result in sample)
    speed = sum(float(r["flops"]) for r in sample) / seconds if seconds else trial
    arrays = count_arrays((run.spec for run in open_runs), members)

    def price(offer: Offer) -> Price:
        if speed is None or not (sample or offer.tried):
            return Price(offer, None, None)
        at_work = max(1, min(offer.workers, arrays))
        hours = max(sum(flops) / at_work, max(flops, default=0.0)) / speed / 3600
        return Price(offer, hours, hours * at_work * cost_per_hour if cost_per_hour else None)

    return Estimate(
        runs=len(open_runs),
        arrays=arrays,
        members=members,
        tokens=sum(run.spec.tokens for run in open_runs),
        flops=sum(flops),
        speed=speed,
        measured=len(sample),
        prices=tuple(map(price, offers)),
    )
