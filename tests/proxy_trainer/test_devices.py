"""Devices: those that a process may use are shared out by name, and whoever has none sees none."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from proxy_trainer import steps, worker
from proxy_trainer.launch import devices, local
from proxy_trainer.launch.base import Order
from proxy_trainer.launch.crew import Crew, JobFiles
from proxy_trainer.launch.environment import training_environment
from proxy_trainer.launch.gang import Gang, GangOrder
from proxy_trainer.launch.gang_node import Node
from regmix.config import LaunchConfig
from regmix.errors import RegmixError, UserError

UUIDS = ["GPU-5a1e", "GPU-77b0", "MIG-90cc", "GPU-0123"]


def have(monkeypatch: pytest.MonkeyPatch, count: int, named: str | None = None) -> None:
    """So many devices are there, and named so in the environment."""
    monkeypatch.setattr(devices, "_driver", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if named is None:
        monkeypatch.delenv(devices.VISIBLE, raising=False)
    else:
        monkeypatch.setenv(devices.VISIBLE, named)


@pytest.mark.parametrize(
    ("count", "named", "expected"),
    [
        (3, None, ["0", "1", "2"]),
        (2, "4,6", ["4", "6"]),
        (4, ",".join(UUIDS), UUIDS),
        (1, "2,-1,3", ["2"]),  # CUDA stops at what it does not know
        (0, "", []),
        (0, None, []),
    ],
)
def test_devices_are_called_what_the_environment_calls_them(
    count: int, named: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, count, named)
    assert devices.visible() == expected


def test_whatever_torch_can_use_has_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine, whatever it has: devices are not missed because torch was not asked."""
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    assert len(devices.visible()) == torch.cuda.device_count()


def test_each_worker_has_its_own_and_one_without_has_none() -> None:
    assert devices.shares(UUIDS, 2, 2) == ["GPU-5a1e,GPU-77b0", "MIG-90cc,GPU-0123"]
    assert devices.shares(UUIDS, 3, 1) == UUIDS[:3]
    assert devices.shares(UUIDS, 2, 0) == ["", ""]
    with pytest.raises(RegmixError, match=r"3 workers of 2 devices need 6, there are 4"):
        devices.shares(UUIDS, 3, 2)


@pytest.mark.parametrize(
    ("said", "there", "gpus", "workers"),
    [
        ({}, 8, 1, 8),
        ({}, 0, 0, None),
        ({"gpus_per_worker": 0}, 8, 0, None),
        ({"gpus_per_worker": 1}, 8, 1, 8),
        ({"gpus_per_worker": 4}, 8, 4, 2),
        ({"workers": 2}, 8, 1, 2),
        ({"workers": 2, "gpus_per_worker": 0}, 8, 0, 2),
        ({"workers": 3, "gpus_per_worker": 2}, 8, 2, 3),
        ({"launcher": "slurm"}, 8, 0, None),
        ({"launcher": "slurm", "gpus_per_worker": 2}, 8, 2, None),
    ],
)
def test_what_a_person_leaves_open_the_devices_decide(
    said: dict[str, object], there: int, gpus: int, workers: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    have(monkeypatch, there)
    found = devices.settled(LaunchConfig.model_validate(said))
    assert (found.gpus_per_worker, found.workers) == (gpus, workers)
    assert devices.settled(found) == found
    assert steps.workers(LaunchConfig.model_validate(said)) == workers or len(local.cores())


def test_more_workers_than_devices_are_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, 2)
    local.LocalLauncher().check(Order(tmp_path, 2, gpus=1))
    with pytest.raises(UserError, match=r"this machine has 2; lower .*\(0: on cores\)"):
        local.LocalLauncher().check(Order(tmp_path, 3, gpus=1))


def _tell(order: Order, number: int, core: int | None, share: str, messages: Connection) -> None:
    """In a worker's process: it says what it sees in place of working."""

    def work(*_: object, **__: object) -> tuple[int, str]:
        print(f"sees {os.environ[devices.VISIBLE]!r}", flush=True)
        return 0, ""

    worker.work = work  # type: ignore[assignment]
    local._work(order, number, core, share, messages)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpus", "seen"), [(0, ["''", "''"]), (2, ["'GPU-5a1e,GPU-77b0'", "'MIG-90cc,GPU-0123'"])]
)
def test_local_workers_see_their_share_of_what_the_command_sees(
    gpus: int, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, 4, ",".join(UUIDS))
    monkeypatch.setattr(local, "_work", _tell)
    launcher, order = local.LocalLauncher(), Order(tmp_path, 2, gpus, "s1")
    ids = launcher.submit(order)
    try:
        for place in launcher._places:
            place.process.join(60)
        assert [job.state for job in launcher.poll(tmp_path, ids)] == ["ended"]
    finally:
        launcher.close()
    assert [p.read_text() for p in launcher.logs(tmp_path, ids)] == [f"sees {s}\n" for s in seen]


@pytest.mark.parametrize(
    ("gpus", "seen"), [(0, ["''", "''"]), (2, ["'GPU-5a1e,GPU-77b0'", "'MIG-90cc,GPU-0123'"])]
)
def test_a_jobs_workers_see_their_share_of_what_the_job_was_given(
    gpus: int, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(devices.VISIBLE, ",".join(UUIDS))
    code = f"import os; print('sees', repr(os.environ[{devices.VISIBLE!r}]))"
    files = JobFiles.of(tmp_path, "slurm", "7")
    crew = Crew(tmp_path, 2, gpus, (sys.executable, "-c", code))
    assert [p.wait(60) for p in crew.start(files)] == [0, 0]
    assert [p.read_text() for p in files.worker_logs()] == [f"sees {s}\n" for s in seen]


@pytest.mark.parametrize(("gpus", "seen"), [(0, "''"), (1, "'GPU-5a1e,GPU-77b0'")])
def test_a_gang_without_devices_sees_none(
    gpus: int, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(devices.VISIBLE, "GPU-5a1e,GPU-77b0")
    code = f"import os; print('torchrun:', repr(os.environ[{devices.VISIBLE!r}]))"
    monkeypatch.setattr("proxy_trainer.launch.gang_node._torchrun", lambda *_: ["-c", code])
    gang = Gang(
        study=tmp_path, run_id="r", nodes=1, processes=2, hybrid=False, recompute=False,
        rows=None, compiled=False, checkpoint_seconds=60.0,
    )  # fmt: skip
    order = GangOrder(tmp_path, 2, gpus, gang=gang, retries=0, since=0)
    node = Node(order, 0, None, tmp_path / "node.log", end_seconds=5.0)
    assert node.wait(lambda: False).said == (seen,)


def test_the_environment_is_kept_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VISIBLE, "3")
    assert training_environment()[devices.VISIBLE] == "3"
    assert training_environment(devices.NONE)[devices.VISIBLE] == ""
