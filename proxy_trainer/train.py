"""The step loop: an array of runs from their specifications to their metrics, exactly resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from proxy_trainer import checkpoint
from proxy_trainer.checkpoint import Checkpoint
from proxy_trainer.data.pool import TokenPool
from proxy_trainer.data.sampler import DomainStream, MixtureSampler, open_streams
from proxy_trainer.environment import describe
from proxy_trainer.evals.bpb import EvalSet, bits_per_byte, load_eval_sets
from proxy_trainer.events import EventLog
from proxy_trainer.members import Members
from proxy_trainer.models import hf
from proxy_trainer.optim import learning_rate
from regmix.arrays import array_key
from regmix.errors import UserError
from regmix.files import to_json, write_new
from regmix.layout import RunLayout, StudyLayout
from regmix.manifest import DataManifest
from regmix.runs import NUMERICS, RunSpec

LOG_POINTS = 50
"""Training-loss events a run."""


@dataclass(frozen=True)
class Outcome:
    """How the runs of an array ended."""

    done: tuple[str, ...] = ()
    diverged: dict[str, str] = field(default_factory=dict)
    """Run id to reason."""
    stopped: tuple[str, ...] = ()
    """Asked to stop: they left checkpoints."""

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.done + other.done,
            self.diverged | other.diverged,
            self.stopped + other.stopped,
        )


@dataclass
class _Run:
    """What is one run's own while an array trains."""

    layout: RunLayout
    spec: RunSpec
    sampler: MixtureSampler
    log: EventLog
    seconds: float
    """Its share of the device's time so far."""
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass
class _State:
    """Everything that an array holds while it trains."""

    runs: list[_Run]
    members: Members
    pool: TokenPool
    sets: list[EvalSet]
    step: int

    @property
    def alive(self) -> list[tuple[int, _Run]]:
        """Members that have not diverged, with their places in the array."""
        return [(k, run) for k, run in enumerate(self.runs) if not run.failure]


def train(
    study: StudyLayout,
    runs: Sequence[RunLayout],
    *,
    checkpoint_seconds: float,
    keep_going: Callable[[], bool] = lambda: True,
    on_step: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Train runs together, measure them, leave ``DONE``; go on from checkpoints if there are any.

    A function of the specifications alone: interrupted anywhere and run again, in other company or
    alone, a run comes to the same figures, to the bit on one kind of CPU with one thread.

    Args:
        keep_going: asked after every step, before anything is written; at the first False the runs
            leave checkpoints. What it raises ends them with nothing more written.
        on_step: called with (steps done, steps in all).

    Raises:
        UserError: the data or the tokenizer is not what the runs were proposed for, or runs that
            cannot be trained together.
    """
    manifest = DataManifest.load(study.manifest)
    specs = [_checked(run, study, manifest) for run in runs]
    if len({array_key(spec) for spec in specs}) > 1:
        raise UserError("runs of different models, plans or data cannot be trained together")
    by_step: dict[int, list[tuple[RunLayout, RunSpec, Checkpoint | None]]] = {}
    for run, spec in zip(runs, specs, strict=True):
        found = checkpoint.load(run.checkpoints)
        by_step.setdefault(found.step if found else 0, []).append((run, spec, found))
    outcome = Outcome()
    for step, group in by_step.items():  # members of an array are at one step
        state = _prepare(study, manifest, group, step)
        try:
            outcome += _loop(state, study, manifest, checkpoint_seconds, keep_going, on_step)
        finally:
            for own in state.runs:
                own.log.close()
    return outcome


def _checked(run: RunLayout, study: StudyLayout, manifest: DataManifest) -> RunSpec:
    spec = RunSpec.load(run.spec)
    if spec.numerics != NUMERICS:
        raise UserError(
            f"{run.spec}: planned for version {spec.numerics} of the numerics, this is {NUMERICS}; "
            "run `regmix propose` again"
        )
    if manifest.fingerprint != spec.data:
        raise UserError(
            f"{run.spec}: proposed for data {spec.data}, the study now holds "
            f"{manifest.fingerprint}; run `regmix propose` again"
        )
    return spec


def _prepare(
    study: StudyLayout,
    manifest: DataManifest,
    group: list[tuple[RunLayout, RunSpec, Checkpoint | None]],
    step: int,
) -> _State:
    spec = group[0][1]
    device = choose_device()
    members = Members(
        spec.model,
        spec.vocab_size,
        spec.plan,
        [s.seed for _, s, _ in group],
        device=device,
        separator=manifest.eod_id,
    )
    streams: dict[int, dict[str, DomainStream]] = {}
    runs = []
    for k, (layout, own, found) in enumerate(group):
        if own.seed not in streams:
            streams[own.seed] = open_streams(
                study, manifest,
                context=own.model.context, seed=own.seed, share=own.plan.data_share,
            )  # fmt: skip
        if found is not None:
            members.load(k, found)
        sampler = MixtureSampler(
            streams[own.seed],
            own.mixture,
            context=own.model.context,
            blocks=own.plan.steps * own.plan.batch,
            seed=own.seed,
        )
        log = EventLog(layout.events)
        log.write("start", step=step, members=len(group), environment=describe())
        runs.append(_Run(layout, own, sampler, log, found.seconds if found else 0.0))
    pool = TokenPool(streams[spec.seed], context=spec.model.context, device=device)
    sets = load_eval_sets(
        study, manifest, context=spec.model.context, max_bytes=spec.plan.eval_bytes
    )
    return _State(runs, members, pool, sets, step)


def choose_device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _loop(
    state: _State,
    study: StudyLayout,
    manifest: DataManifest,
    checkpoint_seconds: float,
    keep_going: Callable[[], bool],
    on_step: Callable[[int, int], None] | None,
) -> Outcome:
    plan = state.runs[0].spec.plan
    log_every = max(1, plan.steps // LOG_POINTS)
    last = saved = time.perf_counter()
    while state.step < plan.steps and state.alive:
        loss_K, norm_K = _step(state)
        stop = not keep_going() and state.step < plan.steps
        if state.step % log_every == 0 or state.step == plan.steps:
            _log_step(state, loss_K, norm_K)
        if state.step in plan.eval_steps:
            _evaluate(state)
        now = time.perf_counter()
        for run in state.runs:
            run.seconds += (now - last) / len(state.runs)
        last = now
        if on_step:
            on_step(state.step, plan.steps)
        if stop or (now - saved > checkpoint_seconds and state.step < plan.steps):
            _save(state)
            saved = time.perf_counter()
        if stop:
            return _ended(state, stopped=tuple(run.spec.run_id for _, run in state.alive))
    for k, run in state.alive:
        if run.spec.keep_model:
            weights = state.members.array.member(k)
            hf.save(weights, run.spec.model, run.layout.model, study.tokenizer, manifest.eod_id)
        _finish(state, k, run)
    return _ended(state, done=tuple(run.spec.run_id for _, run in state.alive))


def _ended(state: _State, **how: tuple[str, ...]) -> Outcome:
    return Outcome(diverged={r.spec.run_id: r.failure for r in state.runs if r.failure}, **how)


def _step(state: _State) -> tuple[torch.Tensor, torch.Tensor]:
    plan = state.runs[0].spec.plan
    places = [r.sampler.places(state.step * plan.batch, plan.batch) for r in state.runs]
    rates = [learning_rate(r.spec.plan, state.step) for r in state.runs]
    found = state.members.step(state.step, state.pool.batch(np.stack(places)), rates)
    state.step += 1
    return found


def _save(state: _State) -> None:
    for k, run in state.alive:
        one = state.members.checkpoint(k, state.step, run.seconds)
        checkpoint.save(run.layout.checkpoints, one)


def _log_step(state: _State, loss_K: torch.Tensor, norm_K: torch.Tensor) -> None:
    """Log the step of every member, and note those that have diverged since the last one."""
    figures = zip(
        loss_K.tolist(), norm_K.tolist(), state.members.broken_K.tolist(),
        state.members.skipped_K.tolist(), strict=True,
    )  # fmt: skip
    for run, (loss, norm, broken, skipped) in zip(state.runs, figures, strict=True):
        if run.failure:
            continue
        if broken:
            run.failure = f"loss or gradient is no number at step {broken} of {run.spec.plan.steps}"
            continue
        run.log.write(
            "step",
            step=state.step,
            tokens=state.step * run.spec.tokens_per_step,
            loss=loss,
            grad_norm=norm,
            lr=learning_rate(run.spec.plan, state.step - 1),
            skipped=skipped,
        )


def _evaluate(state: _State) -> None:
    found = bits_per_byte(state.members.array, state.sets)
    for k, run in state.alive:
        run.metrics = {f"bpb/{domain}": value for domain, value in found[k].items()}
        for name, value in run.metrics.items():
            if not math.isfinite(value):
                run.failure = f"{name} is {value} at step {state.step}"
                break
            run.log.write(
                "metric",
                step=state.step,
                tokens=state.step * run.spec.tokens_per_step,
                name=name,
                split="valid",
                value=value,
            )


def _finish(state: _State, member: int, run: _Run) -> None:
    result = {
        "run_id": run.spec.run_id,
        "steps": state.step,
        "tokens": run.spec.tokens,
        "flops": run.spec.flops,
        "seconds": round(run.seconds, 3),
        "members": len(state.runs),
        "skipped_steps": int(state.members.skipped_K[member]),
        "metrics": run.metrics,
        "domains": [asdict(r) for r in run.sampler.realised()],
        "environment": describe(),
    }
    write_new(run.layout.done, to_json(result))  # of two workers sure to have the run, one
    for left in run.layout.checkpoints.glob("*"):
        left.unlink()
