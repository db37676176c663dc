"""`regmix train`, killed at any moment or started twice, does every run once and the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.study import Study

pytestmark = pytest.mark.slow
TOKENS = 128 * 600
START_SECONDS = 60
"""In which a command must have come to training."""

Regmix = Callable[..., subprocess.Popen[str]]
Holder = Callable[[RunLayout], int | None]


def results(study: Study) -> dict[str, dict[str, object]]:
    """What must not depend on how a study came to its end."""
    found = {}
    for record in study.runs():
        assert record.status == "done"
        result = json.loads(record.layout.done.read_text())
        found[record.spec.name] = {
            key: result[key] for key in ("run_id", "metrics", "steps", "tokens", "domains", "flops")
        }
    return found


def logged(study: Study) -> list[tuple[object, ...]]:
    """Every training step in the store, once."""
    frame = study.store.query("select run_id, step, loss, grad_norm from steps order by all")
    return [tuple(row) for row in frame.itertuples(index=False)]


def workers(study: Study, holder: Holder) -> set[int]:
    """The processes that train runs of the study now."""
    found = {holder(study.layout.run(r.spec.run_id)) for r in study.runs()}
    return {pid for pid in found if pid is not None}


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def killed_at() -> list[float]:
    """Seconds after training began, the same in every test run."""
    rng = random.Random(20)
    return [rng.uniform(0.1, 1.2) for _ in range(3)]


def test_killed_three_times_and_started_twice_it_is_the_same_study(
    copy_study: Callable[..., Study], regmix: Regmix, holder: Holder, killed_at: list[float]
) -> None:
    expected = trained_by_two_commands(copy_study("two", tokens=TOKENS), regmix)
    study = copy_study("killed", tokens=TOKENS)
    study.propose()
    for seconds in killed_at:
        command = regmix("train", study.layout.root)
        wait_until(lambda: workers(study, holder), START_SECONDS, "training began")
        time.sleep(seconds)
        pids = workers(study, holder)
        assert pids, "nothing was being trained when it was killed"
        command.send_signal(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
        wait_until(lambda: not workers(study, holder), 5, "the workers died with their command")
        wait_until(lambda pids=pids: not any(map(runs, pids)), 5, "the workers are gone")
    done_before = {r.spec.run_id: r.stamp for r in study.runs() if r.status == "done"}

    command = regmix("train", study.layout.root)
    wait_until(lambda: workers(study, holder), START_SECONDS, "training began")
    victim = min(workers(study, holder))
    os.kill(victim, signal.SIGKILL)
    output, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors
    assert " 0 failed" in output
    assert "by another command" not in output
    assert results(study) == results(expected)
    assert logged(study) == logged(expected)
    for run_id, stamp in done_before.items():
        record = next(r for r in study.runs() if r.spec.run_id == run_id)
        assert record.stamp == stamp, "a run that was done was trained again"
    resumed = [
        e["step"]
        for r in study.runs()
        for e in read_events(r.layout.events)
        if e["type"] == "start" and e["step"] > 0
    ]
    assert resumed, "no run went on from a checkpoint"
    assert not [p for r in study.runs() for p in r.layout.checkpoints.glob("*")]


def runs(pid: int) -> bool:
    """Whether a process still executes anything."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def trained_by_two_commands(study: Study, regmix: Regmix) -> Study:
    """A study trained to its end by two commands at once, looked at meanwhile."""
    ids = [s.run_id for s in study.propose().specs]
    commands = [regmix("train", study.layout.root) for _ in range(2)]
    events = [study.layout.run(i).events for i in ids]
    wait_until(lambda: any(e.exists() for e in events), START_SECONDS, "training began")
    looks = [
        regmix("status", study.layout.root),
        regmix("sql", study.layout.root, "select status, count(*) from runs group by 1", "--csv"),
    ]
    for look in looks:
        output, errors = look.communicate(timeout=60)
        assert look.returncode == 0, errors
        assert "done" in output if look is looks[0] else output.startswith("status,count_star()")
    for command in commands:
        output, errors = command.communicate(timeout=300)
        assert command.returncode == 0, errors
        assert " 0 failed" in output
    assert len(ids) == 9
    for path in events:
        starts = [e["step"] for e in read_events(path) if e["type"] == "start"]
        assert starts == [0], "trained twice, or by nobody"
    return study
