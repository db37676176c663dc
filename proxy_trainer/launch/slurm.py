"""Workers as Slurm jobs: submitit writes and submits the script, Slurm's own commands do the rest.

States come from squeue and, once a job has left the queue, from what it wrote into the study: sacct
answers only where accounting is set up, and forgets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from proxy_trainer.launch.base import Job, JobState, Order
from proxy_trainer.launch.crew import Crew, CrewLauncher, JobFiles, missing
from proxy_trainer.launch.gang import GangOrder
from proxy_trainer.launch.slurm_gang import SlurmGang
from proxy_trainer.launch.slurm_job import SlurmJob
from proxy_trainer.launch.slurm_system import Partition, ask, partitions, queue
from regmix.config import SlurmConfig
from regmix.errors import RegmixError, UserError, unknown_name

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD",
           "SPECIAL_EXIT", "SUSPENDED", "STOPPED", "POWER_UP_NODE")  # fmt: skip
RUNNING = ("RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "UPDATE_DB")
ENDED = ("COMPLETED", "CANCELLED")
FAILED = {
    "TIMEOUT": "reached its time limit before its checkpoints were written; launch.slurm."
    "signal_seconds gives them longer",
    "OUT_OF_MEMORY": "needed more memory than it asked for; launch.slurm.memory_gb asks for more",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "was preempted and not requeued",
    "DEADLINE": "reached its deadline",
    "BOOT_FAIL": "its node did not boot",
    "": "left Slurm's queue without a word: killed from outside, or its node or memory went",
}


def _submitit() -> ModuleType:
    try:
        import submitit
    except ImportError as exc:
        raise missing("slurm", "submitit") from exc
    module: ModuleType = submitit
    return module


@dataclass(frozen=True)
class Shape:
    """How an order's workers are laid over jobs and nodes."""

    jobs: int
    workers: int
    """Of each job's nodes."""
    gpus: int
    """Of each job's nodes."""
    nodes: int = 1
    """Of each job."""


class Slurm(CrewLauncher[SlurmConfig]):
    """Workers as an array of jobs, each on one node; a gang as one job over its nodes."""

    name: ClassVar[str] = "slurm"

    def shape(self, order: Order) -> Shape:
        """Jobs, and the workers and devices of each."""
        jobs = min(self._config.nodes or order.workers, order.workers)
        workers = math.ceil(order.workers / jobs)
        devices = self._devices(workers * order.gpus)
        return Shape(math.ceil(order.workers / workers), workers, devices)

    def gang_shape(self, order: GangOrder) -> Shape:
        """One job over the gang's nodes; ``launch.slurm.nodes`` is for single workers."""
        gang = order.gang
        devices = self._devices(gang.processes * order.gpus)
        return Shape(1, gang.processes, devices, gang.nodes)

    def _devices(self, needed: int) -> int:
        given = self._config.gpus_per_node
        return needed if given is None else given

    def check(self, order: Order) -> None:
        """See :meth:`Launcher.check`; asks sinfo, then has sbatch judge the options."""
        self._check(self.shape(order), order.gpus, "raise it, or launch.slurm.nodes")

    def check_gang(self, order: GangOrder) -> None:
        """See :meth:`GangLauncher.check_gang`; as :meth:`check`."""
        self._check(self.gang_shape(order), order.gpus, "raise it")

    def _check(self, shape: Shape, gpus: int, remedy: str) -> None:
        ask("sbatch", "--version")
        _submitit()
        if shape.gpus < shape.workers * gpus:
            raise UserError(
                f"launch.slurm.gpus_per_node: {shape.gpus} is fewer than the {shape.workers} "
                f"workers of a job need ({gpus} each); {remedy}"
            )
        known = partitions()
        chosen = self._config.partition
        names = chosen.split(",") if chosen else [p.name for p in known.values() if p.default]
        for name in names:
            if name not in known:
                raise unknown_name("partition", name, known, "launch.slurm.partition")
        self._check_fit([known[n] for n in names], shape)
        self._check_options(shape)

    def _check_fit(self, chosen: list[Partition], shape: Shape) -> None:
        """Refuse what no node of the partitions could ever run."""
        if not chosen:
            raise UserError(
                "launch.slurm.partition: this cluster has no default one; name one of: "
                + ", ".join(sorted(partitions()))
            )
        names = ",".join(p.name for p in chosen)
        if not any(p.up for p in chosen):
            raise UserError(f"launch.slurm.partition: '{names}' is not up")
        most = max(p.nodes for p in chosen)
        if shape.nodes > most:
            raise UserError(
                f"launch.slurm.partition: a run asks for {shape.nodes} nodes at once; partition "
                f"'{names}' has {most}"
            )
        asked = {
            "gpus_per_node": (shape.gpus, max(p.gpus for p in chosen), "devices"),
            "cpus_per_worker": (self._config.cpus_per_worker * shape.workers,
                                max(p.cpus for p in chosen), "CPUs"),
            "memory_gb": ((self._config.memory_gb or 0) * shape.workers,
                          max(p.memory_mb for p in chosen) / 1024, "GB of memory"),
        }  # fmt: skip
        for key, (wanted, there, what) in asked.items():
            if wanted > there:
                raise UserError(
                    f"launch.slurm.{key}: a job of {shape.workers} workers asks for {wanted:g} "
                    f"{what}; the nodes of partition '{names}' have {there:g} at most"
                )
        longest = max(p.minutes for p in chosen)
        if self._minutes() > longest:
            raise UserError(
                f"launch.slurm.hours: {self._config.hours:g} is more than partition '{names}' "
                f"allows ({longest / 60:.4g}); jobs requeue themselves, so a shorter limit will do"
            )

    def _check_options(self, shape: Shape) -> None:
        """Have sbatch judge accounts, features and further options; it submits nothing."""
        options = [
            f"--{key}" if value is True else f"--{key}={value}"
            for key, value in self._options(shape).items()
        ]
        done = ask("sbatch", "--test-only", *options, "--wrap=true")
        told = done.stderr.strip()
        # That nodes are down or busy is no fault of the order: such jobs wait.
        if done.returncode and re.search("invalid|unrecogni[sz]ed|ambiguous|denied", told, re.I):
            raise UserError(f"launch.slurm: sbatch refuses {' '.join(options)}: {told}")

    def _minutes(self) -> int:
        return math.ceil(self._config.hours * 60)

    def _options(self, shape: Shape) -> dict[str, Any]:
        """Options of sbatch by their own names."""
        config = self._config
        options: dict[str, Any] = {
            "partition": config.partition,
            "account": config.account,
            "qos": config.qos,
            "constraint": config.constraint,
            "nodes": shape.nodes,
            "ntasks": shape.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": config.cpus_per_worker * shape.workers,
            "gpus-per-node": shape.gpus or None,
            "mem": f"{math.ceil(config.memory_gb * shape.workers * 1024)}M"
            if config.memory_gb
            else None,
            "time": self._minutes(),
            "signal": f"USR2@{config.signal_seconds}",
            "requeue" if config.requeue else "no-requeue": True,
        }
        further = {k.replace("_", "-").lstrip("-"): v for k, v in config.parameters.items()}
        options |= {k: v for k, v in further.items() if v is not False}
        return {key: value for key, value in options.items() if value is not None}

    def submit(self, order: Order) -> list[str]:
        """See :meth:`Launcher.submit`; one array of jobs."""
        shape = self.shape(order)
        crews = self._crews(order, shape)
        grace, requeue = self._config.signal_seconds, self._config.requeue
        return self._submit(order, shape, [SlurmJob(crew, grace, requeue) for crew in crews])

    def submit_gang(self, order: GangOrder) -> list[str]:
        """See :meth:`GangLauncher.submit_gang`; one task a node, as many nodes as the gang has."""
        work = SlurmGang(order, self._config.signal_seconds, self._config.requeue)
        return self._submit(order, self.gang_shape(order), [work])

    def _submit(self, order: Order, shape: Shape, work: Sequence[Callable[[], None]]) -> list[str]:
        """Submit one job for each piece of work, which its every node runs."""
        submitit = _submitit()
        folder = self._files(order.study, "").folder
        folder.mkdir(parents=True, exist_ok=True)
        executor = submitit.SlurmExecutor(folder=folder)
        options = self._options(shape)
        executor.update_parameters(
            job_name=f"regmix-{order.study.name}",
            time=options.pop("time"),
            nodes=options.pop("nodes"),
            ntasks_per_node=options.pop("ntasks-per-node"),
            cpus_per_task=options["cpus-per-task"],
            setup=list(self._config.setup),
            # From Slurm 22.05 on a step does not get the job's CPUs unless it says so.
            srun_args=["--cpus-per-task", str(options.pop("cpus-per-task")), "--kill-on-bad-exit"],
            array_parallelism=shape.jobs,
            stderr_to_stdout=True,
            wckey=None,
            additional_parameters=options,
        )
        try:
            with executor.batch():
                jobs = [executor.submit(w) for w in work]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as e:
            raise RegmixError(f"sbatch did not take the jobs: {e}") from e
        return [str(job.job_id) for job in jobs]

    def _crews(self, order: Order, shape: Shape) -> list[Crew]:
        left, crews = order.workers, []
        for _ in range(shape.jobs):
            crews.append(self._crew(order, min(shape.workers, left)))
            left -= shape.workers
        return crews

    def poll(self, study: Path, job_ids: list[str]) -> list[Job]:
        """See :meth:`Launcher.poll`; asks Slurm only for jobs that have not written their end."""
        files = [self._files(study, job_id) for job_id in job_ids]
        known = {f.job_id: job for f in files if (job := f.ended())}
        states = queue([f.job_id for f in files if f.job_id not in known])
        return [known.get(f.job_id) or _job(f, *states.get(f.job_id, ("", ""))) for f in files]

    def cancel(self, study: Path, job_ids: list[str]) -> None:
        """See :meth:`Launcher.cancel`; the workers have ``signal_seconds`` for checkpoints."""
        try:
            found = self.poll(study, job_ids)
        except RegmixError:  # jobs that run, and those that begin, see the files
            self._cancel_by_file(study, job_ids)
            return
        open_jobs = [job.job_id for job in found if job.state in ("waiting", "running")]
        if not open_jobs:
            return
        for job_id in open_jobs:
            self._files(study, job_id).cancel()
        # scancel alone would kill within Slurm's KillWait. Waiting jobs first: one that starts
        # between the calls is then asked by signal, and by the file if that comes too early.
        ask("scancel", "--state=PENDING", *open_jobs)
        ask("scancel", "--signal=TERM", *open_jobs)

    def logs(self, study: Path, job_ids: list[str]) -> list[Path]:
        """See :meth:`Launcher.logs`; the workers' own, then what Slurm said about the job."""
        found: list[Path] = []
        for job_id in job_ids:
            files = self._files(study, job_id)
            found += files.worker_logs()
            found += sorted(files.folder.glob(f"{job_id}_*_log.out"))
        return found


def _job(files: JobFiles, state: str, reason: str) -> Job:
    """A job that has not written its end, by what squeue says of it."""
    reason = "" if reason == "None" else reason
    settled: tuple[JobState, str]
    if state in WAITING:
        settled = "waiting", reason
    elif state in RUNNING:
        settled = "running", ""
    elif files.cancelled.exists() or state in ENDED:
        settled = "ended", ""
    elif state:
        settled = "failed", f"{FAILED.get(state, state.lower())}; see {files.folder}"
    else:
        settled = "failed", f"{FAILED['']}; see {files.folder}"
    return Job(files.job_id, *settled)
