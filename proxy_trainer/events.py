"""A run's event log: append-only JSON lines, whole lines only, safe to resume."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from regmix.files import disk_errors


class EventLog:
    """Appends events; opening cuts off a line that a killed process left half-written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+b", buffering=0)
            self._drop_torn_tail()

    def _drop_torn_tail(self) -> None:
        self._stream.seek(0)
        content = self._stream.read()
        self._stream.truncate(content.rfind(b"\n") + 1)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event; NaN is refused, as JSON has none."""
        line = json.dumps({"type": kind, "time": time.time(), **fields}, allow_nan=False)
        raw = line.encode() + b"\n"
        with disk_errors(self._path):
            if self._stream.write(raw) != len(raw):  # a torn line, cut off at the next opening
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Nothing is buffered: only the file is let go."""
        self._stream.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
