"""Ray, the real one: a cluster of two nodes on this machine, with a worker that only waits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy_trainer.launch.base import Job, Order
from proxy_trainer.launch.ray import Ray, namespace
from regmix import testing
from regmix.config import RayConfig
from regmix.errors import UserError
from regmix.study import Study
from regmix.testing import Bench
from regmix.testing.launchers import PATIENCE_SECONDS as PATIENCE
from regmix.testing.launchers import finished, until

WORKER = Path(__file__).resolve().parents[1] / "services" / "worker.py"


@pytest.fixture(scope="module")
def cluster(ray_cluster: Any) -> Any:
    """A head that runs no workers, and a node of two cores and a device."""
    return ray_cluster


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    root.mkdir()
    return root


@pytest.fixture
def launcher(cluster: Any, study: Path) -> Iterator[Callable[..., Ray]]:
    """Makes a launcher whose workers do ``tasks`` of ``seconds`` each; nothing of it stays."""

    def make(tasks: int = 3, seconds: float = 0.3, **settings: object) -> Ray:
        worker = [sys.executable, str(WORKER), str(study), str(tasks), str(seconds)]
        config = RayConfig.model_validate({"address": cluster.address, **settings})
        return Ray(config, worker=worker)

    yield make
    import ray

    for actor in ray.util.list_named_actors(all_namespaces=True):
        ray.kill(ray.get_actor(**actor), no_restart=True)


@pytest.fixture(scope="module")
def bench_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


def done(study: Path) -> list[str]:
    return sorted(p.stem for p in study.glob("*.done"))


def text(ray: Ray, study: Path, ids: list[str]) -> str:
    return "".join(p.read_text() for p in ray.logs(study, ids))


@pytest.mark.slow
@pytest.mark.parametrize("check", testing.LAUNCHER_CHECKS, ids=lambda c: c.__name__)
def test_it_does_what_every_launcher_must(
    check: Callable[[Bench], None], cluster: Any, bench_folder: Path
) -> None:
    settings = RayConfig(address=cluster.address)
    check(Bench(lambda: Ray(settings), bench_folder, library="ray"))


@pytest.mark.slow
def test_actors_do_all_the_work_and_leave(launcher: Callable[..., Ray], study: Path) -> None:
    ray, order = launcher(tasks=4), Order(study, workers=2)
    ray.check(order)
    ids = ray.submit(order)
    assert finished(ray, study, ids) == [Job(i, "ended") for i in ids]
    assert done(study) == [f"task-{i}" for i in range(4)]
    assert [p.name for p in ray.logs(study, ids)] == [f"{i}.worker-0.log" for i in ids]
    until(lambda: not ray._actors(study, ids), what="the cluster to let the actors go")


@pytest.mark.slow
def test_a_worker_gets_its_device(launcher: Callable[..., Ray], study: Path) -> None:
    ray, order = launcher(tasks=1), Order(study, workers=1, gpus=1)
    ray.check(order)
    ids = ray.submit(order)
    assert finished(ray, study, ids) == [Job(ids[0], "ended")]
    assert "devices '0'" in text(ray, study, ids)


@pytest.mark.slow
def test_cancelled_workers_leave_checkpoints(launcher: Callable[..., Ray], study: Path) -> None:
    ray = launcher(tasks=3, seconds=100)
    ids = ray.submit(Order(study, workers=3))  # one more than there are cores
    until(lambda: text(ray, study, ids).count("from step 0") == 2)
    states = [j.state for j in ray.poll(study, ids)]
    assert sorted(states) == ["running", "running", "waiting"]
    assert "free" in ray.poll(study, ids)[states.index("waiting")].reason
    ray.cancel(study, ids)
    assert finished(ray, study, ids) == [Job(i, "ended") for i in ids]
    assert len(list(study.glob("*.half"))) == 2
    assert text(ray, study, ids).count("SIGTERM") == 2
    ray.cancel(study, ids)  # nothing left to do


@pytest.mark.slow
def test_what_a_lost_node_had_begun_is_finished_on_another(
    cluster: Any, launcher: Callable[..., Ray], study: Path
) -> None:
    lost = cluster.add_node(num_cpus=1, resources={"side": 1}, node_ip_address="127.0.0.1")
    ray = launcher(tasks=1, seconds=5, resources={"side": 0.5})
    ids = ray.submit(Order(study, workers=1))
    until(lambda: "from step 0" in text(ray, study, ids))
    cluster.remove_node(lost, allow_graceful=False)
    until(lambda: ray.poll(study, ids)[0].state == "waiting")  # there is no node for it
    assert not done(study)
    other = cluster.add_node(num_cpus=1, resources={"side": 1}, node_ip_address="127.0.0.1")
    assert finished(ray, study, ids) == [Job(ids[0], "ended")]
    assert done(study) == ["task-0"]
    assert text(ray, study, ids).count("from step") == 2
    cluster.remove_node(other)


@pytest.mark.slow
def test_a_worker_told_to_stop_by_another_is_started_again(
    launcher: Callable[..., Ray], study: Path
) -> None:
    ray = launcher(tasks=1, seconds=4)
    ids = ray.submit(Order(study, workers=1))
    until(lambda: "from step 0" in text(ray, study, ids))
    for pid in subprocess.run(
        ["pgrep", "-f", f"{WORKER} {study} "], capture_output=True, text=True, check=True
    ).stdout.split():
        os.kill(int(pid), signal.SIGTERM)
    assert finished(ray, study, ids) == [Job(ids[0], "ended")]
    assert int((study / "task-0.done").read_text().split()[0]) > 0


@pytest.mark.slow
def test_a_worker_that_breaks_says_so(launcher: Callable[..., Ray], study: Path) -> None:
    launcher()
    ray = Ray(RayConfig(), worker=[sys.executable, "-c", "import sys; sys.exit('no luck')"])
    ids = ray.submit(Order(study, workers=1))
    (job,) = finished(ray, study, ids)
    assert job.state == "failed"
    assert "worker 0 ended with code 1; see" in job.reason
    assert "no luck" in text(ray, study, ids)
    assert ray.poll(study, ["unknown-0"])[0].state == "failed"


@pytest.mark.slow
def test_actors_outlive_the_command_that_made_them(
    cluster: Any, launcher: Callable[..., Ray], study: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from proxy_trainer.launch.base import Order;"
        "from proxy_trainer.launch.ray import Ray; from regmix.config import RayConfig;"
        f"ray = Ray(RayConfig(), worker={[sys.executable, str(WORKER), str(study), '1', '3']!r});"
        f"print(*ray.submit(Order(Path({str(study)!r}), workers=1)))"
    )
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    ids = made.stdout.split()
    ray = launcher()
    assert ray.poll(study, ids)[0].state in ("waiting", "running")
    assert finished(ray, study, ids) == [Job(ids[0], "ended")]
    assert done(study) == ["task-0"]


@pytest.mark.slow
def test_what_no_node_has_is_refused(launcher: Callable[..., Ray], study: Path) -> None:
    with pytest.raises(UserError, match=r"a worker needs CPU 1, GPU 2; no node .* CPU 2, GPU 1"):
        launcher().check(Order(study, workers=1, gpus=2))
    launcher(autoscaling=True).check(Order(study, workers=1, gpus=2))
    with pytest.raises(UserError, match="a worker needs CPU 1, TPU 4"):
        launcher(resources={"TPU": 4.0}).check(Order(study, workers=1))


@pytest.mark.slow
def test_without_a_cluster_one_is_started_here(study: Path, ray_alone: dict[str, str]) -> None:
    code = (
        "import sys, time; from pathlib import Path; from proxy_trainer.launch.base import Order;"
        "from proxy_trainer.launch.ray import Ray; from regmix.config import RayConfig;"
        f"study = Path({str(study)!r}); order = Order(study, workers=1);"
        f"ray = Ray(RayConfig(), worker={[sys.executable, str(WORKER), str(study), '1', '1']!r});"
        "ray.check(order); ids = ray.submit(order)\n"
        "while ray.poll(study, ids)[0].state != 'ended': time.sleep(0.2)"
    )
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    environment = {**os.environ, **ray_alone, "RAY_TMPDIR": folder}
    for ours in ("RAY_ADDRESS", "RAY_worker_niceness"):
        environment.pop(ours, None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=PATIENCE)
    shutil.rmtree(folder, ignore_errors=True)
    assert done(study) == ["task-0"]
    (log,) = (study / "launch" / "ray").glob("*.log")
    assert f"niceness {os.nice(0)}\n" in log.read_text()  # Ray's own default is 15 more


def test_without_ray_the_message_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs ray.*pip install 'regmix\[ray\]'"):
        Ray(RayConfig()).check(Order(tmp_path, workers=1))


def test_studies_do_not_share_names(tmp_path: Path) -> None:
    assert namespace(tmp_path / "a") != namespace(tmp_path / "b")


@pytest.mark.slow
def test_a_study_trained_by_ray_is_the_one_trained_here(
    cluster: Any,
    copy_study: Callable[..., Study],
    regmix: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    write_task: Callable[..., Path],
) -> None:
    """The command line and real workers, on the cluster that RAY_ADDRESS names."""
    here, there = copy_study("here"), copy_study("there")
    config = there.layout.config
    config.write_text(config.read_text().replace("proxy:\n", "proxy:\n  keep_model: true\n"))
    for made in (here, there):
        Study.open(made.layout.root).propose()
    _, errors = regmix("train", here.layout.root).communicate(timeout=PATIENCE)
    assert not errors
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    told = regmix("train", there.layout.root, "--launcher", "ray", "--workers", 2)
    _, errors = told.communicate(timeout=2 * PATIENCE)
    assert told.returncode == 0, errors
    ours, theirs = (
        {r.spec.name: (r.status, r.result()["metrics"]) for r in made.runs()}
        for made in (there, here)
    )
    assert ours == theirs
    root = there.layout.root
    told = regmix("eval", root, "--tasks", write_task(root), "--launcher", "ray", "--workers", 2)
    output, errors = told.communicate(timeout=2 * PATIENCE)
    assert told.returncode == 0, errors
    assert "9 of 9 models asked now" in output
