"""How sure a proposal is: ties, resampled runs, what constraints cost, what a pull changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy

from regmix.mixture import FloatArray, Mixture
from regmix.observations import Observations
from regmix.regressors.base import Context, in_threads, rows_of
from regmix.solve.problem import Problem
from regmix.solve.proposal import Interval, Pulled, Relaxed, Stability
from regmix.solve.search import resume

TIED = 0.9
"""A mixture is beaten when the proposal's expected objective is lower with this probability."""
PULLS = (0.02, 0.1, 0.5)
_NEAR = 1_500
_LINE = 41
_MOST_RELAXED = 6
_SCATTER = 500


def probability_beaten(problem: Problem, best: FloatArray, x: FloatArray) -> FloatArray:
    """Probability that ``best`` has a lower expected objective than each row of ``x``."""
    if problem.objective.kind == "worst":
        steps = problem.surrogate.objective_steps(x, best, problem.objective)
        return np.asarray((steps > 0).mean(1) + 0.5 * (steps == 0).mean(1))
    gain, std = gains(problem, best, x)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(std > 1e-12, gain / std, np.sign(gain) * np.inf)
    return np.asarray(np.where(gain == 0, 0.5, scipy.stats.norm.cdf(np.nan_to_num(z, nan=0.0))))


def gains(problem: Problem, best: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Expected objective of each row minus that of ``best``, and its standard deviation."""
    surrogate, objective = problem.surrogate, problem.objective
    means = surrogate.objective_mean(np.vstack([best[None], x]), objective)
    return means[1:] - means[0], surrogate.objective_contrast(x, best, objective)


def ties(problem: Problem, best: FloatArray, rng: np.random.Generator) -> dict[str, Interval]:
    """Per domain, the range of its weight among allowed mixtures that are not beaten.

    Looked for along the line on which one weight changes and the others keep their ratios, for
    every domain, and in clouds of all widths around the proposal.
    """
    space, k = problem.space, len(best)
    clouds = [
        rng.dirichlet((best + 1e-3) / (best + 1e-3).sum() * width * k, size=_NEAR // 3)
        for width in (3.0, 12.0, 48.0)
    ]
    for domain in range(k):
        levels = np.linspace(0, 1, _LINE)[:, None] ** 2
        others = np.where(np.arange(k) == domain, 0.0, best)
        rest = others.sum()
        even = np.where(np.arange(k) == domain, 0.0, 1 / max(k - 1, 1))
        direction = others / rest if rest > 1e-9 else even
        line = (1 - levels) * direction + levels * np.eye(k)[domain]
        clouds.append(line)
    x = space.pull(np.vstack([*clouds, best[None]]))
    x = x[problem.allowed(x)]
    tied = np.vstack([x[probability_beaten(problem, best, x) < TIED], best[None]])
    return {
        name: (float(low), float(high))
        for name, low, high in zip(space.domains, tied.min(0), tied.max(0), strict=True)
    }


def stability(
    problem: Problem, best: FloatArray, data: Observations, refits: int, seed: int
) -> Stability | None:
    """Optima of surrogates refitted to mixtures drawn with replacement, each with all its runs.

    The search's caution keeps the standard deviations of the fit on all runs: what is resampled
    is the surface.
    """
    if refits < 2:
        return None
    data = _sorted(data)
    mixtures = Context(mixtures=data.numbered()).mixtures_of(len(data.weights))
    count = int(mixtures.max()) + 1
    rows = [
        rows_of(mixtures, np.random.default_rng([seed, 6, i]).integers(count, size=count))
        for i in range(refits)
    ]
    optima = np.array(in_threads(lambda i: _refitted(problem, best, data, rows[i], seed), refits))
    apart = 0.5 * np.abs(optima[:, None] - optima[None]).sum(2)
    low, high = np.quantile(optima, [0.05, 0.95], axis=0)
    return Stability(
        refits=refits,
        distance=float(apart[np.triu_indices(refits, 1)].mean()),
        weights={
            name: (float(a), float(b))
            for name, a, b in zip(problem.space.domains, low, high, strict=True)
        },
    )


def _sorted(data: Observations) -> Observations:
    """Runs in the order of their ids, so that resampling does not depend on any other."""
    index = data.weights.index.sort_values()
    return replace(
        data,
        weights=data.weights.loc[index],
        metrics=data.metrics.loc[index],
        info=data.info.loc[index],
    )


def _refitted(
    problem: Problem, best: FloatArray, data: Observations, rows: np.ndarray, seed: int
) -> FloatArray:
    x = data.x()[rows]
    needed = {*problem.objective.metrics, *(limit.metric for limit in problem.limits)}
    metrics = tuple(
        replace(m, model=m.model.refit(x, data.y(m.name)[rows])) if m.name in needed else m
        for m in problem.surrogate.metrics
    )
    drawn = replace(
        problem,
        surrogate=replace(problem.surrogate, metrics=metrics),
        uncertainty=problem.surrogate,
    )
    rng = np.random.default_rng([seed, 7, int(rows[0])])
    cloud = problem.space.sample(
        _SCATTER, rng, centre=(best + 1e-3) / (best + 1e-3).sum(), concentration=(0.5, 20.0)
    ).weights
    cloud = cloud[problem.allowed(cloud)]
    starts = np.vstack([best[None], cloud])
    first = starts[int(np.argmin(drawn.without_caution().value(starts)))]
    pair = np.array([best, first])
    return resume(drawn, pair[int(np.argmin(drawn.value(pair)))], rng)


def relaxed(
    problem: Problem, best: FloatArray, active: list[str], rng: np.random.Generator
) -> tuple[Relaxed, ...]:
    """For each active constraint, what the objective gains where it alone is left out."""
    now = problem.value(best[None])[0]
    found = []
    for name in active[:_MOST_RELAXED]:
        limits = tuple(limit for limit in problem.limits if limit.name != name)
        space = problem.space
        if len(limits) == len(problem.limits):
            space = space.without(name)
        free = replace(problem, space=space, limits=limits)
        end = resume(free, best, rng)
        found.append(Relaxed(name, float(now - free.value(end[None])[0])))
    return tuple(sorted(found, key=lambda r: -r.gain))


@dataclass(frozen=True)
class Pull:
    """A pull to a prior mixture, in units of the swarm's spread."""

    prior: Mixture
    spread: float


def pulled(
    problem: Problem, best: FloatArray, pull: Pull, rng: np.random.Generator
) -> tuple[Pulled, ...]:
    """Where the proposal would go if divergence from the prior cost something."""
    at_best = problem.value(best[None])[0]
    found, start = [], best
    for strength in PULLS:
        drawn = replace(problem, kl=strength * pull.spread, prior=pull.prior)
        start = resume(drawn, start, rng)
        loss = problem.value(start[None])[0] - at_best
        distance = 0.5 * float(np.abs(start - pull.prior.array()).sum())
        found.append(Pulled(strength, distance, float(loss)))
    return tuple(found)
