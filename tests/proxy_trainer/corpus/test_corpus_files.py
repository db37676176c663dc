"""Finding files, cutting them, and reading reference pages out of source."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from proxy_trainer.corpus.base import Shard, Work
from proxy_trainer.corpus.docstrings import pages, public_module_name
from proxy_trainer.corpus.files import (
    CODE_BOUNDARIES,
    PROSE_BOUNDARIES,
    cut,
    distribution_source,
    list_files,
    package_folder,
)


def work_on(root: Path) -> Work:
    return Work(Shard("k", "s", root=root), random.Random(0))


@pytest.mark.parametrize("boundaries", [CODE_BOUNDARIES, PROSE_BOUNDARIES])
def test_cutting_loses_nothing_and_keeps_the_limit(boundaries: tuple[object, ...]) -> None:
    source = Path(random.__file__).read_text(encoding="utf-8") + "é" * 5000
    pieces = list(cut(source, boundaries, 2000))  # type: ignore[arg-type]
    assert "".join(pieces) == source
    assert max(len(piece.encode()) for piece in pieces) <= 2000


def test_code_is_cut_between_definitions() -> None:
    source = "".join(f"def f{n}():\n    return {'1 + ' * 50}1\n\n\n" for n in range(20))
    pieces = list(cut(source, CODE_BOUNDARIES, 1000))
    assert len(pieces) > 1
    assert all(piece.startswith("def f") for piece in pieces)


def test_tests_vendored_copies_and_hidden_folders_are_not_listed(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "tests/c.py", "_vendor/d.py", ".git/e.py", "skip/f.py", "g.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = list_files(tmp_path, (".py",), skip_folders=frozenset({"skip"}))
    assert found == [tmp_path / "a.py", tmp_path / "b.py"]


def test_what_is_not_installed_is_absent_and_no_error() -> None:
    assert package_folder("no_such_package_here") is None
    assert distribution_source("no-such-distribution-here").version is None


def test_pages_show_public_objects_with_their_signatures(tmp_path: Path) -> None:
    (tmp_path / "_shapes.py").write_text(
        f'''
def area(side: float, *, scale: float = 1.0) -> float:
    """Return the area. {"Words. " * 50}"""

def _hidden():
    """Not shown. {"Words. " * 50}"""

class Square:
    """A square. {"Words. " * 50}"""

    def grow(self, by):
        """Make it larger."""

add_newdoc("shapes", "circle", """A compiled circle. {"Words. " * 50}""")
''',
        encoding="utf-8",
    )
    found = list(pages(work_on(tmp_path), tmp_path / "_shapes.py"))
    assert len(found) == 3
    assert found[0].startswith(f"{tmp_path.name}.area(side: float, *, scale: float=1.0)\n\nReturn")
    assert "Square.grow(self, by)\nMake it larger." in found[1]
    assert found[2].startswith("shapes.circle\n\nA compiled circle.")


def test_a_file_that_does_not_parse_is_noted(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def (", encoding="utf-8")
    work = work_on(tmp_path)
    assert list(pages(work, tmp_path / "bad.py")) == []
    assert work.unreadable == ["bad.py"]


def test_private_parts_are_left_out_of_module_names() -> None:
    root = Path("/lib/scipy")
    assert public_module_name(root / "stats" / "_stats_py.py", root) == "scipy.stats"
