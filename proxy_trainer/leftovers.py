"""What a finished run needs no more, and whoever finished it may have been killed before removing.

``DONE`` comes first and the checkpoints go after it: killed in between, a run is done, so that no
worker looks at it again.
"""

from __future__ import annotations

import os
import shutil

from proxy_trainer import checkpoint
from regmix import claims
from regmix.files import disk_errors
from regmix.layout import RunLayout, StudyLayout


def clear(run: RunLayout) -> None:
    """Drop a run's checkpoints, and what was kept of an attempt that diverged."""
    checkpoint.clear(run.checkpoints)
    shutil.rmtree(run.before, ignore_errors=True)


def sweep(study: StudyLayout) -> None:
    """Clear runs that are done and whose workers left something behind; nobody's who is at it."""
    glance = claims.Glance(study.runs)
    for name in sorted(os.listdir(study.runs)) if study.runs.is_dir() else ():
        run = study.run(name)
        if not run.done.exists() or not (_any(run.checkpoints) or run.before.exists()):
            continue
        last = claims.last(run.claims)
        if last is None or not glance.holds(last):
            with disk_errors(run.checkpoints):
                clear(run)


def _any(folder: os.PathLike[str]) -> bool:
    try:
        with os.scandir(folder) as found:
            return any(found)
    except FileNotFoundError:
        return False
