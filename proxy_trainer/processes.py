"""What processes of one machine owe each other: none outlives its command."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import wait


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
