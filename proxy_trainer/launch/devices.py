"""Devices of workers: which ones a process may use, and each worker's share of them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from regmix.config import LaunchConfig
from regmix.errors import RegmixError

VISIBLE = "CUDA_VISIBLE_DEVICES"
NONE = ""
"""Hides all devices from a process; without the variable it would see every one."""


def named() -> list[str]:
    """Devices in this process's environment: numbers, or UUIDs of devices and of slices of them."""
    return [name for name in os.environ.get(VISIBLE, NONE).split(",") if name]


def visible() -> list[str]:
    """Devices that this process can use, by the names that its environment has for them.

    CUDA takes a list up to the first name that it does not know.
    """
    if not _driver():
        return []
    import torch  # loading it takes seconds, which whoever has no device is spared

    count = torch.cuda.device_count()
    return named()[:count] if VISIBLE in os.environ else [str(i) for i in range(count)]


def _driver() -> bool:
    """Whether anything could drive a device: CUDA's library, which drivers bring, or AMD's node."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def shares(found: Sequence[str], workers: int, gpus: int) -> list[str]:
    """The devices of each worker, as :data:`VISIBLE` has them; none where it asks for none.

    Args:
        found: names of the devices that are to be shared out.
        gpus: devices a worker.

    Raises:
        RegmixError: there are not enough.
    """
    if len(found) < workers * gpus:
        raise RegmixError(
            f"{workers} workers of {gpus} devices need {workers * gpus}, there are {len(found)} "
            f"({VISIBLE}={os.environ.get(VISIBLE, NONE)!r})"
        )
    return [",".join(found[i * gpus : (i + 1) * gpus]) for i in range(workers)]


def settled(settings: LaunchConfig) -> LaunchConfig:
    """Settings with what this machine's devices decide where the person has said nothing.

    The launcher 'local' gives each worker a device where any are visible, and starts as many
    workers as then have devices. Other launchers' workers have as many as is said, or none: what
    this machine has tells nothing of theirs.
    """
    if settings.launcher != "local":
        return settings.model_copy(update={"gpus_per_worker": settings.gpus_per_worker or 0})
    if settings.gpus_per_worker == 0:
        return settings
    there = len(visible())
    gpus = settings.gpus_per_worker or min(there, 1)
    workers = settings.workers or (there // gpus if gpus else 0) or None
    return settings.model_copy(update={"gpus_per_worker": gpus, "workers": workers})
