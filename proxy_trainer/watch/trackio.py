"""trackio: a run there for every run here, under the run's id."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from functools import partial
from typing import Any

import trackio

from proxy_trainer.watch import trackers
from regmix.layout import RunLayout
from regmix.runs import RunSpec


class Trackio:
    """Passes figures on, by default into a database of this user.

    Where it is, or which server or Space has it instead, trackio takes from its own environment
    variables (``TRACKIO_DIR``, ``TRACKIO_SERVER_URL``, ``TRACKIO_SPACE_ID``). The project is the
    study's name.
    """

    def __init__(self, run: RunLayout, spec: RunSpec) -> None:
        begin = partial(
            trackio.init,
            project=trackers.project(run),
            name=spec.run_id,
            group=spec.role,
            config=spec.to_dict(),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        # It keeps the present run in the context, and ends it for the next: members of an array
        # are runs side by side, so that each is begun in a context of its own.
        self._run: Any = copy_context().run(begin)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step, by name."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Pass on what is left."""
        self._run.finish()
