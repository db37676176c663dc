"""Gangs on the real systems: wherever its processes run, a run comes to the same bits.

Two processes each time: of this machine, of one Slurm node, of two, of two Ray nodes; told to end,
killed, and gone on with on the way.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from proxy_trainer import steps
from proxy_trainer.checkpoint import saved_step
from proxy_trainer.environment import WORKER
from proxy_trainer.exits import BROKEN, BUSY, DIVERGED, KILLED, OK, REFUSED, REQUEUE
from proxy_trainer.launch import registry, running
from proxy_trainer.launch.base import Job
from proxy_trainer.launch.claims import Claimant
from proxy_trainer.launch.gang import Gang, GangOrder, train_gang, train_gangs
from proxy_trainer.launch.gang_node import Conclusion, NodeEnd, conclude
from proxy_trainer.launch.ray import Ray
from proxy_trainer.launch.running import Cancelled, WorkersFailed
from proxy_trainer.launch.slurm import Shape, Slurm
from proxy_trainer.launch.submissions import submissions
from proxy_trainer.sharded.__main__ import _check_version, _claimed
from proxy_trainer.sharded.ranks import Ranks
from proxy_trainer.sharded.torchrun import code_of
from proxy_trainer.version import version
from proxy_trainer.worker import Task
from regmix import claims
from regmix.config import LaunchConfig, RayConfig, SlurmConfig
from regmix.errors import RegmixError, StudyFault, StudyRefused, UserError
from regmix.layout import RunLayout, StudyLayout
from regmix.recipe import ParallelConfig
from regmix.records import read_events
from regmix.study import Study
from regmix.testing.launchers import PATIENCE_SECONDS as PATIENCE
from regmix.testing.launchers import until

STEPS = 250
"""A few seconds': long enough to be interrupted."""
LONG = 5_000
"""Of runs that do not come to their end."""
OFTEN = 0.3
"""Seconds between checkpoints: a few until a run is interrupted."""


def planned(study: Study, steps: int = STEPS, name: str = "") -> str:
    """One run, proposed; its id."""
    template = study.propose().specs[0]
    plan = replace(template.plan, steps=steps, batch=4, eval_steps=(steps,), lr=3e-3)
    spec = replace(template, plan=plan, name=name or template.name)
    study.add_run(spec)
    return spec.run_id


def gang(study: Study, run_id: str, **changes: Any) -> Gang:
    made = Gang(
        study=study.layout.root, run_id=run_id, nodes=1, processes=2, hybrid=False,
        recompute=False, rows=None, compiled=False, checkpoint_seconds=OFTEN,
    )  # fmt: skip
    return replace(made, **changes)


def figures(run: RunLayout) -> dict[tuple[str, int, str], float]:
    """Loss, gradient norm and metric of every step, later events replacing earlier ones."""
    found = {}
    for event in read_events(run.events):
        for key in ("loss", "grad_norm", "value"):
            if key in event:
                found[event["type"], event["step"], event.get("name", key)] = event[key]
    return found


def started_at(run: RunLayout) -> list[int]:
    """Steps from which processes went on."""
    if not run.events.exists():
        return []
    return [event["step"] for event in read_events(run.events) if event["type"] == "start"]


def come_to(run: RunLayout, step: int) -> Callable[[], bool]:
    return lambda: run.events.exists() and any(key[1] >= step for key in figures(run))


def under_way(run: RunLayout) -> Callable[[], bool]:
    """There is a checkpoint to go on from, and the run has got beyond it."""
    return lambda: (step := saved_step(run.checkpoints)) > 0 and come_to(run, step + 1)()


def processes(run: RunLayout) -> dict[int, int]:
    """Pids of the processes that train a run on this machine, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            environment = (path.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"proxy_trainer.sharded" in words and run.run_id.encode() in words:
            given = dict(e.partition(b"=")[::2] for e in environment)
            if b"RANK" in given and str(run.root.parents[1]).encode() in words:
                found[int(given[b"RANK"])] = int(path.parent.name)
    return found


@dataclass
class Waiting:
    """A command that waits for its gang, as a thread."""

    study: Study
    gang: Gang
    settings: LaunchConfig
    raised: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self) -> None:
        try:
            train_gang(self.study.layout, self.gang, self.settings)
        except Exception as exc:
            self.raised.append(exc)

    @property
    def run(self) -> RunLayout:
        return self.gang.run

    @property
    def job(self) -> str:
        """The id of its one job."""
        until(lambda: self.raised or any(s.jobs for s in submissions(self.study.layout)))
        assert not self.raised, self.raised
        ((job,),) = (s.jobs for s in submissions(self.study.layout))
        return job

    def ended(self) -> list[Exception]:
        """What it raised, once it has trained to its end, maybe on a busy machine."""
        self._thread.join(3 * PATIENCE)
        assert not self._thread.is_alive(), "still waits"
        return self.raised

    def logs(self) -> str:
        return "\n".join(p.read_text(errors="replace") for p in running.logs(self.study.layout))


@pytest.fixture(scope="module")
def expected(
    built_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int, str], float]:
    """What the run comes to by two processes of this machine, whom nobody interrupts."""
    root = tmp_path_factory.mktemp("expected") / "study"
    shutil.copytree(built_root, root)
    study = Study.open(root)
    run_id = planned(study)
    steps.train_sharded(
        study, [run_id], ParallelConfig(processes=2),
        settings=LaunchConfig(checkpoint_seconds=1e9, claim_seconds=77.0),
    )  # fmt: skip
    assert {e.seconds for e in claims.log(study.layout.run(run_id).claims)} == {77.0}
    found = figures(study.layout.run(run_id))
    assert len([key for key in found if key[0] == "step"]) == 100, "fifty steps are logged"
    losses = [value for key, value in found.items() if key[2] == "loss"]
    assert losses[-1] < losses[0] - 0.3, "nothing was learnt"
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "POLL_OTHERS_SECONDS", 0.5)


@pytest.fixture
def slurm(slurm_conf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LaunchConfig]:
    """Slurm's settings; its jobs are ended after the test."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    yield LaunchConfig.model_validate(
        {"launcher": "slurm", "slurm": {"hours": 0.1, "signal_seconds": 30, "partition": "pair"}}
    )
    call("scancel", "--full", "--signal=KILL", "--name=regmix-study")
    call("scancel", "--name=regmix-study")
    until(lambda: not call("squeue", "--noheader"))


@pytest.fixture
def ray(ray_cluster: Any) -> Iterator[LaunchConfig]:
    """Ray's settings; its actors are ended after the test."""
    yield LaunchConfig.model_validate({"launcher": "ray", "ray": {"address": ray_cluster.address}})
    import ray

    for actor in ray.util.list_named_actors(all_namespaces=True):
        ray.kill(ray.get_actor(**actor), no_restart=True)


@pytest.fixture
def side(ray_cluster: Any) -> Iterator[Callable[[], Any]]:
    """Adds nodes of one core to Ray's cluster; they are gone after the test."""
    added = []

    def add() -> Any:
        added.append(ray_cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1"))
        return added[-1]

    yield add
    for node in added:
        if node in ray_cluster.list_all_nodes():
            ray_cluster.remove_node(node)


def call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
def test_told_by_slurm_to_end_a_gang_is_requeued_and_goes_on(
    slurm: LaunchConfig,
    study: Study,
    expected: dict[tuple[str, int, str], float],
    skip_the_delay: Callable[[str], None],
) -> None:
    """Two processes of one node; USR2 as before a time limit reaches all of the job."""
    waiting = Waiting(study, gang(study, planned(study)), slurm)
    until(under_way(waiting.run))
    again = Waiting(study, waiting.gang, slurm)  # it waits for the gang that is already there
    call("scancel", "--signal=USR2", waiting.job)
    skip_the_delay(waiting.job)
    assert (waiting.ended(), again.ended()) == ([], [])
    first, second = started_at(waiting.run)
    assert (first, second > 0) == (0, True), "did not go on from its checkpoint"
    assert figures(waiting.run) == expected
    assert [e.reason for e in claims.log(waiting.run.claims) if e.kind == "released"] == [
        "asked to end",
        "done",
    ]
    names = [p.name for p in running.logs(study.layout)]
    assert names == [f"{waiting.job}.worker-0.log", f"{waiting.job}_0_log.out"]
    assert "told to end; a checkpoint is left" in waiting.logs()


@pytest.mark.slow
def test_a_process_killed_on_another_slurm_node_costs_the_steps_since_the_checkpoint(
    slurm: LaunchConfig,
    study: Study,
    expected: dict[tuple[str, int, str], float],
    skip_the_delay: Callable[[str], None],
) -> None:
    """One process each of two nodes."""
    waiting = Waiting(study, gang(study, planned(study), nodes=2, processes=1), slurm)
    until(under_way(waiting.run))
    os.kill(processes(waiting.run)[1], signal.SIGKILL)
    skip_the_delay(waiting.job)
    assert waiting.ended() == []
    assert started_at(waiting.run)[0] == 0
    assert started_at(waiting.run)[1] > 0
    assert figures(waiting.run) == expected
    assert {p.name for p in running.logs(study.layout)} == {
        *(f"{waiting.job}.worker-{n}.log" for n in (0, 1)),
        *(f"{waiting.job}_{n}_log.out" for n in (0, 1)),
    }
    assert "rank 1 was killed by SIGKILL" in waiting.logs()


@pytest.mark.slow
def test_a_gang_on_two_slurm_nodes_is_cancelled_with_a_checkpoint(
    slurm: LaunchConfig, study: Study
) -> None:
    made = gang(study, planned(study, LONG), nodes=2, processes=1, checkpoint_seconds=1e9)
    waiting = Waiting(study, made, slurm)
    until(come_to(waiting.run, 50))
    assert [job.job_id for job in running.cancel(study.layout)] == [waiting.job]
    (raised,) = waiting.ended()
    assert isinstance(raised, Cancelled)
    assert list(waiting.run.checkpoints.glob("step-*/progress.json"))
    assert not waiting.run.failed.exists()
    time.sleep(1)
    assert call("squeue", "--noheader") == ""
    with pytest.raises(UserError, match="nothing was submitted"):  # a gang is nothing for workers
        Task.of(study.layout, None)


REFUSED_BY_SLURM: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"partition": "pare"}, "unknown partition 'pare'; did you mean 'pair'"),
    ({"nodes": 4, "processes": 1}, {}, "a run asks for 4 nodes at once; partition 'pair' has 2"),
    ({"processes": 4}, {}, "asks for 4 CPUs; the nodes of partition 'pair' have 2"),
    ({}, {"gpus_per_node": 4}, "asks for 4 devices; the nodes of partition 'pair' have 2"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "section", "message"), REFUSED_BY_SLURM)
def test_what_slurm_cannot_give_a_gang_is_refused(
    changes: dict[str, Any],
    section: dict[str, Any],
    message: str,
    slurm: LaunchConfig,
    study: Study,
) -> None:
    made = gang(study, planned(study), **changes)
    config = slurm.slurm.model_copy(update=section)
    with pytest.raises(UserError, match=message):
        train_gang(study.layout, made, slurm.model_copy(update={"slurm": config}))
    assert submissions(study.layout) == []
    assert call("squeue", "--noheader") == ""


@pytest.mark.slow
def test_when_a_ray_node_is_lost_the_gang_goes_on_with_another(
    ray: LaunchConfig,
    study: Study,
    side: Callable[[], Any],
    ray_cluster: Any,
    expected: dict[tuple[str, int, str], float],
) -> None:
    """One process each of two nodes; while there is one node only, it waits."""
    lost = side()
    waiting = Waiting(study, gang(study, planned(study), nodes=2, processes=1), ray)
    until(under_way(waiting.run))
    launch = _launched(study)
    assert [job.state for job in launch.poll()] == ["running"]
    ray_cluster.remove_node(lost, allow_graceful=False)
    until(lambda: [job.state for job in launch.poll()] == ["waiting"])
    assert not waiting.run.done.exists()
    side()
    assert waiting.ended() == []
    assert started_at(waiting.run)[0] == 0
    assert started_at(waiting.run)[1] > 0
    assert figures(waiting.run) == expected
    assert [p.name for p in running.logs(study.layout)] == [
        f"{waiting.job}.worker-{n}.log" for n in (0, 1)
    ]
    assert not launch.launcher._actors(study.layout.root, [waiting.job])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_gang_on_ray_is_cancelled_waiting_or_running(
    ray: LaunchConfig, study: Study, side: Callable[[], Any]
) -> None:
    run_id = planned(study, LONG)
    made = gang(study, run_id, checkpoint_seconds=1e9)
    with pytest.raises(UserError, match=r"2 nodes of 1 processes need each CPU 1; 1 nodes of the"):
        train_gang(study.layout, replace(made, nodes=2, processes=1), ray)
    patient = ray.model_copy(update={"ray": ray.ray.model_copy(update={"autoscaling": True})})
    waiting = Waiting(study, replace(made, nodes=2, processes=1), patient)
    launch = _launched(study)
    until(lambda: [job.state for job in launch.poll()] == ["waiting"])
    assert len(running.cancel(study.layout)) == 1
    assert [type(e) for e in waiting.ended()] == [Cancelled]
    waiting = Waiting(study, made, ray)  # both processes on the one node that there is
    until(come_to(waiting.run, 50))
    assert len(running.cancel(study.layout)) == 1
    assert [type(e) for e in waiting.ended()] == [Cancelled]
    assert list(waiting.run.checkpoints.glob("step-*/progress.json"))


def _launched(study: Study) -> running.Launch:
    """What was submitted last, as another command finds it."""
    until(lambda: any(s.jobs for s in submissions(study.layout)))
    return running.launched(study.layout, submissions(study.layout)[-1])


@pytest.mark.slow
def test_here_a_killed_process_is_followed_by_another(
    study: Study, expected: dict[tuple[str, int, str], float]
) -> None:
    waiting = Waiting(study, gang(study, planned(study)), LaunchConfig())
    until(under_way(waiting.run))
    os.kill(processes(waiting.run)[0], signal.SIGKILL)
    assert waiting.ended() == []
    assert started_at(waiting.run)[0] == 0
    assert started_at(waiting.run)[1] > 0
    assert figures(waiting.run) == expected


@pytest.mark.slow
def test_a_run_that_others_train_is_left_to_them(study: Study) -> None:
    made = gang(study, planned(study))
    claim = Claimant(study.layout.runs, "other", 120).take(made.run)
    assert claim is not None
    with pytest.raises(RegmixError, match=f"run {made.run_id}: being trained by another command"):
        train_gang(study.layout, made, LaunchConfig())
    assert not made.run.events.exists()
    claim.release("asked to end")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancel", "SIGKILL"])
def test_a_gang_here_ends_with_its_command_and_leaves_a_checkpoint(how: str, study: Study) -> None:
    run_id = planned(study, LONG)
    run = study.layout.run(run_id)
    code = (
        "import sys; from regmix.study import Study; from proxy_trainer import steps\n"
        "from regmix.errors import RegmixError; from regmix.recipe import ParallelConfig\n"
        "study, spread = Study.open(sys.argv[1]), ParallelConfig(processes=2)\n"
        "try: steps.train_sharded(study, [sys.argv[2]], spread)\n"
        "except RegmixError as exc: sys.exit(exc.exit_code)\n"
    )
    command = [sys.executable, "-c", code, str(study.layout.root), run_id]
    with subprocess.Popen(command) as process:
        until(come_to(run, 50))
        if how == "cancel":
            assert len(running.cancel(study.layout)) == 1
        else:
            process.kill()
        ended = process.wait(PATIENCE)
    assert ended == (-signal.SIGKILL if how == "SIGKILL" else REQUEUE)
    until(lambda: not processes(run))
    last = claims.last(run.claims)
    assert last is not None
    assert (last.kind, last.reason) == ("released", "asked to end")
    assert list(run.checkpoints.glob("step-*/progress.json"))
    assert f"run {run_id}: told to end" in "".join(
        p.read_text() for p in running.logs(study.layout)
    )


@pytest.mark.slow
def test_processes_that_hang_as_they_are_told_to_end_do_not_stay(study: Study) -> None:
    """A peer that does not move keeps the others from their checkpoint."""
    from proxy_trainer.launch.gang_node import Node

    made = gang(study, planned(study, LONG))
    wanted = GangOrder(study.layout.root, 2, gang=made, retries=0, since=0)
    node = Node(wanted, 0, None, study.layout.launches / "node.log", end_seconds=2.0)
    until(come_to(made.run, 50))
    frozen = processes(made.run)[1]
    os.kill(frozen, signal.SIGSTOP)
    try:
        time.sleep(1)  # within a step, so that the first one waits for it
        node.stop()
        until(lambda: 0 not in processes(made.run))
    finally:
        os.kill(frozen, signal.SIGKILL)
    end = node.wait(lambda: True)
    assert end.code != OK
    assert "hung for 2 seconds after it was told to end" in "".join(end.said)


OTHER = """
import os

if os.environ.get("RANK") == "1":
    from proxy_trainer import version

    version.version = lambda: "0.1.0+0123456789ab"
"""
"""What every process does at its start: the second one takes itself for other code."""


@pytest.mark.slow
def test_processes_of_which_one_has_other_code_refuse(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(OTHER)
    path = os.pathsep.join(p for p in (str(tmp_path), os.environ.get("PYTHONPATH")) if p)
    monkeypatch.setenv("PYTHONPATH", path)
    made = gang(study, planned(study))
    with pytest.raises(WorkersFailed) as refused:
        train_gang(study.layout, made, LaunchConfig())
    said = f"has regmix 0.1.0+0123456789ab in {sys.prefix}; the command that started it has"
    assert f"{said} {version()}" in str(refused.value)
    assert claims.log(made.run.claims) == []
    assert not made.run.events.exists()


def test_without_a_command_the_first_process_says_which_code_it_is(
    ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    _check_version(None, ranks)
    _check_version(version(), ranks)
    with pytest.raises(StudyRefused, match="not of one version"):
        _check_version("99.0+0123456789ab", ranks)
    assert f"has regmix {version()} in {sys.prefix}" in capsys.readouterr().err

    class Second(Ranks):
        def of_first(self, *values: float) -> list[float]:
            return [float(int("0123456789ab", 16))]

    with pytest.raises(StudyRefused):
        _check_version(None, Second(**vars(ranks)))


def test_what_does_not_go_together_is_refused_before_anything_starts(
    study: Study, install_launcher: Callable[[str, object], str]
) -> None:
    run_id = planned(study)
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"processes": 3}, "local", "4 sequences cannot be divided among 3 processes"),
        ({"nodes": 2, "processes": 3}, "ray", "among 6 processes; start 1, 2, 4, or"),
        ({"nodes": 2}, "local", "2 nodes: the launcher 'local' has one; choose slurm or ray"),
        ({}, "lokal", "unknown launcher 'lokal'; did you mean 'local'"),
    ]
    for changes, name, message in wrong:
        with pytest.raises(UserError, match=message):
            train_gang(study.layout, gang(study, run_id, **changes), LaunchConfig(launcher=name))

    class Plain:
        name = "plain"
        check = submit = poll = cancel = logs = None

    install_launcher("plain", Plain)
    with pytest.raises(UserError, match="'plain' starts single workers only"):
        train_gang(study.layout, gang(study, run_id), LaunchConfig(launcher="plain"))
    assert submissions(study.layout) == []


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has the devices")
def test_a_process_has_one_device(study: Study) -> None:
    here = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"2 workers with 1 devices each, this machine has {here}"):
        train_gang(study.layout, gang(study, planned(study)), LaunchConfig(gpus_per_worker=4))


def test_launchers_give_each_process_a_device(study: Study) -> None:
    made = gang(study, planned(study), nodes=3, processes=8)
    wanted = GangOrder(study.layout.root, 24, gpus=1, gang=made, retries=1, since=0)
    assert Slurm(SlurmConfig()).gang_shape(wanted) == Shape(jobs=1, workers=8, gpus=8, nodes=3)
    needs = Ray(RayConfig(cpus_per_worker=2, resources={"spot": 0.5})).needs(wanted)
    assert needs.bundle() == {"CPU": 16, "GPU": 8, "spot": 4}


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([REQUEUE, REQUEUE], REQUEUE), ([1, -9], KILLED + 9), ([REQUEUE, BROKEN], BROKEN),
     ([BROKEN, REFUSED], REFUSED), ([DIVERGED] * 2, DIVERGED), ([BUSY, BUSY], BUSY), ([], OK)],
)  # fmt: skip
def test_of_a_nodes_exit_codes_the_one_that_tells_most_is_its_own(
    codes: list[int], expected: int
) -> None:
    assert code_of(codes) == expected


class Queue:
    """A launcher whose gangs end when they are first asked after; of one the job fails."""

    name = "queue"

    def __init__(self, failing: str, told: list[str]) -> None:
        self._failing, self._told = failing, told

    def check_gang(self, order: GangOrder) -> None: ...

    check = cancel = logs = submit = check_gang

    def submit_gang(self, order: GangOrder) -> list[str]:
        self._told.append(f"submit {order.gang.run_id}")
        return [order.gang.run_id]

    def poll(self, study: Path, job_ids: list[str]) -> list[Job]:
        ((run_id,), run) = job_ids, StudyLayout(study).run(job_ids[0])
        self._told.append(f"poll {run_id}")
        if run_id == self._failing:
            return [Job(run_id, "failed", "node 1 was lost (4 attempts)")]
        run.done.write_text("{}")
        return [Job(run_id, "ended")]


@pytest.mark.parametrize("name", ["queue", "local"])
def test_one_gang_that_fails_keeps_no_other_from_its_end(
    name: str,
    study: Study,
    install_launcher: Callable[[str, object], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where jobs queue all are submitted first; here one has the machine at a time."""
    ids = [planned(study, STEPS + n) for n in range(3)]
    told: list[str] = []
    where = install_launcher("queue", lambda *_: Queue(ids[1], told))
    monkeypatch.setitem(registry.BUILT_IN, "local", where)  # no package can take that name
    gangs = [gang(study, run_id) for run_id in ids]
    failures = train_gangs(study.layout, gangs, LaunchConfig(launcher=name))
    assert failures == {ids[1]: "node 1 was lost (4 attempts)"}
    submits, polls = ([f"{word} {i}" for i in ids] for word in ("submit", "poll"))
    if name == "queue":
        assert told == submits + polls
    else:
        assert told == [word for pair in zip(submits, polls, strict=True) for word in pair]
    told.clear()
    assert train_gangs(study.layout, gangs[::2], LaunchConfig(launcher=name)) == {}
    assert told == []  # all of these are done


def test_a_gang_whose_run_others_train_is_no_failure_of_the_run(
    study: Study, install_launcher: Callable[[str, object], str]
) -> None:
    ids = [planned(study, STEPS + n) for n in range(2)]
    told: list[str] = []
    install_launcher("queue", lambda *_: Queue(ids[0], told))
    with Claimant(study.layout.runs, "other", 120.0).at_work() as other:
        assert other.take(study.layout.run(ids[0]))
        gangs = [gang(study, run_id) for run_id in ids]
        with pytest.raises(RegmixError, match="node 1 was lost"):
            train_gangs(study.layout, gangs, LaunchConfig(launcher="queue"))
    assert study.layout.run(ids[1]).done.exists()


@pytest.fixture
def order(study: Study) -> GangOrder:
    made = gang(study, planned(study))
    return GangOrder(study.layout.root, 2, gang=made, retries=1, since=0)


def attempt(run: RunLayout, step: int, reason: str | None, *, failed: bool = False) -> None:
    """A claim from some step, released with a reason or left behind."""
    claim = Claimant(run.root.parent, "someone", 0.01).take(run, step)
    while claim is None:  # the one before has not fallen silent yet
        time.sleep(0.01)
        claim = Claimant(run.root.parent, "someone", 0.01).take(run, step)
    if reason is not None:
        claim.release(reason, failed=failed)
    else:
        time.sleep(0.02)


def end(code: int, said: str = "it went wrong", **changes: bool) -> NodeEnd:
    return NodeEnd(code, (said,) * bool(code), **changes)


def test_attempts_count_until_the_run_gets_further(order: GangOrder) -> None:
    run, killed = order.gang.run, [end(KILLED + 9, "killed"), end(BROKEN, "peer gone")]
    assert conclude(order, killed, 0) == Conclusion(False, "killed; peer gone"), "never claimed"
    attempt(run, 0, "RuntimeError: peer gone", failed=True)
    assert conclude(order, killed, 0).again
    before = len(claims.log(run.claims))
    attempt(run, 0, None)
    assert conclude(order, killed, before) == Conclusion(False, "killed; peer gone (2 attempts)")
    assert conclude(replace(order, since=before), killed, before).again, "others' attempts"
    attempt(run, 10, None)
    assert conclude(order, killed, before).again, "it had got further"


@pytest.mark.parametrize(
    ("error", "again"),
    [(OSError(errno.EIO, "Input/output error"), True), (RegmixError("cut short"), True),
     (ValueError("no"), True), (OSError(errno.ENOSPC, "No space left on device"), False),
     (StudyFault("no space left"), False), (UserError("other data"), False)],
)  # fmt: skip
def test_of_a_gang_that_could_not_go_on_its_claim_says_whether_it_may_the_next_time(
    order: GangOrder, error: Exception, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = StudyLayout(order.study)
    monkeypatch.setenv(WORKER, "")  # claiming sets it for the process

    def attempted() -> None:
        with _claimed(study, order.gang.run, 77.0) as mine:
            assert mine.holds()
            raise error

    with pytest.raises(type(error)):
        attempted()
    released = claims.log(order.gang.run.claims)[-1]
    assert (released.seconds, released.failed) == (77.0, again)
    assert str(error) in released.reason
    code = REFUSED if isinstance(error, UserError) else BROKEN
    assert conclude(order, [end(code), end(BROKEN)], 0).again is again


def test_told_to_end_a_gang_goes_on_whatever_its_processes_ended_with(order: GangOrder) -> None:
    for ends in ([end(REQUEUE), end(OK)], [end(KILLED + 9, told=True), end(BROKEN)]):
        assert conclude(order, ends, 0).again


def test_a_node_that_is_lost_before_anything_was_claimed_is_replaced(order: GangOrder) -> None:
    assert conclude(order, [end(BROKEN, "node 1 was lost", lost=True), end(BROKEN)], 0).again


def test_what_is_wrong_with_the_study_is_not_tried_again(order: GangOrder) -> None:
    run = order.gang.run
    attempt(run, 0, "no space left")
    for code in (BROKEN, REFUSED, BUSY):
        found = conclude(order, [end(code, "no space left")] * 2, 0)
        assert found == Conclusion(False, "no space left")


def test_what_is_done_or_diverged_is_over(order: GangOrder) -> None:
    run = order.gang.run
    run.failed.write_text(json.dumps({"reason": "diverged"}))
    assert conclude(order, [end(DIVERGED), end(DIVERGED)], 0) == Conclusion(False)
    run.failed.unlink()
    run.done.write_text("{}")
    assert conclude(order, [end(OK), end(BROKEN)], 0) == Conclusion(False)
    run.done.unlink()
    assert conclude(order, [end(OK), end(OK)], 0) == Conclusion(False)
