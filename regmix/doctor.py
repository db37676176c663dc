"""Checks of an installation that need no torch: versions, libraries, and a study's file system.

Each says what was found and what to do about it; nothing is kept of what a check writes. Devices
and launchers are looked at by `proxy_trainer.doctor`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from regmix.claims import SharedClock
from regmix.quantities import duration

State = Literal["ok", "warning", "problem"]

LIBRARIES = (
    "duckdb",
    "lightgbm",
    "matplotlib",
    "pyarrow",
    "scipy",
    "sklearn",
    "tokenizers",
    "torch",
)
"""With code of their own, which may not load although they are installed."""
LITTLE_GB, TOO_LITTLE_GB = 10.0, 1.0
"""Free space below which a warning is given, and below which it is a problem."""
FEW_FILES = 100_000
"""A run takes a dozen files."""
SKEW_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """What one check came to."""

    name: str
    state: State
    found: str
    advice: str = ""
    """What to do about it; empty if it is ok."""


def worst(checks: Sequence[Check]) -> State:
    """The state of the worst one."""
    states = {check.state for check in checks}
    return "problem" if "problem" in states else "warning" if "warning" in states else "ok"


def installation() -> Iterator[Check]:
    """Versions of Python and of every package against what this version of regmix needs."""
    try:
        needed = metadata.requires("regmix") or []
        python = metadata.metadata("regmix")["Requires-Python"]
    except metadata.PackageNotFoundError:
        yield Check(
            "packages", "warning", "regmix is not installed as a package, so its needs are unknown",
            "install it: pip install -e . in its folder",
        )  # fmt: skip
        return
    yield _python(python)
    requirements = [Requirement(text) for text in needed]
    always = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    faults = list(_versions(always, missing="problem"))
    yield from faults
    yield from _versions([r for r in requirements if r not in always], missing="ok")
    if not faults:
        yield Check("packages", "ok", f"all {len(always)} packages are there in versions that do")


def _python(needed: str) -> Check:
    version = platform.python_version()
    if SpecifierSet(needed).contains(version, prereleases=True):
        return Check("python", "ok", f"{version} ({sys.executable})")
    return Check(
        "python", "problem", f"{version}, needed is {needed}",
        "make a virtual environment with a newer Python, and install regmix there",
    )  # fmt: skip


def _versions(requirements: Sequence[Requirement], *, missing: State) -> Iterator[Check]:
    """Packages that are missing, or of a version that is not allowed.

    Args:
        missing: what it is if one is missing; ok is not told.
    """
    for wanted in requirements:
        name, needed = wanted.name, str(wanted.specifier)
        if name == "regmix":  # its own extras
            continue
        command = f"pip install '{name}{needed}'"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if missing != "ok":
                yield Check(name, missing, f"not installed, needed is {needed}", command)
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield Check(name, "problem", f"{version}, needed is {needed}", command)


def libraries(names: Sequence[str] = LIBRARIES) -> Iterator[Check]:
    """Whether libraries with code of their own load, each in a process of its own."""
    faults = []
    for name in names:
        found = subprocess.run(  # noqa: S603
            [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False
        )
        if found.returncode:
            why = (found.stderr.strip().splitlines() or [f"exit code {found.returncode}"])[-1]
            advice = f"reinstall it: pip install --force-reinstall {name}"
            if "libgomp" in why:
                advice = "install OpenMP's library (Debian, Ubuntu: apt-get install libgomp1)"
            faults.append(Check(name, "problem", f"does not load: {why}", advice))
    yield from faults
    if not faults:
        yield Check("libraries", "ok", f"{', '.join(names)} load")


def files(folder: Path) -> Iterator[Check]:
    """Whether a folder's file system does what studies need: write, link, lock, tell the time.

    Args:
        folder: of a study, or where one is to be.
    """
    written = _attempt("write access", lambda: _written(folder), f"{folder}: make it writable")
    yield written
    if written.state == "ok":
        yield _attempt("hard links", lambda: _linked(folder), _LINKS)
        yield _attempt("file locks", lambda: _locked(folder), _LOCKS)
        yield _clock(folder)
    yield from _space("disk", folder)


_LINKS = "claims are created exclusively instead; keep the study on a file system with hard links"
_LOCKS = (
    "DuckDB's store needs them: keep the study on a local disk, or have the network file system "
    "mounted with locks (NFS: without nolock; Lustre: with flock)"
)


def temporary() -> Iterator[Check]:
    """Whether the temporary folder can be written to, and has room."""
    folder = Path(tempfile.gettempdir())
    name = "temporary folder"
    written = _attempt(name, lambda: _written(folder), "set TMPDIR to a folder with room")
    if written.state == "ok":
        yield from _space(name, folder)
    else:
        yield written


def _attempt(name: str, attempt: Callable[[], str], advice: str) -> Check:
    """Ok if it can be done; what the system says against it if not.

    Only links can be done without.
    """
    try:
        return Check(name, "ok", attempt())
    except OSError as exc:
        without = exc.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)
        state: State = "warning" if name == "hard links" and without else "problem"
        return Check(name, state, f"{exc.strerror or exc}", advice)


def _written(folder: Path) -> str:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor.tmp-") as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
    return f"{folder} can be written to"


def _linked(folder: Path) -> str:
    """A link appears, and a second one of the same name is refused."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor.tmp-") as name:
        first, second, link = (Path(name) / n for n in ("first", "second", "link"))
        for path in (first, second):
            path.touch()
        os.link(first, link)
        with suppress(FileExistsError):
            os.link(second, link)
            raise OSError(errno.EIO, "a link replaced another: claims would not be exclusive")
    return "made exclusively, as claims need them"


def _locked(folder: Path) -> str:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor.tmp-") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_UN)
    return "given, as the store needs them"


def _clock(folder: Path) -> Check:
    """How far this machine's clock is from that which dates the folder's files."""
    ahead = SharedClock(folder).read() - time.time()
    found = f"{abs(ahead):.1f} s {'behind' if ahead > 0 else 'ahead of'} the file server's"
    if abs(ahead) <= SKEW_SECONDS:
        return Check("clock", "ok", found)
    return Check(
        "clock", "warning", f"{duration(abs(ahead))} off: {found}",
        "claims do not mind, but speeds and times left are told wrongly: set it by NTP",
    )  # fmt: skip


def _space(name: str, folder: Path) -> Iterator[Check]:
    try:
        free = shutil.disk_usage(folder).free / 1e9
        inodes = os.statvfs(folder).f_favail
    except OSError as exc:
        yield Check(name, "problem", f"{folder}: {exc.strerror}", "name a folder that is there")
        return
    state: State = "ok" if free >= LITTLE_GB else "warning" if free >= TOO_LITTLE_GB else "problem"
    found = f"{free:,.1f} GB free at {folder}"
    advice = "token shards take 2 to 4 bytes a token, checkpoints 12 a parameter: free some space"
    yield Check(name, state, found, "" if state == "ok" else advice)
    if 0 < inodes < FEW_FILES:
        yield Check(name, "warning", f"{inodes:,} more files at {folder}", "delete some files")
