"""What a figure was computed with: recorded beside every run."""

from __future__ import annotations

import platform
import socket

import numpy as np
import torch

from regmix import __version__


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
    }


def _processor() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"cpu {platform.machine()} {capability}"
