"""How many runs train together: as many as pay, and no more than fit into memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from proxy_trainer.checkpoint import USUAL, Retention
from proxy_trainer.data.batch import Batch
from proxy_trainer.environment import choose_device
from proxy_trainer.events import EventLog
from proxy_trainer.execution import default_execution, first_steps
from proxy_trainer.loop import Outcome
from proxy_trainer.members import Members
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

    Args: as of :func:`proxy_trainer.train.train`.

    Raises:
        RegmixError: the memory is too small for one run alone.
    """
    try:
        return train(
            study,
            runs,
            checkpoint_seconds=checkpoint_seconds,
            keep_going=keep_going,
            trackers=trackers,
            retention=retention,
        )
    except (RuntimeError, MemoryError) as exc:
        if not _lacks_memory(exc):
            raise
        reason = str(exc).partition("\n")[0]
    # Outside the handler: the exception's frames hold what is to be freed.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(runs) == 1:
        raise RegmixError(
            f"run {runs[0].run_id}: too little memory for one model ({reason}); "
            "a smaller train.batch_tokens needs less"
        )
    half = len(runs) // 2
    for run in runs:
        with EventLog(run.events) as log:
            log.write("halved", members=len(runs), to=half, reason=reason)
    found = Outcome()
    for part in (runs[:half], runs[half:]):
        found += train_array(
            study,
            part,
            checkpoint_seconds=checkpoint_seconds,
            keep_going=keep_going,
            trackers=trackers,
            retention=retention,
        )
    return found


def _lacks_memory(exc: RuntimeError | MemoryError) -> bool:
    """Whether an allocation failed; on a CPU torch says so only in words."""
    known = isinstance(exc, MemoryError | torch.OutOfMemoryError)
    return known or "can't allocate memory" in str(exc)


def best_members(spec: RunSpec, limit: int, device: torch.device | None = None) -> int:
    """The number of members, at most ``limit``, from which on more do not train faster.

    Found by a short trial of 1, 2, 4 … members on a device, by default this process's. It changes
    no result.
    """
    device = device or choose_device()
    members, rate, step = 1, *_rate(spec, 1, device)
    if device.type == "cpu" and step > SLOW_STEP:
        return 1
    while 2 * members <= limit:
        try:
            faster, _ = _rate(spec, 2 * members, device)
        except (RuntimeError, MemoryError) as exc:
            if not _lacks_memory(exc):
                raise
            break
        if faster < GAIN * rate:
            break
        members, rate = 2 * members, faster
    return members


def _rate(spec: RunSpec, members: int, device: torch.device) -> tuple[float, float]:
    """Tokens a second of an array, and seconds a step, on random tokens."""
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
