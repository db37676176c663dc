"""What a run's folder says: the state of a run, read from the files its worker wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from regmix.errors import UserError, unknown_name
from regmix.files import read_json
from regmix.layout import RunLayout, StudyLayout
from regmix.outline import outline
from regmix.runs import RunSpec

_EVAL = ("task", "fingerprint", "step", "tokens", "counts", "metrics")
"""What a file of results holds in any case."""

Status = Literal["waiting", "started", "done", "failed"]


@dataclass(frozen=True)
class RunFiles:
    """What a run's worker has left so far."""

    layout: RunLayout

    @property
    def status(self) -> Status:
        """``started`` means that a worker has begun; whether one is at it now, the claim tells."""
        if self.layout.done.exists():
            return "done"
        if self.layout.failed.exists():
            return "failed"
        return "started" if self.layout.events.exists() else "waiting"

    @property
    def stamp(self) -> str:
        """Changes whenever the run's files do."""
        evals = sorted(self.layout.evals.glob("*.json"))
        files = (self.layout.events, self.layout.done, self.layout.failed, *evals)
        parts = []
        for path in files:
            if path.exists():
                stat = path.stat()
                parts.append(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}")
        return "|".join(parts)

    def events(self) -> Iterator[dict[str, Any]]:
        """The run's events in order; a line still being written is left for the next reading.

        Raises:
            UserError: a line in the middle is not JSON, with its number.
        """
        return read_events(self.layout.events)

    def evals(self, *, at_end: bool = False) -> Iterator[dict[str, Any]]:
        """What the model came to on tasks, a file each, with the ``step`` that it was asked after.

        Args:
            at_end: leave out what it came to on the way.

        Raises:
            UserError: a file is not JSON, or lacks something.
        """
        for path in sorted(self.layout.evals.glob("*.json")):
            if not (at_end and "@" in path.stem):
                yield read_eval(path)

    def result(self) -> dict[str, Any]:
        """Content of ``DONE``."""
        value: dict[str, Any] = read_json(self.layout.done)
        return value

    def failure(self) -> dict[str, Any]:
        """Content of ``FAILED``: reason, attempts."""
        value: dict[str, Any] = read_json(self.layout.failed)
        return value


@dataclass(frozen=True)
class RunRecord(RunFiles):
    """One run as it stands on disk."""

    spec: RunSpec


def read_eval(path: Path) -> dict[str, Any]:
    """What a model came to on one task.

    Raises:
        UserError: the file is not JSON, or lacks something.
    """
    content = read_json(path)
    found: dict[str, Any] = content if isinstance(content, dict) else {}
    lacking = [key for key in _EVAL if key not in found]
    if lacking:
        raise UserError(
            f"{path}: no results of a task ({', '.join(lacking)} missing); delete the file, and "
            "`regmix eval` asks the run again"
        )
    return found


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Events of a log, without an unfinished last line.

    Raises:
        UserError: a finished line is not JSON, with file and line.
    """
    yield from EventTail(path).new()


class EventTail:
    """Reads a log that is being written, bit by bit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read, self._lines = 0, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Events since the last call; a line still being written is left for the next one.

        Raises:
            UserError: a finished line is not JSON, with file and line.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._read, self._lines = self._read + len(line), self._lines + 1
                yield self._event(line)

    def _event(self, line: bytes) -> dict[str, Any]:
        where = f"{self._path}:{self._lines}"
        try:
            event = json.loads(line)
        except ValueError as exc:  # bytes that are no text included
            raise UserError(f"{where}: not JSON ({exc})") from exc
        if not isinstance(event, dict) or "type" not in event:
            raise UserError(f"{where}: not an event (a JSON object with a 'type')")
        return event


def read_runs(layout: StudyLayout) -> list[RunRecord]:
    """Every run of a study, by run id.

    Raises:
        UserError: a specification was changed by hand.
    """
    if not layout.runs.is_dir():
        return []
    return [
        RunRecord(RunLayout(folder), RunSpec.load(folder / "spec.yaml"))
        for folder in sorted(layout.runs.iterdir())
        if (folder / "spec.yaml").is_file()
    ]


def find_run(layout: StudyLayout, wanted: str) -> str:
    """The id of a run by its id, the beginning of it, or its name.

    Raises:
        UserError: there is none, or there are several.
    """
    outlines = [outline(p.parent) for p in sorted(layout.runs.glob("*/spec.yaml"))]
    found = [o.run_id for o in outlines if o.run_id == wanted or o.name == wanted]
    found = found or [o.run_id for o in outlines if o.run_id.startswith(wanted)]
    if not found:
        raise unknown_name("run", wanted, (o.name for o in outlines), str(layout.root))
    if len(found) > 1:
        raise UserError(f"run '{wanted}' could be any of {', '.join(found)}; give its id")
    return found[0]
