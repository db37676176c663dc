"""What processes that train find in their environment."""

from __future__ import annotations

import os

from proxy_trainer.launch.devices import VISIBLE

_DEFAULTS = {
    # Figures do not depend on how many cores there are.
    "OMP_NUM_THREADS": "1",
    # glibc asks for huge pages: a tenth of a small model's step on a CPU (docs/DECISIONS.md). It
    # is read as a process starts, so the process itself cannot ask; other C libraries ignore it.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def training_environment(devices: str | None = None) -> dict[str, str]:
    """This process's variables for one that trains, with ours where the person gives none.

    Args:
        devices: that it sees, see :func:`proxy_trainer.launch.devices.shares`; default: the same.
    """
    own = {} if devices is None else {VISIBLE: devices}
    return {**_DEFAULTS, **os.environ, "PYTHONUNBUFFERED": "1", **own}
