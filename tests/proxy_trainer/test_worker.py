"""A worker: what goes wrong with a run is tried again, what goes wrong with a study is told."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy_trainer import checkpoint, work
from proxy_trainer.exits import OK, REFUSED, REQUEUE, UNFIT, UNFIT_STARTS
from proxy_trainer.fitness import Unfit
from proxy_trainer.launch.claims import Claimant
from proxy_trainer.launch.submissions import Submission
from proxy_trainer.loop import Outcome
from proxy_trainer.worker import UNFIT_BEFORE, Task, Worker
from regmix import claims
from regmix.errors import RegmixError, StudyFault, UserError
from regmix.files import write_json
from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.status import status
from regmix.study import Study
from regmix.testing.launchers import until

LONG = 128 * 1500


def planned(study: Study, count: int) -> list[RunLayout]:
    return [study.layout.run(s.run_id) for s in study.propose().specs[:count]]


def made(study: Study, runs: Sequence[RunLayout], **settings: object) -> Worker:
    launch = study.config.launch.model_copy(update=settings)
    return Worker(Task(study.layout, tuple(r.run_id for r in runs), launch), "w")


@pytest.fixture
def train_array(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Makes arrays with some runs in them fail; gives the arrays that were tried."""
    real = work.train_array

    def install(broken: Sequence[RunLayout], error: Callable[[], BaseException]) -> list[list[str]]:
        tried: list[list[str]] = []

        def stand_in(study: object, runs: Sequence[RunLayout], **options: object) -> object:
            tried.append([run.run_id for run in runs])
            if set(runs) & set(broken):
                raise error()
            return real(study, runs, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(work, "train_array", stand_in)
        return tried

    return install


def test_a_run_that_fails_every_time_is_failed_and_the_others_go_on(
    study: Study, train_array: Callable[..., list[list[str]]]
) -> None:
    runs = planned(study, 3)
    count = iter(range(100))
    tried = train_array(runs[1:2], lambda: ValueError(f"no {next(count)}"))
    assert made(study, runs, members=1).run() == OK
    assert tried.count([runs[1].run_id]) == 4
    failed = json.loads(runs[1].failed.read_text())
    assert failed["attempts"] == [f"ValueError: no {n}" for n in range(4)]
    assert failed["reason"] == "ValueError: no 3 (4 attempts)"
    assert runs[0].done.exists()
    assert runs[2].done.exists()
    assert [f.reason for f in claims.failures(claims.log(runs[1].claims))] == failed["attempts"]
    found = status(study.layout)
    assert (found.count("failed"), found.count("done")) == (1, 2)


def test_a_run_that_works_the_second_time_keeps_why_it_did_not_the_first(
    study: Study, train_array: Callable[..., list[list[str]]]
) -> None:
    (run,) = planned(study, 1)
    broken = [run]

    def error() -> BaseException:
        broken.clear()
        return MemoryError("12 GB")

    train_array(broken, error)
    assert made(study, [run]).run() == OK
    assert run.done.exists()
    assert [f.reason for f in claims.failures(claims.log(run.claims))] == ["MemoryError: 12 GB"]


def test_no_run_of_an_array_fails_for_another(
    study: Study, train_array: Callable[..., list[list[str]]]
) -> None:
    runs = planned(study, 3)
    tried = train_array(runs[1:2], lambda: ValueError("no"))
    assert made(study, runs, members=3).run() == OK
    assert tried[0] == [r.run_id for r in runs]
    assert all(len(array) == 1 for array in tried[1:])
    assert [r.failed.exists() for r in runs] == [False, True, False]


def test_one_of_an_array_that_diverges_fails_and_the_others_do_not_notice(
    copy_study: Callable[..., Study],
) -> None:
    """Learning rates may differ inside an array; one is absurd."""
    together, alone = copy_study("together"), copy_study("alone")
    specs = together.propose().specs[:3]
    specs = [specs[0], replace(specs[1], plan=replace(specs[1].plan, lr=1e12)), specs[2]]
    for study in (together, alone):
        for spec in specs:
            study.add_run(spec)
    ours, theirs = ([study.layout.run(s.run_id) for s in specs] for study in (together, alone))
    assert made(together, ours, members=3).run() == OK
    for expected in theirs[::2]:
        assert made(alone, [expected], members=1).run() == OK
    assert [run.failed.exists() for run in ours] == [False, True, False]
    reason = json.loads(ours[1].failed.read_text())["reason"]
    assert re.search(r" at step \d+", reason), reason
    assert not ours[1].done.exists()
    assert claims.failures(claims.log(ours[1].claims)) == [], "it is not tried again"
    for run, expected in zip(ours[::2], theirs[::2], strict=True):
        (start,) = (e for e in read_events(run.events) if e["type"] == "start")
        assert start["members"] == 3
        one, other = (json.loads(r.done.read_text()) for r in (run, expected))
        assert one["metrics"] == other["metrics"]
        assert logged(run) == logged(expected)


def logged(run: RunLayout) -> list[tuple[object, ...]]:
    """What training and evaluation found, step by step."""
    keys = ("step", "loss", "grad_norm", "name", "value")
    kinds = ("step", "metric")
    return [tuple(e.get(k) for k in keys) for e in read_events(run.events) if e["type"] in kinds]


def test_an_array_is_trained_together_and_is_the_same(copy_study: Callable[..., Study]) -> None:
    one, three = copy_study("one"), copy_study("three")
    assert made(one, planned(one, 3), members=1).run() == OK
    assert made(three, planned(three, 3), members=3).run() == OK
    for mine, theirs in zip(planned(one, 3), planned(three, 3), strict=True):
        ours, other = (json.loads(r.done.read_text())["metrics"] for r in (mine, theirs))
        assert ours == other


def test_what_is_wrong_with_the_study_ends_the_worker_and_marks_nothing(
    study: Study, train_array: Callable[..., list[list[str]]]
) -> None:
    runs = planned(study, 2)
    train_array(runs, lambda: StudyFault("last.safetensors: no space left on the disk"))
    with pytest.raises(RegmixError, match=rf"run {runs[0].run_id} could not go on: last.*no space"):
        made(study, runs, members=1).run()
    assert not runs[0].failed.exists()
    assert not runs[1].claims.exists()
    assert claims.failures(claims.log(runs[0].claims)) == []
    assert status(study.layout).count("running") == 0


@pytest.mark.parametrize(
    "error",
    [RegmixError("too little memory for one model"), UserError("start: no such model"),
     FileNotFoundError("model.safetensors")],
)  # fmt: skip
def test_what_is_wrong_with_one_run_does_not_keep_the_others_from_being_trained(
    study: Study, train_array: Callable[..., list[list[str]]], error: Exception
) -> None:
    runs = planned(study, 2)
    train_array(runs[:1], lambda: error)
    assert made(study, runs, members=1, retries=1).run() == OK
    assert str(error) in json.loads(runs[0].failed.read_text())["reason"]
    assert runs[1].done.exists()


@pytest.mark.parametrize("members", [1, 2, "auto"])
def test_a_damaged_specification_is_its_runs_failure(study: Study, members: int | str) -> None:
    runs = planned(study, 3)
    runs[1].spec.write_text("kind: nonsense\n")
    assert made(study, runs, members=members, retries=0).run() == OK
    assert str(runs[1].spec) in json.loads(runs[1].failed.read_text())["reason"]
    assert [run.done.exists() for run in runs] == [True, False, True]


def test_a_disk_that_is_full_is_the_studys_whoever_says_so(
    study: Study, train_array: Callable[..., list[list[str]]]
) -> None:
    runs = planned(study, 1)
    train_array(runs, lambda: OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StudyFault, match="No space left"):
        made(study, runs).run()
    assert not runs[0].failed.exists()
    assert claims.failures(claims.log(runs[0].claims)) == []


def is_free_and_has_not_failed(run: RunLayout) -> bool:
    last = claims.last(run.claims)
    assert last is not None
    return last.kind == "released" and claims.failures(claims.log(run.claims)) == []


def test_a_run_of_other_numerics_is_refused_and_given_back(study: Study) -> None:
    spec = replace(study.propose().specs[0], numerics=99)
    study.add_run(spec)
    run = study.layout.run(spec.run_id)
    with pytest.raises(UserError, match=r"planned for version 99 of the numerics, this worker .*"):
        made(study, [run]).run()
    assert is_free_and_has_not_failed(run)


@pytest.mark.parametrize("error", [StudyFault("no space"), KeyboardInterrupt()])
def test_a_claim_is_given_back_wherever_the_worker_ends(
    study: Study, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """In the trial that follows the first claim, say; it is not taken for a killed worker's."""

    def trial(*_: object) -> int:
        raise error

    monkeypatch.setattr(work, "best_members", trial)
    runs = planned(study, 2)
    with pytest.raises(type(error)):
        made(study, runs, members="auto").run()
    (claimed,) = [run for run in runs if run.claims.exists()]
    assert is_free_and_has_not_failed(claimed)


def test_a_trial_that_fails_costs_company_and_not_the_runs(
    study: Study, monkeypatch: pytest.MonkeyPatch, train_array: Callable[..., list[list[str]]]
) -> None:
    def trial(*_: object) -> int:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(work, "best_members", trial)
    runs = planned(study, 2)
    tried = train_array([], RuntimeError)
    assert made(study, runs, members="auto").run() == OK
    assert [len(array) for array in tried] == [1, 1]


def test_told_to_end_a_worker_begins_no_further_part(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that failed before are claimed one by one; what is begun is given back, no failure."""
    runs = planned(study, 3)
    own = made(study, runs, members=3)
    begun: list[list[str]] = []
    real = work.train_array

    def failing_once(study: Any, part: Sequence[RunLayout], **options: Any) -> Outcome:
        begun.append([run.run_id for run in part])
        if len(begun) == 1:
            raise ValueError("once")
        own.end()
        return real(study, part, **options)

    monkeypatch.setattr(work, "train_array", failing_once)
    assert own.run() == REQUEUE
    assert [len(part) for part in begun] == [3, 1]
    for run in runs:
        last = claims.last(run.claims)
        assert last is not None
        told = "asked to end" if run.run_id in begun[1] else "ValueError: once"
        assert (last.kind, last.reason) == ("released", told)
        assert len(claims.failures(claims.log(run.claims))) == 1


def test_what_failed_together_is_free_for_others_but_one(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = planned(study, 4)
    alone: list[int] = []
    real = work.train_array

    def failing_together(study: Any, part: Sequence[RunLayout], **options: Any) -> Outcome:
        if len(part) > 1:
            raise ValueError("one of them")
        lasts = [claims.last(run.claims) for run in runs if not run.done.exists()]
        alone.append(sum(last is not None and last.kind == "claimed" for last in lasts))
        return real(study, part, **options)

    monkeypatch.setattr(work, "train_array", failing_together)
    assert made(study, runs, members=4).run() == OK
    assert alone == [1, 1, 1, 1]


def go_on(study: Study, runs: Sequence[RunLayout], processes: int, **settings: object) -> int:
    """Work by one process after the other, as a launcher has it; how many were unfit."""
    for unfit in range(processes):
        try:
            assert made(study, runs, **settings).run() == OK
        except Unfit:
            continue
        return unfit
    return processes


@pytest.mark.parametrize("members", [1, 3])
def test_a_process_that_fails_at_whatever_it_tries_ends_and_no_run_is_failed(
    study: Study, train_array: Callable[..., list[list[str]]], members: int
) -> None:
    """Another process has the device's memory, say."""
    runs = planned(study, 6)
    tried = train_array(runs, lambda: RegmixError("too little memory for one model"))
    told = r"^3 attempts in a row came to no step; the last: run \w+: too little memory"
    with pytest.raises(Unfit, match=told):
        made(study, runs, members=members).run()
    assert len(tried) == 3
    assert not any(run.failed.exists() for run in runs)
    assert status(study.layout).count("running") == 0
    if members == 1:
        with pytest.raises(Unfit):
            made(study, runs, members=1).run()
        assert len({run_id for (run_id,) in tried}) == 6, "none is tried again before all others"


@pytest.mark.parametrize("bad", [2, 4])
def test_runs_that_are_broken_are_failed_by_several_processes_and_all_others_are_done(
    study: Study, train_array: Callable[..., list[list[str]]], bad: int
) -> None:
    runs = planned(study, 6)
    train_array(runs[:bad], lambda: ValueError("no"))
    assert go_on(study, runs, processes=20, members="auto") <= 1 + UNFIT_STARTS
    assert [run.failed.exists() for run in runs] == [True] * bad + [False] * (6 - bad)
    assert all(run.done.exists() for run in runs[bad:])
    for run in runs[:bad]:
        assert json.loads(run.failed.read_text())["attempts"] == ["ValueError: no"] * 4


SPOILT = "CUDA error: an illegal memory access was encountered"


def test_a_device_that_fails_ends_the_process_at_once_and_counts_only_if_it_had_worked(
    study: Study, train_array: Callable[..., list[list[str]]]
) -> None:
    runs = planned(study, 3)
    tried = train_array(runs[1:], lambda: RuntimeError(SPOILT))
    with pytest.raises(Unfit, match=rf"^the device fails; the last: run {runs[1].run_id}: .*CUDA"):
        made(study, runs, members=1).run()
    assert runs[0].done.exists()
    assert len(claims.failures(claims.log(runs[1].claims))) == 1
    with pytest.raises(Unfit):
        made(study, runs, members=1).run()
    assert is_free_and_has_not_failed(runs[2]), "tried first, by a process that never worked"
    assert tried == [[run.run_id] for run in runs]


def test_whatever_ends_an_attempt_after_a_step_is_no_sign_of_a_broken_process(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = planned(study, 4)

    def failing_later(study: Any, part: Sequence[RunLayout], **options: Any) -> Outcome:
        options["keep_going"]()
        raise ValueError("later")

    monkeypatch.setattr(work, "train_array", failing_later)
    assert made(study, runs, members=1, retries=1).run() == OK
    assert all(run.failed.exists() for run in runs)


def submitted(study: Study, runs: Sequence[RunLayout], **changes: object) -> Submission:
    settings = study.config.launch
    made = Submission.new(study.layout, [r.run_id for r in runs], settings, 1)
    made = replace(made, **changes)  # type: ignore[arg-type]
    made.save(study.layout)
    return made


def start(study: Study, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "proxy_trainer.worker", str(study.layout.root), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def workers() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts worker processes; killed after the test if they still run."""
    started: list[subprocess.Popen[str]] = []

    def begin(study: Study, *arguments: str) -> subprocess.Popen[str]:
        started.append(start(study, *arguments))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


def test_a_submission_round_trips(study: Study) -> None:
    made = submitted(study, planned(study, 2), jobs=("1", "2"))
    assert Submission.load(study.layout, made.submission_id) == made
    path = study.layout.launches / f"{made.submission_id}.json"
    raw = json.loads(path.read_text())
    for text in ("{}", "[]", json.dumps({**raw, "further": 1})):
        path.write_text(text)
        with pytest.raises(UserError, match=r"not a submission .*delete it"):
            Submission.load(study.layout, made.submission_id)
    path.write_text(json.dumps({**raw, "further": 1, "regmix": "99.0"}))
    with pytest.raises(UserError, match=r"submitted with regmix 99\.0; here is regmix 0\.1"):
        Submission.load(study.layout, made.submission_id)


def test_a_worker_takes_the_latest_submission_that_it_can_read(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = planned(study, 2)
    submitted(study, runs[:1])
    path = study.layout.launches / "99990101-000000-abcdef.json"
    path.write_text("{}")
    assert Task.of(study.layout, None).runs == (runs[0].run_id,)
    assert f"{path}: not a submission" in capsys.readouterr().out


@pytest.mark.slow
def test_a_worker_of_another_version_refuses(
    study: Study, workers: Callable[..., subprocess.Popen[str]]
) -> None:
    submitted(study, planned(study, 1), regmix="99.0")
    process = workers(study)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == REFUSED
    assert "submitted with regmix 99.0; here is regmix 0.1.0" in errors
    assert "install the same version on every node" in errors
    assert not planned(study, 1)[0].claims.exists()


@pytest.mark.slow
def test_a_worker_without_work_says_so(
    study: Study, workers: Callable[..., subprocess.Popen[str]]
) -> None:
    process = workers(study)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == REFUSED
    assert "nothing was submitted" in errors


@pytest.fixture(scope="module")
def expected(built_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """What the first run of so many tokens comes to where nobody interrupts it."""
    root = tmp_path_factory.mktemp("expected") / "study"
    shutil.copytree(built_root, root)
    path = root / "study.yaml"
    path.write_text(re.sub(r"{tokens: \d+", f"{{tokens: {LONG}", path.read_text()))
    study = Study.open(root)
    (run,) = planned(study, 1)
    assert made(study, [run], checkpoint_seconds=1e9).run() == OK
    metrics: dict[str, float] = json.loads(run.done.read_text())["metrics"]
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_told_to_end_it_leaves_a_checkpoint_and_the_run_comes_to_the_same_bits(
    copy_study: Callable[..., Study],
    workers: Callable[..., subprocess.Popen[str]],
    number: signal.Signals,
    expected: dict[str, float],
) -> None:
    study = copy_study("study", tokens=LONG)
    path = study.layout.config
    path.write_text(path.read_text().replace("checkpoint_seconds: 0.05", ""))
    (run,) = planned(study, 1)
    study = Study.open(study.layout.root)
    submission = submitted(study, [run])
    process = workers(study, "--submission", submission.submission_id, "--name", "first")
    until(lambda: any(e["type"] == "step" for e in read_events(run.events)))
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == REQUEUE, errors
    assert "told to end" in output
    assert 0 < checkpoint.saved_step(run.checkpoints) < 1500
    assert claims.failures(claims.log(run.claims)) == []
    assert status(study.layout).count("stopped") == 1
    assert made(study, [run]).run() == OK
    assert json.loads(run.done.read_text())["metrics"] == expected
    starts = [e["step"] for e in read_events(run.events) if e["type"] == "start"]
    assert len(starts) == 2
    assert starts[1] > 0


def files(run: RunLayout) -> dict[Path, tuple[int, bytes]]:
    """All of a run's files as they stand."""
    found = (path for path in run.root.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.slow
def test_a_frozen_worker_loses_its_run_and_writes_nothing_when_it_wakes(
    copy_study: Callable[..., Study], workers: Callable[..., subprocess.Popen[str]]
) -> None:
    study = copy_study(tokens=LONG)
    path = study.layout.config
    path.write_text(path.read_text().replace("{workers: 2,", "{workers: 2, claim_seconds: 1.0,"))
    study = Study.open(study.layout.root)
    (run,) = planned(study, 1)
    submission = submitted(study, [run])
    process = workers(study, "--submission", submission.submission_id, "--name", "frozen")
    until(lambda: checkpoint.saved_step(run.checkpoints) > 0)
    process.send_signal(signal.SIGSTOP)
    with Claimant(study.layout.runs, "other", 120.0).at_work() as other:
        assert other.take(run) is None, "taken from a worker that was heard of just now"
    until(lambda: not status(study.layout).count("running"), 5)
    assert made(study, [run], claim_seconds=1.0).run() == OK
    before, told = files(run), list(read_events(run.events))
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == OK, errors
    assert "taken over by another worker" in output
    after = files(run)
    changed = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    # It asked by renewing its dead claim; a line it was about to write only repeats what is there.
    assert changed <= {run.claims / "1.json", run.events}
    lines = [{k: v for k, v in e.items() if k != "time"} for e in read_events(run.events)]
    assert all(line in lines[: len(told)] for line in lines[len(told) :])
    assert json.loads(run.done.read_text())["environment"]["worker"] != "frozen"
    frame = study.store.query("select step, count(*) as n from steps group by step")
    assert set(frame["n"]) == {1}


HANGS = """
import threading
from proxy_trainer.members import Members

real = Members.step

def step(self, number, *rest):
    if number == 300:
        try:
            open({flag!r}, "x").close()
        except FileExistsError:
            pass  # one has hung already
        else:
            threading.Event().wait()
    return real(self, number, *rest)

Members.step = step
"""
"""What every process does at its start: of all of them, one hangs at step 300 and never goes on."""


@pytest.fixture
def one_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has one step of one of the processes started from now on never end; there once it hangs."""
    flag, folder = tmp_path / "hangs", tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HANGS.format(flag=str(flag)))
    path = os.pathsep.join(p for p in (str(folder), os.environ.get("PYTHONPATH")) if p)
    monkeypatch.setenv("PYTHONPATH", path)
    return flag


def stalling(copy_study: Callable[..., Study], name: str, tokens: int = LONG) -> Study:
    """A study whose workers are given up after three seconds without a step."""
    study = copy_study(name, tokens=tokens)
    path = study.layout.config
    changed = "{workers: 1, claim_seconds: 1.0, stall_minutes: 0.05,"
    path.write_text(path.read_text().replace("{workers: 2,", changed))
    return Study.open(study.layout.root)


@pytest.mark.slow
def test_a_run_whose_step_never_ends_is_tried_again_and_the_reason_kept(
    copy_study: Callable[..., Study],
    workers: Callable[..., subprocess.Popen[str]],
    one_hangs: Path,
    expected: dict[str, float],
) -> None:
    study = stalling(copy_study, "study")
    (run,) = planned(study, 1)
    submission = submitted(study, [run])
    process = workers(study, "--submission", submission.submission_id, "--name", "hung")
    until(one_hangs.exists)
    with Claimant(study.layout.runs, "other", 120.0).at_work() as other:
        time.sleep(1.5)  # longer than a claim lives without a heartbeat
        assert other.take(run) is None, "taken although its holder's heart beats"
    output, errors = process.communicate(timeout=60)
    assert process.returncode == REQUEUE, errors
    assert "no step done in 0.05 minutes" in output
    (failure,) = claims.failures(claims.log(run.claims))
    assert f"by worker hung (process {process.pid} on " in failure.reason
    assert made(study, [run]).run() == OK
    assert json.loads(run.done.read_text())["metrics"] == expected
    starts = [e["step"] for e in read_events(run.events) if e["type"] == "start"]
    assert len(starts) == 2
    assert 0 < starts[1] <= 300


@pytest.mark.slow
@pytest.mark.usefixtures("one_hangs")
def test_a_local_worker_that_hangs_is_replaced_by_the_command(
    copy_study: Callable[..., Study], regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    study = stalling(copy_study, "study", tokens=128 * 350)
    study.propose(runs=1)
    command = regmix("train", study.layout.root)
    _, errors = command.communicate(timeout=240)
    assert command.returncode == 0, errors
    assert {r.status for r in study.runs()} == {"done"}
    reasons = [f.reason for r in study.runs() for f in claims.failures(claims.log(r.layout.claims))]
    assert reasons
    assert all(r.startswith("no step done in 0.05 minutes") for r in reasons)
    assert len(set(reasons)) == 1, "one hung; its whole array is tried again"


SPOILS = """
from proxy_trainer.members import Members

real, spoilt = Members.step, []

def step(self, number, *rest):
    try:
        open({flag!r}, "x").close()
        spoilt.append(True)
    except FileExistsError:
        pass
    if spoilt or {always}:
        raise RuntimeError({error!r})
    return real(self, number, *rest)

Members.step = step
"""
"""What every process does at its start: all steps of the first one fail, or of every one."""


@pytest.fixture
def spoil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Has the device fail in processes that are started from now on, once or always."""

    def install(always: bool) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        text = SPOILS.format(always=always, flag=str(tmp_path / "spoilt"), error=SPOILT)
        (folder / "sitecustomize.py").write_text(text)
        path = os.pathsep.join(p for p in (str(folder), os.environ.get("PYTHONPATH")) if p)
        monkeypatch.setenv("PYTHONPATH", path)

    return install


@pytest.mark.slow
def test_a_process_whose_device_failed_makes_way_for_another_which_goes_on(
    study: Study, workers: Callable[..., subprocess.Popen[str]], spoil: Callable[[bool], None]
) -> None:
    spoil(False)
    runs = planned(study, 2)
    submission = submitted(study, runs)
    process = workers(study, "--submission", submission.submission_id, "--name", "w")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == OK, errors
    assert "error: the device fails; the last: run" in errors
    assert output.count(f"worker w (process {process.pid} on ") == 2
    assert all(run.done.exists() for run in runs)
    assert all(claims.failures(claims.log(run.claims)) == [] for run in runs)


@pytest.mark.slow
def test_a_place_in_which_every_process_is_unfit_is_given_up(
    study: Study,
    workers: Callable[..., subprocess.Popen[str]],
    spoil: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(True)
    monkeypatch.setenv(UNFIT_BEFORE, str(UNFIT_STARTS - 1))
    runs = planned(study, 2)
    submission = submitted(study, runs)
    process = workers(study, "--submission", submission.submission_id, "--name", "w")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == UNFIT, errors
    assert output.count("worker w (process ") == 2
    assert all(run.failed.exists() is False for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("always", [False, True])
def test_a_local_worker_whose_device_fails_is_replaced_as_long_as_that_may_help(
    copy_study: Callable[..., Study],
    regmix: Callable[..., subprocess.Popen[str]],
    spoil: Callable[[bool], None],
    always: bool,
) -> None:
    study = copy_study("study")
    path = study.layout.config
    path.write_text(path.read_text().replace("{workers: 2,", "{workers: 1,"))
    study = Study.open(study.layout.root)
    study.propose(runs=1)
    spoil(always)
    command = regmix("train", study.layout.root)
    _, errors = command.communicate(timeout=240)
    assert (command.returncode == 0) is not always, errors
    (log,) = study.layout.launches.glob("*/worker-0.log")
    assert log.read_text().count(" begins") == (1 + UNFIT_STARTS if always else 2)
    assert {r.status for r in study.runs()} == ({"started", "waiting"} if always else {"done"})
    if always:
        assert "worker 0: the device fails; the last: run" in errors
    for run in study.runs():
        assert claims.failures(claims.log(run.layout.claims)) == []


@pytest.mark.slow
def test_killed_again_and_again_before_it_gets_anywhere_a_run_fails(
    copy_study: Callable[..., Study], workers: Callable[..., subprocess.Popen[str]]
) -> None:
    study = copy_study(tokens=LONG)
    text = study.layout.config.read_text()
    study.layout.config.write_text(text.replace("checkpoint_seconds: 0.05", "retries: 1"))
    study = Study.open(study.layout.root)
    (run,) = planned(study, 1)
    submission = submitted(study, [run])
    for attempt in (1, 2):
        process = workers(study, "--submission", submission.submission_id)
        until(lambda n=attempt: len(claims.log(run.claims)) == n)
        process.kill()
        process.communicate()
    assert made(study, [run]).run() == OK
    failed = json.loads(run.failed.read_text())
    assert len(failed["attempts"]) == 2
    assert failed["reason"].endswith("was killed, or fell silent (2 attempts)")


def test_the_worker_that_trained_a_run_is_recorded(study: Study) -> None:
    (run,) = planned(study, 1)
    os.environ["REGMIX_WORKER"] = "w"
    try:
        assert made(study, [run]).run() == OK
    finally:
        del os.environ["REGMIX_WORKER"]
    frame = study.store.query("select value from environments where key = 'worker'")
    assert frame["value"].tolist() == ["w"]


def test_a_log_of_claims_that_was_written_by_hand_does_not_stop_status(study: Study) -> None:
    run: Path = planned(study, 1)[0].claims
    write_json(run / "1.json", {"kind": "claimed"})
    assert status(study.layout).count("running") == 1
