"""What Slurm's own commands tell: its partitions, and the jobs in its queue."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from dataclasses import dataclass

from regmix.errors import RegmixError, UserError

TIMEOUT_SECONDS = 60.0
CANCELLED_SECONDS = 15.0
"""For a job that is being ended; it then still has to requeue itself."""


def ask(*command: str, seconds: float = TIMEOUT_SECONDS) -> subprocess.CompletedProcess[str]:
    """One of Slurm's commands.

    Args:
        seconds: it has for its answer.

    Raises:
        UserError: there is no such command on this machine.
        RegmixError: Slurm did not answer in time.
    """
    if not shutil.which(command[0]):
        raise UserError(
            f"launcher 'slurm': no {command[0]} on this machine; run this on a login node of the "
            "cluster, or install Slurm's client and its configuration here (Debian: slurm-client)"
        )
    try:
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired as exc:
        raise RegmixError(
            f"Slurm did not answer '{command[0]}' within {seconds:g} seconds"
        ) from exc


def answer(*command: str) -> str:
    """What one of Slurm's commands printed.

    Raises:
        UserError: as :func:`ask`.
        RegmixError: it failed.
    """
    done = ask(*command)
    if done.returncode:
        raise RegmixError(f"Slurm's {command[0]} failed: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Partition:
    """A partition; what its nodes have, each figure of the best of them."""

    name: str
    default: bool
    up: bool
    minutes: float
    """Longest job."""
    cpus: int
    memory_mb: int
    gpus: int
    nodes: int


def partitions() -> dict[str, Partition]:
    """The cluster's partitions by name."""
    found: dict[str, Partition] = {}
    for line in answer("sinfo", "--noheader", "--format=%P|%a|%l|%c|%m|%G|%D").splitlines():
        name, up, limit, cpus, memory, gres, nodes = line.strip().split("|")
        key = name.removesuffix("*")
        seen = found.get(key)
        found[key] = Partition(
            key, name.endswith("*"), up == "up", minutes(limit),
            max(_number(cpus), seen.cpus if seen else 0),
            max(_number(memory), seen.memory_mb if seen else 0),
            max(gpus(gres), seen.gpus if seen else 0),
            _number(nodes) + (seen.nodes if seen else 0),
        )  # fmt: skip
    return found


def minutes(limit: str) -> float:
    """A time limit in Slurm's words: ``infinite``, ``30:00``, ``2-12:00:00``."""
    if not re.fullmatch(r"(\d+-)?[\d:]+", limit):
        return math.inf
    days, _, clock = limit.rpartition("-")
    parts = [int(p) for p in clock.split(":")]
    hours, mins, seconds = [0, 0, 0, *parts][-3:]
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60


def gpus(gres: str) -> int:
    """Devices in a node's generic resources: ``gpu:a100:8(S:0-1),nic:2`` has 8."""
    found = re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)(?![^,(])", gres)
    return sum(int(n) for n in found)


def _number(text: str) -> int:
    found = re.match(r"\d+", text)  # `4+` where nodes differ
    return int(found.group()) if found else 0


def queue(job_ids: list[str]) -> dict[str, tuple[str, str]]:
    """State and reason of jobs that Slurm still knows."""
    if not job_ids:
        return {}
    arrays = sorted({job_id.split("_")[0] for job_id in job_ids})
    done = ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r",
                f"--jobs={','.join(arrays)}")  # fmt: skip
    if done.returncode and "nvalid job id" not in done.stderr:
        raise RegmixError(f"Slurm's squeue failed: {done.stderr.strip()}")
    rows = (line.strip().split("|", 2) for line in done.stdout.splitlines() if "|" in line)
    return {job_id: (state, reason) for job_id, state, reason in rows}


def was_cancelled(job_id: str) -> bool:
    """Whether a job that is being ended was cancelled, and neither preempted nor out of time.

    All of them look alike to its processes: SIGTERM, then SIGKILL. Where Slurm does not answer it
    was not: a cancelled job that asks to be requeued is refused, one that does not ask is lost.
    """
    try:
        told = ask("scontrol", "show", "job", job_id, seconds=CANCELLED_SECONDS).stdout
    except RegmixError as exc:
        print(f"taken as not cancelled: {exc}", flush=True)
        return False
    known = dict(re.findall(r"(\w+)=(\S+)", told))
    if known.get("JobState") not in ("COMPLETING", "CANCELLED"):
        return False  # only signalled, as before the time limit or in the grace time
    if known.get("PreemptTime", "None") not in ("None", "N/A"):
        return False
    return minutes(known.get("RunTime", "0:00")) < minutes(known.get("TimeLimit", ""))
