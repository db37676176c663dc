"""Slurm, the real one: on this machine's loopback, with a worker that only waits."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy_trainer.checkpoint import saved_step
from proxy_trainer.launch.base import Job, Order
from proxy_trainer.launch.slurm import Slurm
from proxy_trainer.launch.slurm_system import gpus, minutes
from proxy_trainer.launch.submissions import submissions
from regmix import testing
from regmix.config import SlurmConfig
from regmix.errors import UserError
from regmix.records import read_events
from regmix.study import Study
from regmix.testing import Bench
from regmix.testing.launchers import PATIENCE_SECONDS as PATIENCE
from regmix.testing.launchers import finished, until

SERVICES = Path(__file__).resolve().parents[1] / "services"


@pytest.fixture
def cluster(slurm_conf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    return slurm_conf


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    root.mkdir()
    return root


@pytest.fixture
def slurm(cluster: Path, study: Path) -> Iterator[Callable[..., Slurm]]:
    """Makes a launcher whose workers do ``tasks`` of ``seconds`` each; nothing of it stays."""

    def make(tasks: int = 3, seconds: float = 0.3, **settings: object) -> Slurm:
        worker = [sys.executable, str(SERVICES / "worker.py"), str(study), str(tasks), str(seconds)]
        settings = {"hours": 0.1, "signal_seconds": 60, **settings}
        return Slurm(SlurmConfig.model_validate(settings), worker=worker)

    yield make
    call("scancel", "--full", "--signal=KILL", f"--name=regmix-{study.name}")
    call("scancel", f"--name=regmix-{study.name}")
    until(lambda: not call("squeue", "--noheader", f"--name=regmix-{study.name}"))


@pytest.fixture(scope="module")
def bench_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


def call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def done(study: Path) -> list[str]:
    return sorted(p.stem for p in study.glob("*.done"))


def started(study: Path) -> bool:
    return any("from step" in p.read_text() for p in logs(study))


def logs(study: Path) -> list[Path]:
    return sorted((study / "launch" / "slurm").glob("*.worker-*.log"))


@pytest.mark.slow
@pytest.mark.parametrize("check", testing.LAUNCHER_CHECKS, ids=lambda c: c.__name__)
def test_it_does_what_every_launcher_must(
    check: Callable[[Bench], None], cluster: Path, bench_folder: Path
) -> None:
    settings = SlurmConfig(hours=0.1, signal_seconds=60)
    check(Bench(lambda: Slurm(settings), bench_folder, library="submitit"))


@pytest.mark.slow
def test_an_array_of_jobs_does_all_the_work(slurm: Callable[..., Slurm], study: Path) -> None:
    launcher, order = slurm(tasks=4), Order(study, workers=2)
    launcher.check(order)
    ids = launcher.submit(order)
    assert [i.rpartition("_")[2] for i in ids] == ["0", "1"]
    assert finished(launcher, study, ids) == [Job(i, "ended") for i in ids]
    assert done(study) == [f"task-{i}" for i in range(4)]
    found = launcher.logs(study, ids)
    assert [p.name for p in found if "worker" in p.name] == [f"{i}.worker-0.log" for i in ids]
    assert "from step 0" in "".join(p.read_text() for p in found)
    # Slurm forgets a job soon after it is over; the study does not.
    assert slurm().poll(study, ids) == [Job(i, "ended") for i in ids]


@pytest.mark.slow
def test_workers_of_one_job_get_a_device_each(slurm: Callable[..., Slurm], study: Path) -> None:
    settings = {"nodes": 1, "gpus_per_node": 2, "setup": ["echo set up"], "memory_gb": 0.5}
    launcher = slurm(tasks=2, seconds=1, parameters={"comment": "a test"}, **settings)
    order = Order(study, workers=2, gpus=1)
    launcher.check(order)
    ids = launcher.submit(order)
    assert len(ids) == 1
    assert finished(launcher, study, ids) == [Job(ids[0], "ended")]
    assert ["devices '0'" in p.read_text() for p in logs(study)] == [True, False]
    assert ["devices '1'" in p.read_text() for p in logs(study)] == [False, True]
    assert "set up" in launcher.logs(study, ids)[-1].read_text()


@pytest.mark.slow
def test_cancelled_workers_leave_checkpoints_and_are_not_requeued(
    slurm: Callable[..., Slurm], study: Path
) -> None:
    launcher = slurm(tasks=4, seconds=100)
    ids = launcher.submit(Order(study, workers=3))  # one more than there are cores
    until(lambda: [j.state for j in launcher.poll(study, ids)] == ["running", "running", "waiting"])
    until(lambda: launcher.poll(study, ids)[2].reason == "Resources")
    until(lambda: len(logs(study)) == 2 and all("from" in p.read_text() for p in logs(study)))
    launcher.cancel(study, ids)
    assert finished(launcher, study, ids) == [Job(i, "ended") for i in ids]
    assert len(list(study.glob("*.half"))) == 2
    assert all("SIGTERM" in p.read_text() for p in logs(study))
    launcher.cancel(study, ids)  # nothing left to do


@pytest.mark.slow
def test_a_job_cancelled_while_it_starts_ends(slurm: Callable[..., Slurm], study: Path) -> None:
    launcher = slurm(tasks=1, seconds=100)
    ids = launcher.submit(Order(study, workers=1))
    until(lambda: launcher.poll(study, ids)[0].state == "running")
    launcher.cancel(study, ids)
    assert finished(launcher, study, ids) == [Job(ids[0], "ended")]


@pytest.mark.slow
def test_before_the_time_limit_workers_checkpoint_and_the_job_goes_on(
    slurm: Callable[..., Slurm], study: Path, skip_the_delay: Callable[[str], None]
) -> None:
    # Limits are in minutes, and Slurm looks at them twice a minute and is early rather than late:
    # it tells after 10 to 40 seconds, when the job has long begun; there may be a third turn.
    launcher = slurm(tasks=1, seconds=50, hours=1 / 60, signal_seconds=20)
    (job_id,) = launcher.submit(Order(study, workers=1))
    skip_the_delay(job_id)
    assert launcher.poll(study, [job_id])[0].state in ("waiting", "running")
    assert int((study / "task-0.half").read_text()) > 0
    assert finished(launcher, study, [job_id], 2 * PATIENCE) == [Job(job_id, "ended")]
    told = "".join(p.read_text() for p in logs(study))
    stops = re.findall(r"SIGUSR2 at step (\d+)", told)
    assert len(stops) > 0
    assert re.findall(r"from step (\d+)", told) == ["0", *stops]
    assert (study / "task-0.done").read_text().split()[0] == stops[-1]
    assert "asked to stop (SIGUSR2)" in launcher.logs(study, [job_id])[-1].read_text()


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_goes_on(
    slurm: Callable[..., Slurm], study: Path, skip_the_delay: Callable[[str], None]
) -> None:
    launcher = slurm(tasks=1, seconds=6, partition="spot")
    (job_id,) = launcher.submit(Order(study, workers=1))
    until(lambda: started(study))
    call("sbatch", "--output=/dev/null", "--ntasks=2", "--wrap=sleep 1")
    skip_the_delay(job_id)
    assert finished(launcher, study, [job_id]) == [Job(job_id, "ended")]
    assert int((study / "task-0.done").read_text().split()[0]) > 0
    assert "SIGTERM" in logs(study)[0].read_text()


@pytest.mark.slow
def test_a_job_cancelled_by_slurms_own_command_stays_cancelled(
    slurm: Callable[..., Slurm], study: Path
) -> None:
    launcher = slurm(tasks=1, seconds=100)
    (job_id,) = launcher.submit(Order(study, workers=1))
    until(lambda: started(study))
    call("scancel", job_id)
    until(lambda: (study / "task-0.half").exists())
    assert finished(launcher, study, [job_id]) == [Job(job_id, "ended")]
    time.sleep(2)
    assert call("squeue", "--noheader", f"--jobs={job_id}") == ""


@pytest.mark.slow
def test_without_requeue_a_stopped_job_says_so(slurm: Callable[..., Slurm], study: Path) -> None:
    launcher = slurm(tasks=1, seconds=100, requeue=False)
    (job_id,) = launcher.submit(Order(study, workers=1))
    until(lambda: started(study))
    call("scancel", "--signal=USR2", job_id)
    (job,) = finished(launcher, study, [job_id])
    assert job.state == "failed"
    assert "launch.slurm.requeue is false" in job.reason


@pytest.mark.slow
def test_a_job_that_is_killed_or_breaks_says_so(slurm: Callable[..., Slurm], study: Path) -> None:
    launcher = slurm(tasks=1, seconds=100)
    (job_id,) = launcher.submit(Order(study, workers=1))
    until(lambda: started(study))
    call("scancel", "--signal=ABRT", job_id)
    (job,) = finished(launcher, study, [job_id])
    assert job.state == "failed"
    assert str(study) in job.reason
    broken = Slurm(
        SlurmConfig(hours=0.1), worker=[sys.executable, "-c", "import sys; sys.exit('no luck')"]
    )
    (job_id,) = broken.submit(Order(study, workers=1))
    (job,) = finished(broken, study, [job_id])
    assert job.state == "failed"
    assert "worker 0 ended with code 1" in job.reason
    assert "no luck" in broken.logs(study, [job_id])[0].read_text()


@pytest.mark.slow
def test_where_no_node_answers_a_job_waits_and_can_be_cancelled(
    slurm: Callable[..., Slurm], study: Path
) -> None:
    launcher = slurm(partition="away", cpus_per_worker=4)
    order = Order(study, workers=1)
    launcher.check(order)
    ids = launcher.submit(order)
    until(lambda: launcher.poll(study, ids)[0].reason)
    assert launcher.poll(study, ids)[0].state == "waiting"
    launcher.cancel(study, ids)
    assert finished(launcher, study, ids) == [Job(ids[0], "ended")]


REFUSED: dict[str, tuple[dict[str, object], int, str]] = {
    "partition": (
        {"partition": "debgu"}, 0,
        "launch.slurm.partition: unknown partition 'debgu'; did you mean 'debug'? "
        "Valid: away, debug, pair, short",
    ),
    "devices": (
        {"gpus_per_node": 4, "partition": "debug"}, 1,
        "launch.slurm.gpus_per_node: a job of 1 workers asks for 4 devices; the nodes of "
        "partition 'debug' have 2 at most",
    ),
    "no devices": ({"partition": "away"}, 1, "the nodes of partition 'away' have 0 at most"),
    "too few devices": (
        {"gpus_per_node": 1, "nodes": 1}, 1,
        "launch.slurm.gpus_per_node: 1 is fewer than the 2 workers of a job need",
    ),
    "cores": ({"cpus_per_worker": 3}, 0, "asks for 3 CPUs; the nodes of partition 'debug' have 2"),
    "memory": ({"memory_gb": 1e5}, 0, "launch.slurm.memory_gb: a job of 1 workers asks for 100000"),
    "hours": ({"partition": "short"}, 0, "launch.slurm.hours: 0.1 is more than partition 'short'"),
    "constraint": ({"constraint": "h100"}, 0, "Invalid feature specification"),
    "parameters": ({"parameters": {"nonsense": 1}}, 0, "unrecognized option '--nonsense=1'"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_the_cluster_does_not_have_is_refused_before_anything_is_submitted(
    case: str, slurm: Callable[..., Slurm], study: Path
) -> None:
    settings, gpus_a_worker, message = REFUSED[case]
    with pytest.raises(UserError) as refused:
        slurm(**settings).check(Order(study, workers=2, gpus=gpus_a_worker))
    assert message in str(refused.value)
    assert not list(study.iterdir())
    assert call("squeue", "--noheader") == ""


def test_without_slurm_or_submitit_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, launcher = Order(tmp_path, workers=1), Slurm(SlurmConfig())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no sbatch on this machine.*slurm-client"):
        launcher.check(order)
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs submitit.*pip install 'regmix\[slurm\]'"):
        launcher.check(order)


def test_workers_are_spread_over_nodes() -> None:
    def shape(workers: int, gpus: int, **settings: object) -> tuple[int, int, int]:
        launcher = Slurm(SlurmConfig.model_validate(settings))
        found = launcher.shape(Order(Path("/study"), workers, gpus))
        return found.jobs, found.workers, found.gpus

    assert shape(3, 0) == (3, 1, 0)
    assert shape(3, 2) == (3, 1, 2)
    assert shape(32, 1, nodes=4, gpus_per_node=8) == (4, 8, 8)
    assert shape(5, 1, nodes=4) == (3, 2, 2)
    assert shape(2, 1, nodes=4, gpus_per_node=8) == (2, 1, 8)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="signal_seconds: 120 is not within"):
        SlurmConfig(hours=0.01)
    with pytest.raises(ValueError, match=r"is set by launch\.slurm\.gpus_per_node"):
        SlurmConfig(parameters={"gpus_per_node": 2})


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("infinite", float("inf")), ("30:00", 30), ("2:00", 2), ("1:00:00", 60), ("2-12:00:00", 3600),
     ("n/a", float("inf")), ("0:30", 0.5)],
)  # fmt: skip
def test_time_limits_in_slurms_words(limit: str, expected: float) -> None:
    assert minutes(limit) == expected


@pytest.mark.parametrize(
    ("gres", "expected"),
    [("(null)", 0), ("gpu:2", 2), ("gpu:a100:8(S:0-1)", 8), ("gpu:a100:4,gpu:v100:2,nic:3", 6),
     ("gpu:h100:8(S:0,1),nic:2", 8), ("shard:gpu:4", 0), ("nic:2,gpu:1", 1)],
)  # fmt: skip
def test_devices_among_generic_resources(gres: str, expected: int) -> None:
    assert gpus(gres) == expected


def metrics(made: Study) -> dict[str, dict[str, float]]:
    assert {r.status for r in made.runs()} == {"done"}
    return {r.spec.name: r.result()["metrics"] for r in made.runs()}


@pytest.mark.slow
def test_a_study_trained_by_slurm_is_the_one_trained_here(
    cluster: Path,
    copy_study: Callable[..., Study],
    regmix: Callable[..., subprocess.Popen[str]],
    skip_the_delay: Callable[[str], None],
) -> None:
    """The command line, and one job with a real worker that is requeued while it trains.

    Nobody else trains: what is done in the end, the job's second turn did.
    """
    here, there = copy_study("here", tokens=128 * 200), copy_study("there", tokens=128 * 200)
    launch_with(there, "hours: 0.1, signal_seconds: 60", members=1)
    for made in (here, there):
        made.propose(runs=1)
    _, errors = regmix("train", here.layout.root).communicate(timeout=2 * PATIENCE)
    assert not errors
    told = regmix("train", there.layout.root, "--launcher", "slurm", "--workers", 1, "--detach")
    _, errors = told.communicate(timeout=PATIENCE)
    assert told.returncode == 0, errors
    runs = [record.layout for record in there.runs()]
    until(lambda: any(saved_step(run.checkpoints) for run in runs))
    (submission,) = submissions(there.layout)
    call("scontrol", "requeue", *submission.jobs)
    skip_the_delay(*submission.jobs)
    until(lambda: all(r.status == "done" for r in there.runs()))
    assert metrics(there) == metrics(here)
    starts = [e for run in runs for e in read_events(run.events) if e["type"] == "start"]
    workers = {e["environment"]["worker"] for e in starts}
    assert len(workers) == 2, "two turns"
    assert all(name.startswith(f"{submission.submission_id}.") for name in workers)
    second = starts[-1]["environment"]["worker"]
    assert any(e["step"] > 0 for e in starts if e["environment"]["worker"] == second)
    until(lambda: not call("squeue", "--noheader", "--name=regmix-there"))


@pytest.mark.slow
def test_the_command_line_waits_for_slurm_and_shows_its_logs(
    cluster: Path,
    study_there: Study,
    regmix: Callable[..., subprocess.Popen[str]],
    write_task: Callable[..., Path],
) -> None:
    root = study_there.layout.root
    told = regmix("train", root, "--launcher", "slurm", "--workers", 2)
    _, errors = told.communicate(timeout=2 * PATIENCE)
    assert told.returncode == 0, errors
    assert {r.status for r in study_there.runs()} == {"done"}
    output, _ = regmix("logs", root, study_there.runs()[0].spec.run_id).communicate(timeout=60)
    assert "done" in output
    told = regmix("eval", root, "--tasks", write_task(root), "--launcher", "slurm", "--workers", 1)
    output, errors = told.communicate(timeout=2 * PATIENCE)
    assert told.returncode == 0, errors
    assert "9 of 9 models asked now" in output
    wrong = regmix("train", root, "--launcher", "slurm", "--retry-failed")
    assert wrong.communicate(timeout=60)[1] == ""  # nothing is left to do, and nothing is submitted
    launch_with(study_there, "partition: debgu")
    study_there.propose(runs=6)
    wrong = regmix("train", root, "--launcher", "slurm")
    errors = wrong.communicate(timeout=60)[1]
    assert wrong.returncode == 2
    assert "partition 'debgu'" in errors
    assert "debug" in errors


@pytest.fixture
def study_there(copy_study: Callable[..., Study]) -> Study:
    made = copy_study("there")
    config = made.layout.config
    config.write_text(config.read_text().replace("proxy:\n", "proxy:\n  keep_model: true\n"))
    made = Study.open(made.layout.root)
    made.propose()
    launch_with(made, "hours: 0.1, signal_seconds: 60")
    return made


def launch_with(made: Study, slurm: str, members: int | str = "auto") -> None:
    """Settings for Slurm in a study.yaml."""
    lines = [x for x in made.layout.config.read_text().splitlines() if "launch:" not in x]
    lines.append(f"launch: {{checkpoint_seconds: 0.05, members: {members}, slurm: {{{slurm}}}}}")
    made.layout.config.write_text("\n".join(lines) + "\n")
