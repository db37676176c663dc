"""Launching as a person meets it: settings checked first, workers that other shells can reach."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from proxy_trainer.launch import base, local, registry, running
from proxy_trainer.launch.base import Job, Order
from proxy_trainer.launch.submissions import Submission, submissions
from regmix import claims
from regmix.cli import main
from regmix.config import LaunchConfig
from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.quantities import flops
from regmix.study import Study
from regmix.testing.launchers import until

Regmix = Callable[..., subprocess.Popen[str]]
LONG = 128 * 3000


class Remote:
    """Stands in for a cluster: keeps what it is asked."""

    name: ClassVar[str] = "remote"
    asked: ClassVar[list[tuple[str, Any]]] = []
    state: ClassVar[str] = "running"

    def check(self, order: Order) -> None:
        self.asked.append(("check", order))
        if order.gpus > 8:
            raise UserError("launch.gpus_per_worker: no node has so many")

    def submit(self, order: Order) -> list[str]:
        assert submissions_of(order), "a worker would find nothing to do"
        self.asked.append(("submit", order))
        return ["17", "18"]

    def poll(self, study: Path, job_ids: list[str]) -> list[Job]:
        return [Job(i, self.state) for i in job_ids]  # type: ignore[arg-type]

    def cancel(self, study: Path, job_ids: list[str]) -> None:
        self.asked.append(("cancel", job_ids))

    def logs(self, study: Path, job_ids: list[str]) -> list[Path]:
        return [study / f"job-{i}.out" for i in job_ids]


def submissions_of(order: Order) -> list[Path]:
    return list((order.study / "launch").glob(f"{order.submission}.json"))


@pytest.fixture
def remote(install_launcher: Callable[[str, object], str]) -> type[Remote]:
    """A launcher that is not local, installed under its name."""
    Remote.asked.clear()
    Remote.state = "running"
    install_launcher("remote", Remote)
    return Remote


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process; its exit code and all that it says."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["regmix", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        found = capsys.readouterr()
        return int(end.value.code or 0), found.out + found.err

    return run


def test_launchers_are_known_by_name() -> None:
    assert isinstance(registry.launcher("local"), local.LocalLauncher)
    with pytest.raises(
        UserError,
        match=r"launch\.launcher: unknown launcher 'slrum'; did you mean 'slurm'\? Valid: .*ray",
    ):
        registry.launcher("slrum")


def test_a_worker_is_told_its_submission(tmp_path: Path) -> None:
    assert base.command(Order(tmp_path, 2, submission="s1"))[1:] == [
        "-m", "proxy_trainer.worker", str(tmp_path), "--submission", "s1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "workers", "gpus"),
    [
        ({}, 3, None),
        ({"workers": 7}, 7, None),
        ({"launcher": "slurm", "nodes": 4, "gpus_per_node": 8}, 32, 1),
        ({"launcher": "local", "gpus_per_node": 2}, 2, 1),
    ],
)
def test_a_command_goes_before_the_study(
    asked: dict[str, Any], workers: int, gpus: int | None
) -> None:
    found = LaunchConfig(workers=3).overridden(**asked)
    assert (found.workers, found.gpus_per_worker) == (workers, gpus)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"nodes": 2}, "--nodes 2: the launcher 'local' has one"),
        ({"detach": True}, "--detach: workers of the launcher 'local' end with their command"),
        ({"launcher": "slurm", "nodes": 2}, "--nodes: give --gpus-per-node too"),
        ({"launcher": "slurm", "workers": 2, "gpus_per_node": 2}, "--workers: not together with"),
        ({"launcher": "slurm", "gpus_per_node": 3}, "3: not a multiple of .* which is 2"),
    ],
)
def test_what_does_not_go_together_is_refused(asked: dict[str, Any], message: str) -> None:
    settings = LaunchConfig(gpus_per_worker=2 if "multiple" in message else 0)
    with pytest.raises(UserError, match=message):
        settings.overridden(**asked)


def test_what_a_launcher_cannot_give_is_refused_before_anything_is_written(
    study: Study, remote: type[Remote], here: Callable[..., tuple[int, str]]
) -> None:
    study.propose()
    path = study.layout.config
    path.write_text(path.read_text().replace("{workers: 2,", "{gpus_per_worker: 9,"))
    code, said = here("train", study.layout.root, "--launcher", "remote")
    assert code == 2
    assert "launch.gpus_per_worker: no node has so many" in said
    assert not study.layout.launches.exists()


def test_submitted_and_left_it_can_be_cancelled_and_read_from_elsewhere(
    study: Study, remote: type[Remote], here: Callable[..., tuple[int, str]]
) -> None:
    ids = [s.run_id for s in study.propose().specs]
    root = study.layout.root
    code, said = here("train", root, "--launcher", "remote", "--workers", 3, "--detach")
    assert code == 0, said
    assert "remote: 2 jobs submitted: 17, 18" in said
    (made,) = submissions(study.layout)
    assert made.jobs == ("17", "18")
    assert sorted(made.runs) == sorted(ids)
    assert made.order == Order(root, 3, 0, made.submission_id, detached=True)
    (root / "job-17.out").write_text(f"hello\nrun {ids[0]}: claimed at step 0\n")
    assert "hello" in here("logs", root)[1]
    of_run = here("logs", root, ids[0][:8])[1]
    assert f"run {ids[0]}: claimed" in of_run
    assert "hello" not in of_run
    assert "unknown run 'nobody'" in here("logs", root, "nobody")[1]
    assert here("cancel", root) == (0, "2 jobs told to end\n")
    assert remote.asked[-1] == ("cancel", ["17", "18"])
    assert submissions(study.layout)[0].cancelled
    assert here("cancel", root) == (0, "no worker is running\n")


@pytest.mark.slow
def test_each_of_two_commands_counts_the_runs_of_its_own_workers(
    study: Study, remote: type[Remote]
) -> None:
    """Of whatever launcher: workers are named for what they were submitted with."""
    ids = [s.run_id for s in study.propose().specs[:2]]
    settings = study.config.launch.model_copy(update={"launcher": "remote"})
    made = []
    for order in (ids[:1], ids):
        new = Submission.new(study.layout, order, settings, 1)
        new.save(study.layout)
        subprocess.run(base.command(new.order), check=True, capture_output=True)
        made.append(replace(new, runs=tuple(ids), jobs=("1",)))
    remote.state = "ended"
    first, second = (running.Launch(study.layout, own, Remote()).wait() for own in made)
    assert (first.done, first.elsewhere) == (ids[:1], ids[1:])
    assert (second.done, second.elsewhere) == (ids[1:], ids[:1])


def test_runs_that_workers_left_open_are_told(
    study: Study, remote: type[Remote], here: Callable[..., tuple[int, str]]
) -> None:
    study.propose()
    remote.state = "ended"
    code, said = here("train", study.layout.root, "--launcher", "remote")
    assert code == running.Cancelled.exit_code == 75
    assert "the workers ended with 9 runs open" in said
    remote.state = "failed"
    code, said = here("train", study.layout.root, "--launcher", "remote")
    assert code == 1
    assert "job 17 failed" in said


def test_a_dry_run_tells_what_it_will_take_and_starts_nothing(
    study: Study, train_runs: Callable[..., object], here: Callable[..., tuple[int, str]]
) -> None:
    ids = [s.run_id for s in study.propose().specs]
    specs = {r.spec.run_id: r.spec for r in study.runs()}
    root, path = study.layout.root, study.layout.config
    _, said = here("train", root, "--dry-run")  # the size of arrays is tried for
    assert re.match(r"9 runs in \d arrays", said)
    assert re.search(r"^local, 2 workers: about \d+ s$", said, re.M)
    path.write_text(path.read_text().replace("launch: {", "launch: {members: 1, "))
    code, said = here("train", root, "--dry-run")
    assert code == 0
    assert said.splitlines()[:2] == [
        "9 runs in 9 arrays",
        f"34.6k tokens, {flops(sum(s.flops for s in specs.values()))}",
    ]
    assert sum(s.tokens for s in specs.values()) == 34_560
    lines = [line.partition(", ")[0] for line in said.splitlines()[2:5]]
    assert lines == ["local", "slurm", "ray"], "the chosen one first"
    assert re.search(r"FLOP/s a worker, by trial on this machine, without evaluations$", said, re.M)
    assert "set launch.cost_per_hour" in said
    assert not study.layout.launches.exists()
    train_runs(study, ids[:1])
    path.write_text(
        path.read_text().replace(
            "{members: 1, workers: 2,", "{members: 4, workers: 2, cost_per_hour: 36000,"
        )
    )
    code, said = here("train", root, "--dry-run")
    assert said.startswith("8 runs in 2 arrays of up to 4\n")
    (done,) = (r.result() for r in study.runs() if r.status == "done")
    speed = done["flops"] / done["seconds"]
    hours = sum(specs[i].flops for i in ids[1:]) / 2 / speed / 3600
    assert f"cost {hours * 2 * 36000:,.2f}" in said
    assert "the mean of 1 finished runs" in said
    assert len(re.findall(rf"2 workers: .*cost {hours * 2 * 36000:,.2f}", said)) == 3


def test_a_trial_tells_nothing_of_workers_on_other_devices(
    study: Study, remote: type[Remote], here: Callable[..., tuple[int, str]]
) -> None:
    """Here are cores, and the launcher's workers are to have devices."""
    study.propose()
    path = study.layout.config
    path.write_text(path.read_text().replace("launch: {", "launch: {members: 1, "))
    code, said = here(
        "train", study.layout.root, "--dry-run", "--launcher", "remote",
        "--nodes", 1, "--gpus-per-node", 3,
    )  # fmt: skip
    assert code == 0, said
    assert "remote, 3 workers: time and cost are unknown until the first run" in said
    assert "FLOP/s" not in said
    assert [name for name, _ in remote.asked] == ["check"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancel", "term"])
def test_a_command_that_is_cancelled_leaves_checkpoints_and_a_code_for_schedulers(
    copy_study: Callable[..., Study],
    regmix: Regmix,
    holder: Callable[[RunLayout], int | None],
    how: str,
) -> None:
    study = copy_study(tokens=LONG)
    path = study.layout.config
    path.write_text(path.read_text().replace("checkpoint_seconds: 0.05", "members: 1"))
    runs = [study.layout.run(s.run_id) for s in study.propose().specs]
    command = regmix("train", study.layout.root)
    until(lambda: sum(holder(run) is not None for run in runs) == 2)
    until(lambda: any(run.events.exists() and run.events.stat().st_size > 600 for run in runs))
    if how == "cancel":
        output, errors = regmix("cancel", study.layout.root).communicate(timeout=60)
        assert output == "1 jobs told to end\n", errors
    else:
        os.kill(command.pid, signal.SIGTERM)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 75, errors
    assert "their checkpoints are kept: run the same command again" in errors
    begun = [run for run in runs if run.events.exists()]
    assert 1 <= len(begun) <= 2
    for run in begun:
        assert list(run.checkpoints.glob("*.safetensors"))
        entries = claims.log(run.claims)
        assert (entries[-1].kind, entries[-1].reason) == ("released", "asked to end")
        assert claims.failures(entries) == []
    (log, *_) = running.logs(study.layout)
    assert log.read_text().endswith("told to end\n")


@pytest.mark.slow
def test_workers_are_pinned_where_there_is_one_a_core(
    copy_study: Callable[..., Study], train_runs: Callable[..., object]
) -> None:
    study = copy_study(tokens=LONG)
    run = study.layout.run(study.propose().specs[0].run_id)
    seen: list[set[int]] = []

    def look() -> None:
        entry = claims.last(run.claims)
        if entry is not None and not seen:
            seen.append(os.sched_getaffinity(entry.process.pid))

    mine = os.sched_getaffinity(0)
    first = sorted(mine)[0]
    os.sched_setaffinity(0, {first})
    try:
        train_runs(study, [run.run_id], look, workers=1)
    finally:
        os.sched_setaffinity(0, mine)
    assert seen == [{first}]
    assert json.loads(run.done.read_text())["environment"]["worker"].endswith(".0")
