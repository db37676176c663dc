"""What the command line asks of the trainer: build data, train runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from proxy_trainer.corpus import build_corpus
from proxy_trainer.data import build
from proxy_trainer.launch import local
from proxy_trainer.launch.local import Outcome
from regmix.manifest import DataManifest
from regmix.study import Study

Progress = Callable[[int, int], None]


def workers(study: Study) -> int:
    """Processes to use: the study's setting, or one per core."""
    return study.config.launch.workers or local.cores()


def build_data(study: Study, progress: Progress | None = None) -> DataManifest:
    """Tokenise a study's sources; see :func:`proxy_trainer.data.build.build`."""
    return build.build(study.layout, study.config, workers=workers(study), progress=progress)


def default_corpus(folder: Path, scale: float, progress: Progress | None = None) -> None:
    """Build the corpus of text that is already on the machine; kept when it is there."""

    def forward(_: str, done: int, total: int) -> None:
        if progress:
            progress(done, total)

    build_corpus(folder, workers=local.cores(), scale=scale, progress=forward)


def train(
    study: Study,
    run_ids: Sequence[str],
    on_poll: Callable[[], None] | None = None,
) -> Outcome:
    """Train runs on this machine; finished ones are skipped, interrupted ones go on.

    Args:
        study: the study that the runs belong to.
        run_ids: in the order in which they are started.
        on_poll: called a few times a second.

    Raises:
        UserError: the data is not what the study says (checked before anything starts).
        RegmixError: a run could not go on.
    """
    build.load_manifest(study.layout, study.config)
    open_runs = [r for r in run_ids if not study.layout.run(r).done.exists()]
    return local.train_runs(
        study.layout,
        open_runs,
        workers=workers(study),
        checkpoint_seconds=study.config.launch.checkpoint_seconds,
        on_poll=on_poll,
    )
