"""What the command line asks of the trainer: build data, train runs.

torch is loaded where something is computed here, and not where workers are only started: on a
cluster's login node that can take half a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from proxy_trainer import leftovers
from proxy_trainer.corpus import build_corpus
from proxy_trainer.data import build
from proxy_trainer.data.contamination import of_recipe, table
from proxy_trainer.launch import devices, local, registry, running
from proxy_trainer.launch import gang as gangs
from proxy_trainer.launch.claims import ask_again
from proxy_trainer.launch.gang import Gang
from proxy_trainer.launch.running import Launch, Outcome
from proxy_trainer.watch import trackers
from regmix.config import Benchmark, LaunchConfig
from regmix.estimate import Estimate, Offer
from regmix.manifest import DataManifest
from regmix.recipe import ParallelConfig
from regmix.runs import RunSpec
from regmix.study import Study

if TYPE_CHECKING:
    from proxy_trainer.arrays import Trial
    from proxy_trainer.evals.afterwards import Evaluated, Plan
    from proxy_trainer.evals.task import Task

Progress = Callable[[int, int], None]


def workers(settings: LaunchConfig) -> int:
    """Processes that train: as the settings say, or by this machine's devices or cores."""
    return _processes(devices.settled(settings))


def _processes(settings: LaunchConfig) -> int:
    """As the settings say, or one per core."""
    return settings.workers or len(local.cores())


def build_data(study: Study, progress: Progress | None = None) -> DataManifest:
    """Tokenise a study's sources, and take in the tasks that its runs are measured on.

    See :func:`proxy_trainer.data.build.build`, :func:`proxy_trainer.evals.kept_tasks.take_in`.
    """
    from proxy_trainer.evals import kept_tasks

    processes = _processes(study.config.launch)
    kept_tasks.take_in(study.layout, study.config.evaluate)
    return build.build(study.layout, study.config, workers=processes, progress=progress)


def contamination(
    study: Study,
    benchmarks: Sequence[Benchmark] = (),
    ngram: int | None = None,
    progress: Progress | None = None,
    recipe: Path | None = None,
) -> pd.DataFrame:
    """A row a domain and benchmark; see :func:`proxy_trainer.data.build.contaminations`.

    Args:
        recipe: whose conversations are searched too.
    """
    found = build.contaminations(
        study.layout, study.config, benchmarks, of_recipe(recipe) if recipe else (),
        ngram=ngram, workers=_processes(study.config.launch), progress=progress,
    )  # fmt: skip
    return table(found)


def default_corpus(folder: Path, scale: float, progress: Progress | None = None) -> None:
    """Build the corpus of text that is already on the machine; kept when it is there."""

    def forward(_: str, done: int, total: int) -> None:
        if progress:
            progress(done, total)

    build_corpus(folder, workers=len(local.cores()), scale=scale, progress=forward)


def estimate(study: Study, run_ids: Sequence[str], settings: LaunchConfig) -> Estimate:
    """What training runs will take with every launcher, the one of the settings first.

    How many train together, and how fast until the first has finished, a short trial here tells.
    """
    chosen = devices.settled(settings)
    others = (
        devices.settled(study.config.launch.model_copy(update={"launcher": name}))
        for name in registry.names()
        if name != chosen.launcher
    )
    tried = _trial(study, run_ids, chosen)
    offers = [
        Offer(
            own.launcher, _processes(own), bool(own.gpus_per_worker) == bool(chosen.gpus_per_worker)
        )
        for own in (chosen, *others)
    ]
    members = tried.members if tried else 1
    return study.estimate(run_ids, offers, members, tried.flops_per_second if tried else None)


def _trial(study: Study, run_ids: Sequence[str], settings: LaunchConfig) -> Trial | None:
    """Of what workers compute on; None where this machine has none, or there is nothing to try."""
    import torch

    from proxy_trainer import arrays

    if not run_ids or (settings.gpus_per_worker and not torch.cuda.is_available()):
        return None
    spec = RunSpec.load(study.layout.run(run_ids[0]).spec)
    device = None if settings.gpus_per_worker else torch.device("cpu")
    if settings.members != "auto":
        return arrays.trial_of(spec, settings.members, device)
    return arrays.trial(spec, -(-len(run_ids) // _processes(settings)), device)


def check(
    study: Study,
    run_ids: Sequence[str],
    settings: LaunchConfig | None = None,
    *,
    detached: bool = False,
) -> Launch:
    """Make sure that workers could be started for runs, without starting any.

    Args:
        run_ids: in the order in which they are started.
        settings: default: the study's ``launch``.
        detached: the workers are to outlive the command.

    Raises:
        UserError: the data is not what the study says, the launcher cannot start the workers, or a
            tracker is not installed.
    """
    settings = devices.settled(settings or study.config.launch)
    build.load_manifest(study.layout, study.config)
    trackers.check(settings.watch)
    open_runs = [r for r in run_ids if not study.layout.run(r).done.exists()]
    wanted = max(1, min(_processes(settings), len(open_runs)))
    return running.prepare(study.layout, open_runs, settings, wanted, detached=detached)


def submit(
    study: Study,
    run_ids: Sequence[str],
    settings: LaunchConfig | None = None,
    *,
    detached: bool = False,
) -> Launch:
    """Start workers for runs; finished runs are skipped, interrupted ones go on.

    Raises:
        UserError: as :func:`check`, before anything starts.
    """
    launch = check(study, run_ids, settings, detached=detached)
    for run in map(study.layout.run, launch.submission.runs):
        if run.failed.exists():  # asked for again: with all its attempts ahead
            ask_again(run.claims)
            run.failed.unlink(missing_ok=True)
    return running.start(launch)


def train(
    study: Study,
    run_ids: Sequence[str],
    on_poll: Callable[[], None] | None = None,
    settings: LaunchConfig | None = None,
) -> Outcome:
    """Train runs and wait for them; see :func:`submit`.

    Args:
        on_poll: called a few times a second.

    Raises:
        RegmixError: a worker could not go on, or was told to end.
    """
    try:
        if all(study.layout.run(r).done.exists() for r in run_ids):
            return Outcome()
        return submit(study, run_ids, settings).wait(on_poll)
    finally:
        leftovers.sweep(study.layout)


def ask(
    study: Study,
    tasks: Sequence[Task],
    *,
    run_ids: Sequence[str] | None = None,
    step: int | None = None,
    settings: LaunchConfig | None = None,
    on_poll: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Ask models what they were not asked yet, by workers of the launcher; wait for them.

    What is found is left in the runs' folders, where the store reads it. Whatever other commands
    ask at the same time is asked once.

    Args:
        run_ids: default: all runs of the study.
        step: whose checkpoints are asked; the finished models if not given.
        settings: default: the study's ``launch``.
        on_poll: called a few times a second with (answers found, in all).

    Raises:
        UserError: a run was asked another task of one of the names, no run has the checkpoint, or
            the launcher cannot start the workers.
        RegmixError: a worker could not go on, or was told to end.
    """
    plan = _asking(study, tasks, run_ids, step)
    if not plan.open:
        return plan.evaluated()

    def poll() -> None:
        if on_poll:
            on_poll(sum(p.done.exists() for p in plan.open), len(plan.open))

    outcome = _submit_asking(study, plan, settings, detached=False).wait(poll)
    return plan.evaluated(outcome.done, outcome.busy)


def submit_asking(
    study: Study, tasks: Sequence[Task], *, step: int | None, settings: LaunchConfig
) -> Launch | None:
    """The same without waiting: workers outlive the command; None if nothing is to be asked.

    Raises:
        UserError: as :func:`ask`.
    """
    plan = _asking(study, tasks, None, step)
    return _submit_asking(study, plan, settings, detached=True) if plan.open else None


def _asking(
    study: Study, tasks: Sequence[Task], run_ids: Sequence[str] | None, step: int | None
) -> Plan:
    from proxy_trainer.evals import afterwards

    records = [r for r in study.runs() if run_ids is None or r.spec.run_id in run_ids]
    return afterwards.Plan.of(study.layout, records, tasks, step)


def _submit_asking(
    study: Study, plan: Plan, settings: LaunchConfig | None, *, detached: bool
) -> Launch:
    settings = devices.settled(settings or study.config.launch)
    runs = list(dict.fromkeys(piece.run.run_id for piece in plan.open))
    launch = running.prepare(
        study.layout, runs, settings, min(_processes(settings), len(plan.open)),
        detached=detached, tasks=[task.fingerprint for task in plan.tasks], step=plan.step,
    )  # fmt: skip
    plan.prepare()
    return running.start(launch)


def train_sharded(
    study: Study,
    run_ids: Sequence[str],
    spread: ParallelConfig,
    on_poll: Callable[[], None] | None = None,
    settings: LaunchConfig | None = None,
) -> dict[str, str]:
    """Train runs, each by several processes together, on one node or several; wait for all.

    Args:
        on_poll: called a few times a second.
        settings: default: the study's ``launch``.

    Returns:
        Why runs could not go on, by their ids; see :func:`proxy_trainer.launch.gang.train_gangs`.

    Raises:
        UserError: as :func:`check_sharded`, or the batch cannot be divided.
        RegmixError: the processes were told to end, or other commands train some of the runs.
    """
    settings = devices.settled(settings or study.config.launch)
    made = _gangs(study, run_ids, spread, settings)
    try:
        return gangs.train_gangs(study.layout, made, settings, on_poll)
    finally:
        leftovers.sweep(study.layout)


def check_sharded(
    study: Study,
    run_ids: Sequence[str],
    spread: ParallelConfig,
    settings: LaunchConfig | None = None,
) -> None:
    """Make sure that runs could be started that several processes train, without starting any.

    Args:
        run_ids: they need not have been added to the study.
        settings: default: the study's ``launch``.

    Raises:
        UserError: the data is not what the study says, the launcher cannot start the processes, or
            a tracker is not installed.
    """
    settings = devices.settled(settings or study.config.launch)
    for gang in _gangs(study, run_ids, spread, settings):
        gangs.check(study.layout, gang, settings)


def _gangs(
    study: Study, run_ids: Sequence[str], spread: ParallelConfig, settings: LaunchConfig
) -> list[Gang]:
    build.load_manifest(study.layout, study.config)
    trackers.check(settings.watch)
    return [
        Gang(
            study=study.layout.root,
            run_id=run_id,
            **spread.model_dump(),
            checkpoint_seconds=settings.checkpoint_seconds,
            claim_seconds=settings.claim_seconds,
            watch=settings.watch,
            keep_last=settings.keep_last,
            keep_every=settings.keep_every,
            timeout_seconds=settings.timeout_seconds,
        )
        for run_id in run_ids
    ]
