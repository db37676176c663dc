"""Files that must be whole: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regmix.errors import StudyFault, StudyRefused, UserError

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
PLAIN_TEXT = (".txt", ".md", ".rst", ".txt.gz", ".txt.zst")
PARQUET = (".parquet",)
TEXT_SUFFIXES = JSON_LINES + PLAIN_TEXT + PARQUET
"""Files that documents can be read from."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into an error that names the place."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StudyFault(f"{path}: no space left on the disk; free some and run again") from exc
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StudyRefused(f"{path}: not writable ({exc.strerror})") from exc
        if exc.errno in (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise UserError(f"{path}: no file can be written there ({exc.strerror})") from exc
        raise


def _make_folder(path: Path) -> None:
    """The folder that a file is written to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as exc:  # where nothing can be made, as in /proc
        raise UserError(f"{path}: no folder can be made for it ({exc.strerror})") from exc


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Create ``path`` through ``write(temporary_path)`` so that no reader ever sees half of it.

    Raises:
        RegmixError: the disk is full.
        UserError: the folder is not writable.
    """
    with disk_errors(path):
        _make_folder(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb") as done:
                os.fsync(done.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_new(path: Path, text: str, *, durable: bool = True) -> bool:
    """Create ``path`` whole unless it is there; whether this process was the one that did.

    Of any number of processes, on any nodes that share the folder, exactly one is told True: a
    hard link to a finished file either appears or fails, on network file systems too.

    Args:
        durable: wait until the content would survive a loss of power.

    Raises:
        RegmixError: the disk is full.
        UserError: the folder is not writable.
    """
    with disk_errors(path):
        _make_folder(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fchmod(stream.fileno(), 0o644)
                if durable:
                    os.fsync(stream.fileno())
            return _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # A lost reply: the link was made, asked for again by the system, and found there.
        return temporary.stat().st_nlink == 2
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        return _copy_new(temporary, path)
    return True


def _copy_new(temporary: Path, path: Path) -> bool:
    """For file systems without hard links: exclusive all the same, whole a moment later."""
    try:
        stream = path.open("xb")
    except FileExistsError:
        return False
    try:
        with stream:
            stream.write(temporary.read_bytes())
    except BaseException:
        path.unlink(missing_ok=True)  # this process made it, and nobody is to take it for whole
        raise
    return True


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole, with Unix line ends on every system."""
    write_whole(path, lambda tmp: tmp.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; NaN and infinities are refused, as JSON has none."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """JSON text as all our files have it; NaN and infinities are refused, as JSON has none."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is missing or is not JSON; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise UserError(f"{path}: no such file") from exc
    except UnicodeDecodeError as exc:
        raise UserError(f"{path}: not valid JSON ({exc})") from exc
    except OSError as exc:
        raise UserError(f"{path}: cannot be read ({exc.strerror})") from exc
    return from_json(text, path)


def from_json(text: str, where: object) -> Any:
    """What JSON text says.

    Args:
        where: the file that the text is from; messages begin with it.

    Raises:
        UserError: it is not JSON, nested too deep, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except ValueError as exc:  # not JSONDecodeError alone: Python reads no number of 5,000 digits
        raise UserError(f"{where}: not valid JSON ({exc})") from exc
    except RecursionError as exc:
        raise UserError(f"{where}: its lists or mappings are nested too deep to be read") from exc


def expanded(path: str | Path) -> Path:
    """A path with ``~`` and ``~user`` as the folder that they stand for.

    Raises:
        UserError: there is no such user, or no home folder is known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:
        user = Path(path).parts[0]
        raise UserError(
            f"{path}: the home folder of '{user}' is not known; write the whole path, or "
            f"'./{user}' for what is called so"
        ) from exc
