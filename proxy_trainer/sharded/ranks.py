"""The processes that train one model together, and how they agree.

Two kinds of talk: tensors of the model over the device's own backend, and decisions (stop, save,
which checkpoint) over gloo, where nothing waits for a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from regmix.errors import RegmixError, UserError

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
"""What torchrun tells every process."""
_BEAT_SECONDS = 0.5
"""At most so long apart processes hear of each other while they wait for a disk."""
_LATE_BEATS = 60
"""For the others to end theirs once one could not do what it had to."""
_FOR_GOOD = timedelta(days=365)

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place among them."""

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh
    """What a model is sharded over; two dimensions where nodes hold replicas."""
    control: dist.ProcessGroup
    """For decisions, on the main thread."""
    background: dist.ProcessGroup
    """For what goes to and from the disk, on threads of its own: without a limit, since meanwhile
    processes hear of each other, see :meth:`heard`."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes results."""
        return self.rank == 0

    @property
    def replicas(self) -> int:
        """Copies of the model."""
        return self.mesh.size(0) if self.mesh.ndim == 2 else 1

    def any(self, *flags: bool) -> list[bool]:
        """Whether each flag is set in at least one process."""
        found = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(found, dist.ReduceOp.MAX, self.control)
        return [bool(x) for x in found.tolist()]

    def least(self, value: int) -> int:
        """The smallest of all processes' values."""
        found = torch.tensor([value])
        dist.all_reduce(found, dist.ReduceOp.MIN, self.control)
        return int(found.item())

    def of_first(self, *values: float) -> list[float]:
        """The values of the process that writes results."""
        found = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(found, 0, self.control)
        return [float(x) for x in found.tolist()]

    def together(self, work: Callable[[], T]) -> T:
        """What work of any length comes to, each process its own, once all have done it.

        Raises:
            RegmixError: another process could not do its own.
        """
        own: Future[T] = Future()

        def do() -> None:
            try:
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)  # a thread has its own
                own.set_result(work())
            except BaseException as exc:  # raised below
                own.set_exception(exc)

        Thread(target=do, daemon=True).start()
        return self.heard(own)

    def heard(self, own: Future[T]) -> T:
        """Wait for work that every process has of its own; nobody waits in silence.

        Raises:
            RegmixError: another process could not do its own.
        """
        late = 0
        while True:
            wait([own], _BEAT_SECONDS)
            broken = own.done() and own.exception() is not None
            waits, broken = self.any(not own.done(), broken)
            late += broken
            if not waits or late > _LATE_BEATS:
                break
        if broken and not (own.done() and own.exception()):
            raise RegmixError("another process could not read or write what it had to")
        return own.result()

    def rows(self, batch: int) -> slice:
        """This process's part of a step's blocks; see :func:`part`."""
        return part(batch, self.rank, self.world)


def part(batch: int, rank: int, world: int) -> slice:
    """One process's part of a step's blocks.

    Raises:
        UserError: they cannot be divided.
    """
    each, left = divmod(batch, world)
    if left:
        valid = [n for n in range(1, batch + 1) if batch % n == 0]
        raise UserError(
            f"a step's {batch} sequences cannot be divided among {world} processes; "
            f"start {', '.join(map(str, valid))}, or choose a train.batch_tokens of a "
            f"multiple of {world} sequences"
        )
    return slice(rank * each, (rank + 1) * each)


def join(*, hybrid: bool, timeout_seconds: float) -> Ranks:
    """Meet the other processes that torchrun has started.

    Args:
        hybrid: shard inside a node and replicate over nodes, instead of sharding over all: the
            parameters' traffic stays inside nodes, and every node must hold the whole model.
        timeout_seconds: how long the others are waited for; then this process ends with an error.

    Raises:
        UserError: it was not started by torchrun, or there is one node only to replicate over.
    """
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise UserError(
            f"not started by torchrun ({', '.join(missing)} not set); "
            "use `torchrun --nproc-per-node N -m proxy_trainer.sharded STUDY RUN_ID`"
        )
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if hybrid and (local == world or world % local):
        raise UserError(
            f"--hybrid replicates over nodes of equal size; here {world} processes run, {local} "
            "on this node"
        )
    device = _own_device()
    kind = device.type
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_seconds),
        device_id=device if kind == "cuda" else None,
    )
    if hybrid:
        mesh = init_device_mesh(
            kind, (world // local, local), mesh_dim_names=("replicate", "shard")
        )
    else:
        mesh = init_device_mesh(kind, (world,), mesh_dim_names=("shard",))
    limit = timedelta(seconds=timeout_seconds)
    control, background = (dist.new_group(backend="gloo", timeout=t) for t in (limit, _FOR_GOOD))
    return Ranks(dist.get_rank(), world, device, mesh, control, background)


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= here:
        raise UserError(f"process {local} of this node has no GPU; the node has {here}")
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device
