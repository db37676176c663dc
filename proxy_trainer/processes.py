"""What processes of one machine owe each other: one at a file, and none outlives its command."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

from regmix.files import disk_errors


@contextmanager
def claimed(lock: Path) -> Iterator[bool]:
    """Whether this process now holds ``lock``; the system lets go of it when the process dies."""
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("a")
    with stream:
        yield _take(stream.fileno())


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def die_with_parent(last_words: Callable[[], object] = lambda: None) -> None:
    """End this process when the command that started it does, even by SIGKILL.

    Args:
        last_words: called before it ends, beside whatever it is doing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        try:
            last_words()
        finally:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
