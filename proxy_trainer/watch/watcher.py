"""What is done with a run's log points: measured, judged, and told to all who are to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from proxy_trainer.watch import machine, trackers
from proxy_trainer.watch.growth import Growth
from proxy_trainer.watch.machine import Chips, Stopwatch
from proxy_trainer.watch.point import Machine, Point, scalars
from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.runs import RunSpec

ROLES = ("target", "stage")
"""Runs that are watched; a swarm's proxies are many and short."""
_GROWTH = {"grad_norm": ("gradient norm", 2.0), "loss": ("loss", 1.1)}
"""Figures that are watched for growth: what they are called, and the factor that is told."""

Write = Callable[..., None]
"""Appends an event to a run's log: its kind, and fields by name."""


def watched(spec: RunSpec) -> bool:
    """Whether a run is one that somebody waits for."""
    return spec.role in ROLES


class Watcher:
    """Watches one run, in the process that writes its results."""

    def __init__(
        self,
        run: RunLayout,
        spec: RunSpec,
        write: Write,
        *,
        step: int,
        device: torch.device,
        processes: int,
        members: int,
        also: Sequence[str] = (),
    ) -> None:
        """Begin to watch.

        Args:
            write: into the run's log.
            step: steps done.
            processes: that train it together, with a device each.
            members: models that train beside it on the same devices, itself among them.
            also: names of the trackers that are told, beside TensorBoard.

        Raises:
            UserError: a tracker is not installed or does not let this process in, and the run has
                not been trained before.
        """
        self._spec, self._write, self._device, self._members = spec, write, device, members
        self._chips = Chips.of(device, processes)
        self._growth = {name: Growth(factor) for name, (_, factor) in _GROWTH.items()}
        self._last_step = step
        self._told: dict[str, int] = {}
        """The last step that was logged before, by kind of event."""
        self._look_back(run, step)
        self._step = step
        begun = step > 0 or bool(self._told)
        self._audience = trackers.Audience(also, run, spec, self._warn_of, begun=begun)
        self._board = trackers.board(run, step)
        write(
            "devices", name=self._chips.name, count=processes, peak_flops=self._chips.peak,
            why_no_mfu=self._chips.why_no_mfu,
        )  # fmt: skip
        self._watch = Stopwatch()

    def _look_back(self, run: RunLayout, step: int) -> None:
        """What was logged before this start: figures that still count, and how far it was told."""
        seen: dict[int, dict[str, Any]] = {}
        for event in read_events(run.events):
            if event["type"] in ("step", "metric"):
                self._told[event["type"]] = max(self._told.get(event["type"], 0), event["step"])
            if event["type"] == "step" and event["step"] <= step:
                seen[event["step"]] = event
        for at in sorted(seen):
            for name, growth in self._growth.items():
                growth.add(at, seen[at][name])

    def leave_out(self, seconds: float) -> None:
        """These were spent on other things than training."""
        self._watch.leave_out(seconds)

    def take(self, point: Point) -> None:
        """A log point: measured, written into the run's log, and told."""
        found = self._measured(point)
        self._write("step", **point.fields(), **found.fields())
        self._warn(point)
        self._tell("step", point.step, scalars(point, found))

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of an evaluation; their events are the loop's."""
        self._tell("metric", step, {f"eval/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        """No more points."""
        self._audience.close()
        self._board.close()

    def _measured(self, point: Point) -> Machine:
        tokens = (point.step - self._last_step) * self._spec.tokens_per_step
        self._last_step = point.step
        speed = tokens / self._watch.read()
        flops = speed * self._spec.model.flops_per_token(self._spec.vocab_size)
        return Machine(
            tokens_per_second=speed,
            mfu=self._chips.mfu(flops * self._members),
            device_bytes=machine.device_bytes(self._device),
            process_bytes=machine.process_bytes(),
        )

    def _warn(self, point: Point) -> None:
        for name, growth in self._growth.items():
            grown = growth.add(point.step, getattr(point, name))
            if grown is None:
                continue
            self._write(
                "warning",
                step=point.step,
                about=name,
                text=f"{_GROWTH[name][0]} {grown.factor:.2f} times as high as around step "
                f"{grown.before.step:,}: median {grown.now.median:.4g}, then "
                f"{grown.before.median:.4g}",
            )

    def _tell(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._board.log(step, values)
        if step <= self._told.get(kind, 0):
            return  # before it was stopped: the same figures, and trackers cannot take any back
        self._step = step
        self._audience.log(step, values)

    def _warn_of(self, tracker: str, text: str) -> None:
        self._write("warning", step=self._step, about=tracker, text=text)
