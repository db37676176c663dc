"""What every runner shares: its job, its windows of measurement, its answers.

A runner is a process that holds one trainer with its model. It reads commands on standard input
and answers each with one line of JSON, so that many of them can stay ready and be measured in
turns. It runs in the peer's own environment: only torch and the standard library are imported.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LR, BETAS, EPS, CLIP = 1e-3, (0.9, 0.95), 1e-8, 1.0
CHECKED_STEPS = 10
"""Steps whose losses are reported: equal weights and batches must give equal losses."""
TRIAL_STEPS, TRIAL_SECONDS = 20, 20.0
"""Steps by which a peer's own options are compared, fewer once they have taken so long."""
WARM_UP = 3


@dataclass(frozen=True)
class Job:
    """Dimensions and batch of one member, and how this process runs."""

    d_model: int
    layers: int
    heads: int
    d_ff: int
    vocab_size: int
    context: int
    batch: int
    members: int
    """Members that this process trains in all."""
    cores: tuple[int, ...]
    compiled: bool
    inputs: str
    """File of ``weights`` (Llama's names) and ``tokens`` (batches, sequences, context + 1)."""


@dataclass
class Inputs:
    """The same weights and tokens for everyone."""

    weights: dict[str, Tensor]
    tokens: Tensor

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Ids and next ids, each ``(sequences, context)``."""
        rows = self.tokens[index % len(self.tokens)]
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@dataclass
class Trainer:
    """A model with its optimiser, ready to step."""

    step: Callable[[int], Tensor]
    """One optimiser step on batch ``index``; the loss before it."""
    work: float
    """Tokens a step."""
    parameters: int = 0
    """Of one member."""
    version: str = ""


Build = Callable[[Job, Inputs, dict[str, Any]], Trainer]


def serve(build: Build, options: dict[str, tuple[Any, ...]] | None = None) -> None:
    """Build, choose the fastest of the peer's own options, then answer until standard input ends.

    Args:
        options: values to try by name; every combination is timed.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print; only answers go to the reader
    job = Job(**json.loads(sys.argv[1]))
    os.sched_setaffinity(0, set(job.cores))
    torch.set_num_threads(len(job.cores))
    inputs = Inputs(**torch.load(job.inputs))
    chosen = _fastest(build, job, inputs, options or {})
    trainer = build(job, inputs, chosen)
    losses = [float(trainer.step(i)) for i in range(CHECKED_STEPS)]
    ready = {
        "losses": losses,
        "parameters": trainer.parameters,
        "version": trainer.version,
        "options": " ".join(f"{k}={v}" for k, v in chosen.items()),
    }
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        command, argument = line.split()
        answer = {"window": window, "profile": profile}[command](trainer, float(argument))
        print(json.dumps(answer), file=answers, flush=True)


def _fastest(
    build: Build, job: Job, inputs: Inputs, options: dict[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """The combination of options with the least median time a token; trials take turns."""
    combinations = [
        dict(zip(options, v, strict=True)) for v in itertools.product(*options.values())
    ]
    if len(combinations) == 1:
        return combinations[0]
    trainers = [build(job, inputs, c) for c in combinations]
    seconds: list[list[float]] = [[] for _ in trainers]
    started = time.perf_counter()
    for index in range(WARM_UP + TRIAL_STEPS):
        if index > WARM_UP and time.perf_counter() - started > TRIAL_SECONDS:
            break
        for own, trainer in zip(seconds, trainers, strict=True):
            began = time.perf_counter()
            trainer.step(index)
            own.append((time.perf_counter() - began) / trainer.work)
    medians = [statistics.median(own[WARM_UP:]) for own in seconds]
    torch.compiler.reset()  # what was compiled for the trials
    return combinations[medians.index(min(medians))]


def window(trainer: Trainer, seconds: float) -> dict[str, float]:
    """Steps until the time is over."""
    cpu = time.process_time()
    began = now = time.perf_counter()
    done = 0
    while now - began < seconds:
        trainer.step(done)
        done += 1
        now = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "work": done * trainer.work,
        "seconds": now - began,
        "cpu_seconds": time.process_time() - cpu,
        "peak_kib": peak,
    }


def profile(trainer: Trainer, steps: float) -> list[dict[str, float | str]]:
    """The operators with most CPU time of their own: name, share, calls and milliseconds a step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for index in range(int(steps)):
            trainer.step(index)
    events = sorted(found.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return [
        {
            "operator": e.key,
            "share": e.self_cpu_time_total / total,
            "calls": e.count / steps,
            "ms": e.self_cpu_time_total / steps / 1000,
        }
        for e in events[:8]
    ]


def adamw(model: torch.nn.Module, kind: str) -> torch.optim.AdamW:
    """torch's AdamW without decay, as one of its implementations: ``fused`` or ``foreach``."""
    return torch.optim.AdamW(
        model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0, **{kind: True}
    )


def count(model: torch.nn.Module) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in model.parameters())
