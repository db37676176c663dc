"""What a run does, as lines that can be read for days: from its log, wherever it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from regmix.quantities import amount, duration
from regmix.records import EventTail, RunRecord

LINE_SECONDS = 10.0
"""Between two lines at least, by the run's own clock; what is out of the ordinary does not wait."""
RATE_POINTS = 20
"""Log points back that the time left is judged by."""


class RunLines:
    """Turns a run's events into lines."""

    def __init__(self, record: RunRecord) -> None:
        self._spec = record.spec
        self._tail = EventTail(record.layout.events)
        self._points: list[tuple[float, int]] = []
        """Time and step of the last log points since the run was last started."""
        self._skipped = 0
        self._shown = float("-inf")

    def new(self) -> Iterator[str]:
        """Lines for what has happened since the last call.

        Raises:
            UserError: a line of the log is not JSON.
        """
        for event in self._tail.new():
            kind = event["type"]
            if kind == "start":
                yield from self._begun(event)
            elif kind == "devices" and event["why_no_mfu"]:
                yield f"no MFU: {event['why_no_mfu']}"
            elif kind == "warning":
                yield f"warning: step {event['step']:,}: {event['text']}"
            elif kind == "step":
                yield from self._went_on(event)

    def _begun(self, event: dict[str, Any]) -> Iterator[str]:
        self._points = [(event["time"], event["step"])]
        self._shown = float("-inf")  # another machine's clock may be behind the last one's
        if event["step"]:
            yield f"goes on from step {event['step']:,}"

    def _went_on(self, event: dict[str, Any]) -> Iterator[str]:
        since = self._points[-1][1] if self._points else 0
        self._points = [*self._points, (event["time"], event["step"])][-RATE_POINTS - 1 :]
        skipped = event.get("skipped", 0)
        new, self._skipped = skipped - self._skipped, skipped
        if new > 0:
            some = f"{new} step{'s' if new > 1 else ''} left out as spikes"
            yield f"{some} between {since:,} and {event['step']:,}, {self._skipped} so far"
        last = event["step"] == self._spec.plan.steps
        if last or event["time"] >= self._shown + LINE_SECONDS:
            self._shown = event["time"]
            yield self._line(event)

    def _line(self, event: dict[str, Any]) -> str:
        done, steps = event["step"], self._spec.plan.steps
        speed, mfu = event.get("tokens_per_second"), event.get("mfu")
        memory = event.get("device_bytes") or event.get("process_bytes")
        parts = (
            f"step {done:,}/{steps:,} {_percent(done / steps)}",
            f"{amount(event['tokens'])} tokens",
            f"loss {event['loss']:.3f}",
            f"norm {_two_digits(event['grad_norm'])}",
            f"lr {_scientific(event['lr'])}",
            "" if speed is None else f"{amount(speed)} tok/s",
            "" if mfu is None else f"{_percent(mfu)} MFU",
            "" if memory is None else f"{_two_digits(memory / 2**30)} GiB",
            f"skipped {self._skipped}" if self._skipped else "",
            self._left(steps),
        )
        return " · ".join(part for part in parts if part)

    def _left(self, steps: int) -> str:
        """The time left, evaluations and checkpoints included as they were of late."""
        (begun, first), (now, done) = self._points[0], self._points[-1]
        if done <= first or done == steps:
            return ""
        return f"{duration((now - begun) * (steps - done) / (done - first))} left"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _two_digits(value: float) -> str:
    """0.82, 6.4, 61, 1,205."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _scientific(value: float) -> str:
    """3.0e-4 and not 3.0e-04."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"
