"""The workers of one job on one node: started, asked to stop, their end written down.

What launchers share that start workers through another system's process. That system may forget a
job as soon as it is over; the files here, in the study, do not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from proxy_trainer.exits import OK, REQUEUE
from proxy_trainer.launch import devices
from proxy_trainer.launch.base import Job, Order, command
from proxy_trainer.launch.environment import training_environment
from regmix.errors import RegmixError, UserError
from regmix.files import read_json, write_json, write_text

# Run in the worker's place until it becomes the worker: whatever ends the process that watches it,
# the system then sends SIGTERM, and the worker leaves its checkpoints. PR_SET_PDEATHSIG is 1.
_TIED = (
    "import ctypes, os, signal, sys; parent = int(sys.argv[1]);"
    "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, int(signal.SIGTERM));"
    "os.getppid() == parent or sys.exit(1);"
    "os.execvp(sys.argv[2], sys.argv[2:])"
)


def missing(launcher: str, library: str) -> UserError:
    """What to say when a launcher's library is not there."""
    return UserError(
        f"launcher '{launcher}' needs {library}, which is not installed in {sys.prefix}; "
        f"pip install 'regmix[{launcher}]'"
    )


@dataclass(frozen=True)
class JobFiles:
    """The files of one job in its study; the launchers' and the workers' side agree on them."""

    folder: Path
    job_id: str

    @classmethod
    def of(cls, study: Path, launcher: str, job_id: str) -> JobFiles:
        """The files of a launcher's job."""
        return cls(study / "launch" / launcher, job_id)

    @property
    def ending(self) -> Path:
        """How the workers ended; written once, by the process that watched them."""
        return self.folder / f"{self.job_id}.ending.json"

    @property
    def cancelled(self) -> Path:
        """There once the job was told to end for good; written by the command that said so."""
        return self.folder / f"{self.job_id}.cancelled"

    def log(self, worker: int) -> Path:
        """What one of its workers wrote."""
        return self.folder / f"{self.job_id}.worker-{worker}.log"

    def worker_logs(self) -> list[Path]:
        """The logs that are there, by worker."""
        found = self.folder.glob(f"{self.job_id}.worker-*.log")
        return sorted(found, key=lambda p: int(p.stem.rpartition("-")[2]))

    def cancel(self) -> None:
        """Say that the job is to end for good."""
        write_text(self.cancelled, "")

    def end(self, codes: Sequence[int], failure: str = "") -> None:
        """Write down that the workers have ended; a ``failure`` if they should have gone on."""
        write_json(self.ending, {"codes": list(codes), "failure": failure})

    def ended(self) -> Job | None:
        """The job as it ended; None while nothing says that it has."""
        if not self.ending.exists():
            return None
        found: dict[str, Any] = read_json(self.ending)
        if found["failure"]:
            return Job(self.job_id, "failed", str(found["failure"]))
        return Job(self.job_id, "ended")


@dataclass(frozen=True)
class Crew:
    """Workers that one job starts on its node; picklable, for it is sent there."""

    study: Path
    workers: int
    gpus: int
    """Devices a worker; 0: it computes on cores, and sees no device."""
    command: tuple[str, ...]
    """What starts a worker, by the path of its Python, which every node has."""

    def start(self, files: JobFiles) -> list[subprocess.Popen[bytes]]:
        """Start the workers, each with its own devices and cores, its output going to its log.

        Raises:
            RegmixError: the study cannot be seen from this node, or devices are missing.
        """
        check_seen(self.study)
        files.folder.mkdir(parents=True, exist_ok=True)
        shares, cores = devices.shares(devices.named(), self.workers, self.gpus), self._cores()
        return [self._start(files.log(i), shares[i], cores[i]) for i in range(self.workers)]

    def _start(self, log: Path, share: str, cores: set[int]) -> subprocess.Popen[bytes]:
        environment = training_environment(share)
        with log.open("ab") as stream:
            process = subprocess.Popen(  # noqa: S603 (the command is the project's own)
                [sys.executable, "-c", _TIED, str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip
        if cores:
            os.sched_setaffinity(process.pid, cores)
        return process

    def _cores(self) -> list[set[int]]:
        """Equal shares of the cores that the job may use; empty where they do not go round."""
        if not hasattr(os, "sched_getaffinity"):
            return [set()] * self.workers
        cores = sorted(os.sched_getaffinity(0))
        share = len(cores) // self.workers
        return [set(cores[i * share : (i + 1) * share]) for i in range(self.workers)]


Settings = TypeVar("Settings")


class CrewLauncher(Generic[Settings]):
    """What launchers share that send crews through another system."""

    name: ClassVar[str]

    def __init__(self, config: Settings, *, worker: Sequence[str] | None = None) -> None:
        """A launcher with the study's settings.

        Args:
            config: the section of ``launch`` that has the launcher's name.
            worker: what starts a worker, in place of the trainer's own.
        """
        self._config = config
        self._command = tuple(worker) if worker else None

    def _crew(self, order: Order, workers: int) -> Crew:
        """So many of an order's workers, for one job."""
        return Crew(order.study, workers, order.gpus, self._command or tuple(command(order)))

    def _files(self, study: Path, job_id: str) -> JobFiles:
        return JobFiles.of(study, self.name, job_id)

    def _cancel_by_file(self, study: Path, job_ids: Sequence[str]) -> None:
        """Have jobs end whose system cannot be asked: whoever watches their workers looks there."""
        for job_id in job_ids:
            files = self._files(study, job_id)
            if files.ended() is None:
                files.cancel()


def check_seen(study: Path) -> None:
    """Make sure that this node sees a study.

    Raises:
        RegmixError: it does not.
    """
    if not study.is_dir():
        raise RegmixError(
            f"{study}: not there on this node; a study has to lie where all nodes see it"
        )


def ask_to_stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have workers leave their checkpoints and end."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)


def failure(codes: Sequence[int], where: Path) -> str:
    """What went wrong, by the workers' exit codes; empty when all found no more work."""
    bad = [(i, code) for i, code in enumerate(codes) if code not in (OK, REQUEUE)]
    if not bad:
        return ""
    worker, code = bad[0]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    many = f" ({len(bad)} of {len(codes)} workers failed)" if len(codes) > 1 else ""
    return f"worker {worker} {how}{many}; see {where}"
