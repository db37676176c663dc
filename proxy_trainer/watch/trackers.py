"""Who else is told what a run does: TensorBoard always, others where they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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


def opened(name: str, run: RunLayout, spec: RunSpec) -> Tracker:
    """A tracker that was asked for.

    Raises:
        UserError: it is not installed, or does not let this process in.
    """
    check([name])
    try:
        return _open(name, run, spec)
    except UserError:
        raise
    except Exception as exc:  # a library's, of any kind
        raise UserError(
            f"launch.watch: {name} does not begin ({type(exc).__name__}: {exc}); mend that, or "
            "leave it out"
        ) from exc


class Audience:
    """The trackers of one run, for as long as they work.

    Before the first step one that does not work is refused, as a person can still mend it. Later
    none of them is worth a step: it is told no more, and a warning says so.
    """

    def __init__(
        self,
        names: Sequence[str],
        run: RunLayout,
        spec: RunSpec,
        warn: Callable[[str, str], object],
        *,
        begun: bool,
    ) -> None:
        """Open them.

        Args:
            warn: called with the name of one that is told no more, and why.
            begun: the run has been trained before.

        Raises:
            UserError: one does not work, and nothing has been trained yet.
        """
        self._warn = warn
        self._trackers: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self._trackers[name] = opened(name, run, spec)
            except UserError as exc:
                if not begun:
                    self.close()
                    raise
                warn(name, f"{exc}; this start goes on without it")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step, by name; steps never go back."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.log, step, values))

    def close(self) -> None:
        """No more figures."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.close)
        self._trackers = {}

    def _try(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as exc:  # a library's, of any kind: training is worth more
            self._trackers.pop(name, None)
            self._warn(
                name, f"{name} failed and is told no more until the next start "
                f"({type(exc).__name__}: {exc})",
            )  # fmt: skip


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
