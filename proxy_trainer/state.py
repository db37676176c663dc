"""What the step loop works with: runs, what is trained, who keeps the results, each in its role."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from proxy_trainer.data.batch import Batch
from proxy_trainer.data.chat.feed import ChatFeed
from proxy_trainer.data.chat.sampler import ChatSampler
from proxy_trainer.data.chat.shards import ChatManifest, open_sources
from proxy_trainer.data.feed import Feed, MixtureFeed
from proxy_trainer.data.pool import TokenPool
from proxy_trainer.data.sampler import DomainStream, MixtureSampler, open_streams
from proxy_trainer.domain_losses import DomainLosses
from proxy_trainer.evals.bpb import EvalSet, Measured, load_eval_sets
from proxy_trainer.evals.chat import load_chat_sets
from proxy_trainer.execution import Stepped
from proxy_trainer.retention import Retention
from proxy_trainer.watch.machine import finish_work
from proxy_trainer.watch.point import Point
from proxy_trainer.watch.watcher import Watcher, watched
from regmix.layout import RunLayout, StudyLayout
from regmix.manifest import DataManifest
from regmix.runs import RunSpec

T = TypeVar("T")


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

    def step(self, step: int, batch: Batch, lr: Sequence[float]) -> Stepped:
        """One optimiser step; losses and norms are the whole batch's, nats this process's part."""


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

    @property
    def processes(self) -> int:
        """How many train the models together, with a device each."""

    @property
    def retention(self) -> Retention:
        """Which checkpoints are kept."""

    def log(self, layout: RunLayout) -> Log:
        """The run's events, or nowhere where this process writes none."""

    def environment(self) -> dict[str, str | int]:
        """What figures are computed with."""

    def agreed(self, stop: bool, due: bool) -> tuple[bool, bool]:
        """Whether all stop after this step, and whether checkpoints are due."""

    def save(self, runs: Sequence[tuple[int, Run]], step: int) -> None:
        """Checkpoints of runs, given with their places, as their models are now.

        They may be under way when this returns.

        Args:
            step: after which the models were as they are.
        """

    def save_state(self, member: int, run: Run) -> None:
        """Leave the optimiser of a finished run beside its model, whole when this returns."""

    def together(self, work: Callable[[], T]) -> T:
        """What work comes to that may take any time, as disks do, once all processes have done it.

        Each process does its own, and hears meanwhile that the others live.

        Raises:
            RegmixError: it could not be done in another process.
        """

    def sound(self, member: int) -> bool:
        """Whether a model's weights are all numbers; the same in all processes."""

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""

    def settle(self) -> None:
        """Wait until checkpoints that are under way are whole."""


@dataclass
class Run:
    """What is one run's own while an array trains."""

    layout: RunLayout
    spec: RunSpec
    log: Log
    seconds: float
    """Its share of the device's time so far."""
    saved: int
    """Steps done at its last checkpoint; 0 if it has none."""
    watcher: Watcher | None = None
    """None for runs that nobody watches, and in processes that write nothing."""
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    def note(self, point: Point) -> None:
        """A log point."""
        if self.watcher is None:
            self.log.write("step", **point.fields())
        else:
            self.watcher.take(point)

    def close(self) -> None:
        """Nothing more will be told of it."""
        if self.watcher is not None:
            self.watcher.close()
        self.log.close()


@dataclass
class State:
    """Everything that an array holds while it trains."""

    runs: list[Run]
    trainee: Trainee
    keeper: Keeper
    feed: Feed
    losses: DomainLosses
    sets: list[EvalSet]
    step: int
    rows: slice
    """This process's part of every step's blocks."""
    device: torch.device

    @property
    def alive(self) -> list[tuple[int, Run]]:
        """Members that have not diverged, with their places in the array."""
        return [(k, run) for k, run in enumerate(self.runs) if not run.failure]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done in the block is no training: its time does not count in speeds."""
        watchers = [run.watcher for run in self.runs if run.watcher is not None]
        if watchers:
            finish_work(self.device)
        begun = time.perf_counter()
        yield
        for watcher in watchers:
            watcher.leave_out(time.perf_counter() - begun)


def assembled(
    study: StudyLayout,
    manifest: DataManifest,
    group: Sequence[tuple[RunLayout, RunSpec, float]],
    step: int,
    device: torch.device,
    trainee: Trainee,
    keeper: Keeper,
    rows: slice = slice(None),
    trackers: Sequence[str] = (),
) -> State:
    """All that :func:`loop` needs, for runs that stand at one step.

    Args:
        group: runs with the seconds that they have taken so far.
        trainee: their models at that step.
        rows: this process's part of every step's blocks.
        trackers: that watched runs are shown by, beside TensorBoard.

    Raises:
        UserError: a tracker is not installed or does not let this process in.
    """
    specs = [own for _, own, _ in group]
    feed = _chat_feed(study, specs, device) if specs[0].chat else None
    feed = feed or _mixture_feed(study, manifest, specs, device)
    sets = load_eval_sets(
        study, manifest, context=specs[0].model.context, max_bytes=specs[0].plan.eval_bytes
    )
    if specs[0].held_out:
        sets += load_chat_sets(study, specs[0].held_out, specs[0].plan.eval_bytes)
    losses = DomainLosses(feed.names, len(group), device)
    runs = []
    for layout, own, seconds in group:
        log = keeper.log(layout)
        log.write("start", step=step, members=len(group), environment=keeper.environment())
        runs.append(Run(layout, own, log, seconds, saved=step))
    state = State(runs, trainee, keeper, feed, losses, sets, step, rows, device)
    if keeper.writes:
        try:
            _watch(state, trackers)
        except BaseException:
            for run in runs:
                run.close()
            raise
    return state


def _watch(state: State, trackers: Sequence[str]) -> None:
    for run in state.runs:
        if watched(run.spec):
            run.watcher = Watcher(
                run.layout,
                run.spec,
                run.log.write,
                step=state.step,
                device=state.device,
                processes=state.keeper.processes,
                members=len(state.runs),
                also=trackers,
            )


def _mixture_feed(
    study: StudyLayout, manifest: DataManifest, specs: Sequence[RunSpec], device: torch.device
) -> Feed:
    streams: dict[int, dict[str, DomainStream]] = {}
    samplers = []
    for own in specs:
        if own.seed not in streams:
            streams[own.seed] = open_streams(
                study, manifest,
                context=own.model.context, seed=own.seed, share=own.plan.data_share,
            )  # fmt: skip
        samplers.append(
            MixtureSampler(
                streams[own.seed],
                own.mixture,
                context=own.model.context,
                blocks=own.plan.steps * own.plan.batch,
                seed=own.seed,
            )
        )
    pool = TokenPool(streams[specs[0].seed], context=specs[0].model.context, device=device)
    return MixtureFeed(samplers, pool, specs[0].plan.batch)


def _chat_feed(study: StudyLayout, specs: Sequence[RunSpec], device: torch.device) -> Feed:
    folder = study.chat_data(specs[0].chat)
    manifest = ChatManifest.load(folder)
    sources = open_sources(folder, manifest)
    samplers = [
        ChatSampler(
            sources,
            dict(own.epochs),
            context=own.model.context,
            seed=own.seed,
            pad_id=manifest.eod_id,
        )
        for own in specs
    ]
    return ChatFeed(samplers, specs[0].plan.batch, device)
