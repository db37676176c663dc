"""Solve: the mixture that a surrogate, an objective and a space make best.

Simulation with averaging of the best, as RegMix does (arXiv 2407.01492, section 3.3), then a local
search around that mean. Averages and pulls stay inside the space because it is convex. One seed
gives one answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from regmix.config import FitConfig
from regmix.mixture import FloatArray, Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.space import Space
from regmix.surrogate import Surrogate, stack

CAUTION = 1.0
"""Standard deviations added to the objective in the search (DECISIONS: an optimum of the mean
alone is drawn to where nothing was measured, and the more so the smaller the swarm)."""
_LOCAL_ROUNDS = 8
_LOCAL_SAMPLES = 2_000
_CHUNK = 20_000


@dataclass(frozen=True)
class Candidate:
    """A mixture beside the proposal: predicted metrics and how likely the proposal beats it."""

    name: str
    mixture: Mixture
    objective: tuple[float, float]
    """Mean and standard deviation."""
    metrics: dict[str, tuple[float, float]]
    probability_beaten: float
    """By the proposal; errors of the two predictions taken as independent."""


@dataclass(frozen=True)
class Proposal:
    """The best mixture, and how sure that is."""

    best: Candidate
    baselines: tuple[Candidate, ...]
    active: tuple[str, ...]
    """Constraints that hold it back."""
    nearest_run: str
    nearest_distance: float
    """Total variation to the nearest run."""
    typical_distance: float
    """Median total variation of a run to its nearest other run."""

    @property
    def extrapolates(self) -> bool:
        """Whether the proposal lies further from any run than runs lie from each other."""
        return self.nearest_distance > 1.5 * self.typical_distance


def solve(
    surrogate: Surrogate,
    objective: Objective,
    space: Space,
    data: Observations,
    references: dict[str, Mixture],
    config: FitConfig,
    seed: int,
) -> Proposal:
    """The best mixture and its comparison with ``references`` and the best observed run."""
    weights = _search(surrogate, objective, space, data, config, np.random.default_rng([seed, 5]))
    best = Mixture.from_array(space.domains, _tidy(weights, space))
    named = {"proposal": best, **references}
    truth = objective.value({m: data.y(m) for m in objective.metrics})
    top = data.weights.index[int(np.argmin(truth))]
    named["best run"] = Mixture.from_array(space.domains, data.weights.loc[top].to_numpy())
    candidates = _candidates(surrogate, objective, named)
    nearest, distance, typical = _distances(best, data)
    return Proposal(
        best=candidates[0],
        baselines=tuple(candidates[1:]),
        active=tuple(space.active(best)),
        nearest_run=nearest,
        nearest_distance=distance,
        typical_distance=typical,
    )


def _search(
    surrogate: Surrogate,
    objective: Objective,
    space: Space,
    data: Observations,
    config: FitConfig,
    rng: np.random.Generator,
) -> FloatArray:
    observed = data.x()
    half = config.samples // 2
    clouds = [
        space.sample(half, rng, centre=centre, concentration=(0.3, 30.0)).weights
        for centre in (np.full(len(space.domains), 1 / len(space.domains)), observed.mean(0))
    ]
    clouds.append(observed[space.contains(observed)])
    cloud = np.concatenate(clouds)
    current = _best_mean(surrogate, objective, cloud, config.top_k)
    value = _values(surrogate, objective, current[None])[0]
    for step in range(_LOCAL_ROUNDS):
        spread = np.full(len(current), 1e-3) + current
        local = rng.dirichlet(spread / spread.sum() * 40 * 2**step, size=_LOCAL_SAMPLES)
        found = _best_mean(surrogate, objective, space.pull(local), 20)
        found_value = _values(surrogate, objective, found[None])[0]
        if found_value < value:
            current, value = found, found_value
    return current


def _best_mean(
    surrogate: Surrogate, objective: Objective, cloud: FloatArray, count: int
) -> FloatArray:
    values = _values(surrogate, objective, cloud)
    best = np.argsort(values, kind="stable")[:count]
    return np.asarray(cloud[best].mean(axis=0))


def _values(surrogate: Surrogate, objective: Objective, cloud: FloatArray) -> FloatArray:
    """What the search lowers: the predicted objective, and its uncertainty with it."""
    parts = [
        surrogate.objective(cloud[start : start + _CHUNK], objective)
        for start in range(0, len(cloud), _CHUNK)
    ]
    return np.concatenate([p.mean + CAUTION * p.std for p in parts])


def _tidy(weights: FloatArray, space: Space) -> FloatArray:
    """Round to four decimals, as a person would write it, if that stays allowed."""
    rounded = np.round(weights, 4)
    rounded[np.argmax(rounded)] += 1 - rounded.sum()
    rounded = np.round(rounded, 4)
    return rounded if space.contains(rounded)[0] else weights / weights.sum()


def _candidates(
    surrogate: Surrogate, objective: Objective, named: dict[str, Mixture]
) -> list[Candidate]:
    x = stack(list(named.values()))
    metrics = surrogate.predict(x)
    total = surrogate.objective(x, objective)
    found = []
    for i, (name, mixture) in enumerate(named.items()):
        gain = float(total.mean[i] - total.mean[0])
        noise = float(np.hypot(total.std[i], total.std[0]))
        found.append(
            Candidate(
                name=name,
                mixture=mixture,
                objective=(float(total.mean[i]), float(total.std[i])),
                metrics={m: (float(p.mean[i]), float(p.std[i])) for m, p in metrics.items()},
                probability_beaten=float(stats.norm.cdf(gain / noise)) if noise else 0.5,
            )
        )
    return found


def _distances(best: Mixture, data: Observations) -> tuple[str, float, float]:
    x = data.x()
    to_best = 0.5 * np.abs(x - best.array()).sum(1)
    nearest = int(np.argmin(to_best))
    between = 0.5 * np.abs(x[:, None] - x[None]).sum(2)
    np.fill_diagonal(between, np.inf)
    typical = float(np.median(between.min(1)))
    return str(data.info["name"].iloc[nearest]), float(to_best[nearest]), typical
