"""Strict YAML: what is written is what is read, and every complaint has a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from regmix import yaml_io
from regmix.errors import UserError

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)
HEX = st.text("0123456789abcdef", min_size=12, max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yaml")


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True, scope="module")
def parser(request: pytest.FixtureRequest) -> Iterator[None]:
    """With libyaml and without it: everything here holds for both."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_io, "_LOADER", yaml_io._strict(getattr(yaml, request.param)))
        yield


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=5))
def test_round_trip(folder: Path, value: dict[str, object]) -> None:
    path = folder / "value.yaml"
    path.write_text(yaml_io.dump(value), encoding="utf-8")
    found = yaml_io.load(path)
    assert found == value
    assert list(found) == list(value)


@given(HEX)
@example("123456e78901")
@example("1e1234567890")
@example("012345678901")
@example("0x1234567890"[:12])
def test_an_id_stays_text(folder: Path, run_id: str) -> None:
    """A hash can look like a number: digits alone, or digits around one `e`."""
    path = folder / "id.yaml"
    path.write_text(yaml_io.dump({"run_id": run_id, run_id: 1}), encoding="utf-8")
    assert yaml_io.load(path) == {"run_id": run_id, run_id: 1}


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2.5E+4", 25000.0), ("-1e5", -1e5)])
def test_numbers_are_read_as_people_write_them(folder: Path, text: str, value: float) -> None:
    path = folder / "number.yaml"
    path.write_text(f"lr: {text}\n", encoding="utf-8")
    assert yaml_io.load(path) == {"lr": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n",
            r"x\.yaml:5: 'c' is named twice \(first in line 3\)",
        ),
        ("a: [1\n", r"x\.yaml:2: not valid YAML"),
        ("a: 1\n b: 2\n", r"x\.yaml:2: not valid YAML"),
        ("- 1\n", r"x\.yaml: expected a mapping of keys, found list"),
        ("", r"x\.yaml: expected a mapping of keys, found NoneType"),
        ("? [a, b]\n: 1\n", r"x\.yaml:1: not valid YAML \(a key must be a single value\)"),
        ("a: \x07\n", r"x\.yaml: not valid YAML .*#x0007"),
        ("a: 2024-13-01\n", r"x\.yaml: not valid YAML \(month must be in 1\.\.12"),
        (f"a: {'[' * 5000}{']' * 5000}\n", r"x\.yaml: .* nested too deep to be read"),
        (f"a: {'9' * 5000}\n", r"x\.yaml: not valid YAML .*4300 digits"),
        ("a: !!python/object/apply:os.getcwd []\n", r"x\.yaml:1: not valid YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(folder: Path, text: str, message: str) -> None:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        yaml_io.load(path)
    if "expected a mapping" not in message:
        with pytest.raises(UserError, match=message):
            yaml_io.parse(text, path)


def test_a_line_is_found_wherever_the_file_can_be_read(folder: Path) -> None:
    """libyaml reads deeper than Python's own parser does."""
    path = folder / "deep.yaml"
    for depth in (50, 100, 200, 300, 400, 900):
        path.write_text(f"a: {'[' * depth}{']' * depth}\nb: 1\n", encoding="utf-8")
        try:
            yaml_io.load(path)
        except UserError:
            assert depth > 100
        else:
            assert yaml_io.line_of(path, ("b",)) == 2


def test_what_cannot_be_read_is_said(folder: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        yaml_io.load(folder / "none.yaml")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        yaml_io.load(folder)
    latin = folder / "latin.yaml"
    latin.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: not UTF-8 text .* byte 9"):
        yaml_io.load(latin)


def test_lines_of_keys(folder: Path) -> None:
    path = folder / "lines.yaml"
    path.write_text("a: 1\nb:\n  - c: 1\n  - c: 2\n    d: {e: 3}\n", encoding="utf-8")
    assert yaml_io.line_of(path, ("a",)) == 1
    assert yaml_io.line_of(path, ("b", 1, "d", "e")) == 5
    assert yaml_io.line_of(path, ("b", 1, "nothing")) == 4
    assert yaml_io.line_of(path, ("nothing",)) is None
