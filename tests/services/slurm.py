"""A real Slurm of one node on this machine's loopback, for tests and for trying the launcher.

    python tests/services/slurm.py start DIR    installs it if missing, starts it, prints SLURM_CONF
    python tests/services/slurm.py stop DIR     ends its daemons and every job

Needs Linux and, to install Slurm, root and apt; no systemd, no accounting, nothing outside DIR.
Every DIR is a cluster of its own, with its own key and ports. Its partitions:

    debug  2 CPUs, the default; two devices that no driver stands behind, an hour at most
    short  the same node, two minutes at most
    spot   the same node; the other partitions' jobs take it away after ten seconds' notice
    pair   that node and a second one on the same machine, which no other partition has
    away   8 CPUs on a node that never answers: what is submitted there waits
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("here", "there")
DAEMONS = (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munged")
"""By their pid files, in the order in which they are ended; a name before a dash is a program's."""
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
WAIT_SECONDS = 30.0

SLURM_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
ReturnToService=2
KillWait=5
MinJobAge=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=300
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs=2 Feature=loop RealMemory={memory}
NodeName=here NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports[0]} Gres=gpu:2
NodeName=there NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports[1]}
NodeName=DEFAULT CPUs=8 RealMemory=1000
NodeName=gone NodeHostname=gone NodeAddr=127.0.0.1 Port={dead_port} State=DOWN
PartitionName=debug Nodes=here Default=YES MaxTime=60 PriorityTier=2 State=UP
PartitionName=short Nodes=here MaxTime=2 PriorityTier=2 State=UP
PartitionName=spot Nodes=here MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=10 State=UP
PartitionName=pair Nodes=here,there MaxTime=60 PriorityTier=2 State=UP
PartitionName=away Nodes=gone MaxTime=60 State=UP
"""


def install() -> None:
    """Slurm's and munge's Debian packages, unless they are there."""
    programs = {name.split("-")[0] for name in DAEMONS} | {"sbatch", "srun"}
    if all(shutil.which(name, path=PATH) for name in programs):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(f"Slurm is not installed; as root: apt-get install {' '.join(PACKAGES)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update",), ("install", "-y", "--no-install-recommends", *PACKAGES)):
        done = subprocess.run(
            ["apt-get", "-qq", *command], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"apt-get {command[0]} failed: {done.stderr.strip()[-500:]}")


def start(root: Path) -> Path:
    """Start the cluster in a folder, or find that it runs; its slurm.conf."""
    conf = root / "slurm.conf"
    if conf.exists() and _answers(conf):
        return conf
    install()
    stop(root)
    shutil.rmtree(root / "state", ignore_errors=True)
    spools = [root / f"spool-{node}" for node in NODES]
    for folder in (root, root / "state", *spools):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    _configure(conf)
    try:
        _munge(root)
        _call(["slurmctld", "-f", str(conf)])
        for node in NODES:
            _call(["slurmd", "-f", str(conf), "-N", node])
        _until(
            lambda: _answers(conf), f"Slurm did not come up; see {root}/slurmctld.log, slurmd-*.log"
        )
    except SystemExit:
        stop(root)
        raise
    return conf


def stop(root: Path) -> None:
    """End every job and the daemons; does nothing where none runs."""
    conf = root / "slurm.conf"
    if conf.exists() and _answers(conf):
        _ask(conf, "scancel", "--user", _user())
        with suppress(SystemExit):
            _until(lambda: not _ask(conf, "squeue", "-h"), "")
    for name in DAEMONS:
        _end(root / f"{name}.pid")


def _configure(conf: Path) -> None:
    root = conf.parent
    free = [_free_port() for _ in range(4)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    conf.write_text(
        SLURM_CONF.format(
            root=root, host=socket.gethostname().split(".")[0], user=_user(), memory=memory // 2,
            controller_port=free[0], node_ports=free[1:3], dead_port=free[3],
        )
    )  # fmt: skip
    devices = [f"NodeName=here Name=gpu File={path}\n" for path in ("/dev/null", "/dev/zero")]
    (root / "gres.conf").write_text("".join(devices))


def _munge(root: Path) -> None:
    key = root / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    _call(
        ["munged", "--force", f"--key-file={key}", f"--socket={root}/munge.socket",
         f"--pid-file={root}/munged.pid", f"--log-file={root}/munged.log",
         f"--seed-file={root}/munged.seed", "--num-threads=2"],
    )  # fmt: skip


def _call(command: list[str]) -> None:
    environment = {**os.environ, "PATH": PATH}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} did not start: {(done.stdout + done.stderr).strip()}")


def _answers(conf: Path) -> bool:
    """Whether all nodes that there really are can be used."""
    states = (
        _ask(conf, "sinfo", "--noheader", "--nodes", node, "--format=%T").split()[:1]
        for node in NODES
    )
    return all(s in (["idle"], ["mixed"], ["allocated"], ["completing"]) for s in states)


def _ask(conf: Path, *command: str) -> str:
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(conf)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _until(ready: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(complaint)
        time.sleep(0.2)


def _end(pid_file: Path) -> None:
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        if name != pid_file.stem.split("-")[0]:
            return
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(arguments: list[str]) -> None:
    """The command line: ``start DIR`` or ``stop DIR``."""
    if len(arguments) != 2 or arguments[0] not in ("start", "stop"):
        raise SystemExit(__doc__)
    root = Path(arguments[1]).resolve()
    if arguments[0] == "start":
        print(f"SLURM_CONF={start(root)}")
    else:
        stop(root)


if __name__ == "__main__":
    main(sys.argv[1:])
