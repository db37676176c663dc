"""A study as it is watched: what a snapshot says, what is read again, how it is drawn."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regmix import claims
from regmix.claims import Entry
from regmix.console.screen import Screen, draw
from regmix.console.spark import spark
from regmix.errors import UserError
from regmix.files import write_text
from regmix.records import RunRecord
from regmix.runlog import RunLog
from regmix.study import Study
from regmix.watch import Snapshot, Watch


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    made = make_study()
    made.propose()
    return made


def log(record: RunRecord, *events: tuple[str, float, int, dict[str, Any]]) -> None:
    """Events: type, seconds ago, step, further fields."""
    now = time.time()
    with record.layout.events.open("a", encoding="utf-8") as stream:
        for kind, ago, step, more in events:
            tokens = step * record.spec.tokens_per_step
            event = {"type": kind, "time": now - ago, "step": step, "tokens": tokens, **more}
            stream.write(json.dumps(event) + "\n")


def step(ago: float, number: int, loss: float) -> tuple[str, float, int, dict[str, Any]]:
    return "step", ago, number, {"loss": loss}


def start(
    ago: float, number: int, worker: str, **more: Any
) -> tuple[str, float, int, dict[str, Any]]:
    members = more.pop("members", 1)
    environment = {"worker": worker, "host": "node1", "device": "NVIDIA H100", **more}
    return "start", ago, number, {"members": members, "environment": environment}


def put(record: RunRecord, entry: Entry) -> None:
    write_text(entry.path, claims.to_text(entry))


@contextmanager
def held(worker: str, *records: RunRecord) -> Iterator[None]:
    """Runs that this process has claimed under a worker's name."""
    entries = []
    for record in records:
        number = len(claims.log(record.layout.claims)) + 1
        path = record.layout.claims / f"{number}.json"
        entries.append(claims.made(path, worker, 120.0, 0))
        put(record, entries[-1])
    yield
    for entry, record in zip(entries, records, strict=True):
        put(record, claims.released(entry, "asked to end", failed=False))


def test_roles_workers_curves_and_troubles(study: Study, worker: Any) -> None:
    failed, alone, one, two, done, *waiting = study.runs()
    per_step = alone.spec.tokens_per_step
    worker.fail(failed, "loss is not finite at step 7")
    worker.finish(done)
    log(alone, start(100, 0, "w.0"), step(80, 10, 3.0), step(0, 50, 2.5))
    log(alone, ("metric", 0, 50, {"name": "bpb/web", "value": 1.25}))
    log(alone, ("warning", 0, 50, {"text": "gradient norm grows"}))
    for record in (one, two):
        log(record, start(50, 0, "w.1", members=2), step(0, 25, 4.0))
    with held("w.0", alone), held("w.1", one, two):
        found = Watch(study.layout).look()
    assert [(w.worker, len(w.runs)) for w in found.workers] == [("w.0", 1), ("w.1", 2)]
    first, second = found.workers
    assert first.tokens_per_second == pytest.approx(per_step * 40 / 80, rel=0.02)
    assert second.tokens_per_second == pytest.approx(2 * per_step * 25 / 50, rel=0.02)
    assert (first.host, first.device) == (claims.Process.this().host, "NVIDIA H100")
    assert first.silent_seconds is not None
    assert first.silent_seconds < 60, "its clock is 80 s behind, which is no silence"
    os.utime(alone.layout.events, (time.time() - 300,) * 2)
    with held("w.0", alone):
        later = Watch(study.layout).look().workers[0].silent_seconds
    assert later == pytest.approx(300, abs=30)
    curves = {t.state.run_id: t for t in found.training}
    assert curves[alone.spec.run_id].curve == ((10 * per_step, 3.0), (50 * per_step, 2.5))
    assert curves[alone.spec.run_id].metrics == {"bpb/web": 1.25}
    assert [(p.kind, p.run_id, p.text) for p in found.problems] == [
        ("failed", failed.spec.run_id, "loss is not finite at step 7"),
        ("warning", alone.spec.run_id, "step 50: gradient norm grows"),
    ]
    counted: dict[str, int] = {}
    for role in found.roles:
        for state, count in role.counts.items():
            counted[state] = counted.get(state, 0) + count
    assert counted == {
        "done": 1, "running": 3, "waiting": len(waiting), "stopped": 0, "failed": 1
    }  # fmt: skip
    assert {r.role for r in found.roles} == {r.spec.role for r in study.runs()}
    assert sum(r.tokens for r in found.roles) == found.status.done_tokens


def test_what_was_spent(study: Study, worker: Any) -> None:
    """Finished runs by their results; others by their logs, what was trained again included."""
    done, again, gang, *_ = study.runs()
    worker.finish(done)
    log(again, start(1000, 0, "w", members=4), step(900, 10, 3.0), step(800, 20, 3.0))
    log(again, start(500, 10, "w", members=1), step(450, 15, 3.0))
    log(gang, start(300, 0, "w", processes=8), step(200, 10, 3.0))
    found = Watch(study.layout, cost_per_hour=36.0).look()
    flops = done.spec.flops / done.spec.plan.steps
    assert found.spent.flops == pytest.approx(done.spec.flops + (25 + 10) * flops)
    workers = 1.5 + 200 / 4 + 50 + 100
    assert found.spent.device_hours == pytest.approx((workers + 7 * 100) / 3600, rel=1e-3)
    assert found.spent.cost == pytest.approx(workers * 36 / 3600, rel=1e-3)
    assert Watch(study.layout).look().spent.cost is None
    states = {r.run_id: r for r in found.status.runs}
    assert states[again.spec.run_id].tokens == 15 * again.spec.tokens_per_step
    assert found.status.done_tokens == done.spec.tokens + 25 * again.spec.tokens_per_step


def test_attempts_that_failed_are_told_with_their_reason(study: Study) -> None:
    killed, raised, quiet, *_ = study.runs()
    path = killed.layout.claims
    for number in (1, 2):
        put(killed, claims.made(path / f"{number}.json", f"w.{number}", 120.0, 0))
    for number in (1, 3):
        entry = claims.made(raised.layout.claims / f"{number}.json", "w.0", 120.0, 0)
        put(raised, entry)
        put(raised, claims.released(entry, f"out of memory {number}", failed=True))
    watched = Watch(study.layout)
    with held("w.3", quiet):
        pass
    found = watched.look()
    texts = {p.run_id: p.text for p in found.problems}
    assert {p.kind for p in found.problems} == {"attempt"}
    assert "worker w.1" in texts[killed.spec.run_id]
    assert "was killed, or fell silent" in texts[killed.spec.run_id]
    assert texts[raised.spec.run_id] == "out of memory 3 (2 attempts failed)"
    assert set(texts) == {killed.spec.run_id, raised.spec.run_id}
    put(raised, claims.made(raised.layout.claims / "5.json", "w.0", 120.0, 0))
    assert watched.look().problems == found.problems  # in training again; it failed all the same


def test_a_second_look_reads_what_was_added_and_nothing_else(study: Study, worker: Any) -> None:
    """Whatever was read is spoilt in between: reading it again would be an error."""
    done, running, *_ = study.runs()
    worker.finish(done)
    log(running, start(20, 0, "w"), step(10, 10, 3.0))
    watched = Watch(study.layout)
    with held("w", running):
        first = watched.look()
        done.layout.spec.write_text("spoilt: [", encoding="utf-8")
        done.layout.done.write_text("spoilt", encoding="utf-8")
        running.layout.spec.write_text("spoilt: [", encoding="utf-8")
        size = running.layout.events.stat().st_size
        with running.layout.events.open("r+b") as stream:
            stream.write(b"#" * (size - 1) + b"\n")
        log(running, step(0, 20, 2.0))
        second = watched.look()
        with pytest.raises(UserError):
            Watch(study.layout).look()
    assert first.training[0].curve == second.training[0].curve[:1]
    assert [loss for _, loss in second.training[0].curve] == [3.0, 2.0]
    assert second.spent.flops > first.spent.flops


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p): (p.stat().st_mtime_ns, p.stat().st_size)
        for p in sorted((folder, *folder.rglob("*")))
    }


def test_watching_changes_no_file_and_opens_no_store(study: Study, worker: Any) -> None:
    done, running, *_ = study.runs()
    worker.finish(done)
    log(running, start(20, 0, "w"), step(10, 10, 3.0))
    with held("w", running):
        before = tree(study.layout.root)
        watched = Watch(study.layout)
        watched.look()
        watched.look().as_dict()
        assert tree(study.layout.root) == before
    assert not study.layout.store.exists()


def test_a_line_being_written_is_left_for_the_next_look(study: Study) -> None:
    record, *_ = study.runs()
    log(record, start(20, 0, "w"), step(10, 10, 3.0))
    watched = Watch(study.layout)
    with held("w", record):
        whole = record.layout.events.read_bytes()
        log(record, step(5, 20, 2.5))
        new = record.layout.events.read_bytes()
        record.layout.events.write_bytes(new[: len(whole) + 12])
        assert len(watched.look().training[0].curve) == 1
        record.layout.events.write_bytes(new)
        assert len(watched.look().training[0].curve) == 2


def test_a_run_that_is_tried_again_after_it_failed(study: Study, worker: Any) -> None:
    record, *_ = study.runs()
    log(record, start(90, 0, "w"), step(80, 10, 3.0), step(70, 20, 9.0))
    worker.fail(record, "diverged")
    watched = Watch(study.layout)
    assert [p.text for p in watched.look().problems] == ["diverged"]
    record.layout.failed.unlink()
    log(record, start(30, 10, "w"), step(20, 15, 2.9))
    with held("w", record):
        found = watched.look()
    assert found.problems == ()
    assert [loss for _, loss in found.training[0].curve] == [3.0, 2.9]
    assert found.training[0].state.tokens == 15 * record.spec.tokens_per_step


def test_time_left_counts_flops_where_sizes_differ(study: Study) -> None:
    small, *rest = study.runs()
    larger = study.target_run("larger", study.references()["uniform"])
    study.add_run(larger)
    log(small, start(10, 0, "w"), step(0, 10, 3.0))
    with held("w", small):
        status = Watch(study.layout).look().status
    speed = small.spec.flops / small.spec.tokens * status.tokens_per_second
    left = larger.flops + sum(r.spec.flops for r in (small, *rest))
    left -= 10 * small.spec.flops / small.spec.plan.steps
    assert status.eta_seconds == pytest.approx(left / speed)
    by_tokens = (status.planned_tokens - status.done_tokens) / status.tokens_per_second
    assert status.eta_seconds > 1.03 * by_tokens


@pytest.fixture
def busy(study: Study, worker: Any) -> Snapshot:
    """Twelve runs in training by four workers, and a failure with a long reason."""
    failed, *running = study.runs()[:13]
    worker.fail(failed, "loss is not finite " * 20)
    for n, record in enumerate(running):
        log(record, start(50, 0, f"w.{n % 4}", members=3), step(40, 1, 8.0), step(0, 20, 4.0))
    with held("w.0", *running[::4]), held("w.1", *running[1::4]), held("w.2", *running[2::4]):  # noqa: SIM117
        with held("w.3", *running[3::4]):
            return Watch(study.layout).look()


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("height", [5, 10, 14, 20, 24, 40, 100])
def test_a_screen_is_never_left(busy: Snapshot, width: int, height: int) -> None:
    lines = draw(busy, "a study", Screen(width, height), "Ctrl-C ends this view")
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width
    text = "\n".join(line.plain for line in lines)
    assert "a study" in text
    assert "1/18 runs" in text or width < 40


def test_what_there_is_no_room_for_is_counted(busy: Snapshot) -> None:
    text = "\n".join(line.plain for line in draw(busy, "s", Screen(100, 24)))
    shown = sum(line.rstrip().endswith("–") and "%" in line for line in text.splitlines())
    assert f"… {12 - shown} more in training" in text
    whole = "\n".join(line.plain for line in draw(busy, "s", Screen(None)))
    assert "more in training" not in whole
    assert ("loss is not finite " * 20).strip() in whole
    for run in busy.training:
        assert run.state.name in whole


def test_a_terminal_that_knows_ascii_alone(busy: Snapshot) -> None:
    for line in draw(busy, "s", Screen(80, 30, ascii_only=True), "foot"):
        assert line.plain.isascii(), line.plain


def test_failures_of_one_kind_share_a_line(study: Study, worker: Any) -> None:
    first, second, third, *_ = study.runs()
    for record in (first, second):
        worker.fail(record, "too little memory")
    worker.fail(third, "loss is not finite")
    lines = [x.plain for x in draw(Watch(study.layout).look(), "s", Screen(None))]
    assert f"failed  2 runs ({first.spec.name}, …): too little memory" in lines
    assert f"failed  {third.spec.name}: loss is not finite" in lines


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(5, 8.0)], "█"),
        ([(5, 8.0), (55, 4.0), (100, 0.0)], "█████▅▅▅▅▁"),
        ([(5, 8.0), (6, 0.0), (25, 9.0)], "▅▅█"),  # a column's mean; what is outside, at the edge
        ([(25, 8.0)], "  █"),
        ([], ""),
    ],
)
def test_a_curve_is_as_long_as_the_run_is_far(
    points: Sequence[tuple[float, float]], expected: str
) -> None:
    assert spark(points, 100, 10, (0.0, 8.0)) == expected
    assert len(spark(points, 100, 10, (0.0, 8.0), ascii_only=True)) == len(expected)


def test_a_log_without_anything(tmp_path: Path) -> None:
    found = RunLog(tmp_path / "events.jsonl", 10)
    found.read()
    assert (found.tokens, found.trained, found.device_seconds, found.heard) == (0, 0, 0, None)
    assert found.rate(time.time()) is None


def test_json_has_every_run_and_is_plain(busy: Snapshot) -> None:
    values = json.loads(json.dumps(busy.as_dict(), allow_nan=False))
    assert values["counts"] == {
        "done": 0, "running": 12, "waiting": 5, "stopped": 0, "failed": 1
    }  # fmt: skip
    assert len(values["runs"]) == 18
    assert values["finished"] is False
    assert values["eta_seconds"] > 0
    closed = replace(busy, status=replace(busy.status, runs=busy.status.runs[:0]))
    assert closed.as_dict()["finished"] is False
