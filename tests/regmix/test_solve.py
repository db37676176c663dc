"""Solve: a known optimum is found, within space and limits, and what is said of it holds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from regmix.config import FitConfig, ObjectiveConfig
from regmix.errors import UserError
from regmix.fit import fit
from regmix.mixture import FloatArray, Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.regressors import Context, Prediction, Shape, regressor
from regmix.regressors.base import NOTHING
from regmix.solve import Limit, Problem, Proposal, pose, propose, search_for
from regmix.solve.problem import divergence
from regmix.solve.search import gradient
from regmix.space import Constraint, Space
from regmix.surrogate import FittedMetric, Scores, Surrogate

NAMES = ("a", "b", "c", "d")
OPTIMUM = np.array([0.4, 0.3, 0.2, 0.1])
LOSS = Objective.single("loss", ObjectiveConfig())
CONFIG = FitConfig(samples=4_000, top_k=50, bootstraps=0)
UNIFORM = Mixture.uniform(NAMES)
SCORES = Scores(1, 1, 0, 0, 0.9)


@dataclass(frozen=True)
class Bowl:
    """The convex surface itself; how unsure it is of a difference grows with the distance."""

    name: ClassVar[str] = "bowl"
    lowest: FloatArray = field(default_factory=lambda: OPTIMUM)
    std: float = 0.01
    sign: int = 1

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        return [cls() for _ in y.T]

    def mean(self, x: FloatArray) -> FloatArray:
        return np.asarray(2 + self.sign * ((x - self.lowest) ** 2).sum(axis=1))

    def predict(self, x: FloatArray) -> Prediction:
        return Prediction(self.mean(x), np.full(len(x), self.std))

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        return np.asarray(self.std * np.sqrt(((x - reference) ** 2).sum(axis=1)))

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        """The bottom moves with the mean of the runs: what a bootstrap would do."""
        moved = np.maximum(self.lowest + (x.mean(0) - 1 / x.shape[1]), 0)
        return replace(self, lowest=moved / moved.sum())

    @property
    def shape(self) -> Shape:
        return Shape(smooth=True, convex=self.sign)

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls()


@dataclass(frozen=True)
class Steps(Bowl):
    """The bowl in steps of a hundredth, as trees see it."""

    def mean(self, x: FloatArray) -> FloatArray:
        return np.round(super().mean(x), 2)

    @property
    def shape(self) -> Shape:
        return Shape(smooth=False)


def surrogate_of(**models: Any) -> Surrogate:
    fitted = [FittedMetric(n, "bowl", m, 1.0, SCORES, {}) for n, m in models.items()]
    return Surrogate(NAMES, tuple(fitted), np.eye(len(fitted)))


def swarm(count: int = 40, seed: int = 0, noise: float = 0.0, metric: str = "loss") -> Observations:
    rng = np.random.default_rng(seed)
    ids = pd.Index([f"id{i:02d}" for i in range(count)], name="run_id")
    weights = pd.DataFrame(rng.dirichlet(np.ones(4), count), ids, list(NAMES))
    values = Bowl().mean(weights.to_numpy()) + noise * rng.standard_normal(count)
    info = pd.DataFrame({"name": "n" + ids.str[2:], "role": "swarm", "seed": 0, "tokens": 1}, ids)
    return Observations(weights, pd.DataFrame({metric: values}, ids), info, pd.DataFrame())


def problem_of(
    constraints: Sequence[Constraint] = (),
    model: Any = None,
    config: FitConfig = CONFIG,
    **more: Any,
) -> Problem:
    surrogate = surrogate_of(loss=model or Bowl())
    return pose(surrogate, LOSS, Space(NAMES, constraints), config, **more)


def solved(
    constraints: Sequence[Constraint] = (),
    model: Any = None,
    seed: int = 0,
    config: FitConfig = CONFIG,
    references: Mapping[str, Mixture] | None = None,
) -> Proposal:
    problem = problem_of(constraints, model, config)
    return propose(problem, config, swarm(), references or {"uniform": UNIFORM}, seed)


def exact(problem: Problem, start: FloatArray | None = None) -> tuple[FloatArray, float]:
    """By scipy's trust-region interior point, to compare with."""
    space = problem.space
    limits = [optimize.LinearConstraint(np.ones((1, 4)), 1, 1)]
    rows = space.polytope
    if len(rows.matrix):
        limits.append(optimize.LinearConstraint(rows.matrix, rows.lower, rows.upper))
    if problem.limits:
        limits.append(
            optimize.NonlinearConstraint(lambda w: problem.excess(w[None])[0], -np.inf, 0.0)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's remarks on steps that end at rounding
        answer = optimize.minimize(
            lambda w: problem.value(np.maximum(w, 0)[None])[0],
            space.centre if start is None else start,
            method="trust-constr",
            bounds=[(0, 1)] * 4,
            constraints=limits,
            options={"gtol": 1e-10, "xtol": 1e-12, "maxiter": 3000},
        )
    return np.asarray(answer.x), float(answer.fun)


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


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("case", CASES)
def test_the_optimum_of_a_convex_surface_is_exact_and_certified(case: str, kl: float) -> None:
    config = CONFIG.model_copy(update={"kl": kl})
    problem = problem_of(CASES[case], config=config, prior=Mixture.only("d", NAMES), spread=0.2)
    found, mixture = search_for(problem, config, swarm(), 0)
    _, lowest = exact(problem)
    assert found.method == "convex"
    assert found.gap is not None
    assert found.gap < 1e-5
    assert abs(found.value - lowest) <= found.gap + 1e-6
    assert problem.space.contains(mixture.array())[0]
    assert mixture.array() == pytest.approx(found.weights, abs=2e-4)


@pytest.mark.parametrize("name", ["loglinear", "powerlaw"])
def test_a_fitted_law_is_solved_exactly(name: str) -> None:
    """Not a bowl but what `fit` gives: convex, steep at the edges, the optimum at some of them."""
    x = swarm(60).x()
    y = 1 + np.exp(x @ [-3.0, -1.0, 0.0, 0.5]) + 0.3 * (x[:, 3] + 0.05) ** -0.4
    model = regressor(name).fit_all(x, y[:, None])[0]
    assert model.shape.convex == 1
    for case in ("free", "three"):
        problem = problem_of(CASES[case], model)
        found, _ = search_for(problem, CONFIG, swarm(), 0)
        assert found.method == "convex"
        assert found.gap is not None
        assert found.gap < 1e-5
        assert found.value - exact(problem, found.weights)[1] <= found.gap + 1e-7
        cloud = problem.space.pull(np.random.default_rng(1).dirichlet(np.full(4, 0.5), 20_000))
        assert found.value <= problem.value(cloud).min() + 1e-9


@pytest.mark.parametrize("model", [Bowl(sign=-1), Steps()], ids=["concave", "steps"])
@pytest.mark.parametrize("case", CASES)
def test_other_surfaces_are_searched_at_least_as_well_as_by_simulation(
    case: str, model: Bowl
) -> None:
    problem = problem_of(CASES[case], model, CONFIG.model_copy(update={"caution": 0.0}))
    found, mixture = search_for(problem, CONFIG, swarm(), 0)
    assert found.method == ("simulation" if isinstance(model, Steps) else "multi-start")
    assert found.gap is None
    rng = np.random.default_rng(1)
    cloud = problem.space.pull(
        np.vstack([np.eye(4), *(rng.dirichlet(np.full(4, a), 10_000) for a in (0.2, 1.0))])
    )
    slack = 0.0101 if isinstance(model, Steps) else 1e-6
    assert found.value <= problem.value(cloud).min() + slack
    assert problem.space.contains(mixture.array())[0]


@pytest.mark.parametrize("name", ["gp", "sqrt-ridge"])
@pytest.mark.parametrize("kind", ["weighted", "worst"])
def test_fitted_surfaces_are_searched_better_than_by_simulation(name: str, kind: str) -> None:
    """Two metrics that pull apart, joined by their mean or by the worse of them."""
    data = swarm(40, noise=0.005)
    x = data.x()
    both = data.metrics.assign(other=2 + ((x - OPTIMUM[::-1]) ** 2).sum(1) + x[:, 0] * x[:, 1])
    data = replace(data, metrics=both)
    surrogate = fit(data, ["loss", "other"], FitConfig(regressor=name, repeats=1)).surrogate
    config = ObjectiveConfig.model_validate({"kind": kind, "reference": "uniform"})
    objective = Objective.from_config(config, data.metric_names)
    if kind == "worst":
        at = surrogate.predict_one(UNIFORM)
        objective = objective.against({m: v for m, (v, _) in at.items()})
    problem = pose(surrogate, objective, Space(NAMES, CASES["three"]), CONFIG)
    found, _ = search_for(problem, CONFIG, data, 0)
    assert (found.method == "simulation") == (kind == "worst")
    cloud = np.random.default_rng(1).dirichlet(np.full(4, 2.0), 60_000)
    values = problem.value(cloud[problem.space.contains(cloud)])
    assert found.value <= values.min() + 1e-4 * np.ptp(values)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_gradients_on_faces_and_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.dirichlet(np.ones(4))
    w = np.where(rng.uniform(size=4) < 0.3, 0.0, w)
    if w.sum() == 0:
        w[0] = 1.0
    w = w / w.sum()
    found = gradient(problem_of(), w)
    assert found == pytest.approx(2 * (w - OPTIMUM), abs=2e-5)


def test_what_holds_the_proposal_back_is_named() -> None:
    assert solved(CASES["free"]).active == ()
    assert solved(CASES["pinned"]).active == ("a",)
    assert set(solved(CASES["three"]).active) == {"a", "g"}
    slack = [Constraint("far", {"a": 1.0}, upper=0.9)]
    assert solved(slack).active == ()


def test_one_seed_gives_one_answer_and_its_weights_are_short() -> None:
    config = CONFIG.model_copy(update={"bootstraps": 3})
    one, other = (solved(CASES["three"], seed=3, config=config) for _ in range(2))
    assert one == other
    assert all(w == round(w, 4) for w in one.best.mixture.weights)
    trees = [solved(model=Steps(), seed=s) for s in (3, 3, 4)]
    assert trees[0] == trees[1]
    assert trees[2].best.mixture.distance(trees[0].best.mixture) < 0.2


def test_a_proposal_survives_being_written() -> None:
    found = solved(CASES["three"], config=CONFIG.model_copy(update={"bootstraps": 2}))
    assert Proposal.of(found.as_dict()) == found


# What is said of the proposal.


def test_probabilities_against_the_normal_distribution() -> None:
    found = solved(model=Bowl(std=0.1))
    uniform = found.baseline("uniform")
    assert uniform is not None
    at = found.best.mixture.array()
    gain = Bowl().mean(UNIFORM.array()[None])[0] - Bowl().mean(at[None])[0]
    std = 0.1 * np.sqrt(((at - 0.25) ** 2).sum())
    assert uniform.gain == pytest.approx((gain, std))
    assert uniform.probability_beaten == pytest.approx(stats.norm.cdf(gain / std))
    assert uniform.objective == pytest.approx((2.05, 0.1))
    assert found.best.probability_beaten == 0.5
    assert found.best.gain == (0.0, 0.0)
    assert found.best.metrics["loss"] == found.best.objective


def test_the_baselines_are_what_they_are_called() -> None:
    data, found = swarm(), solved(CASES["one bound"])
    named = {c.name: c.mixture for c in found.baselines}
    assert list(named) == ["uniform", "best run", "best single"]  # the cap is above uniform's share
    top = data.metrics["loss"].idxmin()
    assert named["best run"].array() == pytest.approx(data.weights.loc[top].to_numpy())
    assert named["best single"] == Mixture.only("a", NAMES)
    capped = solved([Constraint("a", {"a": 1.0}, upper=0.1)]).baseline("unimax")
    assert capped is not None
    assert capped.mixture.array() == pytest.approx([0.1, 0.3, 0.3, 0.3])
    assert found.baseline("nobody") is None


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
    far = solved(model=Bowl(np.array([0.0, 0.0, 0.0, 1.0])))
    assert far.best.mixture["d"] > 0.99
    assert far.extrapolates == (far.nearest_distance > 1.5 * far.typical_distance)


def test_tied_mixtures_are_those_within_the_error() -> None:
    """Loss r² against an error of 0.05·r: tied up to a distance of 1.28·0.05 from the optimum."""
    std = 0.05
    found = solved(model=Bowl(std=std))
    reach = stats.norm.ppf(0.9) * std * np.sqrt(3 / 4)  # the furthest that one weight can go
    for domain, weight in found.best.mixture.as_dict().items():
        low, high = found.tied[domain]
        assert low <= weight <= high
        assert weight - reach - 2e-3 <= low <= weight - 0.5 * reach
        assert weight + 0.5 * reach <= high <= weight + reach + 2e-3
    sure = solved(model=Bowl(std=1e-6)).tied
    assert max(high - low for low, high in sure.values()) < 2e-3
    bounded = solved(CASES["three"], model=Bowl(std=1.0))
    assert bounded.tied["a"][1] <= 0.3 + 1e-6
    assert bounded.tied["d"][0] >= 0.15 - 1e-6


def test_stability_is_how_far_refits_move_the_optimum() -> None:
    config = CONFIG.model_copy(update={"bootstraps": 8})
    found = solved(config=config).stability
    assert found is not None
    assert found.refits == 8
    optima = []
    for i in range(8):
        rows = np.random.default_rng([0, 6, i]).integers(40, size=40)
        optima.append(Bowl().refit(swarm().x()[rows], np.zeros(40)).lowest)
    expected = 0.5 * np.abs(np.array(optima)[:, None] - np.array(optima)[None]).sum(2)
    assert found.distance == pytest.approx(expected[np.triu_indices(8, 1)].mean(), abs=2e-3)
    for domain, low, high in zip(NAMES, *np.quantile(optima, [0.05, 0.95], axis=0), strict=True):
        assert found.weights[domain] == pytest.approx((low, high), abs=3e-3)
    assert solved().stability is None


def test_a_relaxed_constraint_gains_what_it_costs() -> None:
    found = solved(CASES["three"])
    assert [r.constraint for r in found.relaxed] == sorted(
        found.active, key=lambda name: -next(r.gain for r in found.relaxed if r.constraint == name)
    )
    now = Bowl().mean(found.best.mixture.array()[None])[0]
    for item in found.relaxed:
        rest = [c for c in CASES["three"] if c.name != item.constraint]
        assert item.gain >= -1e-6
        assert item.gain == pytest.approx(now - exact(problem_of(rest))[1], abs=1e-5)


@pytest.mark.parametrize("model", [Bowl(std=0.001), Steps(std=0.001)], ids=["bowl", "steps"])
def test_pulls_go_towards_natural_step_by_step(model: Bowl) -> None:
    natural = Mixture.of({"a": 0.05, "b": 0.05, "c": 0.2, "d": 0.7})
    found = solved(model=model, references={"natural": natural, "uniform": UNIFORM})
    distances = [found.best.mixture.distance(natural), *(p.distance for p in found.pulled)]
    losses = [0.0, *(p.loss for p in found.pulled)]
    assert [p.strength for p in found.pulled] == sorted(p.strength for p in found.pulled)
    slack = 0.01 if isinstance(model, Steps) else 1e-6  # a step is as good as its width is wide
    assert all(a >= b - slack for a, b in pairwise(distances))
    assert distances[-1] < distances[0] - 0.02
    assert all(a <= b + 1e-6 for a, b in pairwise(losses))


def test_divergence_by_hand() -> None:
    prior = Mixture.of({"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0})
    x = np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.75, 0, 0]])
    expected = [np.log(2), 0.0, 0.25 * np.log(0.5) + 0.75 * np.log(1.5)]
    assert divergence(x, prior) == pytest.approx(expected)
    assert np.isfinite(divergence(np.array([[0.0, 0, 0, 1.0]]), prior)).all()


def test_a_kl_pull_moves_the_proposal_towards_the_prior() -> None:
    prior = Mixture.of({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})
    distances = []
    for kl in (0.0, 0.01, 0.1, 1.0, 100.0):
        config = CONFIG.model_copy(update={"kl": kl})
        _, found = search_for(problem_of(config=config, prior=prior), config, swarm(), 0)
        distances.append(found.distance(prior))
    assert all(a > b - 1e-4 for a, b in pairwise(distances))
    assert distances[0] > 0.25
    assert distances[-1] < 0.01


def test_caution_by_default_only_where_no_optimum_is_certain() -> None:
    assert problem_of().caution == 0.0
    assert problem_of(model=Steps()).caution == 1.0
    assert problem_of(config=CONFIG.model_copy(update={"caution": 0.5})).caution == 0.5
    assert problem_of(config=CONFIG.model_copy(update={"caution": 0.5})).shape.convex == 0


def test_higher_is_better_where_it_is() -> None:
    """The same bowl as an accuracy: the proposal goes as far up as it can."""
    objective = Objective.single("acc", ObjectiveConfig())
    problem = pose(surrogate_of(acc=Bowl()), objective, Space(NAMES), CONFIG)
    data = swarm(metric="acc")
    found = propose(problem, CONFIG, data, {"uniform": UNIFORM}, 0)
    assert found.method == "multi-start"
    assert found.best.mixture["d"] > 0.999  # the corner that is farthest from the bowl's bottom
    named = {c.name: c.mixture for c in found.baselines}
    top = data.metrics["acc"].idxmax()
    assert named["best run"].array() == pytest.approx(data.weights.loc[top].to_numpy())


# Limits on metrics.

OTHER = np.array([0.1, 0.4, 0.2, 0.3])


def limited(
    allowed: float, confidence: float = 0.9, std: float = 0.02, model: Any = None
) -> Problem:
    """Loss has its bottom at OPTIMUM, `other` at OTHER; `other` may not lose against uniform."""
    limit = Limit("other", 1, UNIFORM, "uniform", allowed, confidence, 2.0)
    surrogate = surrogate_of(loss=model or Bowl(), other=Bowl(OTHER, std))
    return pose(surrogate, LOSS, Space(NAMES), CONFIG, limits=(limit,))


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("allowed", [0.0, 0.02])
def test_a_limit_holds_with_its_confidence_and_costs_no_more_than_it_must(
    allowed: float, confidence: float
) -> None:
    problem = limited(allowed, confidence)
    found, mixture = search_for(problem, CONFIG, swarm(), 0)
    w = mixture.array()
    other = Bowl(OTHER)
    lost = other.mean(w[None])[0] - other.mean(UNIFORM.array()[None])[0]
    spread = 0.02 * np.sqrt(((w - 0.25) ** 2).sum())
    assert lost + stats.norm.ppf(confidence) * spread <= allowed + 1e-8
    assert stats.norm.cdf((allowed - lost) / spread) >= confidence - 1e-3
    assert found.value - exact(problem, w)[1] < 2e-4


def test_a_limit_with_room_changes_nothing() -> None:
    _, free = search_for(problem_of(), CONFIG, swarm(), 0)
    _, found = search_for(limited(1.0), CONFIG, swarm(), 0)
    assert found.distance(free) < 1e-3


def test_a_binding_limit_is_active_and_relaxing_it_gains() -> None:
    problem, data = limited(0.0), swarm()
    found = propose(problem, CONFIG, data, {"uniform": UNIFORM}, 0)
    assert found.active == ("limits.other",)
    [relaxed] = found.relaxed
    gain = Bowl().mean(found.best.mixture.array()[None])[0] - 2.0
    assert relaxed.gain == pytest.approx(gain, abs=1e-5)
    for low, high in found.tied.values():
        assert 0 <= low <= high <= 1


def test_a_limit_holds_in_a_search_by_simulation() -> None:
    found, mixture = search_for(limited(0.0, model=Steps()), CONFIG, swarm(), 0)
    assert found.method == "simulation"
    assert (limited(0.0).excess(mixture.array()[None]) <= 1e-9).all()
    best = search_for(limited(0.0), CONFIG, swarm(), 0)[0]
    assert found.value <= best.value + 0.02


def test_a_limit_on_a_metric_that_is_better_high() -> None:
    limit = Limit("acc", -1, UNIFORM, "uniform", 0.0, 0.5, 2.0)
    surrogate = surrogate_of(loss=Bowl(), acc=Bowl(OTHER, sign=-1))
    problem = pose(surrogate, LOSS, Space(NAMES), CONFIG, limits=(limit,))
    _, mixture = search_for(problem, CONFIG, swarm(), 0)
    acc = surrogate.predict_one(mixture)["acc"][0]
    assert acc >= surrogate.predict_one(UNIFORM)["acc"][0] - 1e-8
    _, mirrored = search_for(limited(0.0, 0.5), CONFIG, swarm(), 0)
    assert mixture.distance(mirrored) < 2e-3


def test_limits_that_nothing_keeps_give_their_numbers() -> None:
    """Uniform is 0.05 above the other's bottom: no mixture gains 0.2 over it."""
    with pytest.raises(UserError) as error:
        search_for(limited(-0.2, 0.5), CONFIG, swarm(), 0)
    message = str(error.value)
    assert message.startswith("objective.limits: no mixture was found that keeps all of them")
    assert (
        "limits.other allows -0.2 worse than uniform with 50% confidence, short by 0.15" in message
    )
    assert message.endswith("loosen them or lower the confidence")


def test_from_measured_runs_to_the_optimum() -> None:
    """Swarm, fit and solve together, with noise: close to the true optimum and its value."""
    data = swarm(60, noise=0.002)
    result = fit(data, ["loss"], FitConfig(regressor="gp", repeats=1))
    for case in ("free", "three"):
        space = Space(NAMES, CASES[case])
        problem = pose(result.surrogate, LOSS, space, CONFIG)
        found = propose(problem, CONFIG, data, {"uniform": UNIFORM}, 0).best
        truth, lowest = exact(problem_of(CASES[case]))
        reached = Bowl().mean(found.mixture.array()[None])[0]
        assert space.contains(found.mixture.array())[0]
        assert reached - lowest < 0.003
        assert found.mixture.array() == pytest.approx(truth, abs=0.06)
        assert abs(found.objective[0] - reached) < 3 * found.objective[1]
