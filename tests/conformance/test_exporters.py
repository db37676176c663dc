"""Every format there is, and one that a plug-in brings, passes the public suite."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from regmix import testing
from regmix.errors import UserError
from regmix.export import (
    Exporter,
    Part,
    Parts,
    Read,
    Request,
    Unit,
    Written,
    exporter,
    names,
    registry,
)

BUILT_IN = tuple(registry.BUILT_IN)


class Plain:
    """A plug-in: weights by name, as JSON."""

    name: ClassVar[str] = "plain"
    title: ClassVar[str] = "weights by name (JSON)"
    unit: ClassVar[Unit] = Unit.TOKENS
    reads: ClassVar[Read] = "text"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = False

    def write(self, request: Request) -> Written:
        return Written(json.dumps({"weights": dict(request.weights)}))

    def read(self, text: str, where: Path) -> Parts:
        try:
            weights = json.loads(text)["weights"]
            return {0: tuple(Part(float(w), name=n) for n, w in weights.items())}
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise UserError(f"{where}: not weights by name") from exc


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`plain` as an installed package would register it."""
    module = ModuleType("a_plug_in")
    module.Plain = Plain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_plug_in", module)
    found = EntryPoints([EntryPoint("plain", "a_plug_in:Plain", registry.GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda *, group: found.select(group=group))
    exporter.cache_clear()
    yield
    exporter.cache_clear()


@pytest.mark.parametrize("check", testing.EXPORTER_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in(name: str, check: object) -> None:
    assert callable(check)
    check(type(exporter(name)))


def test_a_plug_in_is_found_by_name_and_passes(plug_in: None) -> None:
    assert names() == (*BUILT_IN, "plain")
    testing.check_exporter(type(exporter("plain")))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_carries_the_name_it_is_found_by(name: str) -> None:
    assert exporter(name).name == name


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"--from: unknown format 'olmo'; did you mean 'olmo-core'"):
        exporter("olmo", "--from")


class Wrong(Plain):
    """Breaks one promise at a time."""

    broken: ClassVar[str] = ""

    def write(self, request: Request) -> Written:
        weights = dict(request.weights)
        if self.broken == "rounded":
            weights = {name: round(weight, 2) for name, weight in weights.items()}
        if self.broken == "swapped":
            weights = dict(zip(weights, reversed(list(weights.values())), strict=True))
        return Written(json.dumps({"weights": weights}))

    def read(self, text: str, where: Path) -> Parts:
        if self.broken == "trusting" and text == "{}":
            return {0: ()}
        parts = super().read(text, where)
        if self.broken == "misplaced":
            return {0: tuple(replace(part, paths=("/data/another",)) for part in parts[0])}
        return parts


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("rounded", "plain: read"),
        ("swapped", "plain: read"),
        ("misplaced", "'web' lies at"),
        ("trusting", "'{}' was taken for a file of this format"),
    ],
)
def test_the_suite_notices(broken: str, said: str) -> None:
    kind: type[Exporter] = type("Broken", (Wrong,), {"broken": broken})
    failures = []
    for check in testing.EXPORTER_CHECKS:
        try:
            check(kind)
        except AssertionError as error:
            failures.append(str(error))
    assert any(said in f for f in failures), failures
