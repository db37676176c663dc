"""Workers as detached Ray actors, on an existing cluster or one on this machine.

An actor is found again by its name, in a namespace that follows from the study's folder: no other
id has to be kept. Detached, it belongs to the cluster and outlives the command that made it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from proxy_trainer.launch.base import Job, Order, Unreachable
from proxy_trainer.launch.crew import CrewLauncher, JobFiles, missing
from proxy_trainer.launch.gang import GangOrder
from proxy_trainer.launch.ray_gang import GangKeeper, Needs
from proxy_trainer.launch.ray_keeper import Keeper
from regmix.config import RayConfig
from regmix.errors import UserError
from regmix.hashing import fingerprint

ANSWER_SECONDS = 5.0
"""How long an actor that is running may take to say so."""
DEFAULTS = {
    # No report of use to Ray's makers; no notice that an actor without devices will one day see
    # the node's.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Of a cluster that is started here. Ray's own is 15, with which a worker gets some 3 % of a
    # core that anything else wants too.
    "RAY_worker_niceness": "0",
}
"""Settings of Ray's that hold unless the environment says otherwise."""


def _ray() -> ModuleType:
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    try:
        import ray
    except ImportError as exc:
        raise missing("ray", "ray") from exc
    module: ModuleType = ray
    return module


class Ray(CrewLauncher[RayConfig]):
    """Workers as actors, one each; Ray places them where their cores and devices are free."""

    name: ClassVar[str] = "ray"

    def check(self, order: Order) -> None:
        """See :meth:`Launcher.check`; starts a cluster on this machine if there is none.

        That cluster ends with the command: workers that are to outlive it need another.
        """
        ray = self._connected(start=not order.detached)
        if self._config.autoscaling:
            return
        _check_nodes(ray, self._resources(order), 1, "a worker needs")

    def check_gang(self, order: GangOrder) -> None:
        """See :meth:`GangLauncher.check_gang`; as :meth:`check`, of as many nodes as it has."""
        ray, gang = self._connected(start=True), order.gang
        if not self._config.autoscaling:
            _check_nodes(
                ray, self.needs(order).bundle(), gang.nodes,
                f"{gang.nodes} nodes of {gang.processes} processes need each",
            )  # fmt: skip

    def needs(self, order: GangOrder) -> Needs:
        """What a node of a gang takes up; further resources are for each of its processes."""
        count = order.gang.processes
        further = {name: value * count for name, value in self._config.resources.items()}
        return Needs(
            float(self._config.cpus_per_worker * count), float(order.gpus * count), further
        )

    def submit_gang(self, order: GangOrder) -> list[str]:
        """See :meth:`GangLauncher.submit_gang`; the job is the actor that keeps it going."""
        ray = self._connected(start=True)
        job_id = f"{secrets.token_hex(4)}-0"
        ray.remote(GangKeeper).options(
            name=job_id,
            namespace=namespace(order.study),
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
        ).remote(order, job_id, self.needs(order))
        return [job_id]

    def _resources(self, order: Order) -> dict[str, float]:
        """What a worker takes up, by Ray's names."""
        devices = {"GPU": float(order.gpus)} if order.gpus else {}
        return {"CPU": float(self._config.cpus_per_worker), **devices, **self._config.resources}

    def submit(self, order: Order) -> list[str]:
        """See :meth:`Launcher.submit`; one actor a worker."""
        ray = self._connected(start=True)
        batch = secrets.token_hex(4)
        job_ids = [f"{batch}-{i}" for i in range(order.workers)]
        crew = self._crew(order, workers=1)
        for job_id in job_ids:
            ray.remote(Keeper).options(
                name=job_id,
                namespace=namespace(order.study),
                lifetime="detached",
                num_cpus=self._config.cpus_per_worker,
                num_gpus=order.gpus,
                resources=self._config.resources,
                max_restarts=-1,
            ).remote(crew, job_id)
        return job_ids

    def poll(self, study: Path, job_ids: list[str]) -> list[Job]:
        """See :meth:`Launcher.poll`; asks the cluster only for jobs that left no ending."""
        files = [self._files(study, job_id) for job_id in job_ids]
        settled = {f.job_id: job for f in files if (job := f.ended())}
        waiting = [f for f in files if f.job_id not in settled]
        settled |= self._ask(study, waiting) if waiting else {}
        return [settled[job_id] for job_id in job_ids]

    def _ask(self, study: Path, waiting: list[JobFiles]) -> dict[str, Job]:
        actors = self._actors(study, [f.job_id for f in waiting])
        there = self._answering({job_id: a.ping.remote() for job_id, a in actors.items()})
        jobs = {}
        for files in waiting:
            key = files.job_id
            if key in there:
                jobs[key] = Job(key, "running")
            elif key in actors:
                jobs[key] = Job(key, "waiting", "no node has its cores and devices free")
            else:  # it may have ended between the two looks
                jobs[key] = files.ended() or _gone(files, "the cluster no longer has its actor")
        return jobs

    def cancel(self, study: Path, job_ids: list[str]) -> None:
        """See :meth:`Launcher.cancel`; an actor that no node runs is taken back."""
        try:
            found = self.poll(study, job_ids)
        except Unreachable:
            self._cancel_by_file(study, job_ids)
            return
        open_jobs = [job.job_id for job in found if job.state in ("waiting", "running")]
        for job_id in open_jobs:
            self._files(study, job_id).cancel()
        if not open_jobs:
            return
        actors = self._actors(study, open_jobs)
        there = self._answering({job_id: a.cancel.remote() for job_id, a in actors.items()})
        for job_id in set(actors) - there:
            self._connected().kill(actors[job_id], no_restart=True)

    def logs(self, study: Path, job_ids: list[str]) -> list[Path]:
        """See :meth:`Launcher.logs`."""
        return [p for i in job_ids for p in self._files(study, i).worker_logs()]

    def _actors(self, study: Path, job_ids: list[str]) -> dict[str, Any]:
        """The jobs' actors that the cluster has, running or not."""
        ray, found = self._connected(), {}
        for job_id in job_ids:
            try:
                found[job_id] = ray.get_actor(job_id, namespace=namespace(study))
            except ValueError:
                continue
            except ray.exceptions.RayError as exc:
                raise Unreachable(f"Ray does not tell of its actors ({exc})") from exc
        return found

    def _answering(self, calls: dict[str, Any]) -> set[str]:
        """The jobs whose actors answered a call."""
        ray = self._connected()
        if not calls:
            return set()
        answers, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=ANSWER_SECONDS)
        return {i for i, call in calls.items() if call in answers and _answered(ray, call)}

    def _connected(self, *, start: bool = False) -> ModuleType:
        """Ray, in touch with the cluster; the process stays connected.

        Args:
            start: a cluster on this machine, which ends with this process, where there is none.

        Raises:
            UserError: Ray is not installed.
            Unreachable: no cluster answers.
        """
        ray = _ray()
        if ray.is_initialized():
            return ray
        address = self._config.address or os.environ.get("RAY_ADDRESS")
        quiet = {"log_to_driver": False, "logging_level": "error"}
        own, why = address == "local", "'local' is a cluster that ends with its command"
        if not own:
            try:
                ray.init(address=address or "auto", **quiet)
            except (ConnectionError, RuntimeError, ValueError) as exc:
                own, why = not address, str(exc).strip().splitlines()[0]
        if own and start:
            ray.init(
                address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet
            )
        if not ray.is_initialized():
            raise Unreachable(
                f"launch.ray.address: no Ray cluster answers at {address or 'this machine'} "
                f"({why}); for --detach and further commands there has to be one that lasts, as "
                "`ray start --head` begins"
            )
        return ray


def _check_nodes(ray: ModuleType, wanted: dict[str, float], count: int, who: str) -> None:
    """Refuse what the cluster's nodes do not have, free or not.

    Args:
        wanted: resources of one node, by Ray's names.
        count: nodes that have to have them.
        who: needs them, for the message.
    """
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    fit = [n for n in nodes if all(n.get(k, 0) >= v for k, v in wanted.items())]
    if len(fit) >= count:
        return
    asked = ", ".join(f"{k} {v:g}" for k, v in wanted.items())
    there = "; ".join(
        ", ".join(f"{k} {n.get(k, 0):g}" for k in wanted) for n in sorted(nodes, key=str)
    )
    have = f"{len(fit)} nodes of the cluster have" if fit else "no node of the cluster has"
    raise UserError(
        f"launch.ray: {who} {asked}; {have} that. They have: {there}. Where nodes come when they "
        "are needed, set launch.ray.autoscaling: true"
    )


def namespace(study: Path) -> str:
    """Of a study's actors: no other study's have it."""
    return f"regmix-{fingerprint(str(study))}"


def _answered(ray: ModuleType, call: Any) -> bool:
    """Whether a call that is over was answered; an actor that died while called did not."""
    try:
        ray.get(call)
    except ray.exceptions.RayError:
        return False
    return True


def _gone(files: JobFiles, reason: str) -> Job:
    if files.cancelled.exists():
        return Job(files.job_id, "ended")
    return Job(files.job_id, "failed", f"{reason}; see {files.folder}")
