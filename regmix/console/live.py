"""Watching a study until its runs are done: on the screen, or by keeping the report fresh."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Group
from rich.live import Live

from regmix.console.screen import Screen, draw
from regmix.console.terminal import console, say
from regmix.errors import RegmixError
from regmix.watch import Snapshot, Watch

REST = 4
"""Between two looks so many times what the last one took, so that a slow file system has rest."""
_TICK_SECONDS = 0.1


def watch(watched: Watch, name: str, *, interval: float, stay: bool) -> None:
    """Draw a study again and again, until no run is left or Ctrl-C; then once more, to keep.

    Where there is no terminal to draw on, it is printed once.

    Args:
        watched: the study.
        name: as it is called.
        interval: seconds between two looks.
        stay: do not end when no run is left.
    """
    _errors_replaced()
    width = None
    if console.file.isatty() and not console.is_dumb_terminal:
        with _ended_by_signals():
            found = _drawn(watched, name, interval, stay)
        width = console.width
    else:
        found = watched.look()
    for line in draw(found, name, Screen(width, ascii_only=console.options.ascii_only)):
        console.print(line, soft_wrap=True)


def keep_report(watched: Watch, write: Callable[[], Path], *, interval: float, stay: bool) -> None:
    """Write the report again whenever runs have finished, until no run is left or Ctrl-C.

    A report that cannot be written is told, and tried again with the next finished run.

    Args:
        watched: the study.
        write: writes the report, and returns where.
        interval: seconds between two looks.
        stay: do not end when no run is left.
    """
    reported = -1

    def renew(found: Snapshot) -> None:
        nonlocal reported
        done = found.status.count("done")
        if done == reported:
            return
        reported = done
        clock = time.strftime("%H:%M:%S", time.localtime(found.time))
        told = f"{clock}  {done} of {len(found.status.runs)} runs are done"
        try:
            say(f"{told}: report {write()}", markup=False)
        except RegmixError as exc:
            say(f"{told}: no report: {exc}", markup=False)

    with _ended_by_signals():
        _follow(watched, renew, interval, stay)


def _drawn(watched: Watch, name: str, interval: float, stay: bool) -> Snapshot:
    """Draw until the end; the last snapshot."""
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def put(found: Snapshot) -> None:
            width, height = console.size
            foot = "Ctrl-C ends this view" + ("" if found.status.closed else "; training goes on")
            screen = Screen(width, height, ascii_only=console.options.ascii_only)
            live.update(Group(*draw(found, name, screen, foot)), refresh=True)

        return _follow(watched, put, interval, stay)


def _follow(
    watched: Watch, show: Callable[[Snapshot], None], interval: float, stay: bool
) -> Snapshot:
    """Look and show until no run is left, or Ctrl-C; the last snapshot."""
    found = watched.look()
    try:
        show(found)
        took = 0.0
        while stay or not found.status.closed:
            _wait(max(interval, REST * took), found, show)
            began = time.monotonic()
            found = watched.look()
            took = time.monotonic() - began
            show(found)
    except KeyboardInterrupt:
        pass  # that is how it is ended
    return found


def _wait(seconds: float, found: Snapshot, show: Callable[[Snapshot], None]) -> None:
    """Wait; a terminal that changes its size meanwhile is drawn at once."""
    until, size = time.monotonic() + seconds, console.size
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(_TICK_SECONDS, left))
        if console.size != size:
            size = console.size
            show(found)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a lost connection end it as Ctrl-C does: the terminal is left as it was."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, end) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _errors_replaced() -> None:
    """A name that the terminal has no characters for must not end the view."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
