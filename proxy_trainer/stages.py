"""`regmix run`: one model on one mixture, from a stage file."""

from __future__ import annotations

from pathlib import Path

from regmix import config, strict
from regmix.mixture import MixtureFile
from regmix.runs import RunSpec
from regmix.study import Study


def plan(path: Path) -> tuple[Study, RunSpec]:
    """The study and the run that a stage file stands for; the run is written to the study.

    Raises:
        UserError: something in the stage, the study or the mixture is not as it should be, or a
            domain would be repeated more often than the stage allows.
    """
    stage = strict.load(path, config.StageConfig)
    folder = path.expanduser().resolve().parent
    study = Study.open(folder / Path(stage.study).expanduser())
    mixture = MixtureFile.load(folder / Path(stage.mixture).expanduser(), study.domains)
    spec = study.stage_run(stage, mixture.mixture)
    study.add_run(spec)
    return study, spec
