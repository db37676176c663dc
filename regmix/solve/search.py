"""Searches over a :class:`Problem`; each returns weights, and one seed gives one answer.

* simulation with averaging of the best, RegMix's way (arXiv 2407.01492, section 3.3), then a local
  search: for any surrogate;
* sequential quadratic programming from several starts: for smooth ones;
* the same for convex ones, with the Frank-Wolfe duality gap as a certificate (Jaggi 2013, eq. 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from regmix.errors import UserError
from regmix.mixture import FloatArray
from regmix.solve.problem import Problem

_LOCAL_ROUNDS = 8
_LOCAL_SAMPLES = 500
_SIFTED = 100
_SIMULATED_SMOOTH = 4_000
"""Mixtures simulated where gradients do the rest."""
_REFINED = 400
"""Best simulated mixtures that are looked at with their uncertainty."""
_STARTS = 5
_STEP = 1e-5
_FINE, _COARSE = 1e-9, 1e-7
"""Gain at which a descent ends, in units of the steepest slope: of a search, of its variants."""
_POLISH = 200
_PENALTY = 1e3
"""Objective units a unit of broken limit, in searches that know no constraints."""


@dataclass(frozen=True)
class Found:
    """Where a search ended."""

    weights: FloatArray
    value: float
    method: str
    """``simulation``, ``multi-start`` or ``convex``."""
    gap: float | None = None
    """Convex: how far the value can be above the least one."""


@dataclass(frozen=True)
class Effort:
    """How much is simulated."""

    samples: int
    top_k: int


def search(
    problem: Problem, effort: Effort, observed: FloatArray, rng: np.random.Generator
) -> Found:
    """The best mixture by the searches that fit the problem.

    Args:
        observed: mixtures that were measured, ``(n, n_domains)``: starts, and the cloud's middle.

    Raises:
        UserError: no mixture keeps the limits; with the least excess that was found.
    """
    shape = problem.shape
    samples = min(effort.samples, _SIMULATED_SMOOTH) if shape.smooth else effort.samples
    cloud = _cloud(problem, samples, observed, rng)
    starts = _best(problem, cloud, effort.top_k)
    if shape.smooth:
        ends = [_descend(problem, start) for start in starts]
        method = "convex" if shape.convex > 0 else "multi-start"
    else:
        ends, method = [_local(problem, starts[0], rng)], "simulation"
    candidates = np.array([*ends, *starts])
    candidates = candidates[problem.space.contains(candidates, 1e-6)]
    candidates = problem.space.pull(candidates)
    allowed = problem.allowed(candidates)
    if not allowed.any():
        _explain_limits(problem, np.vstack([candidates, cloud[:2_000]]))
    candidates = candidates[allowed]
    values = problem.value(candidates)
    best = candidates[int(np.argmin(values))]
    if shape.convex > 0:
        best, gap = _certify(problem, best)
        return Found(best, float(problem.value(best[None])[0]), method, gap)
    return Found(best, float(values.min()), method)


def resume(problem: Problem, start: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The optimum near a start: for variants of a problem that was solved already."""
    if problem.shape.smooth:
        end = problem.space.pull(_descend(problem, start, _COARSE)[None])[0]
    else:
        end = _local(problem, start, rng, rounds=4)
    pair = np.array([end, start])
    pair = pair[problem.allowed(pair)]
    if not len(pair):
        return start
    return np.asarray(pair[int(np.argmin(problem.value(pair)))])


def gradient(problem: Problem, w: FloatArray) -> FloatArray:
    """Central differences through the vectorised value, one-sided at the simplex's faces."""
    below = np.minimum(_STEP, w)
    steps = np.diag(np.full(len(w), _STEP))
    values = problem.value(np.vstack([w + steps, w - np.diag(below)]))
    up, down = values[: len(w)], values[len(w) :]
    return np.asarray((up - down) / (_STEP + below))


def _slope(problem: Problem, w: FloatArray) -> FloatArray:
    """Forward differences, at half the cost: enough for the variants of a problem."""
    values = problem.value(np.vstack([w, w + np.diag(np.full(len(w), _STEP))]))
    return np.asarray((values[1:] - values[0]) / _STEP)


def _cloud(
    problem: Problem, samples: int, observed: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Mixtures of every kind around uniform and around the runs, and the runs themselves."""
    space, k = problem.space, len(problem.space.domains)
    clouds = [
        space.sample(samples // 2, rng, centre=centre, concentration=(0.3, 30.0)).weights
        for centre in (np.full(k, 1 / k), observed.mean(0))
    ]
    clouds += [observed[space.contains(observed)], space.centre[None]]
    clouds += [limit.reference.array()[None] for limit in problem.limits]
    return space.pull(np.concatenate(clouds))


def _penalised(problem: Problem, x: FloatArray) -> FloatArray:
    return np.asarray(problem.value(x) + _PENALTY * np.maximum(problem.excess(x), 0).sum(1))


def _best(problem: Problem, cloud: FloatArray, top_k: int) -> FloatArray:
    """Starts: the mean of the best, then the best ones that lie apart; ``(n, n_domains)``.

    The whole cloud is ranked by the expected objective, its best part with uncertainty and limits.
    """
    plain = problem.without_caution()
    values = _penalised(plain, cloud) if not problem.limits else plain.value(cloud)
    if problem.limits:
        # A limit can exclude all that looks best: a part of the cloud is judged by it from the
        # start, whatever its value.
        spread = np.linspace(0, len(cloud) - 1, min(len(cloud), _REFINED)).astype(int)
    else:
        spread = np.zeros(0, dtype=int)
    order = np.concatenate([np.argsort(values, kind="stable")[:_REFINED], spread])
    top = cloud[np.unique(order)]
    top = top[np.argsort(_penalised(problem, top), kind="stable")]
    starts = [top[:top_k].mean(0)]
    for candidate in top:
        if len(starts) == _STARTS:
            break
        if min(0.5 * np.abs(candidate - s).sum() for s in starts) > 0.1:
            starts.append(candidate)
    if top[0].tolist() not in [s.tolist() for s in starts]:
        starts.append(top[0])
    return np.array(starts)


def _descend(problem: Problem, start: FloatArray, tolerance: float = _FINE) -> FloatArray:
    """SLSQP under the space's constraints and the limits; the start where it fails."""
    slope = gradient if tolerance == _FINE else _slope
    space = problem.space
    scale = max(float(np.abs(slope(problem, start)).max()), 1e-12)
    constraints: list[Any] = [
        {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)}
    ]
    constraints += _rows(problem)
    if problem.limits:
        constraints.append(
            {
                "type": "ineq",
                "fun": lambda w: -problem.excess(np.maximum(w, 0)[None])[0] / scale,
                "jac": lambda w: -_excess_slopes(problem, np.maximum(w, 0)) / scale,
            }
        )
    answer = scipy.optimize.minimize(
        lambda w: problem.value(np.maximum(w, 0)[None])[0] / scale,
        start,
        jac=lambda w: slope(problem, np.maximum(w, 0)) / scale,
        method="SLSQP",
        bounds=[(0, 1)] * len(start),
        constraints=constraints,
        options={"maxiter": 60, "ftol": tolerance},
    )
    end = np.maximum(answer.x, 0)
    if not np.isfinite(end).all() or abs(end.sum() - 1) > 1e-4:
        return start
    end = end / end.sum()
    return np.asarray(end if space.contains(end, 1e-4)[0] else start)


def _rows(problem: Problem) -> list[dict[str, Any]]:
    """The space's rows in SLSQP's form."""
    p = problem.space.polytope
    found: list[dict[str, Any]] = []
    fixed, up = p.pinned, np.isfinite(p.upper) & ~p.pinned
    low = np.isfinite(p.lower) & ~p.pinned
    if fixed.any():
        a, b = p.matrix[fixed], p.upper[fixed]
        found.append({"type": "eq", "fun": lambda w: a @ w - b, "jac": lambda w: a})
    if up.any() or low.any():
        rows = np.vstack([-p.matrix[up], p.matrix[low]])
        ends = np.concatenate([p.upper[up], -p.lower[low]])
        found.append({"type": "ineq", "fun": lambda w: rows @ w + ends, "jac": lambda w: rows})
    return found


def _excess_slopes(problem: Problem, w: FloatArray) -> FloatArray:
    below = np.minimum(_STEP, w)
    steps = np.diag(np.full(len(w), _STEP))
    found = problem.excess(np.vstack([w + steps, w - np.diag(below)]))
    return np.asarray(((found[: len(w)] - found[len(w) :]) / (_STEP + below)[:, None]).T)


def _local(
    problem: Problem, start: FloatArray, rng: np.random.Generator, rounds: int = _LOCAL_ROUNDS
) -> FloatArray:
    """Ever narrower clouds around the best so far, and the mean of the best in each."""
    current, value = start, _penalised(problem, start[None])[0]
    for step in range(rounds):
        spread = np.full(len(current), 1e-3) + current
        drawn = rng.dirichlet(spread / spread.sum() * 40 * 2**step, size=_LOCAL_SAMPLES)
        near = problem.space.pull(drawn)
        if problem.caution:  # what is expected alone costs little and sorts most of them out
            expected = _penalised(problem.without_caution(), near)
            near = near[np.argsort(expected, kind="stable")[:_SIFTED]]
        order = np.argsort(_penalised(problem, near), kind="stable")
        tried = np.array([near[order[:20]].mean(0), near[order[0]]])
        found = _penalised(problem, tried)
        if found.min() < value:
            current, value = tried[int(np.argmin(found))], float(found.min())
    return current


def _certify(problem: Problem, w: FloatArray) -> tuple[FloatArray, float]:
    """Frank-Wolfe steps until the duality gap is small; the gap bounds what is left to gain.

    Convexity gives f(s) >= f(w) + ∇f(w)·(s - w) for every allowed s; the least of the right side is
    a linear program.
    """
    gap = np.inf
    for _ in range(_POLISH):
        slope = gradient(problem, w)
        corner = problem.space.polytope.minimise(slope)
        gap = float(slope @ (w - corner))
        if gap < 1e-7:
            break
        line = np.linspace(0, 1, 33)[1:] ** 3
        tried = w + line[:, None] * (corner - w)
        values = problem.value(tried)
        best = int(np.argmin(values))
        if values[best] >= problem.value(w[None])[0]:
            break
        w = tried[best]
    return w, max(gap, 0.0)


def _explain_limits(problem: Problem, tried: FloatArray) -> None:
    excess = problem.excess(tried)
    scale = np.array([abs(limit.allowed) + 1e-3 for limit in problem.limits])
    nearest = tried[int(np.argmin((np.maximum(excess, 0) / scale).sum(1)))]
    lines = []
    for limit, over in zip(problem.limits, problem.excess(nearest[None])[0], strict=True):
        if over > 1e-9:
            lines.append(
                f"{limit.name} allows {limit.allowed:.4g} worse than {limit.reference_name} with "
                f"{limit.confidence:.0%} confidence, short by {over:.4g}"
            )
    raise UserError(
        "objective.limits: no mixture was found that keeps all of them; the nearest one: "
        + "; ".join(lines)
        + "; loosen them or lower the confidence"
    )
