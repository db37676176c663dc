"""Solve: the mixture that a surrogate, an objective and a space make best, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from regmix.config import FitConfig
from regmix.mixture import FloatArray, Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.solve import certainty
from regmix.solve.problem import Limit, Problem
from regmix.solve.proposal import EXTRAPOLATES, Candidate, Proposal
from regmix.solve.search import Effort, Found, search
from regmix.space import Space
from regmix.surrogate import Surrogate, stack

__all__ = [
    "EXTRAPOLATES",
    "Candidate",
    "Found",
    "Limit",
    "Problem",
    "Proposal",
    "pose",
    "propose",
    "search_for",
]

CAUTION = 1.0
BEST_RUN, BEST_SINGLE, UNIMAX = "best run", "best single", "unimax"


def pose(
    surrogate: Surrogate,
    objective: Objective,
    space: Space,
    config: FitConfig,
    *,
    limits: tuple[Limit, ...] = (),
    prior: Mixture | None = None,
    spread: float = 1.0,
) -> Problem:
    """The problem that a study's settings describe.

    Args:
        prior: what ``fit.kl`` pulls to; default: uniform.
        spread: of the objective over the swarm; the unit of ``fit.kl``.
    """
    free = Problem(
        surrogate=surrogate,
        objective=objective,
        space=space,
        limits=limits,
        kl=config.kl * spread,
        prior=prior or Mixture.uniform(space.domains),
    )
    caution = config.caution
    if caution is None:
        caution = 0.0 if free.shape.convex > 0 else CAUTION
    return replace(free, caution=caution)


def search_for(
    problem: Problem, config: FitConfig, data: Observations, seed: int
) -> tuple[Found, Mixture]:
    """Where the search ends, and the mixture as a person would write it."""
    rng = np.random.default_rng([seed, 5])
    found = search(problem, Effort(config.samples, config.top_k), data.x(), rng)
    return found, Mixture.from_array(problem.space.domains, _tidy(found.weights, problem))


def propose(
    problem: Problem,
    config: FitConfig,
    data: Observations,
    references: Mapping[str, Mixture],
    seed: int,
) -> Proposal:
    """The best mixture, its comparison with ``references``, and how sure all that is."""
    found, best = search_for(problem, config, data, seed)
    at = best.array()
    rng = np.random.default_rng([seed, 8])
    candidates = _candidates(problem, data, {"proposal": best, **_named(problem, data, references)})
    active = problem.space.active(best)
    if problem.limits:
        over = problem.excess(at[None])[0]
        names = zip(problem.limits, over, strict=True)
        active += [limit.name for limit, excess in names if excess > -1e-3 * limit.scale]
    nearest, typical = _distances(best, data)
    prior = references.get("natural", references["uniform"])
    spread = data.objective_spread(problem.objective.value)
    return Proposal(
        best=candidates[0],
        baselines=tuple(candidates[1:]),
        method=found.method,
        gap=found.gap,
        active=tuple(active),
        nearest_run=nearest,
        typical_distance=typical,
        tied=certainty.ties(problem, at, rng),
        stability=certainty.stability(problem, at, data, config.bootstraps, seed),
        relaxed=certainty.relaxed(problem, at, active, rng),
        pulled=certainty.pulled(problem, at, certainty.Pull(prior, spread), rng),
    )


def _named(
    problem: Problem, data: Observations, references: Mapping[str, Mixture]
) -> dict[str, Mixture]:
    """The references, UniMax where caps make it differ, the best run and the best single domain."""
    space, objective = problem.space, problem.objective
    named = dict(references)
    unimax = space.unimax()
    if unimax.distance(Mixture.uniform(space.domains)) > 1e-6:
        named[UNIMAX] = unimax
    truth = objective.value({m: data.y(m) for m in objective.metrics})
    top = data.weights.index[int(np.argmin(truth))]
    named[BEST_RUN] = Mixture.from_array(space.domains, data.weights.loc[top].to_numpy())
    corners = np.eye(len(space.domains))
    best = int(np.argmin(problem.surrogate.objective_mean(corners, objective)))
    named[BEST_SINGLE] = Mixture.only(space.domains[best], space.domains)
    return named


def _candidates(
    problem: Problem, data: Observations, named: Mapping[str, Mixture]
) -> list[Candidate]:
    x = stack(list(named.values()))
    metrics = problem.surrogate.predict(x)
    total = problem.surrogate.objective(x, problem.objective)
    gain, gain_std = certainty.gains(problem, x[0], x)
    beaten = certainty.probability_beaten(problem, x[0], x)
    apart = 0.5 * np.abs(x[:, None] - data.x()[None]).sum(2).min(1)
    return [
        Candidate(
            name=name,
            mixture=mixture,
            objective=(float(total.mean[i]), float(total.std[i])),
            metrics={m: (float(p.mean[i]), float(p.std[i])) for m, p in metrics.items()},
            gain=(float(gain[i]), float(gain_std[i])),
            probability_beaten=float(beaten[i]),
            nearest_distance=float(apart[i]),
        )
        for i, (name, mixture) in enumerate(named.items())
    ]


def _tidy(weights: FloatArray, problem: Problem) -> FloatArray:
    """Round to four decimals, as a person would write it, if that stays allowed."""
    rounded = np.round(weights, 4)
    rounded[np.argmax(rounded)] += 1 - rounded.sum()
    rounded = np.round(rounded, 4)
    allowed = problem.allowed(rounded[None])[0] and problem.space.contains(rounded)[0]
    return rounded if allowed else np.asarray(weights / weights.sum())


def _distances(best: Mixture, data: Observations) -> tuple[str, float]:
    """The nearest run, and the median distance of a run to its nearest other one."""
    x = data.x()
    nearest = int(np.argmin(np.abs(x - best.array()).sum(1)))
    between = 0.5 * np.abs(x[:, None] - x[None]).sum(2)
    np.fill_diagonal(between, np.inf)
    return str(data.info["name"].iloc[nearest]), float(np.median(between.min(1)))
