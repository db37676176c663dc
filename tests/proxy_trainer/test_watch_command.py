"""`regmix watch` in a real terminal, of a study whose runs are really training."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from regmix.layout import StudyLayout
from regmix.study import Study

SECONDS = 300.0
CURVE = re.compile(r"(?m)^(\S+) +(\d+)% +(\d\.\d{3})  ([▁▂▃▄▅▆▇█ ]+)·* +[\d.]+k?")


def _as_a_shell_does() -> None:
    """The terminal is the process's own, and Ctrl-C is heeded, also if tests run in background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A terminal of a size, with one command in it."""

    def __init__(self, columns: int, lines: int, *arguments: object, **more: str) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._master, slave = pty.openpty()
        self._resize(columns, lines)
        drop = ("COLUMNS", "LINES", "NO_COLOR")
        environment = {k: v for k, v in os.environ.items() if k not in drop}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "regmix.cli", *map(str, arguments)],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**environment, "TERM": "xterm-256color", **more},
            preexec_fn=_as_a_shell_does,
        )  # fmt: skip
        os.close(slave)

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """As a person who pulls at the window."""
        self._resize(columns, lines)
        self.screen.resize(lines, columns)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def pump(self) -> bool:
        """Take in what was drawn within a tenth of a second; False when the command has ended."""
        ready, _, _ = select.select([self._master], [], [], 0.1)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # the other end was closed
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def until(self, seen: Callable[[str], object]) -> str:
        """The first screen on which something is seen."""
        end = time.monotonic() + SECONDS
        while not seen(self.text):
            assert self.pump(), f"ended before it was seen:\n{self.text}"
            assert time.monotonic() < end, f"not seen:\n{self.text}"
        return self.text

    def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        end = time.monotonic() + SECONDS
        while self.pump():
            assert time.monotonic() < end, f"still going on:\n{self.text}"
        return self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Opens terminals; closed after the test."""
    opened: list[Terminal] = []

    def make(*arguments: object, columns: int = 100, lines: int = 30, **more: str) -> Terminal:
        opened.append(Terminal(columns, lines, *arguments, **more))
        return opened[-1]

    yield make
    for own in opened:
        own.close()


def files(layout: StudyLayout) -> set[str]:
    return {str(p.relative_to(layout.root)) for p in layout.root.rglob("*")}


@pytest.mark.slow
def test_a_study_is_watched_until_its_last_run_is_done(
    copy_study: Callable[..., Study],
    regmix: Callable[..., subprocess.Popen[str]],
    terminal: Callable[..., Terminal],
) -> None:
    study = copy_study(tokens=128 * 200)
    study.propose()
    runs = len(study.runs())
    training = regmix("train", study.layout.root)
    shown = terminal("watch", study.layout.root, "--interval", "0.2")
    text = shown.until(CURVE.search)
    assert text.startswith("study  ")
    assert f"/{runs} runs" in text
    assert "Ctrl-C ends this view; training goes on" in text
    name, done, loss, _ = CURVE.search(text).groups()  # type: ignore[union-attr]
    assert name in {r.spec.name for r in study.runs()}
    assert 0 < int(done) <= 100
    assert 2.0 < float(loss) < 8.0
    text = shown.until(lambda t: re.search(r"ETA [\d.]+ (s|min)", t) and "tok/s" in t)
    worker = re.search(r"(?m)^(\d{8}-\d{6}-\w+\.\d) +\d +([\d.]+k?) ", text)
    assert worker is not None, text
    assert float(worker[2].removesuffix("k")) > 0
    shown.resize(44, 16)
    text = shown.until(lambda t: re.search(r"\d+ done · \d+ running", t))
    assert max(map(len, text.splitlines())) <= 44
    shown.resize(100, 30)
    assert shown.ended() == 0
    assert training.wait(60) == 0
    assert f"100%  {runs}/{runs} runs  all runs are done" in shown.text  # kept after the end
    assert shown.raw.rfind(b"\x1b[?1049l") > shown.raw.rfind(b"\x1b[?1049h")  # the other screen
    assert shown.raw.rfind(b"\x1b[?25h") > shown.raw.rfind(b"\x1b[?25l")  # the cursor is back
    assert not study.layout.store.exists()


@pytest.mark.slow
def test_control_c_ends_the_view_and_nothing_else(
    copy_study: Callable[..., Study],
    regmix: Callable[..., subprocess.Popen[str]],
    terminal: Callable[..., Terminal],
) -> None:
    study = copy_study(tokens=128 * 2000)
    study.propose()
    training = regmix("train", study.layout.root)
    shown = terminal(
        "watch", study.layout.root, "--interval", "0.2", columns=60, lines=40, NO_COLOR="1"
    )
    shown.until(CURVE.search)
    shown.type(b"\x03")
    assert shown.ended() == 0
    assert "Traceback" not in shown.text
    assert re.search(r"(?m)^role +runs +done +running", shown.text)  # kept, as wide as the terminal
    assert shown.raw.rfind(b"\x1b[?25h") > shown.raw.rfind(b"\x1b[?25l")
    assert not re.search(rb"\x1b\[[\d;]*3[0-7]m", shown.raw)  # no colour
    assert training.poll() is None
    training.terminate()
    assert training.wait(60) == 75


def test_without_a_terminal_it_is_told_once(
    study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    study.propose()
    before = files(study.layout)
    out, err = regmix("watch", study.layout.root).communicate(timeout=60)
    assert err == ""
    assert out.count("runs  nobody trains") == 1
    assert "\x1b" not in out
    assert files(study.layout) == before


def test_there_is_nothing_to_watch(
    study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    process = regmix("watch", study.layout.root)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == f"error: {study.layout.root}: no run yet; `regmix propose` plans some\n"


@pytest.mark.slow
def test_the_report_is_kept_fresh(
    study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    study.propose()
    watching = regmix("watch", study.layout.root, "--html", "--interval", "0.2")
    training = regmix("train", study.layout.root)
    out, err = watching.communicate(timeout=SECONDS)
    assert training.wait(60) == 0
    assert (watching.returncode, err) == (0, "")
    runs, report = len(study.runs()), Path(study.layout.report)
    last = out.splitlines()[-1]
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d  {runs} of {runs} runs are done: report {re.escape(str(report))}", last
    )
    written = report.read_text("utf-8")
    training_runs = {r.spec.name for r in study.runs()}
    assert any(name in written for name in training_runs)
