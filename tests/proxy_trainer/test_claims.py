"""Claims among real processes: one holder a run, whatever dies, freezes or has a wrong clock."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy_trainer.launch.claims import Claim, Claimant, Lost, Stall, ask_again
from proxy_trainer.launch.queue import Queue
from regmix import claims
from regmix.claims import Entry, Glance, Process, SharedClock
from regmix.errors import RegmixError
from regmix.files import write_new, write_text
from regmix.layout import RunLayout, StudyLayout

SECONDS = 120.0


@pytest.fixture
def study(tmp_path: Path) -> StudyLayout:
    """Four runs, of which only the folders matter."""
    layout = StudyLayout(tmp_path / "study")
    for name in ("r0", "r1", "r2", "r3"):
        layout.run(name).root.mkdir(parents=True)
    return layout


@contextmanager
def claimant(study: StudyLayout, name: str = "w", seconds: float = SECONDS) -> Iterator[Claimant]:
    with Claimant(study.runs, name, seconds).at_work() as made:
        yield made


def queue(study: StudyLayout, who: Claimant, workers: int = 1) -> Queue[RunLayout]:
    runs = [RunLayout(p) for p in sorted(study.runs.iterdir()) if p.is_dir()]
    return Queue(runs, who, step=lambda _: 0, key=lambda _: "", workers=workers)


def elsewhere(run: RunLayout) -> Entry:
    """A claim of a worker on another node."""
    process = Process("far", "boot", "pids", 1, "1")
    entry = Entry(run.claims / "1.json", "claimed", "far", process, SECONDS, 0, "", False, 0.0)
    write_text(entry.path, claims.to_text(entry))
    return entry


def test_a_run_has_one_holder_until_it_is_given_back(study: StudyLayout) -> None:
    run = study.run("r0")
    with claimant(study, "a") as a, claimant(study, "b") as b:
        mine = a.take(run)
        assert isinstance(mine, Claim)
        assert a.take(run) is None
        assert b.take(run) is None
        a.check()
        assert mine.release("asked to end")
        with pytest.raises(Lost, match="run r0: taken over"):
            mine.renew()
        a.drop([mine])
        theirs = b.take(run)
        assert theirs is not None
        assert not mine.release("again"), "released what is another's"
        theirs.check()
        assert theirs.failures() == []
    assert [e.kind for e in claims.log(run.claims)] == ["claimed", "released", "claimed"]
    assert [e.worker for e in claims.log(run.claims)] == ["a", "a", "b"]


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_worker_that_wakes_once_its_run_was_asked_for_again_has_lost_it(
    study: StudyLayout, taken_over: bool
) -> None:
    """It wakes with entry 1 in mind, and there is an entry 1: its own, and long followed."""
    run = study.run("r0")
    frozen = Claimant(study.runs, "frozen", SECONDS)
    mine = frozen.take(run)
    assert mine is not None
    if taken_over:
        os.utime(run.claims / "1.json", (0, 0))
        with claimant(study, "other") as other:
            theirs = other.take(run)
            assert theirs is not None
            theirs.release("ValueError: no", failed=True)
    ask_again(run.claims)
    ask_again(run.claims)
    last = claims.last(run.claims)
    assert last is not None
    assert not Glance(study.runs).holds(last)
    assert claims.failures(claims.log(run.claims)) == [], "attempts count anew"
    with claimant(study, "next") as after:
        now = after.take(run)
        assert now is not None
        assert now.failures() == []
        with pytest.raises(Lost):
            mine.renew()
        assert not mine.release("asked to end")
        now.check()
        assert [(e.kind, e.worker) for e in claims.log(run.claims)][-2:] == [
            ("again", ""), ("claimed", "next"),
        ]  # fmt: skip


def test_a_run_that_is_closed_is_not_claimed(study: StudyLayout) -> None:
    run = study.run("r0")
    run.done.write_text("{}")
    with claimant(study) as who:
        assert who.take(run) is None
        assert who.held == ()
    assert [e.kind for e in claims.log(run.claims)] == ["claimed", "released"]


def test_a_claim_expires_by_the_clock_of_the_files_alone(
    study: StudyLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a day off in either direction: neither a living worker's runs are taken, nor a dead
    one's left.
    """
    now = time.time()
    for off in (-43_200.0, 43_200.0):
        monkeypatch.setattr(time, "time", lambda off=off: now + off)
        for name, age, free in (("r0", SECONDS - 10, False), ("r1", SECONDS + 10, True)):
            run = study.run(name)
            entry = elsewhere(run)
            stamp = SharedClock(study.runs).read() - age
            os.utime(entry.path, (stamp, stamp))
            assert Glance(study.runs).holds(claims.log(run.claims)[0]) is not free
            with claimant(study) as who:
                assert (who.take(run) is not None) is free
            if free:
                failure = claims.failures(claims.log(run.claims))[0]
                assert failure.reason == (
                    "worker far (process 1 on far) was killed, or fell silent"
                )
                (run.claims / "2.json").unlink()


def test_looking_writes_nothing_while_claims_are_of_a_plausible_age(study: StudyLayout) -> None:
    entry = elsewhere(study.run("r0"))
    before = study.runs.stat().st_mtime_ns
    assert Glance(study.runs).holds(claims.log(entry.path.parent)[0])
    assert study.runs.stat().st_mtime_ns == before


def test_a_study_that_cannot_be_written_to_is_judged_by_this_machines_clock(
    study: StudyLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = elsewhere(study.run("r0"))
    os.utime(entry.path, (0, 0))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(claims.tempfile, "NamedTemporaryFile", refuse)
    assert not Glance(study.runs).holds(claims.log(entry.path.parent)[0])


def test_a_dead_process_of_this_machine_loses_its_run_at_once(study: StudyLayout) -> None:
    run = study.run("r0")
    code = (
        "import sys, os; from pathlib import Path\n"
        "from proxy_trainer.launch.claims import Claimant\n"
        "from regmix.layout import StudyLayout\n"
        "study = StudyLayout(Path(sys.argv[1]))\n"
        "assert Claimant(study.runs, 'dead', 120.0).take(study.run('r0'), step=7)\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(study.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    with claimant(study) as who:
        assert who.take(run) is None
        process.send_signal(signal.SIGKILL)
        while not claims.log(run.claims)[0].process.gone:  # a zombie already is
            time.sleep(0.01)
        mine = who.take(run, step=7)
        process.communicate()
        assert mine is not None
        (failure,) = mine.failures()
        assert failure.step == 7
        assert f"process {process.pid} on {socket.gethostname()}" in failure.reason
        mine.release("asked to end")
        who.drop([mine])
        later = who.take(run, step=8)
        assert later is not None
        assert later.failures() == [], "it had got further since"


def test_a_pid_that_is_used_again_is_not_the_worker(study: StudyLayout) -> None:
    me = Process.this()
    assert not me.gone
    assert Process(me.host, me.boot, me.space, me.pid, "1").gone
    assert not Process(me.host, me.boot, "another container", me.pid, "1").gone
    assert not Process(me.host, "another boot", me.space, me.pid, "1").gone


def test_an_entry_that_cannot_be_read_holds_for_a_while(study: StudyLayout) -> None:
    run = study.run("r0")
    run.claims.mkdir()
    (run.claims / "1.json").write_text('{"kind": "cla')
    with claimant(study) as who:
        assert who.take(run) is None
        os.utime(run.claims / "1.json", (0, 0))
        assert who.take(run) is not None


def test_a_claim_is_renewed_in_the_background(study: StudyLayout) -> None:
    run = study.run("r0")
    with claimant(study, seconds=0.5) as who, claimant(study, "other") as other:
        assert who.take(run)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert other.take(run) is None
            time.sleep(0.05)
        who.check()


def test_a_server_that_does_not_answer_ends_a_claim_in_time(
    study: StudyLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = Claimant(study.runs, "w", SECONDS)
    claim = who.take(study.run("r0"))
    assert claim is not None

    def fail(*_: object) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "utime", fail)
    began = claims.elapsed()
    claim.renew()
    monkeypatch.setattr("proxy_trainer.launch.claims.elapsed", lambda: began + SECONDS / 2)
    who.check()
    monkeypatch.setattr("proxy_trainer.launch.claims.elapsed", lambda: began + SECONDS + 1)
    with pytest.raises(Lost):
        who.check()


def test_a_full_disk_is_told_with_the_place(
    study: StudyLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("regmix.files.tempfile.mkstemp", full)
    with (
        claimant(study) as who,
        pytest.raises(RegmixError, match=r"claims/1\.json: no space left on the disk"),
    ):
        who.take(study.run("r0"))


def test_a_queue_goes_in_order_and_joins_what_goes_together(study: StudyLayout) -> None:
    kinds = {"r0": "x", "r1": "y", "r2": "x", "r3": "x"}
    with claimant(study) as who, claimant(study, "other") as other:
        assert other.take(study.run("r2"))
        made = Queue(
            map(study.run, sorted(kinds)), who,
            step=lambda run: 5 if run.run_id == "r3" else 0, key=lambda run: kinds[run.run_id],
        )  # fmt: skip
        assert [c.piece.run_id for c in made.claim(lambda _: 3)] == ["r0"], "r3 is at another step"
        assert [c.piece.run_id for c in made.claim(lambda _: 3)] == ["r1"]
        assert [c.piece.run_id for c in made.claim(lambda _: 3)] == ["r3"]
        assert made.claim(lambda _: 3) == []
        assert made.left_to_others(), "the other lives"


def test_a_queue_waits_for_what_a_silent_worker_holds(study: StudyLayout) -> None:
    entry = elsewhere(study.run("r0"))
    with claimant(study) as who:
        made = queue(study, who)
        for _ in range(3):
            assert len(made.claim(lambda _: 1)) == 1
        assert made.claim(lambda _: 1) == []
        assert not made.left_to_others()
        assert not made.left_to_others(), "not heard of since"
        os.utime(entry.path)
        assert made.left_to_others()


def test_a_queue_takes_at_the_end_what_another_gave_back(study: StudyLayout) -> None:
    with claimant(study) as who, claimant(study, "other") as other:
        theirs = other.take(study.run("r0"))
        assert theirs is not None
        made = queue(study, who)
        for _ in range(3):
            assert made.claim(lambda _: 1)
        assert made.claim(lambda _: 1) == []
        theirs.release("asked to end")
        assert not made.left_to_others()
        assert [c.piece.run_id for c in made.claim(lambda _: 1)] == ["r0"]
        assert made.left_to_others()


def test_a_queue_has_what_failed_last_and_alone_whoever_tried_it(study: StudyLayout) -> None:
    with claimant(study) as who, claimant(study, "other") as other:
        theirs = other.take(study.run("r0"))
        assert theirs is not None
        theirs.release("ValueError", failed=True)
        made = queue(study, who)
        first = made.claim(lambda _: 2)
        assert [c.piece.run_id for c in first] == ["r1", "r2"]
        for claim in first:
            claim.release("ValueError", failed=True)
            made.return_(claim.piece, failed=True)
        assert made.length == 4
        taken = [[c.piece.run_id for c in made.claim(lambda _: 9)] for _ in range(5)]
        assert taken == [["r3"], ["r0"], ["r1"], ["r2"], []]
        assert made.left_to_others()


def race(root: str, name: str, go: float) -> None:
    """Claim, finish and record runs as fast as can be."""
    study = StudyLayout(Path(root))
    with Claimant(study.runs, name, SECONDS).at_work() as who:
        mine = queue(study, who, workers=6)
        time.sleep(max(0.0, go - time.time()))
        while claimed := mine.claim(lambda _: 2):
            for claim in claimed:
                claim.check()
                with (claim.piece.root / "by").open("a") as stream:
                    stream.write(name + "\n")
                claim.piece.done.write_text("{}")
                claim.release("done")
            who.drop(claimed)


def test_many_processes_race_for_few_runs_and_each_run_is_trained_once(tmp_path: Path) -> None:
    study = StudyLayout(tmp_path)
    runs = [study.run(f"r{n:03d}") for n in range(60)]
    for run in runs:
        run.root.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    go = time.time() + 2
    workers = [context.Process(target=race, args=(str(tmp_path), f"w{n}", go)) for n in range(6)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(60)
        assert process.exitcode == 0
    by = [(run.root / "by").read_text().splitlines() for run in runs]
    assert {len(names) for names in by} == {1}, Counter(map(len, by))
    assert len({names[0] for names in by}) > 1, "no race: one worker did it all"
    for run in runs:
        assert [e.kind for e in claims.log(run.claims)][:2] == ["claimed", "released"]
    assert not list(study.runs.glob("*/.*")), "temporary files are left"


def test_where_there_are_no_hard_links_creation_is_exclusive_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert write_new(tmp_path / "a", "one")
    assert not write_new(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_copy_that_breaks_off_leaves_nothing_under_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    def torn(_: Path) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with monkeypatch.context() as full:
        full.setattr(Path, "read_bytes", torn)
        with pytest.raises(RegmixError, match="a: no space left"):
            write_new(tmp_path / "a", "one")
    assert list(tmp_path.iterdir()) == []
    assert write_new(tmp_path / "a", "two")
    with monkeypatch.context() as full:
        full.setattr(Path, "read_bytes", torn)
        assert not write_new(tmp_path / "a", "three"), "another's is not touched"
    assert (tmp_path / "a").read_text() == "two"


@pytest.mark.parametrize(
    ("answer", "gone"),
    [(None, False), (PermissionError(errno.EPERM, "not yours"), False),
     (ProcessLookupError(errno.ESRCH, "no such process"), True)],
)  # fmt: skip
def test_a_process_that_proc_hides_is_asked_for_by_a_signal(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None, gone: bool
) -> None:
    """With hidepid, /proc has no entry for another person's processes."""
    hidden = 4_200_000  # above what Linux gives

    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (hidden, 0)
        if answer is not None:
            raise answer

    me = Process.this()
    with pytest.raises(FileNotFoundError):
        Path(f"/proc/{hidden}/stat").read_text()
    monkeypatch.setattr(os, "kill", kill)
    assert Process(me.host, me.boot, me.space, hidden, "1").gone is gone


def test_a_link_that_was_made_although_its_reply_was_lost_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def twice(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert write_new(tmp_path / "a", "one")
    assert not write_new(tmp_path / "a", "two")


def test_a_log_is_plain_json(study: StudyLayout) -> None:
    with claimant(study, "w7") as who:
        assert who.take(study.run("r0"), step=3)
    raw = json.loads((study.run("r0").claims / "1.json").read_text())
    assert raw["worker"] == "w7"
    assert raw["process"]["pid"] == os.getpid()
    assert (raw["kind"], raw["step"], raw["seconds"]) == ("claimed", 3, SECONDS)


def test_a_heartbeat_stops_vouching_for_work_that_gets_nowhere(study: StudyLayout) -> None:
    run, other = study.run("r0"), study.run("r1")
    told: list[str] = []
    who = Claimant(study.runs, "w", 0.8, Stall(1.2, told.append))
    with who.at_work():
        time.sleep(2.0)
        mine = who.take(run)
        assert mine is not None, "nothing held is nothing that hangs"
        for _ in range(20):
            time.sleep(0.1)
            who.progress()
        assert not told
        who.check()
        another = who.take(other)
        assert another is not None
        deadline = time.monotonic() + 10
        while not told:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(Lost, match="run r0: given back as its step hung"):
            who.check()
        assert not mine.release("asked to end")
    (reason,) = told
    assert reason.startswith(f"no step done in 0.02 minutes by worker w (process {os.getpid()} on ")
    for each in (run, other):
        assert [f.reason for f in claims.failures(claims.log(each.claims))] == [reason]
    with claimant(study, "next") as after:
        assert after.take(run)


def test_time_in_which_a_process_was_stopped_is_no_stall(study: StudyLayout) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from proxy_trainer.launch.claims import Claimant, Stall;"
        "from regmix.layout import StudyLayout;"
        f"study = StudyLayout(Path({str(study.root)!r}));"
        "stall = Stall(3.0, lambda _: print('stalled', flush=True));"
        "who = Claimant(study.runs, 'w', 20.0, stall)\n"
        "with who.at_work():\n"
        "    assert who.take(study.run('r0')); print('claimed', flush=True)\n"
        "    time.sleep(2.0); print('awake', flush=True); sys.stdin.readline()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(5.0)
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == "awake\n"
    # But time that it runs through is.
    assert process.stdout.readline() == "stalled\n"
    process.communicate("\n", timeout=10)
    assert len(claims.failures(claims.log(study.run("r0").claims))) == 1
