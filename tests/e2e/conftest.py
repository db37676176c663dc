"""Notebooks, executed as `make notebooks` does, and what holds for each of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MADE = re.compile(r"^\s*(?:study\.)?plot\.|^\s*axes = |\.subplots\(", re.MULTILINE)
"""A cell that makes a figure."""
ELSEWHERE = re.compile(r"""<(?:script|link|img)[^>]*(?:src|href)=["'](?:https?:)?//""")

Notebook = dict[str, Any]
Check = Callable[[Notebook], None]
Run = Callable[..., list[str]]


def shown(cell: dict[str, Any]) -> dict[str, str]:
    """What a cell shows, by kind."""
    found: dict[str, str] = {}
    for output in cell["outputs"]:
        for kind, content in output.get("data", {}).items():
            found[kind] = found.get(kind, "") + "".join(content)
    return found


@pytest.fixture
def check_notebook() -> Check:
    """No cell failed or warned; where a figure is due there is one, or a line that says why not."""

    def check(notebook: Notebook) -> None:
        due = 0
        for cell in (c for c in notebook["cells"] if c["cell_type"] == "code"):
            source = "".join(cell["source"])
            assert cell["execution_count"], source
            wrong = [o for o in cell["outputs"] if o["output_type"] == "error"]
            wrong += [o for o in cell["outputs"] if o.get("name") == "stderr"]
            assert wrong == [], source
            if MADE.search(source):
                due += 1
                found = shown(cell)
                drawn = "<svg" in found.get("text/html", "") or "image/png" in found
                assert drawn or "text/markdown" in found, source
        assert due >= 2

    return check


@pytest.fixture
def run_notebook(tmp_path: Path, check_notebook: Check) -> Run:
    """A notebook by name, executed with some environment, and checked; gives its answers."""

    def run(name: str, **environment: str) -> list[str]:
        pages = tmp_path / "pages"
        done = subprocess.run(
            [sys.executable, "-m", "notebooks.build", name, "-o", str(pages)],
            cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
            timeout=1800,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        notebook: Notebook = json.loads((pages / f"{name}.ipynb").read_text("utf-8"))
        check_notebook(notebook)
        page = (pages / f"{name}.html").read_text("utf-8")
        assert not ELSEWHERE.search(page)
        said = [shown(c).get("text/markdown", "") for c in notebook["cells"] if "outputs" in c]
        return [text for text in said if text.startswith("**Answer.**")]

    return run
