"""Rows of a task's files, checked one by one.

A row that is not what the task's description says is an error with its file and line: what is left
out in silence would make figures that nobody else can repeat.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy_trainer.data.sources import json_lines, parquet_rows, utf8
from regmix.errors import UserError
from regmix.files import JSON_LINES, PARQUET
from regmix.tasks import relative_to


@dataclass(frozen=True)
class Row:
    """One row of a file."""

    where: str
    """File and line or row, for messages."""
    place: str
    """The same, with the file below the task's folder if it is."""
    content: Mapping[str, object]

    def value(self, key: str) -> object:
        """What stands under a key; dots lead into mappings.

        Raises:
            UserError: nothing; with the keys that there are.
        """
        found: object = self.content
        for part in key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                keys = (
                    ", ".join(map(str, found)) if isinstance(found, Mapping) else repr(found)[:60]
                )
                raise UserError(f"{self.where}: no '{key}' (there is {keys})")
            found = found[part]
        return found

    def text(self, key: str) -> str:
        """The text that stands under a key.

        Raises:
            UserError: nothing, something else, or nothing but white space.
        """
        found = self.value(key)
        if not isinstance(found, str) or not found.strip():
            raise UserError(f"{self.where}: {key}: expected text (found {found!r:.60})")
        utf8(found, f"{self.where}: {key}")
        return found


def read(task: str, folder: Path, files: Sequence[str], keys: Collection[str]) -> Iterator[Row]:
    """All rows of some files, in order.

    Args:
        task: its name, for messages.
        folder: that files are relative to.
        files: paths or globs.
        keys: that will be asked for; of parquet nothing else is read.

    Raises:
        UserError: no file, one of another format, or one that cannot be read.
    """
    columns = sorted({key.split(".")[0] for key in keys if key})
    for name in files:
        for path in _expanded(task, relative_to(folder, name)):
            own = path.relative_to(folder) if path.is_relative_to(folder) else path
            for at, content in _rows(path, columns):
                yield Row(f"{path}{at}", f"{own}{at}", content)


def _expanded(task: str, path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path))))
    if not found:
        raise UserError(f"task '{task}': no file at '{path}'")
    for one in found:
        if not one.name.endswith(JSON_LINES + PARQUET):
            raise UserError(
                f"task '{task}': '{one}' has none of the suffixes {', '.join(JSON_LINES + PARQUET)}"
            )
    return found


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Where in the file each row stands, as it follows the file's name, and the row."""
    if path.name.endswith(PARQUET):
        for number, row in parquet_rows(path, columns):
            yield f": row {number}", row
        return
    for number, record in json_lines(path):
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: expected an object, found {record!r:.60}")
        yield f":{number}", record
