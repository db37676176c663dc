"""One run trained by all processes together, through the loop that trains arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from proxy_trainer import starts
from proxy_trainer.checkpoint import Progress
from proxy_trainer.environment import HALF, PRECISION, describe
from proxy_trainer.events import EventLog
from proxy_trainer.loop import Outcome, loop
from proxy_trainer.retention import USUAL, Retention
from proxy_trainer.sharded.checkpoint import Checkpoints, Stands, write
from proxy_trainer.sharded.model import values_of_all
from proxy_trainer.sharded.ranks import Ranks
from proxy_trainer.sharded.trainee import Sharded
from proxy_trainer.state import Log, Run, assembled
from proxy_trainer.train import checked
from regmix.layout import RunLayout, StudyLayout
from regmix.manifest import DataManifest
from regmix.runs import RunSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How a run is carried out: not part of its identity, and figures change by rounding alone."""

    checkpoint_seconds: float
    recompute: bool = False
    """Compute activations again for the gradients instead of keeping them."""
    compiled: bool = False
    """Compute blocks as torch.compile has them."""
    rows: int | None = None
    """Sequences that a process computes at once; as many as fit if not given."""
    trackers: tuple[str, ...] = ()
    """That a watched run is shown by, beside TensorBoard."""
    retention: Retention = USUAL


def train_sharded(
    study: StudyLayout,
    run: RunLayout,
    ranks: Ranks,
    settings: Settings,
    *,
    keep_going: Callable[[], bool] = lambda: True,
    on_step: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Train one run and measure it; go on from its last checkpoint if it has one.

    Called in all processes; the first one writes events, ``DONE`` and the model. It comes to the
    figures of one process to float tolerance, and to the same bits with as many processes.

    Args:
        keep_going: asked after every step in every process; at the first False in any of them all
            leave a checkpoint and end.

    Raises:
        UserError: the data or the tokenizer is not what the run was proposed for, or its batch
            cannot be divided among the processes.
    """
    manifest = DataManifest.load(study.manifest)
    spec = checked(run, study, manifest)
    rows = ranks.rows(spec.plan.batch)
    checkpoints = Checkpoints(run.checkpoints, ranks, settings.retention)
    begun = checkpoints.newest()
    trainee = Sharded(
        spec.model,
        spec.vocab_size,
        spec.plan,
        spec.seed if begun is None and spec.start is None else None,
        ranks,
        separator=manifest.eod_id,
        recompute=settings.recompute,
        compiled=settings.compiled,
        rows=settings.rows,
        masked=bool(spec.chat),
    )
    ranks.together(lambda: _brought_to(trainee, begun, checkpoints, study, spec))
    stands = Progress() if begun is None else begun.progress
    keeper = _Together(ranks, trainee, checkpoints)
    begun_at = [(run, spec, stands.seconds)]
    state = assembled(
        study, manifest, begun_at, stands.step, ranks.device, trainee, keeper, rows,
        settings.trackers,
    )  # fmt: skip
    try:
        return loop(state, study, manifest, settings.checkpoint_seconds, keep_going, on_step)
    finally:
        for own in state.runs:
            own.close()


def _brought_to(
    trainee: Sharded,
    begun: Stands | None,
    checkpoints: Checkpoints,
    study: StudyLayout,
    spec: RunSpec,
) -> None:
    """Read what a run goes on from, or starts from."""
    if begun is not None:
        tensors = trainee.tensors()
        checkpoints.load(tensors, begun)
        trainee.restore(tensors)
    elif spec.start is not None:
        weights = starts.weights(study, spec.start, spec.model.context)
        trainee.begin(weights, starts.moments(study, spec.start))


class _Silent:
    """The log of processes that write none."""

    def write(self, kind: str, **fields: Any) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class _Together:
    """Keeps what the processes have come to: the first one's clock and log, everyone's shards."""

    ranks: Ranks
    trainee: Sharded
    checkpoints: Checkpoints

    @property
    def writes(self) -> bool:
        return self.ranks.first

    @property
    def processes(self) -> int:
        return self.ranks.world

    def log(self, layout: RunLayout) -> Log:
        return EventLog(layout.events) if self.writes else _Silent()

    def environment(self) -> dict[str, str | int]:
        half = self.trainee.array.model.half_precision
        placed: dict[str, str | int] = {
            "processes": self.ranks.world,
            "replicas": self.ranks.replicas,
            PRECISION: HALF if half else "float32",
        }
        return describe(self.ranks.device) | placed

    def agreed(self, stop: bool, due: bool) -> tuple[bool, bool]:
        stop, due = self.ranks.any(stop, due and self.ranks.first)
        return stop, due

    def save(self, runs: Sequence[tuple[int, Run]], step: int) -> None:
        for _, run in runs:
            self.checkpoints.save(self.trainee.tensors(), Progress(step, run.seconds))

    @property
    def retention(self) -> Retention:
        return self.checkpoints.retention

    def save_state(self, member: int, run: Run) -> None:
        stands = Progress(run.spec.plan.steps, run.seconds)
        write(run.layout.state, self.trainee.moments(), stands, self.ranks)

    def together(self, work: Callable[[], T]) -> T:
        return self.ranks.together(work)

    def sound(self, member: int) -> bool:
        parameters = self.trainee.array.parameters().values()
        broken = not all(bool(p.to_local().isfinite().all()) for p in parameters)
        return not self.ranks.any(broken)[0]

    def total(self, value: Tensor) -> Tensor:
        return values_of_all(value, self.ranks).sum(0)

    def settle(self) -> None:
        self.checkpoints.settle()
