"""What an error that ends an attempt is of: want of memory, the device, or whatever else."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import torch

_LACKING = ("can't allocate memory", "out of memory", "std::bad_alloc", "STATUS_ALLOC_FAILED")
"""What torch, CUDA, C++, cuBLAS and cuDNN say in plain runtime errors when an allocation fails."""
MEMORY_ERRORS = (RuntimeError, MemoryError, OSError)
"""What a failed allocation comes as; the last where a file, such as a shard, is mapped."""


def want_of_memory(exc: BaseException) -> str:
    """What the failed allocation says that an error is, or comes of; empty if it is neither.

    One that fails while a graph is recorded comes to light as the end of that recording failing.
    """
    for error in _with_causes(exc):
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        known = known or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        if known or any(words in str(error) for words in _LACKING):
            return str(error).partition("\n")[0] or type(error).__name__
    return ""


def _with_causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


_OF_THE_DEVICE = ("CUDA error", "CUDA driver", "CUDA unknown error", "No CUDA GPUs", "cuDNN error")
"""What torch says in plain runtime errors where a device, or its driver, fails."""


def is_of_the_device(exc: BaseException) -> bool:
    """Whether a device failed, and not for memory: whatever its process tries next fails too."""
    if want_of_memory(exc):
        return False
    return any(
        isinstance(error, torch.AcceleratorError)
        or (isinstance(error, RuntimeError) and any(w in str(error) for w in _OF_THE_DEVICE))
        for error in _with_causes(exc)
    )
