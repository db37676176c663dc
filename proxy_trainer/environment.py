"""What a figure was computed with: recorded beside every run."""

from __future__ import annotations

import os
import platform
import socket

import numpy as np
import torch

from regmix import __version__

WORKER = "REGMIX_WORKER"
"""Environment variable with the name of the worker that this process is."""


def describe() -> dict[str, str | int]:
    """Versions, device and host of this process."""
    return {
        "regmix": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": _processor(),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "worker": os.environ.get(WORKER, ""),
    }


def _processor() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"cpu {platform.machine()} {capability}"
