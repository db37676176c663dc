"""Solve: a known optimum is found, inside the space, and the comparison with it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from regmix.config import FitConfig, ObjectiveConfig
from regmix.errors import UserError
from regmix.fit import fit
from regmix.mixture import FloatArray, Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.regressors import Prediction
from regmix.solve import Proposal, solve
from regmix.space import Constraint, Space
from regmix.surrogate import FittedMetric, Scores, Surrogate

NAMES = ("a", "b", "c", "d")
OPTIMUM = np.array([0.4, 0.3, 0.2, 0.1])
LOSS = Objective.single("loss", ObjectiveConfig())
CONFIG = FitConfig(samples=10_000, top_k=50)


@dataclass(frozen=True)
class Bowl:
    """The convex surface itself, with the same error everywhere."""

    lowest: FloatArray
    std: float = 0.01

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(2 + ((x - self.lowest) ** 2).sum(axis=1))

    def fit(self, x: FloatArray, y: FloatArray) -> Self:
        return self

    def predict(self, x: FloatArray) -> Prediction:
        return Prediction(self.value(x), np.full(len(x), self.std))

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(OPTIMUM)


def known(lowest: FloatArray = OPTIMUM) -> Surrogate:
    scores = Scores(1, 1, 0, 0, 0.9)
    return Surrogate(NAMES, (FittedMetric("loss", "bowl", Bowl(lowest), 1.0, scores, {}),))


def swarm(count: int = 40, seed: int = 0, noise: float = 0.0) -> Observations:
    rng = np.random.default_rng(seed)
    ids = pd.Index([f"id{i:02d}" for i in range(count)], name="run_id")
    weights = pd.DataFrame(rng.dirichlet(np.ones(4), count), ids, list(NAMES))
    values = Bowl(OPTIMUM).value(weights.to_numpy()) + noise * rng.standard_normal(count)
    info = pd.DataFrame({"name": "n" + ids.str[2:], "role": "swarm", "seed": 0, "tokens": 1}, ids)
    return Observations(weights, pd.DataFrame({"loss": values}, ids), info, pd.DataFrame())


def solved(
    constraints: Sequence[Constraint] = (), surrogate: Surrogate | None = None, seed: int = 0
) -> Proposal:
    space = Space(NAMES, constraints)
    references = {"uniform": Mixture.uniform(NAMES)}
    return solve(surrogate or known(), LOSS, space, swarm(), references, CONFIG, seed)


def true_optimum(constraints: Sequence[Constraint]) -> FloatArray:
    """By sequential quadratic programming, to compare with."""
    space = Space(NAMES, constraints)
    limits = [optimize.LinearConstraint(np.ones((1, 4)), 1, 1)]
    limits += [found] if (found := space.linear()) is not None else []
    answer = optimize.minimize(
        lambda w: ((w - OPTIMUM) ** 2).sum(), space.centre, method="SLSQP",
        bounds=[(0, 1)] * 4, constraints=limits, tol=1e-12,
    )  # fmt: skip
    assert answer.success
    return np.asarray(answer.x)


CASES: dict[str, list[Constraint]] = {
    "free": [],
    "one bound": [Constraint("a", {"a": 1.0}, upper=0.25)],
    "lower bound": [Constraint("d", {"d": 1.0}, lower=0.3)],
    "group": [Constraint("g", {"c": 1.0, "d": 1.0}, lower=0.5)],
    "pinned": [Constraint("a", {"a": 1.0}, 0.2, 0.2)],
    "pinned ratio": [Constraint("r", {"a": 1.0, "b": -1.0}, 0.0, 0.0)],
    "narrow": [Constraint("a", {"a": 1.0}, 0.2, 0.205)],
    "three": [
        Constraint("a", {"a": 1.0}, upper=0.3),
        Constraint("d", {"d": 1.0}, lower=0.15),
        Constraint("g", {"b": 1.0, "c": 1.0}, 0.4, 0.45),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_a_known_optimum_is_found_inside_the_space(case: str) -> None:
    constraints = CASES[case]
    found = solved(constraints)
    best = found.best.mixture.array()
    assert Space(NAMES, constraints).contains(best)[0]
    assert best == pytest.approx(true_optimum(constraints), abs=0.02)


def test_the_optimum_of_a_corner_is_reached() -> None:
    best = solved(surrogate=known(np.array([1.0, 0, 0, 0]))).best.mixture
    assert best["a"] > 0.97


def test_what_holds_the_proposal_back_is_named() -> None:
    assert solved(CASES["free"]).active == ()
    assert solved(CASES["pinned"]).active == ("a",)
    slack = [Constraint("far", {"a": 1.0}, upper=0.9)]
    assert solved(slack).active == ()


def test_one_seed_gives_one_answer_and_its_weights_are_short() -> None:
    one, other = solved(seed=3), solved(seed=3)
    assert one == other
    assert all(w == round(w, 4) for w in one.best.mixture.weights)


def test_probabilities_against_the_normal_distribution() -> None:
    found = solved()
    by_name = {c.name: c for c in found.baselines}
    uniform = by_name["uniform"]
    gain = Bowl(OPTIMUM).value(np.full((1, 4), 0.25))[0] - found.best.objective[0]
    assert uniform.objective == pytest.approx((2.05, 0.01))
    assert uniform.probability_beaten == pytest.approx(stats.norm.cdf(gain / (0.01 * 2**0.5)))
    assert found.best.probability_beaten == 0.5
    assert found.best.metrics["loss"] == found.best.objective


def test_the_best_run_is_the_best_measured_one() -> None:
    data = swarm()
    named = {c.name: c.mixture for c in solved().baselines}
    top = data.metrics["loss"].idxmin()
    assert named["best run"].array() == pytest.approx(data.weights.loc[top].to_numpy())


def test_distances_by_hand() -> None:
    found, data = solved(), swarm()
    x = data.x()
    to_best = 0.5 * np.abs(x - found.best.mixture.array()).sum(axis=1)
    assert found.nearest_distance == pytest.approx(to_best.min())
    assert found.nearest_run == data.info["name"].iloc[to_best.argmin()]
    between = [
        min(0.5 * np.abs(x[i] - x[j]).sum() for j in range(len(x)) if j != i) for i in range(len(x))
    ]
    assert found.typical_distance == pytest.approx(np.median(between))
    assert not found.extrapolates
    far = solved(surrogate=known(np.array([0.0, 0.0, 0.0, 1.0])))
    assert far.extrapolates == (far.nearest_distance > 1.5 * far.typical_distance)


def test_higher_is_better_where_it_is() -> None:
    """The same bowl as an accuracy: the proposal goes as far up as it can."""
    scores = Scores(1, 1, 0, 0, 0.9)
    rising = Surrogate(NAMES, (FittedMetric("acc", "bowl", Bowl(OPTIMUM), 1.0, scores, {}),))
    data = swarm()
    renamed = Observations(
        data.weights, data.metrics.rename(columns={"loss": "acc"}), data.info, data.replicates
    )
    objective = Objective.single("acc", ObjectiveConfig())
    found = solve(rising, objective, Space(NAMES), renamed, {}, CONFIG, 0)
    assert found.best.mixture["d"] > 0.97  # the corner that is farthest from the bowl's bottom
    named = {c.name: c.mixture for c in found.baselines}
    top = data.metrics["loss"].idxmax()
    assert named["best run"].array() == pytest.approx(data.weights.loc[top].to_numpy())


def test_an_infeasible_space_gives_its_numbers() -> None:
    with pytest.raises(UserError, match=r"a in \[0\.8, 1\], b in \[0\.7, 1\]\); .* by 0\.5"):
        solved([Constraint("a", {"a": 1.0}, lower=0.8), Constraint("b", {"b": 1.0}, lower=0.7)])


@pytest.mark.parametrize("case", ["free", "three"])
def test_from_measured_runs_to_the_optimum(case: str) -> None:
    """Swarm, fit and solve together, with noise: close to the true optimum and its value."""
    data = swarm(80, noise=0.002)
    result = fit(data, ["loss"], LOSS, FitConfig(regressor="gp", repeats=1))
    space = Space(NAMES, CASES[case])
    found = solve(result.surrogate, LOSS, space, data, {}, CONFIG, 0).best
    truth = true_optimum(CASES[case])
    reached, lowest = Bowl(OPTIMUM).value(np.array([found.mixture.weights, truth]))
    assert space.contains(found.mixture.array())[0]
    assert reached - lowest < 0.003
    assert found.mixture.array() == pytest.approx(truth, abs=0.06)
    assert abs(found.objective[0] - reached) < 3 * found.objective[1]
