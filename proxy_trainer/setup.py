"""How a process is set up that trains."""

from __future__ import annotations

import ctypes
import sys

import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Options of ``mallopt`` by the numbers of glibc's ``malloc.h``."""
_NEVER = 2**31 - 1
_GROWTH = 2**26
"""Bytes that are asked of the system at a time."""


def set_up() -> None:
    """One thread, and memory kept: for processes that do nothing but train on a core or a device.

    One thread so that figures do not depend on how many cores there are.
    """
    torch.set_num_threads(1)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the allocator keep what a step frees for the next one.

    By default glibc gives large pieces back at once, and every step gets them anew, page by page:
    up to a quarter of a small model's step. Elsewhere the allocator is left as it is.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    for option, value in (
        (_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROWTH)
    ):  # fmt: skip
        mallopt(option, value)
