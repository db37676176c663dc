"""What a finished run needs no more, and whoever finished it may have been killed before removing.

``DONE`` comes first and the checkpoints go after it: killed in between, a run is done, so that no
worker looks at it again.
"""

from __future__ import annotations

import os
import shutil

from proxy_trainer.retention import Retention
from regmix import claims
from regmix.files import disk_errors, read_json
from regmix.layout import RunLayout, StudyLayout


def clear(run: RunLayout, retention: Retention) -> None:
    """Drop a run's checkpoints but those that stay, and what was kept of a diverged attempt."""
    retention.clear(run.checkpoints)
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
            # What stays is what stayed when it ended, whatever the study says today.
            kept = Retention(every=read_json(run.done).get("keep_every"))
            with disk_errors(run.checkpoints):
                clear(run, kept)


def _any(folder: os.PathLike[str]) -> bool:
    try:
        with os.scandir(folder) as found:
            return any(found)
    except FileNotFoundError:
        return False
