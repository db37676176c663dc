"""Every regressor there is, and one that a plug-in brings, passes the public suite."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from regmix import testing
from regmix.errors import UserError
from regmix.mixture import FloatArray
from regmix.regressors import (
    CANDIDATES,
    Context,
    Prediction,
    Regressor,
    Shape,
    names,
    registry,
    regressor,
    restore,
)
from regmix.regressors.base import NOTHING
from regmix.testing.regressors import draw, surface

BUILT_IN = tuple(registry.BUILT_IN)


class Nearest:
    """A plug-in: what near runs measured, weighted by their distance."""

    name: ClassVar[str] = "nearest"

    def __init__(self, x: FloatArray, y: FloatArray) -> None:
        self._x, self._y = x, y

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        return [cls(x.copy(), column.copy()) for column in y.T]

    def _near(self, x: FloatArray) -> FloatArray:
        square = ((np.sqrt(x)[:, None] - np.sqrt(self._x)[None]) ** 2).sum(2)
        near = np.exp(-square / 0.05) + 1e-12
        return np.asarray(near / near.sum(1, keepdims=True))

    def mean(self, x: FloatArray) -> FloatArray:
        return np.asarray(self._y[0] + self._near(x) @ (self._y - self._y[0]))

    def predict(self, x: FloatArray) -> Prediction:
        around = self._near(x) @ (self._y - self._y.mean()) ** 2
        return Prediction(self.mean(x), np.sqrt(0.1 * around + 1e-12 * max(self._y.std(), 1e-9)))

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        apart = self._near(x) - self._near(reference[None])
        return np.asarray(self._y.std() * np.sqrt((apart**2).sum(1)))

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        return type(self)(x, y)

    @property
    def shape(self) -> Shape:
        return Shape(smooth=True)

    def state(self) -> dict[str, Any]:
        return {"x": self._x.tolist(), "y": self._y.tolist()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(np.array(state["x"]), np.array(state["y"]))


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`nearest` as an installed package would register it."""
    module = ModuleType("a_plug_in")
    module.Nearest = Nearest  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_plug_in", module)
    found = EntryPoints([EntryPoint("nearest", "a_plug_in:Nearest", registry.GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda *, group: found.select(group=group))
    regressor.cache_clear()
    yield
    regressor.cache_clear()


@pytest.mark.parametrize("check", testing.REGRESSOR_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in(name: str, check: Callable[[type[Regressor]], None]) -> None:
    check(regressor(name))


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize("check", testing.REGRESSOR_CHECKS, ids=lambda c: c.__name__)
def test_plug_in(check: Callable[[type[Regressor]], None]) -> None:
    check(regressor("nearest"))


@pytest.mark.usefixtures("plug_in")
def test_a_plug_in_is_known_by_name_beside_the_others() -> None:
    assert names() == (*BUILT_IN, "nearest")
    assert regressor("nearest") is Nearest
    x = draw(8)
    model = regressor("nearest").fit_all(x, surface(x)[:, None])[0]
    assert restore("nearest", model.state()).mean(x) == pytest.approx(model.mean(x))
    with pytest.raises(UserError, match="unknown regressor 'nearst'; did you mean 'nearest'"):
        regressor("nearst")


def test_a_plug_in_cannot_take_a_built_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = EntryPoints([EntryPoint("gp", "os:path", registry.GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda *, group: found.select(group=group))
    regressor.cache_clear()
    assert regressor("gp").name == "gp"
    assert names().count("gp") == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_carries_the_name_it_is_found_by(name: str) -> None:
    assert regressor(name).name == name


def test_candidates_are_built_in_and_unknown_names_are_refused_with_the_choices() -> None:
    assert set(CANDIDATES) < set(BUILT_IN)
    for call in (regressor, lambda n: restore(n, {})):
        with pytest.raises(
            UserError,
            match=r"fit\.regressor: unknown regressor 'ligthgbm'; did you mean 'lightgbm'.*auto",
        ):
            call("ligthgbm")


class Wrong(Nearest):
    """Breaks one promise at a time."""

    broken: ClassVar[str] = ""

    def predict(self, x: FloatArray) -> Prediction:
        found = super().predict(x)
        if self.broken == "sure":
            return Prediction(found.mean, np.zeros(len(x)))
        if self.broken == "random":
            return Prediction(found.mean + np.random.default_rng().normal(size=len(x)), found.std)
        return found

    @property
    def shape(self) -> Shape:
        return Shape(smooth=True, convex=1 if self.broken == "convex" else 0)

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        found = super().contrast(x, reference)
        return found + 0.1 if self.broken == "contrast" else found


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("sure", "a standard deviation is not above 0"),
        ("random", "a second fit"),
        ("convex", "convex 1, off by"),
        ("contrast", "contrast of a mixture with itself"),
    ],
)
def test_the_suite_notices(broken: str, said: str) -> None:
    kind = type("Broken", (Wrong,), {"broken": broken})
    failures = []
    for check in testing.REGRESSOR_CHECKS:
        try:
            check(kind)
        except AssertionError as error:
            failures.append(str(error))
    assert any(said in f for f in failures), failures
