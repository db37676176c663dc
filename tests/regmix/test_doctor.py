"""Checks of an installation, each against an installation that lacks what it looks for."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from regmix import doctor
from regmix.claims import SharedClock
from regmix.doctor import Check, worst


def by_name(checks: Any) -> dict[str, Check]:
    return {check.name: check for check in checks}


def needs(patch: pytest.MonkeyPatch, *requirements: str, python: str = ">=3.11") -> None:
    patch.setattr(doctor.metadata, "requires", lambda name: list(requirements))
    patch.setattr(doctor.metadata, "metadata", lambda name: {"Requires-Python": python})


def test_this_installation_is_as_it_should_be() -> None:
    found = by_name(doctor.installation())
    assert {c.state for c in found.values()} == {"ok"}
    assert set(found) == {"python", "packages"}


def test_versions_are_held_against_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    needs(
        monkeypatch, "numpy>=99", "no-such-package>=1", "pandas>=2", "ray>=99; extra == 'ray'",
        "not-installed-either>=1; extra == 'ray'", python=">=3.99",
    )  # fmt: skip
    found = by_name(doctor.installation())
    assert set(found) == {"python", "numpy", "no-such-package", "ray"}
    assert {c.state for c in found.values()} == {"problem"}
    assert "needed is >=99" in found["numpy"].found
    assert found["numpy"].advice == "pip install 'numpy>=99'"
    assert found["no-such-package"].found == "not installed, needed is >=1"
    assert "needed is >=3.99" in found["python"].found


def test_a_library_that_is_there_and_does_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("raise OSError('libgomp.so.1: cannot open shared object')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = doctor.libraries(["broken", "json"])
    assert (found.name, found.state) == ("broken", "problem")
    assert "libgomp.so.1" in found.found
    assert "libgomp1" in found.advice
    (fine,) = doctor.libraries(["json"])
    assert (fine.state, fine.found) == ("ok", "json load")


def test_a_folder_that_does_all_that_is_needed(tmp_path: Path) -> None:
    found = by_name(doctor.files(tmp_path))
    assert list(found) == ["write access", "hard links", "file locks", "clock", "disk"]
    assert {c.state for n, c in found.items() if n != "disk"} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    found = by_name(doctor.files(tmp_path / "nothing"))
    assert found["write access"].state == "problem"
    assert "No such file" in found["write access"].found
    assert set(found) == {"write access", "disk"}


def test_a_file_system_without_links_or_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        found = by_name(doctor.files(tmp_path))
        assert found["hard links"].state == "warning"
        assert "Operation not permitted" in found["hard links"].found
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", lambda a, b: shutil.copy(a, b))
        found = by_name(doctor.files(tmp_path))
        assert found["hard links"].state == "problem"
        assert "would not be exclusive" in found["hard links"].found
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", refuse)
        assert by_name(doctor.files(tmp_path))["file locks"].state == "problem"


@pytest.mark.parametrize(
    ("ahead", "state"), [(1.0, "ok"), (-1.0, "ok"), (90, "warning"), (-90, "warning")]
)
def test_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float, state: str) -> None:
    monkeypatch.setattr(SharedClock, "read", lambda self: time.time() + ahead)
    found = by_name(doctor.files(tmp_path))["clock"]
    assert found.state == state
    assert ("behind" if ahead > 0 else "ahead of") in found.found


@pytest.mark.parametrize(("free", "state"), [(50e9, "ok"), (5e9, "warning"), (0.5e9, "problem")])
def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    found = by_name(doctor.files(tmp_path))["disk"]
    assert found.state == state
    assert bool(found.advice) == (state != "ok")


def test_the_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (found,) = doctor.temporary()
    assert str(tmp_path) in found.found
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    (found,) = doctor.temporary()
    assert found.state == "problem"
    assert "TMPDIR" in found.advice


def test_the_worst_counts() -> None:
    ok, warning, problem = (Check("x", s, "") for s in ("ok", "warning", "problem"))
    assert worst([ok]) == "ok"
    assert worst([ok, warning]) == "warning"
    assert worst([problem, ok, warning]) == "problem"
