"""TensorBoard's event files, one for every time that a run was started."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from regmix.files import disk_errors

_PREFIX = "events.out.tfevents"
"""TensorBoard reads files with it in their name, in the order of their names."""


class TensorBoard:
    """Writes a run's figures; what is written is in the file when a call returns.

    tensorboardX's own writer hands them to a thread, which a killed process takes with it: points
    from before the checkpoint would be lost, and nobody would write them again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Begin a file.

        Args:
            step: steps done; later ones in earlier files are marked as written by a process that
                did not live to save them, which TensorBoard then leaves out.
        """
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # By number and not by time: nodes' clocks differ, and a second may see two starts.
            number = 1 + max((_number(p) for p in folder.glob(f"{_PREFIX}.*")), default=0)
            self._path = folder / f"{_PREFIX}.{number:010d}.{socket.gethostname()}"
            self._file: Any = RecordWriter(str(self._path))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step, by name."""
        made = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=made)))

    def close(self) -> None:
        """No more figures."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with disk_errors(self._path):
            self._file.write(event.SerializeToString())
            self._file.flush()


def _number(path: Path) -> int:
    found = path.name.removeprefix(f"{_PREFIX}.").partition(".")[0]
    return int(found) if found.isdecimal() else 0
