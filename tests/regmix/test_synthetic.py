"""Synthetic studies: Dirichlet swarms on surfaces whose optimum is known, decided from end to end.

Four runs a domain and little noise. Regret is what the proposal loses against the true optimum,
as a share of the range of the true surface over the simplex (a large Dirichlet sample).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from regmix.config import FitConfig, LimitsConfig, ObjectiveConfig
from regmix.decision import Settings, objective_for, problem_for
from regmix.errors import UserError
from regmix.fit import FitResult, fit
from regmix.mixture import FloatArray, Mixture
from regmix.observations import Observations
from regmix.solve import Proposal, propose, search_for
from regmix.space import Constraint, Space

Surface = Callable[[FloatArray], FloatArray]
NOISE = 0.01
"""Standard deviations of the surface."""
QUICK = FitConfig(repeats=1, samples=4_000, bootstraps=0)


def exponentials(d: int) -> Surface:
    """Each domain lowers the loss on its own, at its own pace: convex."""
    rng = np.random.default_rng(d)
    rate, height = rng.uniform(2, 6, d), rng.uniform(0.3, 1, d)
    return lambda x: np.asarray(2 + (height * np.exp(-rate * x)).sum(1))


def powers(d: int) -> Surface:
    """Sum of power laws: convex, steep near 0."""
    factor = np.random.default_rng(d + 1).uniform(0.05, 0.3, d)
    return lambda x: np.asarray(1 + (factor * (x + 0.03) ** -0.4).sum(1))


def interacting(d: int) -> Surface:
    """Diminishing returns, two domains that help each other, two that do the opposite."""
    alone = exponentials(d)
    return lambda x: alone(x) - 1.5 * x[:, 0] * x[:, 1] + 1.5 * x[:, 2] * x[:, 3]


def cliff(d: int) -> Surface:
    """Convex, but catastrophic with under two percent of the second domain."""
    alone = exponentials(d)
    return lambda x: alone(x) + 1 / (1 + np.exp((x[:, 1] - 0.02) / 0.003))


SURFACES = {f.__name__: f for f in (exponentials, powers, interacting, cliff)}


@dataclass(frozen=True)
class Truth:
    """A surface, its range and its least value on the simplex."""

    surface: Surface
    std: float
    range: float
    lowest: float


@cache
def truth(name: str, d: int) -> Truth:
    surface = SURFACES[name](d)
    rng = np.random.default_rng(9)
    cloud = np.vstack([rng.dirichlet(np.full(d, a), 20_000) for a in (1.0, 3.0)])
    values = surface(cloud)
    lowest = values.min()
    for start in cloud[np.argsort(values)[:5]]:
        end = optimize.minimize(
            lambda w: surface(np.maximum(w, 0)[None])[0], start, method="SLSQP",
            bounds=[(0, 1)] * d, constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1}],
        )  # fmt: skip
        if abs(end.x.sum() - 1) < 1e-8:
            lowest = min(lowest, end.fun)
    return Truth(surface, float(values[:20_000].std()), float(np.ptp(values)), float(lowest))


def swarm(metrics: dict[str, Truth], d: int, seed: int, runs: int | None = None) -> Observations:
    rng = np.random.default_rng([seed, d])
    runs = runs or 4 * d
    ids = pd.Index([f"r{i:03d}" for i in range(runs)])
    x = rng.dirichlet(np.ones(d), runs)
    values = {
        m: t.surface(x) + NOISE * t.std * rng.standard_normal(runs) for m, t in metrics.items()
    }
    info = pd.DataFrame({"name": ids, "role": "swarm", "seed": 0, "tokens": 1}, index=ids)
    weights = pd.DataFrame(x, ids, [f"d{i}" for i in range(d)])
    return Observations(weights, pd.DataFrame(values, ids), info, pd.DataFrame())


@dataclass(frozen=True)
class Decided:
    """A fitted and solved study."""

    data: Observations
    result: FitResult
    proposal: Proposal


def settings(
    data: Observations,
    objective: ObjectiveConfig,
    config: FitConfig = QUICK,
    space: Space | None = None,
) -> Settings:
    uniform = Mixture.uniform(data.domains)
    return Settings(objective, config, space or Space(data.domains), lambda _: uniform, uniform)


def decide(data: Observations, choice: Settings, result: FitResult | None = None) -> Decided:
    found = result or fit(data, list(data.metric_names), choice.fit)
    objective = objective_for(choice, data, found.surrogate, None, {})
    problem = problem_for(choice, data, found.surrogate, objective)
    references = {"uniform": choice.prior}
    return Decided(data, found, propose(problem, choice.fit, data, references, 0))


@cache
def study_of(name: str, d: int, seed: int) -> Decided:
    """One swarm on a surface, decided by `auto`."""
    data = swarm({"loss": truth(name, d)}, d, seed)
    return decide(data, settings(data, ObjectiveConfig()))


def studies(name: str, d: int, count: int = 3) -> tuple[Decided, ...]:
    """Several swarms on one surface."""
    return tuple(study_of(name, d, seed) for seed in range(count))


@pytest.mark.slow
@pytest.mark.parametrize("d", [4, 8])
@pytest.mark.parametrize("name", SURFACES)
def test_regret_is_below_two_percent_of_the_range(name: str, d: int) -> None:
    """The median of ten swarms; of twenty for a cliff that few runs of 32 have seen."""
    known = truth(name, d)
    regrets = []
    for study in studies(name, d, 20 if (name, d) == ("cliff", 8) else 10):
        w = study.proposal.best.mixture.array()
        regrets.append((known.surface(w[None])[0] - known.lowest) / known.range)
        best_run = study.data.y("loss").min() - known.lowest
        assert regrets[-1] * known.range <= max(best_run, 0.02 * known.range) + 0.03 * known.range
    assert np.median(regrets) < 0.02
    assert min(regrets) >= -1e-9


def coverage(name: str, d: int) -> float:
    """Share of new measurements inside their 90 % intervals, over three swarms."""
    known, rng = truth(name, d), np.random.default_rng(77)
    new = rng.dirichlet(np.ones(d), 1_000)
    measured = known.surface(new) + NOISE * known.std * rng.standard_normal(1_000)
    covered = []
    for study in studies(name, d):
        found = study.result.surrogate.predict(new)["loss"]
        covered.append(np.mean(np.abs(measured - found.mean) <= stats.norm.ppf(0.95) * found.std))
    return float(np.mean(covered))


@pytest.mark.slow
@pytest.mark.parametrize("d", [4, 8])
def test_intervals_cover_new_measurements(d: int) -> None:
    """A single swarm of 16 runs can be lucky or not; no surface is far below, and all in all."""
    covered = {name: coverage(name, d) for name in SURFACES}
    assert min(covered.values()) >= 0.75, covered
    assert 0.8 <= np.mean(list(covered.values())) <= 0.98, covered


@pytest.mark.slow
def test_a_proposal_beats_uniform_and_says_so() -> None:
    for name in ("exponentials", "interacting"):
        known = truth(name, 8)
        for study in studies(name, 8):
            uniform = study.proposal.baseline("uniform")
            assert uniform is not None
            best = study.proposal.best.mixture.array()
            gain = known.surface(np.full((1, 8), 1 / 8))[0] - known.surface(best[None])[0]
            assert gain > 0
            assert uniform.probability_beaten > 0.5
            assert uniform.gain[0] == pytest.approx(gain, abs=0.1 * known.range)


@pytest.mark.slow
def test_the_proposal_stays_off_the_cliff() -> None:
    for d in (4, 8):
        for study in studies("cliff", d):
            assert study.proposal.best.mixture["d1"] > 0.025


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_limits_hold_on_the_true_surface(confidence: float) -> None:
    """`other` wants what `loss` does not: it may lose 0.2 % of its value at uniform."""
    loss, share = truth("powers", 4), 0.002
    other = replace(loss, surface=lambda x: loss.surface(x[:, ::-1]))
    limits = LimitsConfig(reference="uniform", metrics={"other": share}, confidence=confidence)
    objective = ObjectiveConfig(weights={"loss": 1.0}, limits=limits)
    uniform = np.full((1, 4), 0.25)
    config = QUICK.model_copy(update={"regressor": "powerlaw"})
    beyond = []
    for seed in range(5):
        data = swarm({"loss": loss, "other": other}, 4, seed, runs=24)
        study = decide(data, settings(data, objective, config))
        w = study.proposal.best.mixture.array()[None]
        at, start = other.surface(w)[0], other.surface(uniform)[0]
        beyond.append((at - start * (1 + share)) / start)
        assert loss.surface(w)[0] < loss.surface(uniform)[0]
        predicted = study.result.surrogate.predict(np.vstack([w, uniform]))["other"].mean
        assert predicted[0] <= predicted[1] * (1 + share) + 1e-7
        assert "limits.other" in study.proposal.active
    assert max(beyond) < 0.05 * share  # a limit that is met by a hair is met to the fit's error
    if confidence > 0.5:
        assert np.mean(np.array(beyond) <= 0) >= 0.8


def test_limits_out_of_reach_are_refused_with_numbers() -> None:
    loss = truth("powers", 4)
    limits = LimitsConfig(reference="uniform", metrics={"loss": -0.5})
    objective = ObjectiveConfig(limits=limits)
    data = swarm({"loss": loss}, 4, 0)
    config = QUICK.model_copy(update={"regressor": "gp"})
    with pytest.raises(
        UserError, match=r"limits\.loss allows -\d\.\d+ worse than uniform .* by \d"
    ):
        decide(data, settings(data, objective, config))


@pytest.mark.slow
def test_a_space_is_kept_and_its_price_is_right() -> None:
    known, d = truth("powers", 4), 4
    data = swarm({"loss": known}, d, 0)
    caps = [Constraint("cap", {"d0": 1.0}, upper=0.15), Constraint("low", {"d3": 1.0}, lower=0.4)]
    space = Space(data.domains, caps)
    config = QUICK.model_copy(update={"regressor": "powerlaw"})
    study = decide(data, settings(data, ObjectiveConfig(), config, space))
    w = study.proposal.best.mixture.array()
    assert space.contains(w)[0]
    cloud = space.pull(np.random.default_rng(0).dirichlet(np.full(4, 2.0), 20_000))
    values = known.surface(cloud)
    assert known.surface(w[None])[0] - values.min() < 0.02 * np.ptp(values)
    for relaxed in study.proposal.relaxed:
        assert relaxed.gain >= -1e-6
        free = Space(data.domains, [c for c in caps if c.name != relaxed.constraint])
        wider = known.surface(
            free.pull(np.random.default_rng(0).dirichlet(np.full(4, 2.0), 20_000))
        )
        price = values.min() - wider.min()
        assert relaxed.gain == pytest.approx(price, abs=0.03 * known.range)


@pytest.mark.slow
def test_ties_and_stability_hold_the_true_optimum() -> None:
    """Of the ranges that a weight may take, most hold the optimum's weight."""
    known, d = truth("exponentials", 4), 4
    answer = optimize.minimize(
        lambda w: known.surface(np.maximum(w, 0)[None])[0], np.full(d, 1 / d), method="SLSQP",
        bounds=[(0, 1)] * d, constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1}],
    )  # fmt: skip
    config = FitConfig(regressor="gp", repeats=1, samples=4_000, bootstraps=8)
    inside = []
    for seed in range(3):
        data = swarm({"loss": known}, d, seed)
        proposal = decide(data, settings(data, ObjectiveConfig(), config)).proposal
        stability = proposal.stability
        assert stability is not None
        for i, (name, weight) in enumerate(proposal.best.mixture.as_dict().items()):
            low, high = proposal.tied[name]
            assert low <= weight <= high
            inside.append(low - 0.01 <= answer.x[i] <= high + 0.01)
        assert 0 < stability.distance < 0.5
    assert np.mean(inside) >= 0.75


@pytest.mark.slow
def test_a_relative_and_a_worst_objective_share_one_fit() -> None:
    """Two metrics that want opposite domains: the worst case gives to both."""
    left = truth("powers", 4)
    right = replace(left, surface=lambda x: left.surface(x[:, ::-1]))
    data = swarm({"left": left, "right": right}, 4, 0, runs=24)
    config = QUICK.model_copy(update={"regressor": "powerlaw"})
    result = fit(data, ["left", "right"], config)
    found = {}
    for kind in ("relative", "worst"):
        objective = ObjectiveConfig.model_validate({"kind": kind, "reference": "uniform"})
        found[kind] = decide(data, settings(data, objective, config), result).proposal
    one_only = decide(
        data, settings(data, ObjectiveConfig(weights={"left": 1.0}), config), result
    ).proposal
    at = {k: p.best.mixture.array()[None] for k, p in {**found, "left": one_only}.items()}

    def worst(x: FloatArray) -> float:
        uniform = np.full((1, 4), 0.25)
        return max(float(t.surface(x)[0] / t.surface(uniform)[0]) for t in (left, right)) - 1

    assert worst(at["worst"]) <= worst(at["relative"]) + 1e-3
    assert worst(at["worst"]) < worst(at["left"])
    cloud = np.random.default_rng(0).dirichlet(np.full(4, 3.0), 5_000)
    assert worst(at["worst"]) <= min(worst(w[None]) for w in cloud) + 0.01


@pytest.mark.slow
def test_a_search_sees_no_better_mixture_than_it_proposes() -> None:
    """60,000 random mixtures do not lower the surrogate further than the solver did."""
    for name in ("interacting", "cliff"):
        for study in studies(name, 8):
            choice = settings(study.data, ObjectiveConfig())
            surrogate = study.result.surrogate
            objective = objective_for(choice, study.data, surrogate, None, {})
            problem = problem_for(choice, study.data, surrogate, objective)
            found, _ = search_for(problem, QUICK, study.data, 0)
            cloud = np.random.default_rng(1).dirichlet(np.full(8, 1.5), 20_000)
            cheap = problem.without_caution().value(cloud)
            values = problem.value(cloud[np.argsort(cheap)[:5_000]])
            assert found.value <= values.min() + 1e-4 * np.ptp(values)
