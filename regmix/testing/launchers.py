"""What every launcher must do, tried with real workers on small real studies.

The workers are the trainer's own, started by :func:`proxy_trainer.launch.base.command` or as the
launcher sees fit; what they leave in the study tells whether it did its part. Nothing is faked, so
a check takes as long as the system takes to start and to end a job.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from regmix import claims, planning
from regmix.config import LaunchConfig
from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.study import Study

if TYPE_CHECKING:
    from proxy_trainer.launch.base import Job, Launcher, Order
    from proxy_trainer.launch.running import Launch

QUICK, MIDDLING, LONG = 30, 3_000, 12_000
"""Steps of a run: of one that is soon done, of one that can be interrupted and then finished, and
of one that is still at it however slowly jobs are told to end. Steps take a millisecond or more."""
PATIENCE_SECONDS = 120.0
"""With each thing that is waited for."""
PAUSE_SECONDS = 0.1
AGAIN_SECONDS = 3.0
"""In which a system that starts ended workers again, does."""
STUDY = """\
name: {name}
domains:
  - {{name: letters, train: text/letters.jsonl, valid_share: 0.2}}
  - {{name: digits, train: text/digits.jsonl, valid_share: 0.2}}
data: {{tokenizer: {{vocab_size: 300}}}}
proxy:
  model: {{size: 50k, d_model: 16, layers: 1, heads: 2, context: 32}}
  train: {{tokens: {tokens}, batch_tokens: 128, lr: 0.005, eval_bytes: 1000}}
"""


@dataclass(frozen=True)
class Bench:
    """A launcher on trial."""

    launcher: Callable[[], Launcher]
    """Makes one, as every command does; its jobs must be known to all that are made."""
    folder: Path
    """Where studies are made; absolute, and every node sees it under this path."""
    library: str = ""
    """What it imports and cannot do without, beyond what the trainer needs."""
    outlives: bool = True
    """Whether jobs go on without the process that submitted them; otherwise that process has to
    look after them with the launcher that it submitted them with."""
    seconds: float = PATIENCE_SECONDS
    """Patience with each thing that is waited for."""


def check_launcher(bench: Bench) -> None:
    """Every check, one after the other."""
    for check in LAUNCHER_CHECKS:
        check(bench)


def until(ready: Callable[[], object], seconds: float = PATIENCE_SECONDS, what: str = "it") -> None:
    """Wait until something is so.

    Raises:
        AssertionError: it was not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds:g} seconds for {what}"
        time.sleep(PAUSE_SECONDS)


def finished(
    launcher: Launcher, study: Path, job_ids: list[str], seconds: float = PATIENCE_SECONDS
) -> list[Job]:
    """The jobs once none of them waits or runs any more."""
    jobs: list[Job] = []

    def over() -> bool:
        jobs[:] = launcher.poll(study, job_ids)
        return all(job.state in ("ended", "failed") for job in jobs)

    until(over, seconds, f"the end of jobs {', '.join(job_ids)}")
    return jobs


@dataclass(frozen=True)
class _Trial:
    """Workers that were submitted for the runs of a study."""

    bench: Bench
    study: Study
    launch: Launch

    @property
    def root(self) -> Path:
        return self.study.layout.root

    @property
    def ids(self) -> list[str]:
        return list(self.launch.submission.jobs)

    @property
    def runs(self) -> list[RunLayout]:
        return [self.study.layout.run(run_id) for run_id in self.launch.submission.runs]

    @property
    def other(self) -> Launcher:
        """The launcher as another command has it, where jobs do not depend on the first one."""
        return self.bench.launcher() if self.bench.outlives else self.launch.launcher

    def until(self, ready: Callable[[], object], what: str) -> None:
        """Wait, looking after the jobs; a job that fails meanwhile is told at once."""

        def looked() -> object:
            failed = [job for job in self.launch.poll() if job.state == "failed"]
            assert not failed, f"waiting for {what}: {failed}; logs: {self.logs()}"
            return ready()

        until(looked, self.bench.seconds, what)

    def finished(self) -> list[Job]:
        return finished(self.launch.launcher, self.root, self.ids, self.bench.seconds)

    def logs(self) -> str:
        found = self.other.logs(self.root, self.ids)
        return "\n".join(p.read_text(errors="replace") for p in found if p.is_file())

    def ends_well(self) -> None:
        """All jobs end, and what they were for is done."""
        jobs = self.finished()
        bad = [job for job in jobs if job.state != "ended"]
        assert not bad, f"not ended: {bad}; logs: {self.logs()}"
        left = [run.run_id for run in self.runs if not run.done.exists()]
        assert not left, f"the jobs ended with runs open: {left}; logs: {self.logs()}"


@contextmanager
def _submitted(
    bench: Bench, study: Study, workers: int = 1, regmix: str | None = None
) -> Iterator[_Trial]:
    """Workers for all runs of a study; whatever is left of them afterwards is ended.

    Args:
        regmix: version that is said to have submitted; default: this one.
    """
    from proxy_trainer.launch import running
    from proxy_trainer.launch.submissions import Submission

    launcher = bench.launcher()
    settings = LaunchConfig(
        launcher=launcher.name, workers=workers, members=1, checkpoint_seconds=0.2
    )
    run_ids = [record.spec.run_id for record in study.runs()]
    submission = Submission.new(study.layout, run_ids, settings, workers)
    if regmix is not None:
        submission = replace(submission, regmix=regmix)
    launcher.check(submission.order)
    launch = running.start(running.Launch(study.layout, submission, launcher))
    trial = _Trial(bench, study, launch)
    try:
        yield trial
    finally:
        close = getattr(launcher, "close", lambda: None)
        try:
            launcher.cancel(trial.root, trial.ids)
            trial.finished()
        finally:
            close()


def _study(bench: Bench, name: str, steps: int, runs: int = 1) -> Study:
    """A study of its own with some runs planned; the text is tokenised once for all of them."""
    template = bench.folder / "template"
    if not (template / "tokens" / "manifest.json").exists():
        _build(template)
    root = bench.folder / name
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    (root / "study.yaml").write_text(STUDY.format(name=name, tokens=128 * steps))
    study = Study.open(root)
    shared = planning.template(study, study.config.proxy)
    for number in range(runs):
        study.add_run(replace(shared, name=f"run-{number}", seed=number))
    return study


def _build(root: Path) -> None:
    from proxy_trainer.data.build import build

    (root / "text").mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for domain, characters in (("letters", "abcdefgh "), ("digits", "0123456789 ")):
        documents = ("".join(rng.choices(characters, k=60)) for _ in range(400))
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        (root / "text" / f"{domain}.jsonl").write_text(lines)
    (root / "study.yaml").write_text(STUDY.format(name="template", tokens=128 * QUICK))
    study = Study.open(root)
    build(study.layout, study.config)


def _checkpoints(run: RunLayout) -> list[Path]:
    return list(run.checkpoints.glob("step-*.safetensors"))


def _starts(run: RunLayout) -> list[int]:
    """Steps at which workers began or went on."""
    return [event["step"] for event in read_events(run.events) if event["type"] == "start"]


def the_work_is_done_and_the_jobs_end(bench: Bench) -> None:
    """Two workers share three runs; every job is told of, in the order that was asked for."""
    study = _study(bench, "work", QUICK, runs=3)
    with _submitted(bench, study, workers=2) as trial:
        ids = trial.ids
        assert ids, "submit gave no job"
        assert all(isinstance(i, str) and i for i in ids), f"job ids are no names: {ids}"
        assert len(set(ids)) == len(ids), f"job ids twice: {ids}"
        trial.ends_well()
        for order in (ids, ids[::-1], ids[:1], []):
            found = [job.job_id for job in trial.launch.launcher.poll(trial.root, order)]
            assert found == order, f"asked for {order}, poll told of {found}"
        assert [len(_starts(run)) for run in trial.runs] == [1, 1, 1], "a run was begun twice"
        if bench.outlives:
            states = [job.state for job in trial.other.poll(trial.root, ids)]
            assert set(states) == {"ended"}, f"another command finds them {states}"


def logs_hold_what_the_workers_wrote(bench: Bench) -> None:
    """Files that are there while workers run and afterwards, by the ids of the jobs alone."""
    study = _study(bench, "logs", LONG)
    with _submitted(bench, study) as trial:
        (run,) = trial.runs
        said = f"run {run.run_id}: claimed"
        trial.until(lambda: said in trial.logs(), f"'{said}' in the logs")
        assert trial.other.logs(trial.root, []) == [], "logs of no job"
        trial.other.cancel(trial.root, trial.ids)
        trial.finished()
        assert "told to end" in trial.logs(), f"the last words are missing: {trial.logs()}"


def cancelled_workers_leave_checkpoints_and_it_can_be_said_twice(bench: Bench) -> None:
    """Another command ends them; nothing failed, and what has ended is left alone."""
    study = _study(bench, "cancel", LONG)
    with _submitted(bench, study) as trial:
        (run,) = trial.runs
        trial.until(lambda: _checkpoints(run), "a checkpoint")
        states = [job.state for job in trial.other.poll(trial.root, trial.ids)]
        assert states == ["running"], f"a job whose worker trains is {states}"
        trial.other.cancel(trial.root, [])
        trial.other.cancel(trial.root, trial.ids)
        trial.other.cancel(trial.root, trial.ids)
        jobs = trial.finished()
        assert [job.state for job in jobs] == ["ended"], f"cancelled, and {jobs}; {trial.logs()}"
        entry = claims.last(run.claims)
        assert entry is not None
        assert (entry.kind, entry.reason) == ("released", "asked to end"), (
            f"the worker was not asked but killed: the run is {entry.kind} ({entry.reason})"
        )
        assert not run.done.exists(), f"a run of {LONG} steps was done before it was cancelled"
        assert not run.failed.exists(), run.failed.read_text()
        assert _checkpoints(run), "no checkpoint is left"
        trial.other.cancel(trial.root, trial.ids)
        assert [job.state for job in trial.finished()] == ["ended"], "cancelled after its end"
        time.sleep(AGAIN_SECONDS)
        assert len(_starts(run)) == 1, "a cancelled worker was started again"


def cancelling_one_study_leaves_another_alone(bench: Bench) -> None:
    """Jobs are told apart, of whatever folder."""
    first, second = (_study(bench, f"apart-{n}", LONG) for n in (1, 2))
    with _submitted(bench, first) as one, _submitted(bench, second) as other:
        one.until(lambda: _checkpoints(one.runs[0]), "a checkpoint")
        other.until(lambda: _checkpoints(other.runs[0]), "a checkpoint")
        one.other.cancel(one.root, one.ids)
        assert [job.state for job in one.finished()] == ["ended"]
        states = [job.state for job in other.launch.poll()]
        assert states == ["running"], f"the other study's job is {states}"
        assert claims.failures(claims.log(other.runs[0].claims)) == []


def the_run_of_a_killed_worker_is_not_lost(bench: Bench) -> None:
    """Another worker takes its place, or the job fails with a reason; then it goes on."""
    study = _study(bench, "killed", MIDDLING)
    with _submitted(bench, study) as trial:
        (run,) = trial.runs
        trial.until(lambda: _checkpoints(run), "a checkpoint")
        entry = claims.last(run.claims)
        assert entry is not None
        assert entry.process.here, f"the worker runs on {entry.process.host}, not on this machine"
        os.kill(entry.process.pid, signal.SIGKILL)
        jobs = trial.finished()
        if not run.done.exists():
            assert all(job.state == "failed" and job.reason for job in jobs), (
                f"a worker was killed, its run is open, and that is said: {jobs}"
            )
    assert not run.failed.exists(), run.failed.read_text()
    if not run.done.exists():
        with _submitted(bench, study) as again:
            again.ends_well()
    starts = _starts(run)
    assert len(starts) > 1, "the worker was not killed in time"
    assert starts[1] > 0, "started over although there was a checkpoint"
    reasons = [failure.reason for failure in claims.failures(claims.log(run.claims))]
    assert len(reasons) == 1, f"one worker was killed; attempts that failed: {reasons}"


def workers_that_cannot_work_fail_with_a_reason(bench: Bench) -> None:
    """As where a node has another version installed, which a worker refuses."""
    study = _study(bench, "refused", QUICK)
    with _submitted(bench, study, regmix="0.0.0.other") as trial:
        jobs = trial.finished()
        assert [job.state for job in jobs] == ["failed"], f"its worker refused, and it is {jobs}"
        assert jobs[0].reason, "failed without a reason"
        assert "install the same version" in trial.logs() + jobs[0].reason, (
            f"nothing says why: {jobs[0].reason}; {trial.logs()}"
        )
        assert not trial.runs[0].claims.exists(), "it worked all the same"
        trial.other.cancel(trial.root, trial.ids)
        assert [job.state for job in trial.finished()] == ["failed"], "cancelled after its end"


def a_check_starts_nothing_and_names_a_missing_library(bench: Bench) -> None:
    """The person reads what to install before anything is submitted."""
    from proxy_trainer.launch.base import Order

    study = _study(bench, "checked", QUICK)
    before = sorted(study.layout.root.rglob("*"))
    order = Order(study.layout.root, 1, submission="none")
    bench.launcher().check(order)
    if bench.library:
        with _not_installed(bench.library):
            said = _refusal(bench.launcher(), order)
        assert said, f"not refused although {bench.library} is not installed"
        assert bench.library in said, f"does not name {bench.library}: {said}"
        assert "install" in said, f"does not say what to do: {said}"
    after = sorted(study.layout.root.rglob("*"))
    assert after == before, f"check left {sorted(set(after) - set(before))}"


def _refusal(launcher: Launcher, order: Order) -> str:
    """What is said by a check that refuses; empty if it does not."""
    try:
        launcher.check(order)
    except UserError as exc:
        return str(exc)
    return ""


@contextmanager
def _not_installed(library: str) -> Iterator[None]:
    """Have imports of a library fail in this process, as where it is not there."""
    own = {n: m for n, m in sys.modules.items() if n == library or n.startswith(library + ".")}
    for name in own:
        del sys.modules[name]
    sys.modules[library] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[library]
        sys.modules.update(own)


LAUNCHER_CHECKS: tuple[Callable[[Bench], None], ...] = (
    a_check_starts_nothing_and_names_a_missing_library,
    the_work_is_done_and_the_jobs_end,
    logs_hold_what_the_workers_wrote,
    cancelled_workers_leave_checkpoints_and_it_can_be_said_twice,
    cancelling_one_study_leaves_another_alone,
    the_run_of_a_killed_worker_is_not_lost,
    workers_that_cannot_work_fail_with_a_reason,
)
"""What a launcher must pass, by what is promised."""
