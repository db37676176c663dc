"""What a figure was computed with: recorded beside every run."""

from __future__ import annotations

import os
import platform
import socket
from importlib import metadata

import numpy as np
import torch

from proxy_trainer.version import version

WORKER = "REGMIX_WORKER"
"""Environment variable with the name of the worker that this process is."""

PRECISION, HALF = "precision", "bfloat16"
"""What the processes of a gang say that they compute in; others measure in single precision."""


def choose_device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(device: torch.device) -> dict[str, str | int]:
    """Versions and host of this process, and the device that it computes on."""
    return {
        "regmix": version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "numpy": np.__version__,
        "device": _name(device),
        "cpu": _processor(),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "worker": os.environ.get(WORKER, ""),
    }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"cpu {platform.machine()} {capability}"
