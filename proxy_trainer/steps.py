"""What the command line asks of the trainer: build data, train runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from proxy_trainer import arrays
from proxy_trainer.corpus import build_corpus
from proxy_trainer.data import build
from proxy_trainer.data.contamination import of_recipe, table
from proxy_trainer.evals import kept_tasks
from proxy_trainer.launch import devices, local, running
from proxy_trainer.launch import gang as gangs
from proxy_trainer.launch.gang import Gang
from proxy_trainer.launch.running import Launch, Outcome
from proxy_trainer.watch import trackers
from regmix.config import Benchmark, LaunchConfig
from regmix.errors import UserError
from regmix.manifest import DataManifest
from regmix.recipe import ParallelConfig
from regmix.runs import RunSpec
from regmix.study import Study

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


def members(study: Study, run_ids: Sequence[str], settings: LaunchConfig) -> int:
    """Runs that a worker trains together; as a short trial finds, where that is left open.

    The trial is of this machine's device. Where workers run elsewhere, they will try their own:
    until then it is one.
    """
    if settings.members != "auto":
        return settings.members
    if settings.launcher != local.LocalLauncher.name or not run_ids:
        return 1
    settings = devices.settled(settings)
    share = -(-len(run_ids) // _processes(settings))
    device = None if settings.gpus_per_worker else torch.device("cpu")
    return arrays.best_members(RunSpec.load(study.layout.run(run_ids[0]).spec), share, device)


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
        if run.failed.exists():  # asked for again: with all its attempts
            shutil.rmtree(run.claims, ignore_errors=True)
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
    if all(study.layout.run(r).done.exists() for r in run_ids):
        return Outcome()
    return submit(study, run_ids, settings).wait(on_poll)


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
        UserError: as :func:`check_sharded`, or the batch cannot be divided, or a run is to be
            measured on tasks as it ends.
        RegmixError: the processes were told to end, or other commands train some of the runs.
    """
    settings = devices.settled(settings or study.config.launch)
    for path in (study.layout.run(run_id).spec for run_id in run_ids):
        if RunSpec.load(path).tasks:
            raise UserError(
                f"{path}: tasks: a model that several processes train is not asked as it ends; "
                "train it without `evaluate:` and run `regmix eval` afterwards"
            )
    made = _gangs(study, run_ids, spread, settings)
    return gangs.train_gangs(study.layout, made, settings, on_poll)


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
            watch=settings.watch,
        )
        for run_id in run_ids
    ]
