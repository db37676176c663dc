"""The notebooks as they are kept, and the one on RegMix's tables; the others run on the demo."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]-*.py"))
SWARM = ROOT.parent / "shared" / "data" / "regmix_swarm"
PLACES = re.compile(r"(?<![\w./:])/(?:home|mnt|opt|root|tmp|Users|var|work)/")
"""The beginning of a path on somebody's machine."""


def kept(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
    return found


def test_there_are_five() -> None:
    assert [name[0] for name in NAMES] == list("12345")


@pytest.mark.parametrize("name", NAMES)
def test_script_and_kept_outputs_have_the_same_cells(name: str) -> None:
    import jupytext

    script = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    own = [(c["cell_type"], "".join(c["source"])) for c in kept(name)["cells"]]
    assert own == [(c["cell_type"], c["source"]) for c in script.cells]


@pytest.mark.parametrize("name", NAMES)
def test_kept_outputs_are_whole_and_of_no_machine(name: str, check_notebook: Any) -> None:
    notebook = kept(name)
    check_notebook(notebook)
    assert PLACES.findall(json.dumps(notebook, ensure_ascii=False)) == []


@pytest.mark.parametrize("name", NAMES)
def test_only_the_public_interface_is_imported(name: str) -> None:
    text = (ROOT / "notebooks" / f"{name}.py").read_text("utf-8")
    ours = re.findall(r"^(?:from|import) (?:regmix|proxy_trainer).*", text, re.MULTILINE)
    assert ours == ["from regmix import Study"]


@pytest.mark.slow
def test_regmix_revisited_runs_on_the_published_tables(run_notebook: Any) -> None:
    if not SWARM.is_dir():
        pytest.skip(f"RegMix's published tables are not there: {SWARM}")
    order, optimum = run_notebook("3-regmix-revisited", REGMIX_DATA=str(SWARM))
    assert "It holds" in order
    assert "`pile_cc` has the largest share" in optimum


def test_without_its_data_a_notebook_is_not_executed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "notebooks.build", "1-first-look", "-o", str(tmp_path / "pages")],
        cwd=ROOT, env={**os.environ, "REGMIX_STUDY": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "1-first-look: skipped, needs a study: `make demo` makes one" in done.stderr
    assert not (tmp_path / "pages").exists()
