"""Space: the allowed mixtures, one object for sampler, solver and acquisition alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from regmix.config import SpaceConfig
from regmix.errors import UserError, unknown_name
from regmix.mixture import FloatArray, Mixture

TOLERANCE = 1e-9
_MAX_ROUNDS = 20
_MIN_DRAWS = 1000
"""Draws that are tried at least, however few mixtures are wanted."""
_PROJECTIONS = 10


@dataclass(frozen=True)
class Constraint:
    """``lower ≤ Σ coefficients · weights ≤ upper``, with a name that a person recognises."""

    name: str
    coefficients: Mapping[str, float]
    lower: float = -np.inf
    upper: float = np.inf


@dataclass(frozen=True)
class Sample:
    """Mixtures drawn inside a space, and how hard that was."""

    weights: FloatArray
    """Shape ``(n, n_domains)``."""
    proposed: int
    """Draws that were made."""
    pulled: int
    """Mixtures that no draw hit and that were pulled towards the centre instead."""

    @property
    def acceptance(self) -> float:
        """Share of the draws that were allowed as they fell."""
        return (len(self.weights) - self.pulled) / self.proposed if self.proposed else 1.0


class Space:
    """The simplex over ``domains``, cut by linear constraints."""

    def __init__(self, domains: Sequence[str], constraints: Iterable[Constraint] = ()) -> None:
        """Validate the constraints' names.

        Raises:
            UserError: a constraint names a domain that there is not, or the space is empty; then
                with the numbers of what is in conflict.
        """
        self.domains = tuple(domains)
        self.constraints = tuple(constraints)
        for constraint in self.constraints:
            for name in constraint.coefficients:
                if name not in self.domains:
                    raise unknown_name(
                        "domain", name, self.domains, f"constraint {constraint.name}"
                    )
        rows = [[c.coefficients.get(d, 0.0) for d in self.domains] for c in self.constraints]
        self._matrix = np.array(rows, dtype=float).reshape(len(rows), len(self.domains))
        self._lower = np.array([c.lower for c in self.constraints], dtype=float)
        self._upper = np.array([c.upper for c in self.constraints], dtype=float)
        self._pinned = abs(self._upper - self._lower) < TOLERANCE
        self.centre = self._find_centre()

    @classmethod
    def from_config(
        cls, config: SpaceConfig, domains: Sequence[str], available: Mapping[str, int]
    ) -> Space:
        """The space a study describes; ``available`` holds training tokens by domain.

        Raises:
            UserError: as the constructor, or a repetition cap without known tokens.
        """
        constraints = [
            Constraint(f"bounds.{name}", {name: 1.0}, low, high)
            for name, (low, high) in config.bounds.items()
        ]
        constraints += [
            Constraint(f"groups.{name}", dict.fromkeys(g.domains, 1.0), g.lower, g.upper)
            for name, g in config.groups.items()
        ]
        if config.max_epochs is not None and config.budget_tokens is not None:
            missing = [d for d in domains if d not in available]
            if missing:
                raise UserError(
                    f"space.max_epochs: tokens of {', '.join(missing)} are not known; "
                    "build the data first"
                )
            cap = config.max_epochs / config.budget_tokens
            constraints += [
                Constraint(f"max_epochs.{d}", {d: 1.0}, upper=cap * available[d])
                for d in domains
                if cap * available[d] < 1
            ]
        return cls(domains, constraints)

    def contains(self, weights: FloatArray, tolerance: float = TOLERANCE) -> npt.NDArray[np.bool_]:
        """Which rows of ``(n, n_domains)`` are allowed; shape ``(n,)``."""
        weights = np.atleast_2d(weights)
        on_simplex = (weights >= -tolerance).all(1) & (abs(weights.sum(1) - 1) <= 1e-6)
        values = weights @ self._matrix.T
        inside = (values >= self._lower - tolerance) & (values <= self._upper + tolerance)
        result: npt.NDArray[np.bool_] = on_simplex & inside.all(1)
        return result

    def violations(self, mixture: Mixture, tolerance: float = TOLERANCE) -> list[str]:
        """What a mixture breaks, each with its numbers; empty if it is allowed."""
        values = self._matrix @ mixture.array()
        found = []
        for value, c in zip(values, self.constraints, strict=True):
            if value < c.lower - tolerance:
                found.append(f"{c.name}: {value:.4g} is {c.lower - value:.4g} below {c.lower:.4g}")
            if value > c.upper + tolerance:
                found.append(f"{c.name}: {value:.4g} is {value - c.upper:.4g} above {c.upper:.4g}")
        return found

    def active(self, mixture: Mixture, tolerance: float = 1e-4) -> list[str]:
        """Names of the constraints that hold a mixture back."""
        values = self._matrix @ mixture.array()
        return [
            c.name
            for value, c in zip(values, self.constraints, strict=True)
            if min(value - c.lower, c.upper - value) < tolerance
        ]

    def linear(self) -> optimize.LinearConstraint | None:
        """The constraints for scipy's solvers; None if there are only the simplex's own."""
        if not self.constraints:
            return None
        return optimize.LinearConstraint(self._matrix, self._lower, self._upper)

    def pull(self, weights: FloatArray) -> FloatArray:
        """Move rows into the space; allowed rows stay.

        Rows first go to the nearest point of one broken constraint after the other, so that a
        narrow constraint changes what it is about and little else; what is still broken after a few
        rounds ends on the straight way to the centre.
        """
        outside = ~self.contains(weights)
        if not outside.any():
            return weights
        moved = weights[outside]
        for _ in range(_PROJECTIONS):
            moved = self._project(moved)
        moved = self._towards_centre(self._onto_pinned(moved))
        result = weights.copy()
        result[outside] = moved
        return result

    def _project(self, weights: FloatArray) -> FloatArray:
        """One round of projections onto each constraint, then back onto the simplex."""
        for row, lower, upper in zip(self._matrix, self._lower, self._upper, strict=True):
            normal = row - row.mean()  # the sum of the weights stays
            square = normal @ normal
            if square > 0:
                value = weights @ row
                excess = value - np.clip(value, lower, upper)
                weights = weights - np.outer(excess / square, normal)
        weights = np.maximum(weights, 0.0)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def _onto_pinned(self, weights: FloatArray) -> FloatArray:
        """Exactly onto the constraints that leave no room, and onto sum 1."""
        rows = np.vstack([np.ones(len(self.domains)), self._matrix[self._pinned]])
        off = (weights - self.centre) @ rows.T
        return np.asarray(weights - off @ np.linalg.pinv(rows).T)

    def _towards_centre(self, weights: FloatArray) -> FloatArray:
        rows = np.vstack([self._matrix[~self._pinned], np.eye(len(self.domains))])
        upper = np.concatenate([self._upper[~self._pinned], np.ones(len(self.domains))])
        lower = np.concatenate([self._lower[~self._pinned], np.zeros(len(self.domains))])
        at_centre = rows @ self.centre
        direction = (weights - self.centre) @ rows.T
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(
                direction > 0, (upper - at_centre) / direction, (lower - at_centre) / direction
            )
        step = np.where(direction == 0, np.inf, step).min(axis=1)
        scale = np.clip(step * (1 - 1e-12), 0.0, 1.0)[:, None]
        return np.asarray(np.maximum(self.centre + scale * (weights - self.centre), 0.0))

    def sample(
        self,
        count: int,
        rng: np.random.Generator,
        *,
        centre: FloatArray,
        concentration: tuple[float, float],
    ) -> Sample:
        """Dirichlet mixtures around ``centre``, inside the space.

        Each has its own total concentration, log-uniform over ``concentration`` times the number
        of domains. Draws outside are rejected; if too few are left after 20 rounds and 1,000
        draws, the rest are pulled towards the centre of the space until they are allowed.
        """
        kept: list[FloatArray] = []
        proposed = have = 0
        rejected = np.zeros((0, len(self.domains)))
        for _ in range(max(_MAX_ROUNDS, _MIN_DRAWS // count if count else 0)):
            drawn = _dirichlet(count, rng, centre, concentration)
            allowed = self.contains(drawn)
            need = count - have
            hits = drawn[allowed]
            if len(hits) >= need:  # count only the draws up to the last one that was needed
                proposed += int(np.flatnonzero(allowed)[need - 1]) + 1 if need else 0
                kept.append(hits[:need])
                return Sample(np.concatenate(kept), proposed, 0)
            kept.append(hits)
            rejected = drawn[~allowed]
            proposed, have = proposed + count, have + len(hits)
        pulled = self.pull(rejected[: count - have])
        return Sample(np.concatenate([*kept, pulled]), proposed, len(pulled))

    def _find_centre(self) -> FloatArray:
        """The point deepest inside: the largest smallest slack (a linear program)."""
        k = len(self.domains)
        upper = np.isfinite(self._upper)
        lower = np.isfinite(self._lower)
        fixed = self._pinned
        up, low = upper & ~fixed, lower & ~fixed
        rows = np.concatenate([self._matrix[up], -self._matrix[low], -np.eye(k)])
        rows = np.hstack([rows, np.ones((len(rows), 1))])
        limits = np.concatenate([self._upper[up], -self._lower[low], np.zeros(k)])
        equal = np.vstack([np.ones(k), self._matrix[fixed]])
        answer = optimize.linprog(
            c=[*np.zeros(k), -1.0],
            A_ub=rows,
            b_ub=limits,
            A_eq=np.hstack([equal, np.zeros((len(equal), 1))]),
            b_eq=[1.0, *self._upper[fixed]],
            bounds=[(0, 1)] * k + [(0, 1)],
        )
        if answer.status != 0:
            raise UserError(self._explain_empty())
        return np.asarray(answer.x[:k])

    def _explain_empty(self) -> str:
        """The least total change of bounds that would allow a mixture, constraint by constraint."""
        k, m = len(self.domains), len(self.constraints)
        up, low = np.isfinite(self._upper), np.isfinite(self._lower)
        rows = np.concatenate(
            [
                np.hstack([self._matrix[up], -np.eye(m)[up]]),
                np.hstack([-self._matrix[low], -np.eye(m)[low]]),
            ]
        )
        answer = optimize.linprog(
            c=[*np.zeros(k), *np.ones(m)],
            A_ub=rows,
            b_ub=np.concatenate([self._upper[up], -self._lower[low]]),
            A_eq=[[*np.ones(k), *np.zeros(m)]],
            b_eq=[1.0],
            bounds=[(0, 1)] * k + [(0, None)] * m,
        )
        asked = ", ".join(
            f"{c.name} in [{max(c.lower, 0):.4g}, {min(c.upper, 1):.4g}]" for c in self.constraints
        )
        short = [
            f"{c.name} by {s:.4g}"
            for c, s in zip(self.constraints, answer.x[k:], strict=True)
            if s > 1e-9
        ]
        return (
            f"no mixture satisfies the constraints ({asked}); "
            f"the least change that allows one loosens {', '.join(short)}"
        )


def _dirichlet(
    count: int, rng: np.random.Generator, centre: FloatArray, concentration: tuple[float, float]
) -> FloatArray:
    low, high = np.log(concentration)
    total = np.exp(rng.uniform(low, high, size=(count, 1))) * len(centre)
    gamma = rng.standard_gamma(np.maximum(total * centre, 1e-12))
    sums = gamma.sum(1, keepdims=True)
    # All gammas of a row can underflow to 0 when every shape is tiny; such a row is its centre.
    return np.where(sums > 0, gamma / np.where(sums > 0, sums, 1.0), centre)
