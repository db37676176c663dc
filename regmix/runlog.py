"""A run's log, read as it grows: how far the run is, how fast, what its loss does, what it took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regmix.records import EventTail

WINDOW_SECONDS = 60.0
"""How far back the rate looks, if events are that close."""
WARNINGS = 5
"""How many of the last ones are kept."""


@dataclass
class _Turn:
    """What a worker trained between starting the run and leaving it."""

    began: float
    """By the worker's clock, as all times here."""
    last: float
    first_tokens: int
    tokens: int
    members: int
    """Runs that it trained side by side, each of which has its part of the time."""
    processes: int


class RunLog:
    """What the log says so far; reads what was added since the last time, and nothing twice.

    A run that goes on from a checkpoint is where its checkpoint was: what its log has beyond is
    trained, and logged, again.
    """

    def __init__(self, path: Path, tokens_per_step: int) -> None:
        self._path, self._per_step = path, tokens_per_step
        self._tail = EventTail(path)
        self._turns: list[_Turn] = []
        self._points: list[tuple[float, int]] = []
        self.tokens = 0
        """Trained so far (to a fiftieth of a proxy's run, a thousandth of another's)."""
        self.curve: list[tuple[int, float]] = []
        """Tokens and training loss, nats a token, of every log point."""
        self.metrics: dict[str, float] = {}
        """Held-out metrics, each as it was measured last."""
        self.warnings: list[str] = []
        self.environment: dict[str, Any] = {}
        """Of the last start: host, device, worker."""

    def read(self) -> None:
        """Take in what is new.

        Raises:
            UserError: a finished line is not JSON, with file and line.
        """
        for event in self._tail.new():
            kind = event["type"]
            if kind == "start":
                self._started(event)
            elif kind == "step":
                self._stepped(event)
            elif kind == "metric":
                self.metrics[event["name"]] = event["value"]
            elif kind == "warning":
                text = f"step {event['step']:,}: {event['text']}"
                self.warnings = [*self.warnings, text][-WARNINGS:]

    @property
    def heard(self) -> float | None:
        """When the run last said something, by the file server's clock; None before."""
        return self._path.stat().st_mtime if self._turns else None

    @property
    def trained(self) -> int:
        """Tokens trained over all turns, those that were trained again included."""
        return sum(t.tokens - t.first_tokens for t in self._turns)

    @property
    def process_seconds(self) -> float:
        """Seconds of workers from each start to the last log point; side by side, its part."""
        return sum((t.last - t.began) / t.members for t in self._turns)

    @property
    def device_seconds(self) -> float:
        """The same times the processes, where several train one run."""
        return sum((t.last - t.began) * t.processes / t.members for t in self._turns)

    def rate(self, now: float) -> float | None:
        """Tokens a second over the last events, as far apart as they may be; None before two.

        Reaches back a minute, or to the event before the last. A run that has said nothing for
        longer than that is taken to have stood still since. Times of events are the worker's,
        whose clock may be off: they are compared with each other alone.

        Args:
            now: by the file server's clock.
        """
        if len(self._points) < 2:
            return None
        last, tokens = self._points[-1]
        since, before = next(
            (p for p in reversed(self._points[:-1]) if p[0] <= last - WINDOW_SECONDS),
            self._points[0],
        )
        return (tokens - before) / max(last - since, now - self._path.stat().st_mtime, 1e-3)

    def _started(self, event: dict[str, Any]) -> None:
        tokens, now = int(event["step"]) * self._per_step, float(event["time"])
        self.environment = event.get("environment", {})
        processes = int(self.environment.get("processes", 1))
        self._turns.append(_Turn(now, now, tokens, tokens, event.get("members", 1), processes))
        self.tokens, self._points = tokens, [(now, tokens)]
        self.curve = [point for point in self.curve if point[0] <= tokens]

    def _stepped(self, event: dict[str, Any]) -> None:
        now, tokens = float(event["time"]), int(event["tokens"])
        if not self._turns:
            self._turns.append(_Turn(now, now, 0, 0, members=1, processes=1))
        turn = self._turns[-1]
        turn.last, turn.tokens, self.tokens = max(turn.last, now), tokens, tokens
        self._points.append((now, tokens))
        if "loss" in event:
            self.curve.append((tokens, float(event["loss"])))
