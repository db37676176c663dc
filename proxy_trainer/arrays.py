"""How many runs train together: as many as pay, and no more than fit into memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from proxy_trainer.data.batch import Batch
from proxy_trainer.device_memory import give_back
from proxy_trainer.environment import choose_device
from proxy_trainer.events import EventLog
from proxy_trainer.execution import default_execution, first_steps, rows_can_be_fewer
from proxy_trainer.faults import MEMORY_ERRORS, want_of_memory
from proxy_trainer.loop import Outcome
from proxy_trainer.members import Members
from proxy_trainer.retention import USUAL, Retention
from proxy_trainer.train import native, train
from regmix.errors import RegmixError
from regmix.layout import RunLayout, StudyLayout
from regmix.runs import RunSpec

PROBE_SECONDS = 0.15
"""Of steps for each number of members that is tried."""
SLOW_STEP = 0.1
"""Seconds of one member's step on a CPU above which company cannot pay: what it saves is the cost
of starting operations, and that is microseconds."""
GAIN = 1.05
"""Twice as many members must train this many times as many tokens a second to be taken."""


def train_array(
    study: StudyLayout,
    runs: Sequence[RunLayout],
    *,
    checkpoint_seconds: float,
    keep_going: Callable[[], bool],
    trackers: Sequence[str] = (),
    retention: Retention = USUAL,
) -> Outcome:
    """Train runs together; where memory does not allow it, in halves, which their logs record.

    First of the runs; of one alone, on a GPU, of the sequences that are computed at once.

    Args: as of :func:`proxy_trainer.train.train`.

    Raises:
        RegmixError: the memory is too small for one run alone.
    """
    attempt = partial(
        train,
        study,
        checkpoint_seconds=checkpoint_seconds,
        keep_going=keep_going,
        trackers=trackers,
        retention=retention,
    )
    return _in_memory(attempt, runs, None)


def _in_memory(
    attempt: Callable[..., Outcome], runs: Sequence[RunLayout], rows: int | None
) -> Outcome:
    """Train runs by an attempt at all of them or, where that fails for memory, at parts.

    Args:
        rows: sequences a run that are computed at once at most.
    """
    used: list[int] = []
    try:
        return attempt(runs, rows=rows, on_rows=used.append)
    except MEMORY_ERRORS as exc:
        reason = want_of_memory(exc)
        if not reason:
            raise
    # Outside the handler, and with no name for it: the exception's frames hold what is to be freed.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    rows = used[-1] if used else rows
    done = [run for run in runs if run.done.exists()]  # what is left behind is written one by one
    found = Outcome(done=tuple(run.run_id for run in done))
    runs = [run for run in runs if run not in done]
    if not runs:
        return found
    # Half as many runs at as many sequences each: left to choose anew, they would take twice those.
    fewer = rows if len(runs) > 1 else _fewer_rows(runs[0], rows, reason)
    half = max(1, len(runs) // 2)
    told = {"members": len(runs), "to": half, "rows": rows, "rows_to": fewer, "reason": reason}
    for run in runs:
        with EventLog(run.events) as log:
            log.write("halved", **told)
    for part in (runs[:half], runs[half:]):
        if part:
            found += _in_memory(attempt, part, fewer)
    return found


def _fewer_rows(run: RunLayout, rows: int | None, reason: str) -> int:
    """Half as many sequences at once of a run that does not fit alone.

    Raises:
        RegmixError: it was one already, or the device computes all at once.
    """
    if rows is None or rows == 1 or not rows_can_be_fewer(choose_device()):
        raise RegmixError(
            f"run {run.run_id}: too little memory for one model ({reason}); "
            "a smaller train.batch_tokens needs less"
        )
    return rows // 2


@dataclass(frozen=True)
class Trial:
    """What a short trial of steps found."""

    members: int
    """That train together."""
    flops_per_second: float
    """Of all of them together, on one device; without evaluations and checkpoints."""


def best_members(spec: RunSpec, limit: int, device: torch.device | None = None) -> int:
    """The number of members, at most ``limit``, from which on more do not train faster.

    It changes no result; see :func:`trial`.
    """
    return trial(spec, limit, device).members


def trial_of(spec: RunSpec, members: int, device: torch.device | None = None) -> Trial:
    """How fast so many members train on a device, by default this process's."""
    rate, _ = _rate(spec, members, device or choose_device())
    return Trial(members, rate * spec.flops / spec.tokens)


def trial(spec: RunSpec, limit: int, device: torch.device | None = None) -> Trial:
    """Find the number of members, at most ``limit``, from which on more do not train faster.

    Found by a short trial of 1, 2, 4 … members on a device, by default this process's.
    """
    device = device or choose_device()
    members, rate, step = 1, *_rate(spec, 1, device)
    alone = device.type == "cpu" and step > SLOW_STEP
    while 2 * members <= limit and not alone:
        try:
            faster, _ = _rate(spec, 2 * members, device)
        except MEMORY_ERRORS as exc:
            if not want_of_memory(exc):
                raise
            break
        if faster < GAIN * rate:
            break
        members, rate = 2 * members, faster
    return Trial(members, rate * spec.flops / spec.tokens)


def _rate(spec: RunSpec, members: int, device: torch.device) -> tuple[float, float]:
    """Tokens a second of an array, and seconds a step, on random tokens."""
    give_back(device)
    made = Members(
        native(spec), spec.vocab_size, spec.plan, range(members), device=device, separator=0
    )
    size = (members, spec.plan.batch, spec.model.context + 1)
    batch = torch.randint(spec.vocab_size, size, generator=torch.Generator().manual_seed(0))
    batch = batch.to(device)

    def steps(least: int, seconds: float) -> tuple[int, float]:
        done, began = 0, time.perf_counter()
        while done < least or time.perf_counter() - began < seconds:
            made.step(done, Batch(batch), [spec.plan.lr] * members)
            done += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return done, time.perf_counter() - began

    # Allocations, first calls and recording are not the rate.
    steps(first_steps(default_execution(device)), 0.0)
    done, seconds = steps(2, PROBE_SECONDS)
    return done * members * spec.tokens_per_step / seconds, seconds / done
