"""Effects against functions whose effects are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from regmix.mixture import FloatArray
from regmix.plot import effects, movers
from regmix.plot.effects import Quantity, Scene
from regmix.regressors import Prediction
from regmix.space import Constraint, Space

DOMAINS = ("a", "b", "c", "d")
BASE = np.array([0.4, 0.3, 0.2, 0.1])
RNG = np.random.default_rng(0)
RUNS = RNG.dirichlet(np.ones(4), 60)


@dataclass(frozen=True)
class Surface:
    """``slopes·w + pair·w_a·w_b``, its coefficients known up to a covariance."""

    slopes: FloatArray
    pair: float = 0.0
    sign: int = 1
    root: FloatArray | None = None
    """Square root of the coefficients' covariance, shape ``(5, 5)``."""

    def _features(self, x: FloatArray) -> FloatArray:
        return np.column_stack([x, x[:, 0] * x[:, 1]])

    def mean(self, x: FloatArray) -> FloatArray:
        return np.asarray(self._features(x) @ [*self.slopes, self.pair])

    def predict(self, x: FloatArray) -> Prediction:
        return Prediction(self.mean(x), np.full(len(x), 0.5))

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        step = self._features(x) - self._features(reference[None])
        root = np.eye(5) if self.root is None else self.root
        return np.asarray(np.linalg.norm(step @ root, axis=1))


def scene(space: Space | None = None, base: FloatArray = BASE) -> Scene:
    return Scene(space or Space(DOMAINS), base, RUNS, 0.1)


def test_one_share_moves_and_the_others_keep_their_ratios() -> None:
    first = movers.movers(Space(DOMAINS))[0]
    x = movers.path(Space(DOMAINS), first, BASE, RUNS, 9)
    assert x is not None
    assert x.sum(1) == pytest.approx(1)
    assert x[0, 0] == pytest.approx(RUNS[:, 0].min())
    assert x[-1, 0] == pytest.approx(RUNS[:, 0].max())
    assert x[:, 1] / x[:, 2] == pytest.approx(1.5)
    assert (np.abs(x - BASE).sum(1) == 0).sum() == 1, "the proposal itself is on the way"


def test_what_is_pinned_moves_together() -> None:
    space = Space(DOMAINS, pinned={"pair": {"b": 3.0, "c": 1.0}})
    names = [m.name for m in movers.movers(space)]
    assert names == ["a", "b + c", "d"]
    base = np.array([0.4, 0.375, 0.125, 0.1])
    for mover in movers.movers(space):
        x = movers.path(space, mover, base, RUNS, 9)
        assert x is not None
        assert space.contains(x).all()
        assert x[:, 1] == pytest.approx(3 * x[:, 2])


def test_no_mixture_on_the_way_breaks_a_constraint() -> None:
    # Both caps hold at the base: no other share can fall with the rest in proportion.
    caps = [Constraint("cap a", {"a": 1.0}, upper=0.4), Constraint("cap b", {"b": 1.0}, upper=0.3)]
    space = Space(DOMAINS, caps)
    for mover in movers.movers(space):
        x = movers.path(space, mover, BASE, RUNS, 9)
        assert x is not None
        assert space.contains(x, 1e-7).all(), mover.name
    fixed = Space(DOMAINS, [Constraint("a", {"a": 1.0}, 0.4, 0.4)])
    assert movers.path(fixed, movers.movers(fixed)[0], BASE, RUNS, 9) is None
    found = effects.curves(scene(fixed), Surface(np.array([1.0, 2.0, 3.0, 4.0])))
    assert set(found.frame["domain"]) == {"b", "c", "d"}
    assert found.fixed == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_gains_are_those_of_the_function(sign: int) -> None:
    surface = Surface(np.array([4.0, 0.0, 0.0, 0.0]), sign=sign)
    found = effects.curves(scene(), surface, limit=3)
    frame = found.frame
    assert frame["domain"].iloc[0] == "a", "the widest effect comes first"
    assert (found.left_out, frame["domain"].nunique()) == (1, 3)
    own = frame[frame["domain"] == "a"]
    assert own["gain"].to_numpy() == pytest.approx((-sign * 4 * (own["share"] - 0.4)).to_numpy())
    assert own.loc[own["share"].sub(0.4).abs().idxmin(), "gain_std"] == pytest.approx(0)
    assert (own["std"] == 0.5).all()
    # Raising another share takes from a in proportion: a = 0.4 (1 - w) / 0.9.
    other = effects.curves(scene(), surface, domains=["d"]).frame
    share = other["share"].to_numpy()
    assert other["gain"].to_numpy() == pytest.approx(-sign * 4 * (0.4 * (1 - share) / 0.9 - 0.4))


def test_far_from_all_runs_is_marked() -> None:
    near = Scene(Space(DOMAINS), BASE, BASE + 0.02 * np.eye(4) - 0.005, 0.005)
    frame = effects.curves(near, Surface(np.ones(4))).frame
    expected = [0.5 * np.abs(near.runs - BASE).sum(1).min()] * 4
    base_rows = frame[frame["gain_std"] == 0]
    assert base_rows["distance"].to_list() == pytest.approx(expected)
    assert frame["extrapolates"].equals(frame["distance"] > 1.5 * 0.005)


def test_the_matrix_is_in_spreads_and_says_what_it_left_out() -> None:
    quantities: dict[str, Quantity] = {
        "strong": Surface(np.array([4.0, 0.0, 0.0, 0.0])),
        "higher": Surface(np.array([0.0, 2.0, 0.0, 0.0]), sign=-1),
        "flat": Surface(np.zeros(4)),
    }
    spread = pd.Series({"strong": 2.0, "higher": 0.5, "flat": 0.0})
    found = effects.matrix(scene(), quantities, spread, domains=2, metrics=2)
    cells = found.frame.set_index(["domain", "metric"])
    assert set(found.frame["domain"]) == {"a", "b"}
    own = cells.loc[("a", "strong")]
    assert own["effect"] == pytest.approx(-4 / 2 * (own["high"] - own["low"]))
    own = cells.loc[("b", "higher")]
    assert own["effect"] == pytest.approx(2 / 0.5 * (own["high"] - own["low"]))
    assert (found.domains, found.metrics) == (2, 1), "nothing is dropped in silence"


def test_an_interaction_is_the_second_difference() -> None:
    found = effects.interactions(scene(), Surface(np.array([1.0, 2.0, 3.0, 4.0]), pair=5.0))
    frame = found.frame.set_index(["one", "other"])
    pair = ("a", "b") if ("a", "b") in frame.index else ("b", "a")
    own = frame.loc[pair]
    sides = (own["one_to"] - own["one_from"]) * (own["other_to"] - own["other_from"])
    # Slopes add up: what is left is the product alone, as a gain.
    assert own["interaction"] == pytest.approx(-5 * sides)
    rest = frame.drop(index=[pair])
    plain = effects.interactions(scene(), Surface(np.array([1.0, 2.0, 3.0, 4.0]))).frame
    assert plain["interaction"].abs().max() < 1e-12
    assert len(rest) == 5


def test_its_uncertainty_is_that_of_four_expected_values_together() -> None:
    root = np.random.default_rng(3).normal(size=(5, 5))
    surface = Surface(np.array([1.0, 2.0, 3.0, 4.0]), 5.0, root=root)
    frame = effects.interactions(scene(), surface).frame.set_index(["one", "other"])
    pair = ("a", "b") if ("a", "b") in frame.index else ("b", "a")
    own = frame.loc[pair]
    sides = (own["one_to"] - own["one_from"]) * (own["other_to"] - own["other_from"])
    # The second difference of the features is 0 in all but what the others give and the product.
    direct = np.linalg.norm(np.array([0.0, 0.0, 0.0, 0.0, sides]) @ root)
    assert own["std"] == pytest.approx(direct, rel=1e-6)


def test_two_domains_have_no_interaction() -> None:
    two = Scene(Space(("a", "b")), np.array([0.5, 0.5]), RNG.dirichlet(np.ones(2), 20), 0.1)

    @dataclass(frozen=True)
    class First:
        sign: int = 1

        def mean(self, x: FloatArray) -> FloatArray:
            return x[:, 0]

        def predict(self, x: FloatArray) -> Prediction:
            return Prediction(x[:, 0], x[:, 0])

        def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
            return np.abs(x[:, 0] - reference[0])

    assert effects.interactions(two, First()).frame.empty
