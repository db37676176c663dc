"""From the host's memory to a device's, without waiting for what the device is still at."""

from __future__ import annotations

import torch
from torch import Tensor


def pinned(x: Tensor, device: torch.device) -> Tensor:
    """A tensor in memory that a device reads by itself.

    From any other memory CUDA copies only once all that was started before has ended. torch keeps
    such a tensor's memory until its copy is done.
    """
    return x.pin_memory() if device.type == "cuda" else x


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; on a CPU the same one."""
    return pinned(x, device).to(device, non_blocking=True)
