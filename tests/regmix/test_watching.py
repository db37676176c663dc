"""Lines of a run: one a log point, readable; what is out of the ordinary on lines of its own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from regmix import console
from regmix.console import progress, terminal
from regmix.console.watching import RunLines
from regmix.records import RunRecord
from regmix.study import Study

WATCHED = {
    "tokens_per_second": 1.24e6, "mfu": 0.412, "device_bytes": 61.2 * 2**30,
    "process_bytes": 2 * 2**30,
}  # fmt: skip


class Log:
    """A run's log in the making; its run is 40 steps of 1,024 tokens."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.lines = RunLines(record)

    def write(self, kind: str, time: float = 0.0, **fields: Any) -> None:
        with self.record.layout.events.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"type": kind, "time": time, **fields}) + "\n")

    def step(self, step: int, time: float, **more: Any) -> list[str]:
        """The lines that it makes."""
        known = {"loss": 3.2141, "grad_norm": 0.8166, "lr": 3.02e-4, "skipped": 0, "losses": {}}
        self.write("step", time, step=step, tokens=step * 1024, **{**known, **more})
        return list(self.lines.new())


@pytest.fixture
def log(make_study: Callable[..., Study]) -> Log:
    study = make_study()
    study.propose()
    return Log(study.runs()[0])


def test_a_line_has_every_figure(log: Log) -> None:
    log.write("start", 1000.0, step=0)
    (line,) = log.step(10, 1000.0 + 10 * 3600, **WATCHED)
    assert line == (
        "step 10/40 25 % · 10.2k tokens · loss 3.214 · norm 0.82 · lr 3.0e-4 · 1.24M tok/s · "
        "41 % MFU · 61 GiB · 30.0 h left"
    )
    (spiked, line) = log.step(20, 1000.0 + 40 * 3600, **{**WATCHED, "skipped": 3})
    assert spiked == "3 steps left out as spikes between 10 and 20, 3 so far"
    assert line.endswith("61 GiB · skipped 3 · 40.0 h left")
    (last,) = log.step(40, 1000.0 + 140 * 3600, **{**WATCHED, "skipped": 3})
    assert last.startswith("step 40/40 100 %")
    assert "left" not in last


def test_days_are_said_as_days(log: Log) -> None:
    log.write("start", 0.0, step=0)
    (line,) = log.step(1, 4 / 3 * 3600.0, **WATCHED)
    assert line.endswith(" · 2 d 4 h left")


def test_a_machine_whose_clock_is_behind_is_shown_at_once(log: Log) -> None:
    log.write("start", 5000.0, step=0)
    assert log.step(1, 5001.0)
    log.write("start", 1000.0, step=1)
    told = log.step(2, 1001.0)
    assert told[0] == "goes on from step 1"
    assert told[1].startswith("step 2/40")
    assert log.step(3, 1002.0) == [], "and then as seldom as before"


def test_what_is_not_known_is_left_out(log: Log) -> None:
    """Events of runs that nobody watched, and of earlier versions, which counted no skips."""
    log.write("start", 0.0, step=0)
    log.write("step", 60.0, step=2, tokens=2048, loss=5.0, grad_norm=12.3, lr=1e-3)
    assert list(log.lines.new()) == [
        "step 2/40 5 % · 2.05k tokens · loss 5.000 · norm 12 · lr 1.0e-3 · 19.0 min left"
    ]


def test_on_a_cpu_the_reason_is_said_once_and_memory_is_the_processs(log: Log) -> None:
    log.write("start", 0.0, step=0)
    log.write("devices", name="cpu", count=1, peak_flops=None, why_no_mfu="no peak for 'cpu'")
    found = log.step(1, 60.0, **{**WATCHED, "mfu": None, "device_bytes": None})
    assert found[0] == "no MFU: no peak for 'cpu'"
    assert "MFU" not in found[1]
    assert " · 2 GiB · " in found[1]


def test_lines_come_seconds_apart_but_warnings_and_the_end_at_once(log: Log) -> None:
    log.write("start", 0.0, step=0)
    assert len(log.step(1, 1.0)) == 1
    assert log.step(2, 2.0) == []
    log.write("warning", 2.0, step=2, about="grad_norm", text="gradient norm 2.5 times as high")
    assert list(log.lines.new()) == ["warning: step 2: gradient norm 2.5 times as high"]
    assert log.step(3, 3.0, skipped=1) == ["1 step left out as spikes between 2 and 3, 1 so far"]
    assert len(log.step(4, 11.0, skipped=1)) == 1
    assert len(log.step(40, 12.0, skipped=1)) == 1


def test_a_run_that_goes_on_says_from_where_and_counts_its_time_anew(log: Log) -> None:
    log.write("start", 0.0, step=0)
    log.step(10, 100.0)
    log.write("start", 1e6, step=8)
    (begun,) = log.lines.new()
    assert begun == "goes on from step 8"
    (line,) = log.step(10, 1e6 + 20, skipped=0)
    assert line.endswith(" · 5.0 min left")


def test_an_unfinished_line_waits(log: Log) -> None:
    log.write("start", 0.0, step=0)
    whole = json.dumps({"type": "warning", "time": 0.0, "step": 1, "text": "é"}).encode() + b"\n"
    with log.record.layout.events.open("ab") as stream:
        stream.write(whole[:-9])
    assert list(log.lines.new()) == []
    with log.record.layout.events.open("ab") as stream:
        stream.write(whole[-9:])
    assert list(log.lines.new()) == ["warning: step 1: é"]


@pytest.mark.parametrize("runs", [1, 2])
def test_in_a_log_file_there_are_whole_plain_lines(
    make_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    """No carriage returns, no colours, no bar that is drawn again; what was there is not told."""
    study = make_study()
    study.propose()
    logs = [Log(record) for record in study.runs()[:runs]]
    for log in logs:
        log.write("start", 0.0, step=0)
        log.step(1, 10.0)
    file = io.StringIO()
    plain = Console(file=file, force_terminal=False, highlight=False, emoji=False, width=60)
    monkeypatch.setattr(terminal, "console", plain)
    monkeypatch.setattr(progress, "console", plain)
    monkeypatch.setattr(
        progress, "say", lambda text, **how: plain.print(text, soft_wrap=True, **how)
    )
    ids = [log.record.spec.run_id for log in logs]
    with console.TerminalDisplay().watching(study, ids, "stage") as poll:
        for log in logs:
            log.write("step", 100.0, step=2, tokens=2048, loss=5.0, grad_norm=1.0, lr=1e-3,
                      **WATCHED)  # fmt: skip
        poll()
        poll()
    text = file.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    lines = [line for line in text.splitlines() if "loss" in line]
    assert len(lines) == runs
    for run_id, line in zip(ids, lines, strict=True):
        assert line.startswith(f"{run_id} · step 2/40" if runs > 1 else "step 2/40")
        assert line.endswith("left")
