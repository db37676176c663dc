"""The step loop: an array of runs from their specifications to their metrics, exactly resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from proxy_trainer import checkpoint
from proxy_trainer.checkpoint import Checkpoint
from proxy_trainer.data.pool import TokenPool
from proxy_trainer.data.sampler import DomainStream, MixtureSampler, open_streams
from proxy_trainer.data.shards import IntArray
from proxy_trainer.environment import describe
from proxy_trainer.evals.bpb import EvalSet, Measured, bits_per_byte, load_eval_sets
from proxy_trainer.events import EventLog
from proxy_trainer.members import Members
from proxy_trainer.models import hf
from proxy_trainer.models.card import Origin
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


class Models(Measured, Protocol):
    """Models in training."""

    def member(self, member: int) -> dict[str, Tensor]:
        """One model's weights as a state dict in transformers' names."""


class Trainee(Protocol):
    """What the loop trains: models of one plan, each with data and a learning rate of its own."""

    broken_K: Tensor
    """Step (from 1) at which a model's loss or gradient was no number; 0 if never."""

    @property
    def skipped_K(self) -> Tensor:  # noqa: N802
        """Steps that were left out as spikes."""

    @property
    def array(self) -> Models:
        """The models as they are now."""

    def step(self, step: int, batch_KBT: Tensor, lr: Sequence[float]) -> tuple[Tensor, Tensor]:
        """One optimiser step; losses in nats a token and gradient norms, ``(K,)``."""


class Batches(Protocol):
    """Looks up what this process trains of a step's blocks."""

    def batch(self, places: IntArray) -> Tensor:
        """Blocks with the token after each."""


class Log(Protocol):
    """Where a run's events go."""

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event."""

    def close(self) -> None:
        """No more events."""


class Keeper(Protocol):
    """Keeps what runs have come to; processes that train one model together agree through it."""

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes results."""

    def log(self, layout: RunLayout) -> Log:
        """The run's events, or nowhere where this process writes none."""

    def environment(self) -> dict[str, str | int]:
        """What figures are computed with."""

    def agreed(self, stop: bool, due: bool) -> tuple[bool, bool]:
        """Whether all stop after this step, and whether checkpoints are due."""

    def save(self, state: State) -> None:
        """Checkpoints of all runs that go on; they may be under way when this returns."""

    def settle(self) -> None:
        """Wait until checkpoints that are under way are whole."""


@dataclass(frozen=True)
class Alone:
    """One process has it all to itself."""

    members: Members
    writes: bool = True

    def log(self, layout: RunLayout) -> Log:
        """The run's events."""
        return EventLog(layout.events)

    def environment(self) -> dict[str, str | int]:
        """This process's."""
        return describe()

    def agreed(self, stop: bool, due: bool) -> tuple[bool, bool]:
        """Nobody else to ask."""
        return stop, due

    def save(self, state: State) -> None:
        """One file a run."""
        for k, run in state.alive:
            one = self.members.checkpoint(k, state.step, run.seconds)
            checkpoint.save(run.layout.checkpoints, one)

    def settle(self) -> None:
        """Nothing is under way."""


@dataclass
class Run:
    """What is one run's own while an array trains."""

    layout: RunLayout
    spec: RunSpec
    sampler: MixtureSampler
    log: Log
    seconds: float
    """Its share of the device's time so far."""
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass
class State:
    """Everything that an array holds while it trains."""

    runs: list[Run]
    trainee: Trainee
    keeper: Keeper
    pool: Batches
    sets: list[EvalSet]
    step: int

    @property
    def alive(self) -> list[tuple[int, Run]]:
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
    specs = [checked(run, study, manifest) for run in runs]
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
            outcome += loop(state, study, manifest, checkpoint_seconds, keep_going, on_step)
        finally:
            for own in state.runs:
                own.log.close()
    return outcome


def checked(run: RunLayout, study: StudyLayout, manifest: DataManifest) -> RunSpec:
    """A run's specification.

    Raises:
        UserError: it was made for other data or another version of the numerics.
    """
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
) -> State:
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
    for k, (_, _, found) in enumerate(group):
        if found is not None:
            members.load(k, found)
    begun = [(run, own, found.seconds if found else 0.0) for run, own, found in group]
    return assembled(study, manifest, begun, step, device, members, Alone(members))


def assembled(
    study: StudyLayout,
    manifest: DataManifest,
    group: Sequence[tuple[RunLayout, RunSpec, float]],
    step: int,
    device: torch.device,
    trainee: Trainee,
    keeper: Keeper,
) -> State:
    """All that :func:`loop` needs, for runs that stand at one step.

    Args:
        group: runs with the seconds that they have taken so far.
        trainee: their models at that step.
    """
    streams: dict[int, dict[str, DomainStream]] = {}
    runs = []
    for layout, own, seconds in group:
        if own.seed not in streams:
            streams[own.seed] = open_streams(
                study, manifest,
                context=own.model.context, seed=own.seed, share=own.plan.data_share,
            )  # fmt: skip
        sampler = MixtureSampler(
            streams[own.seed],
            own.mixture,
            context=own.model.context,
            blocks=own.plan.steps * own.plan.batch,
            seed=own.seed,
        )
        log = keeper.log(layout)
        log.write("start", step=step, members=len(group), environment=keeper.environment())
        runs.append(Run(layout, own, sampler, log, seconds))
    spec = group[0][1]
    pool = TokenPool(streams[spec.seed], context=spec.model.context, device=device)
    sets = load_eval_sets(
        study, manifest, context=spec.model.context, max_bytes=spec.plan.eval_bytes
    )
    return State(runs, trainee, keeper, pool, sets, step)


def choose_device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def loop(
    state: State,
    study: StudyLayout,
    manifest: DataManifest,
    checkpoint_seconds: float,
    keep_going: Callable[[], bool],
    on_step: Callable[[int, int], None] | None,
) -> Outcome:
    """Train from where a state stands to the end, or until told to stop."""
    plan = state.runs[0].spec.plan
    log_every = max(1, plan.steps // LOG_POINTS)
    last = saved = time.perf_counter()
    while state.step < plan.steps and state.alive:
        loss_K, norm_K = _step(state)
        due = time.perf_counter() - saved > checkpoint_seconds
        stop, due = state.keeper.agreed(not keep_going(), due)
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
        if (stop or due) and state.step < plan.steps:
            state.keeper.save(state)
            saved = time.perf_counter()
        if stop and state.step < plan.steps:
            state.keeper.settle()
            return _ended(state, stopped=tuple(run.spec.run_id for _, run in state.alive))
    return _completed(state, study, manifest)


def _completed(state: State, study: StudyLayout, manifest: DataManifest) -> Outcome:
    """Leave models where they are kept, and ``DONE``."""
    state.keeper.settle()
    for k, run in state.alive:
        weights = state.trainee.array.member(k) if run.spec.keep_model else None
        if not state.keeper.writes:
            continue
        if weights is not None:
            seen, environment = run.sampler.realised(), state.keeper.environment()
            hf.save(
                weights, run.spec.model, run.layout.model, study.tokenizer, manifest.eod_id,
                origin=Origin(run.spec, manifest, run.metrics, seen, environment),
            )  # fmt: skip
        _finish(state, k, run)
    return _ended(state, done=tuple(run.spec.run_id for _, run in state.alive))


def _ended(state: State, **how: tuple[str, ...]) -> Outcome:
    return Outcome(diverged={r.spec.run_id: r.failure for r in state.runs if r.failure}, **how)


def _step(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    plan = state.runs[0].spec.plan
    places = [r.sampler.places(state.step * plan.batch, plan.batch) for r in state.runs]
    rates = [learning_rate(r.spec.plan, state.step) for r in state.runs]
    found = state.trainee.step(state.step, state.pool.batch(np.stack(places)), rates)
    state.step += 1
    return found


def _log_step(state: State, loss_K: torch.Tensor, norm_K: torch.Tensor) -> None:
    """Log the step of every member, and note those that have diverged since the last one."""
    figures = zip(
        loss_K.tolist(), norm_K.tolist(), state.trainee.broken_K.tolist(),
        state.trainee.skipped_K.tolist(), strict=True,
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


def _evaluate(state: State) -> None:
    found = bits_per_byte(state.trainee.array, state.sets)
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


def _finish(state: State, member: int, run: Run) -> None:
    result = {
        "run_id": run.spec.run_id,
        "steps": state.step,
        "tokens": run.spec.tokens,
        "flops": run.spec.flops,
        "seconds": round(run.seconds, 3),
        "members": len(state.runs),
        "skipped_steps": int(state.trainee.skipped_K[member]),
        "metrics": run.metrics,
        "domains": [asdict(r) for r in run.sampler.realised()],
        "environment": state.keeper.environment(),
    }
    write_new(run.layout.done, to_json(result))  # of two workers sure to have the run, one
    checkpoint.clear(run.layout.checkpoints)
