"""One process at a time builds a folder of data: a claim, as workers claim runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy_trainer.launch.claims import Claim, Claimant
from regmix import claims
from regmix.errors import UserError
from regmix.files import disk_errors


@contextmanager
def sole_builder(folder: Path, log: Path, seconds: float, command: str) -> Iterator[Claim]:
    """Claim a folder of data to build it; given back at the end of the block.

    Args:
        log: folder of the claim's entries.
        seconds: of silence after which another process may take over.
        command: what holds such claims, for the message.

    Raises:
        UserError: another process is at work there.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = f"{socket.gethostname()}.{os.getpid()}"
    with Claimant(folder, name, seconds).at_work() as claimant:
        claim = claimant.take_folder(log, str(folder))
        if claim is None:
            raise UserError(f"{folder}: another {command} is at work there{_holder(log)}")
        try:
            yield claim
        except BaseException as exc:
            claimant.release_all(reason=str(exc) or type(exc).__name__)
            raise
        claimant.release_all(reason="done")


def _holder(log: Path) -> str:
    """Who has the claim, and what to do if that is no more; empty if it was just given back."""
    entry = claims.last(log)
    if entry is None or entry.kind != "claimed":
        return ""
    return (
        f" (process {entry.process.pid} on {entry.process.host}); should that node be gone, its "
        f"claim ends {entry.seconds:g} seconds after it was last heard of"
    )
