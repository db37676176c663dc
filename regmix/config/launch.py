"""Where runs are trained, and how: ``launch:``, with a section for launchers that have settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from regmix.config.base import AsTuple, Positive, PositiveFloat, Strict
from regmix.errors import UserError


class SlurmConfig(Strict):
    """What is asked of Slurm; every node sees the study and the Python environment."""

    partition: str | None = None
    """Empty: the cluster's default one."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features that nodes must have, in sbatch's words."""
    nodes: Positive | None = None
    """Jobs, each on one node, that the workers are spread over; empty: one job a worker. They
    wait, run and are requeued each on its own."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """Devices of each job; empty: as many as its workers need."""
    cpus_per_worker: Positive = 1
    memory_gb: PositiveFloat | None = None
    """For each worker; empty: the partition's default."""
    hours: Annotated[float, Field(gt=0, le=8760)] = 4.0
    """Time limit of a job. What it does not finish, it goes on with once Slurm runs it again."""
    signal_seconds: Annotated[int, Field(ge=10, le=65535)] = 120
    """Before the time limit at which workers are told to leave checkpoints; also what they have
    for it."""
    requeue: bool = True
    """Submit a job again that was preempted or reached its time limit with work left."""
    setup: Annotated[tuple[str, ...], AsTuple] = ()
    """Lines of shell before the workers start: modules, environment."""
    parameters: dict[str, str | int | bool] = Field(default_factory=dict)
    """Further options of sbatch, without the dashes: {exclude: node7, exclusive: true}."""

    @field_validator("parameters")
    @classmethod
    def _not_twice(cls, value: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for key in value:
            name = key.replace("_", "-").lstrip("-")
            if name in SLURM_OWN:
                raise ValueError(f"'{key}' is set by {SLURM_OWN[name]}")
        return value

    @model_validator(mode="after")
    def _in_time(self) -> SlurmConfig:
        if self.signal_seconds >= self.hours * 3600:
            raise ValueError(
                f"signal_seconds: {self.signal_seconds} is not within the time limit of "
                f"hours: {self.hours:g} ({self.hours * 3600:.0f} seconds)"
            )
        return self


_ITSELF = "the launcher itself"
SLURM_OWN = {
    **{key: f"launch.slurm.{key}" for key in ("partition", "account", "qos", "constraint")},
    "nodes": "launch.slurm.nodes", "gpus-per-node": "launch.slurm.gpus_per_node",
    "cpus-per-task": "launch.slurm.cpus_per_worker", "mem": "launch.slurm.memory_gb",
    "time": "launch.slurm.hours", "signal": "launch.slurm.signal_seconds",
    "requeue": "launch.slurm.requeue", "no-requeue": "launch.slurm.requeue",
    "array": _ITSELF, "output": _ITSELF, "error": _ITSELF, "open-mode": _ITSELF,
    "ntasks": _ITSELF, "ntasks-per-node": _ITSELF, "job-name": _ITSELF, "wrap": _ITSELF,
}  # fmt: skip
"""Options of sbatch that settings of ours already stand for."""


class RayConfig(Strict):
    """What is asked of Ray; every node sees the study and has the same Python environment."""

    address: str | None = None
    """Of the cluster, host:port; empty: RAY_ADDRESS, the cluster that this machine belongs to, or
    a new one on this machine that ends with the command."""
    cpus_per_worker: Positive = 1
    resources: dict[str, float] = Field(default_factory=dict)
    """Further resources that each worker needs, by the cluster's own names."""
    autoscaling: bool = False
    """The cluster starts nodes when they are needed: do not refuse what today's do not have."""


class LaunchConfig(Strict):
    """Where runs are trained, and how; nothing here changes a result."""

    launcher: str = "local"
    """local, slurm, ray, or a plug-in's name."""
    workers: Positive | None = None
    """Processes at once; empty: as this machine has devices for with the launcher 'local', if they
    are given any; else one per core of this machine."""
    gpus_per_worker: Annotated[int, Field(ge=0)] | None = None
    """Devices of each worker; 0: it computes on one core, and sees none. Empty: one with the
    launcher 'local' where any are visible, else none."""
    members: Literal["auto"] | Positive = "auto"
    """Runs that a worker trains together as one array."""
    checkpoint_seconds: PositiveFloat = 60.0
    """Between checkpoints of a run."""
    keep_last: Positive = 2
    """Checkpoints of a run; the one before the last is for when that is damaged."""
    keep_every: Positive | None = None
    """Steps: at each multiple of them a checkpoint is written, and stays when the run is done."""
    timeout_seconds: PositiveFloat = 600.0
    """A process of a gang that is silent for so long is given up, and all of the gang end. Reading
    and writing may take longer: processes that do are heard of meanwhile."""
    claim_seconds: Annotated[float, Field(ge=0.5)] = 120.0
    """A worker that is not heard of for so long has lost its runs to the others."""
    stall_minutes: PositiveFloat = 30.0
    """A worker that does no step for so long hangs: its runs are tried again elsewhere. To be
    longer than any step, with the evaluation and the checkpoint that may follow it."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Further attempts at a run that fails without getting any further; then it is FAILED."""
    watch: Annotated[tuple[Literal["wandb", "trackio"], ...], AsTuple] = ()
    """Trackers that targets and recipes' stages are shown by, beside TensorBoard."""
    cost_per_hour: PositiveFloat | None = None
    """Of one worker, in any currency; for the estimate of what a study will cost."""

    slurm: SlurmConfig = SlurmConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _stalls_are_heard_of(self) -> LaunchConfig:
        if self.stall_minutes * 60 < self.claim_seconds:
            raise ValueError(
                f"stall_minutes: {self.stall_minutes:g} ({self.stall_minutes * 60:g} seconds) is "
                f"shorter than claim_seconds: {self.claim_seconds:g}"
            )
        return self

    def overridden(
        self,
        *,
        launcher: str | None = None,
        workers: int | None = None,
        nodes: int | None = None,
        gpus_per_node: int | None = None,
        detach: bool = False,
    ) -> LaunchConfig:
        """These settings with what a command asks for instead.

        Raises:
            UserError: what it asks for does not go together.
        """
        launcher = launcher or self.launcher
        if launcher == "local" and detach:
            raise UserError(
                "--detach: workers of the launcher 'local' end with their command; choose "
                "another with --launcher, or start it under nohup"
            )
        if launcher == "local" and (nodes or 1) > 1:
            raise UserError(f"--nodes {nodes}: the launcher 'local' has one; --launcher slurm, ray")
        gpus = self.gpus_per_worker
        if nodes is not None or gpus_per_node is not None:
            if workers is not None:
                raise UserError("--workers: not together with --nodes and --gpus-per-node")
            if gpus_per_node is None:
                raise UserError("--nodes: give --gpus-per-node too, or --workers instead of both")
            gpus = gpus or 1
            if gpus_per_node % gpus:
                raise UserError(
                    f"--gpus-per-node {gpus_per_node}: not a multiple of launch.gpus_per_worker, "
                    f"which is {gpus}"
                )
            workers = (nodes or 1) * gpus_per_node // gpus
        slurm = self.slurm
        if gpus_per_node is not None:
            slurm = slurm.model_copy(update={"nodes": nodes or 1, "gpus_per_node": gpus_per_node})
        return self.model_copy(
            update={
                "launcher": launcher,
                "workers": workers or self.workers,
                "gpus_per_worker": gpus,
                "slurm": slurm,
            }
        )
