"""Weights & Biases: a run there for every run here, under the run's id."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import wandb

from proxy_trainer.watch import trackers
from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.runs import RunSpec


class WandB:
    """Passes figures on; its files, and what waits to be sent, are in ``runs/<id>/wandb/``.

    Project, entity, mode and key are taken from W&B's own environment variables and settings; the
    project is the study's name where nothing else is said. ``WANDB_MODE=offline`` sends nothing.
    """

    def __init__(self, run: RunLayout, spec: RunSpec) -> None:
        """Begin, or go on with, the run of this id.

        Raises:
            UserError: W&B does not let this process in.
        """
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or trackers.project(run),
                id=spec.run_id,
                name=spec.name,
                group=spec.role,
                dir=str(run.root),
                config=spec.to_dict(),
                resume="allow",
                reinit="create_new",  # members of an array are runs side by side
                # The worker's output is its own log, and no business of a run.
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as exc:
            raise UserError(
                f"launch.watch: wandb does not begin ({exc}); `wandb login`, or set "
                "WANDB_MODE=offline and `wandb sync` later"
            ) from exc

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step, by name."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Pass on what is left."""
        self._run.finish()
