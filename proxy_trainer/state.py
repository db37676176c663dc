"""What the step loop works with: runs, what is trained, who keeps the results, each in its role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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
from proxy_trainer.moments import Moments
from regmix.layout import RunLayout, StudyLayout
from regmix.manifest import DataManifest
from regmix.runs import RunSpec


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

    def moments(self, member: int) -> Moments:
        """One model's optimiser, to go on from; called in all processes, whole in the first."""

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

    def log(self, layout: RunLayout) -> Log:
        """The run's events, or nowhere where this process writes none."""

    def environment(self) -> dict[str, str | int]:
        """What figures are computed with."""

    def agreed(self, stop: bool, due: bool) -> tuple[bool, bool]:
        """Whether all stop after this step, and whether checkpoints are due."""

    def save(self, state: State) -> None:
        """Checkpoints of all runs that go on; they may be under way when this returns."""

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
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str = ""


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

    @property
    def alive(self) -> list[tuple[int, Run]]:
        """Members that have not diverged, with their places in the array."""
        return [(k, run) for k, run in enumerate(self.runs) if not run.failure]


def assembled(
    study: StudyLayout,
    manifest: DataManifest,
    group: Sequence[tuple[RunLayout, RunSpec, float]],
    step: int,
    device: torch.device,
    trainee: Trainee,
    keeper: Keeper,
    rows: slice = slice(None),
) -> State:
    """All that :func:`loop` needs, for runs that stand at one step.

    Args:
        group: runs with the seconds that they have taken so far.
        trainee: their models at that step.
        rows: this process's part of every step's blocks.
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
        runs.append(Run(layout, own, log, seconds))
    return State(runs, trainee, keeper, feed, losses, sets, step, rows)


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
