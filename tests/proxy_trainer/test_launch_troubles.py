"""Systems that do not answer, machines and plug-ins that are gone: what they must not hold up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from proxy_trainer import steps
from proxy_trainer.exits import REQUEUE
from proxy_trainer.launch import registry, running, slurm_job, slurm_system
from proxy_trainer.launch.base import Job, Order, Unreachable
from proxy_trainer.launch.crew import Crew, JobFiles
from proxy_trainer.launch.ray import Ray
from proxy_trainer.launch.running import Cancelled, Launch
from proxy_trainer.launch.slurm import Slurm
from proxy_trainer.launch.slurm_job import SlurmJob
from proxy_trainer.launch.submissions import Submission, submissions
from regmix import claims
from regmix.claims import Process
from regmix.cli import main
from regmix.config import LaunchConfig, RayConfig, SlurmConfig
from regmix.errors import RegmixError, UserError
from regmix.files import write_new
from regmix.study import Study

SLOW = "Slurm did not answer 'squeue' within 60 seconds"


class Cluster:
    """A launcher whose answers are set; an exception among them is raised."""

    name: ClassVar[str] = "cluster"
    answers: ClassVar[list[Any]] = []
    cancelled: ClassVar[list[str]] = []

    def poll(self, study: Path, job_ids: list[str]) -> list[Job]:
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return [Job(i, found) for i in job_ids]

    def cancel(self, study: Path, job_ids: list[str]) -> None:
        self.cancelled.extend(job_ids)

    def logs(self, study: Path, job_ids: list[str]) -> list[Path]:
        return [study / f"{i}.log" for i in job_ids]


@pytest.fixture
def cluster(
    install_launcher: Callable[[str, object], str], monkeypatch: pytest.MonkeyPatch
) -> type[Cluster]:
    """A launcher of that name is installed."""
    Cluster.answers[:], Cluster.cancelled[:] = ["running"], []
    install_launcher("cluster", Cluster)
    monkeypatch.setattr(running, "POLL_OTHERS_SECONDS", 0.01)
    return Cluster


def submitted(study: Study, launcher: str, *jobs: str, runs: int = 2, age: float = 1e6) -> str:
    """A submission of an earlier day; its id."""
    ids = [s.run_id for s in study.propose().specs][:runs]
    settings = LaunchConfig(launcher=launcher)
    made = Submission.new(study.layout, ids, settings, 1)
    jobs = tuple(job.replace("ID", made.submission_id) for job in jobs)
    replace(made, jobs=jobs).save(study.layout)
    stamp = time.time() - age
    os.utime(study.layout.launches / f"{made.submission_id}.json", (stamp, stamp))
    return made.submission_id


def close(study: Study) -> None:
    for run in (study.layout.run(s.run_id) for s in study.propose().specs):
        run.done.write_text("{}")


def cancelled(study: Study) -> dict[str, bool]:
    return {s.launcher: s.cancelled for s in submissions(study.layout)}


def held_elsewhere(study: Study, host: str) -> None:
    """A worker of another machine has the first run."""
    run = study.layout.run(study.propose().specs[0].run_id)
    entry = claims.made(run.claims / "1.json", "worker", 120.0, 0)
    entry = replace(entry, process=Process(host, "boot", "space", 7, "1"))
    assert write_new(entry.path, claims.to_text(entry), durable=False)


def test_a_machine_that_is_gone_holds_nobody_up(study: Study, cluster: type[Cluster]) -> None:
    """Each new container has a new name, and what it submitted outlives it."""
    submitted(study, "local", "old-container/7/1/ID")
    submitted(study, "cluster", "17")
    assert [job.job_id for job in running.cancel(study.layout)] == ["17"]
    assert cluster.cancelled == ["17"]
    assert cancelled(study) == {"local": True, "cluster": True}


@pytest.mark.parametrize("why", ["held", "fresh"])
def test_a_machine_that_works_is_named_once_all_others_were_told(
    why: str, study: Study, cluster: type[Cluster]
) -> None:
    submitted(study, "local", "node7/7/1/ID", age=1.0 if why == "fresh" else 1e6)
    if why == "held":
        held_elsewhere(study, "node7")
    submitted(study, "cluster", "17")
    with pytest.raises(UserError, match=r"started on node7; .*; 1 other jobs were told to end"):
        running.cancel(study.layout)
    assert cluster.cancelled == ["17"]
    assert cancelled(study) == {"local": False, "cluster": True}
    close(study)
    assert running.cancel(study.layout) == []


def test_a_plug_in_that_is_gone_hides_no_other_logs(
    study: Study, cluster: type[Cluster], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    submitted(study, "thursday", "3")
    submitted(study, "cluster", "17")
    (study.layout.root / "17.log").write_text("what the worker wrote\n")
    monkeypatch.setattr(sys, "argv", ["regmix", "logs", str(study.layout.root)])
    with pytest.raises(SystemExit) as end:
        main()
    out, errors = capsys.readouterr()
    assert "what the worker wrote" in out
    assert "launcher: unknown launcher 'thursday'" in errors
    assert end.value.code == 2
    with pytest.raises(UserError, match=r"'thursday'.*; 1 other jobs were told to end"):
        running.cancel(study.layout)
    assert cluster.cancelled == ["17"]
    close(study)
    assert running.cancel(study.layout) == []


@pytest.mark.parametrize(("text", "said"), [("{}", "delete it"), (None, "with regmix 99.0")])
def test_one_file_that_cannot_be_read_keeps_nobody_from_being_told(
    study: Study, cluster: type[Cluster], text: str | None, said: str
) -> None:
    other = study.layout.launches / f"{submitted(study, 'cluster', '16')}.json"
    submitted(study, "cluster", "17")
    newer = {**json.loads(other.read_text()), "regmix": "99.0", "further": 1}
    other.write_text(json.dumps(newer) if text is None else text)
    with pytest.raises(UserError, match=f"{other}.*{said}.*; 1 other jobs were told to end"):
        running.cancel(study.layout)
    assert cluster.cancelled == ["17"]
    told: list[RegmixError] = []
    running.logs(study.layout, told.append)
    assert [str(other) in str(one) for one in told] == [True]


def test_a_plug_in_that_cannot_be_loaded_is_named(
    install_launcher: Callable[[str, object], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_launcher("mine", None)
    monkeypatch.delitem(sys.modules, "mine_plug_in")
    with pytest.raises(UserError, match=r"'mine' cannot be loaded \(mine_plug_in:Launcher: No mod"):
        registry.launcher("mine")


def test_who_cannot_be_asked_is_told_to_end_all_the_same(
    study: Study, cluster: type[Cluster]
) -> None:
    submitted(study, "cluster", "17", "18")
    cluster.answers[:] = [RegmixError(SLOW)]
    with pytest.raises(RegmixError, match="Slurm did not answer"):
        running.cancel(study.layout)
    assert cluster.cancelled == ["17", "18"]
    assert running.cancel(study.layout) == []


def waiting(study: Study) -> Launch:
    submitted(study, "cluster", "17")
    return running.launched(study.layout, submissions(study.layout)[0])


def test_waiting_outlasts_a_controller_that_is_slow(
    study: Study, cluster: type[Cluster], capsys: pytest.CaptureFixture[str]
) -> None:
    slow = RegmixError(SLOW)
    cluster.answers[:] = ["running", slow, slow, "running", slow, "running", "ended"]
    with pytest.raises(Cancelled, match="the workers ended with 2 runs open"):
        waiting(study).wait()
    assert capsys.readouterr().err == f"warning: {SLOW}; asking again\n" * 2  # one an outage


def test_waiting_for_one_that_stays_silent_ends(
    study: Study, cluster: type[Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.answers[:] = [RegmixError(SLOW)]
    monkeypatch.setattr(running, "UNHEARD_SECONDS", 0.1)
    with pytest.raises(RegmixError, match=r"squeue.*; no answer for .* minutes\. Workers that"):
        waiting(study).wait()


def program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of Slurm's commands, as the only one on the path that has that name."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def test_slurm_that_does_not_answer_costs_no_requeue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`scontrol show` hangs, and the first requeue too."""
    asked = tmp_path / "asked"
    program(
        tmp_path, "scontrol",
        f'echo "$1" >> {asked}; [ "$(grep -c requeue {asked})" -lt 2 ] && exec sleep 20; exit 0',
        monkeypatch,
    )  # fmt: skip
    monkeypatch.setattr(slurm_system, "CANCELLED_SECONDS", 0.5)
    monkeypatch.setattr(slurm_system.ask, "__kwdefaults__", {"seconds": 0.5})
    monkeypatch.setattr(slurm_job, "REQUEUE_SECONDS", 0.0)
    files = JobFiles.of(tmp_path, "slurm", "7")
    job = SlurmJob(Crew(tmp_path, 1, 0, ("true",)), 10.0, requeue=True, _signals=[10])
    assert job._conclude(files, [REQUEUE]) == REQUEUE
    assert asked.read_text().split() == ["show", "requeue", "requeue"]
    assert not files.ending.exists()  # it is no end


def test_a_requeue_that_is_refused_is_an_end_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "scontrol", "echo 'Requested operation is disabled' >&2; exit 1", monkeypatch)
    monkeypatch.setattr(slurm_job, "REQUEUE_SECONDS", 0.0)
    files = JobFiles.of(tmp_path, "slurm", "7")
    assert slurm_job.again(files, [REQUEUE], "SIGUSR2", requeue=True) == REQUEUE
    ended = files.ended()
    assert ended is not None
    assert ended.state == "failed"
    assert "not requeued: Slurm's scontrol failed: Requested operation is disabled" in ended.reason


def test_slurm_jobs_are_cancelled_by_file_where_the_controller_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "squeue", "echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1",
            monkeypatch)  # fmt: skip
    slurm, files = Slurm(SlurmConfig()), [JobFiles.of(tmp_path, "slurm", i) for i in ("7", "8")]
    files[0].end([0])
    with pytest.raises(RegmixError, match="Socket timed out"):
        slurm.poll(tmp_path, ["7", "8"])
    slurm.cancel(tmp_path, ["7", "8"])
    assert [f.cancelled.exists() for f in files] == [False, True]


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Ray finds no cluster; gives the addresses at which one was begun or looked for."""
    ray = pytest.importorskip("ray")
    asked: list[str] = []

    def init(address: str, **_: object) -> None:
        asked.append(address)
        if address != "local":
            raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: "local" in asked)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0}}])
    return lambda: asked


@pytest.mark.parametrize(
    ("address", "place"),
    [(None, "this machine"), ("local", "local"), ("10.0.0.1:6379", "10.0.0.1:6379")],
)
def test_detached_workers_need_a_ray_cluster_that_lasts(
    address: str | None, place: str, tmp_path: Path, no_cluster: Callable[[], list[str]]
) -> None:
    ray = Ray(RayConfig(address=address))
    with pytest.raises(UserError, match=rf"answers at {place} .*has to be one that lasts"):
        ray.check(Order(tmp_path, 1, detached=True))
    assert "local" not in no_cluster()
    if address != "10.0.0.1:6379":
        ray.check(Order(tmp_path, 1))  # whoever waits may have one of the command's own
        assert no_cluster()[-1] == "local"


def test_detach_is_refused_before_anything_is_submitted(
    study: Study, no_cluster: Callable[[], list[str]]
) -> None:
    ids = [s.run_id for s in study.propose().specs]
    settings = LaunchConfig(launcher="ray")
    with pytest.raises(UserError, match="`ray start --head` begins"):
        steps.submit(study, ids, settings, detached=True)
    assert not study.layout.launches.exists()
    with pytest.raises(UserError, match="workers of 'local' end with their command"):
        steps.submit(study, ids, LaunchConfig(workers=1), detached=True)


def test_jobs_of_a_ray_cluster_that_does_not_answer_have_not_failed(
    tmp_path: Path, no_cluster: Callable[[], list[str]]
) -> None:
    ray, files = Ray(RayConfig()), [JobFiles.of(tmp_path, "ray", i) for i in ("a-0", "a-1")]
    files[0].end([0])
    with pytest.raises(Unreachable, match="no Ray cluster answers at this machine"):
        ray.poll(tmp_path, ["a-0", "a-1"])
    assert ray.poll(tmp_path, ["a-0"]) == [Job("a-0", "ended")]
    ray.cancel(tmp_path, ["a-0", "a-1"])
    assert [f.cancelled.exists() for f in files] == [False, True]
    assert no_cluster().count("local") == 0


def test_ask_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "squeue", "exec sleep 20", monkeypatch)
    began = time.monotonic()
    with pytest.raises(RegmixError, match=r"did not answer 'squeue' within 0\.3 seconds"):
        slurm_system.ask("squeue", seconds=0.3)
    assert time.monotonic() - began < 10
    assert isinstance(slurm_system.ask("sh", "-c", "exit 3"), subprocess.CompletedProcess)
