"""Who else is told what a run does: TensorBoard always, others where they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Protocol

from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.runs import RunSpec


class Tracker(Protocol):
    """Shows the figures of one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step, by name; steps never go back."""

    def close(self) -> None:
        """No more figures; what was given is passed on."""


def check(names: Sequence[str]) -> None:
    """Make sure that trackers are installed, before anything starts.

    Raises:
        UserError: one is not, with the extra that brings it.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"launch.watch: '{name}' is not installed here; pip install 'regmix[{name}]', or "
                "leave it out"
            )


def opened(names: Sequence[str], run: RunLayout, spec: RunSpec) -> list[Tracker]:
    """The trackers that were asked for.

    Raises:
        UserError: one is not installed, or does not let this process in.
    """
    check(names)
    return [_open(name, run, spec) for name in names]


def board(run: RunLayout, step: int) -> Tracker:
    """TensorBoard's files of a run that stands at a step."""
    from proxy_trainer.watch.tensorboard import TensorBoard  # no proxy of a swarm waits for it

    return TensorBoard(run.tensorboard, step)


def project(run: RunLayout) -> str:
    """What trackers group a study's runs under: the name of its folder."""
    return run.root.parent.parent.name


def _open(name: str, run: RunLayout, spec: RunSpec) -> Tracker:
    # Loaded when asked for: they take seconds, and need not be installed.
    if name == "wandb":
        from proxy_trainer.watch.wandb import WandB

        return WandB(run, spec)
    from proxy_trainer.watch.trackio import Trackio

    return Trackio(run, spec)
