"""Arrays of runs from their specifications to their metrics, exactly resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from proxy_trainer import checkpoint, starts
from proxy_trainer.checkpoint import Checkpoint
from proxy_trainer.device_memory import give_back
from proxy_trainer.environment import choose_device, describe
from proxy_trainer.events import EventLog
from proxy_trainer.loop import Outcome, loop
from proxy_trainer.members import Members
from proxy_trainer.retention import USUAL, Retention
from proxy_trainer.state import Log, Run, assembled
from regmix.arrays import array_key
from regmix.errors import StudyRefused, UserError
from regmix.layout import RunLayout, StudyLayout
from regmix.manifest import DataManifest
from regmix.runs import NUMERICS, RunSpec
from regmix.sizes import ModelShape

T = TypeVar("T")


def train(
    study: StudyLayout,
    runs: Sequence[RunLayout],
    *,
    checkpoint_seconds: float,
    keep_going: Callable[[], bool] = lambda: True,
    on_step: Callable[[int, int], None] | None = None,
    trackers: Sequence[str] = (),
    retention: Retention = USUAL,
    rows: int | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Train runs together, measure them, leave ``DONE``; go on from checkpoints if there are any.

    A function of the specifications alone: interrupted anywhere and run again, in other company or
    alone, a run comes to the same figures, to the bit on one kind of CPU with one thread.

    Args:
        keep_going: asked after every step, before anything is written; at the first False the runs
            leave checkpoints. What it raises ends them with nothing more written.
        on_step: called with (steps done, steps in all).
        trackers: that watched runs are shown by, beside TensorBoard.
        retention: which checkpoints are kept.
        rows: sequences a run that are computed at once at most; by default as many as fit.
        on_rows: called with how many are, before the first step.

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
        found = checkpoint.resume(run.checkpoints)
        by_step.setdefault(found.progress.step if found else 0, []).append((run, spec, found))
    outcome = Outcome()
    found = None  # from here on nothing but its group holds a checkpoint's files open
    for step in list(by_step):  # members of an array are at one step
        group = by_step.pop(step)
        give_back(choose_device())
        members = _begun(study, manifest, group, rows)
        on_rows(members.rows)
        begun = [(run, own, found.progress.seconds if found else 0.0) for run, own, found in group]
        group.clear()  # with it the checkpoints' files are closed, which are removed on the way
        state = assembled(
            study, manifest, begun, step, choose_device(), members, Alone(members, retention),
            trackers=trackers,
        )  # fmt: skip
        try:
            outcome += loop(state, study, manifest, checkpoint_seconds, keep_going, on_step)
        finally:
            for own in state.runs:
                own.close()
        del members, state  # their memory is the next ones'
    return outcome


def checked(run: RunLayout, study: StudyLayout, manifest: DataManifest) -> RunSpec:
    """A run's specification.

    Raises:
        StudyRefused: it was made for other data or another version of the numerics.
    """
    spec = RunSpec.load(run.spec)
    if spec.numerics != NUMERICS:
        raise StudyRefused(
            f"{run.spec}: planned for version {spec.numerics} of the numerics, this is {NUMERICS}; "
            "run `regmix propose` again"
        )
    if manifest.fingerprint != spec.data:
        raise StudyRefused(
            f"{run.spec}: proposed for data {spec.data}, the study now holds "
            f"{manifest.fingerprint}; run `regmix propose` again"
        )
    return spec


def native(spec: RunSpec) -> ModelShape:
    """The shape of a run that arrays can train.

    Raises:
        UserError: it is one of transformers' families, which are trained sharded.
    """
    if not isinstance(spec.model, ModelShape):
        raise UserError(
            f"run {spec.run_id}: a model of transformers' family {spec.model.family}; workers "
            "train native ones, `regmix run` trains this one"
        )
    return spec.model


def _begun(
    study: StudyLayout,
    manifest: DataManifest,
    group: list[tuple[RunLayout, RunSpec, Checkpoint | None]],
    rows: int | None,
) -> Members:
    """The models as they stand at their checkpoints, or at their start."""
    spec = group[0][1]
    members = Members(
        native(spec),
        spec.vocab_size,
        spec.plan,
        [s.seed for _, s, _ in group],
        device=choose_device(),
        separator=manifest.eod_id,
        rows=rows,
        masked=bool(spec.chat),
    )
    for k, (_, own, found) in enumerate(group):
        if found is not None:
            members.load(k, found)
        elif own.start is not None:
            found_weights = starts.weights(study, own.start, own.model.context)
            members.begin(k, starts.whole(found_weights), starts.moments(study, own.start))
    return members


@dataclass(frozen=True)
class Alone:
    """One process has it all to itself."""

    members: Members
    retention: Retention
    writes: bool = True
    processes: int = 1

    def log(self, layout: RunLayout) -> Log:
        """The run's events."""
        return EventLog(layout.events)

    def environment(self) -> dict[str, str | int]:
        """This process's."""
        return describe(self.members.broken_K.device)

    def agreed(self, stop: bool, due: bool) -> tuple[bool, bool]:
        """Nobody else to ask."""
        return stop, due

    def save(self, runs: Sequence[tuple[int, Run]], step: int) -> None:
        """One file a run."""
        for k, run in runs:
            one = self.members.checkpoint(k, step, run.seconds)
            checkpoint.save(run.layout.checkpoints, one, self.retention)

    def save_state(self, member: int, run: Run) -> None:
        """One file."""
        self.members.moments(member).save(run.layout.state)

    def together(self, work: Callable[[], T]) -> T:
        """Nobody else to wait for."""
        return work()

    def sound(self, member: int) -> bool:
        """Whether all of a member's weights are numbers."""
        return all(bool(p[member].isfinite().all()) for p in self.members.array.parameters())

    def total(self, value: Tensor) -> Tensor:
        """Nobody else's to add."""
        return value

    def settle(self) -> None:
        """Nothing is under way."""
