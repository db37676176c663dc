"""Code that differs is told apart, also where its version does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import proxy_trainer
import regmix
from proxy_trainer.version import version


def asked(root: Path) -> str:
    """What a process says that finds the packages there."""
    code = "from proxy_trainer.version import version; print(version())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONPATH": str(root)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Another checkout; with the traces that running it leaves."""
    for package in (regmix, proxy_trainer):
        source = Path(str(package.__file__)).parent
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, tmp_path / source.name, ignore=ignored)
    return tmp_path


def test_one_line_more_is_other_code_and_where_it_lies_is_not(copy: Path) -> None:
    assert version().startswith(f"{regmix.__version__}+")
    assert asked(copy) == version()
    changed = copy / "proxy_trainer" / "optim.py"
    changed.write_text(changed.read_text() + "# one more\n")
    found = asked(copy)
    assert found != version()
    assert found.partition("+")[0] == regmix.__version__
