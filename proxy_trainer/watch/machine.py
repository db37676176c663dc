"""Speed, utilisation and memory of the machine that a run is trained on."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from proxy_trainer.hardware import DENSE_BF16_TFLOPS, peak_flops

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Chips:
    """The devices that train a run, all taken to be like this process's."""

    name: str
    """As the driver has it."""
    count: int
    peak: float | None
    """FLOP/s of one of them; None where it is not known."""

    @classmethod
    def of(cls, device: torch.device, count: int) -> Chips:
        """Those of ``count`` processes with a device each."""
        if device.type != "cuda":
            return cls(f"{device.type} {platform.machine()}", count, None)
        name = torch.cuda.get_device_name(device)
        return cls(name, count, peak_flops(name))

    @property
    def why_no_mfu(self) -> str:
        """The reason why there is no utilisation; empty if there is one."""
        if self.peak is not None:
            return ""
        known = ", ".join(DENSE_BF16_TFLOPS)
        return f"no peak FLOP/s is known for '{self.name}' (known: {known})"

    def mfu(self, flops_per_second: float) -> float | None:
        """Model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B).

        Args:
            flops_per_second: of the models' own arithmetic; what is computed twice counts once.
        """
        return None if self.peak is None else flops_per_second / (self.count * self.peak)


class Stopwatch:
    """Seconds of training since it was last read."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """These were spent on something else."""
        self._since += seconds

    def read(self) -> float:
        """Seconds since the last reading, or since it was made; begins anew."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds


def device_bytes(device: torch.device) -> int | None:
    """Most that torch's allocator has ever reserved of a GPU's memory for this process."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def process_bytes() -> int | None:
    """Resident memory of this process, where the system has it in ``/proc`` (Linux)."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except FileNotFoundError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def finish_work(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that its time is counted where it goes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
