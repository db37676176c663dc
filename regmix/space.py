"""Space: the allowed mixtures, one object for sampler, solver and acquisition alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from regmix.config import Domain, GroupBound, SpaceConfig
from regmix.errors import UserError, unknown_name
from regmix.mixture import TOLERANCE, FloatArray, Mixture
from regmix.pages import page
from regmix.polytope import Polytope

_MAX_ROUNDS = 20
_MIN_DRAWS = 1000
"""Draws that are tried at least, however few mixtures are wanted."""
_PROJECTIONS = 10


@dataclass(frozen=True)
class Constraint:
    """``lower <= Σ coefficients · weights <= upper``, with a name that a person recognises."""

    name: str
    coefficients: Mapping[str, float]
    lower: float = -np.inf
    upper: float = np.inf
    note: str = ""
    """Where the numbers come from, for messages."""


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

    def __init__(
        self,
        domains: Sequence[str],
        constraints: Iterable[Constraint] = (),
        pinned: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Validate the constraints' names.

        Args:
            pinned: by name, shares that some domains keep relative to each other.

        Raises:
            UserError: a constraint names a domain that there is not, or the space is empty; then
                with the numbers of what is in conflict.
        """
        self.domains = tuple(domains)
        self.pinned = {name: dict(shares) for name, shares in (pinned or {}).items()}
        self.constraints = (*constraints, *_pins(self.pinned))
        for constraint in self.constraints:
            for name in constraint.coefficients:
                if name not in self.domains:
                    raise unknown_name(
                        "domain", name, self.domains, f"constraint {constraint.name}"
                    )
        rows = [[c.coefficients.get(d, 0.0) for d in self.domains] for c in self.constraints]
        self.polytope = Polytope(
            np.array(rows, dtype=float).reshape(len(rows), len(self.domains)),
            np.array([c.lower for c in self.constraints], dtype=float),
            np.array([c.upper for c in self.constraints], dtype=float),
        )
        if self.polytope.centre() is None:
            raise UserError(self._explain_empty())
        self._tight = self.polytope.tightened()
        centre = self._tight.centre()
        assert centre is not None  # of the same points
        self.centre: FloatArray = centre
        self._equations, _ = self._tight.equal()
        self._onto = np.linalg.pinv(self._equations).T
        self._blocks = [
            (
                np.array([self.domains.index(d) for d in shares]),
                np.array(list(shares.values())) / sum(shares.values()),
            )
            for shares in self.pinned.values()
        ]

    @classmethod
    def from_config(
        cls,
        config: SpaceConfig,
        domains: Sequence[Domain],
        available: Mapping[str, int],
    ) -> Space:
        """The space a study describes; ``available`` holds training tokens by domain.

        Raises:
            UserError: as the constructor, a pattern that no domain matches, or a repetition cap
                without known tokens.
        """
        names = [d.name for d in domains]
        constraints = [
            Constraint(f"bounds.{name}", {name: 1.0}, low, high)
            for name, (low, high) in config.bounds.items()
        ]
        constraints += [
            Constraint(
                f"groups.{name}",
                dict.fromkeys(_members(group, domains, f"space.groups.{name}"), 1.0),
                group.lower,
                group.upper,
            )
            for name, group in config.groups.items()
        ]
        for name, ratio in config.ratios.items():
            where = f"space.ratios.{name}"
            of, to = (matching(p, names, where) for p in (ratio.of, ratio.to))
            constraints += _ratio(f"ratios.{name}", of, to, ratio.lower, ratio.upper)
        constraints += _caps(config, names, available)
        return cls(names, constraints, config.pinned)

    def without(self, name: str) -> Space:
        """The same space with one constraint left out."""
        pinned = {n: shares for n, shares in self.pinned.items() if name != f"pinned.{n}"}
        kept = [c for c in self.constraints if c.name != name and not c.name.startswith("pinned.")]
        return Space(self.domains, kept, pinned)

    def contains(self, weights: FloatArray, tolerance: float = TOLERANCE) -> npt.NDArray[np.bool_]:
        """Which rows of ``(n, n_domains)`` are allowed; shape ``(n,)``."""
        weights = np.atleast_2d(weights)
        on_simplex = (weights >= -tolerance).all(1) & (abs(weights.sum(1) - 1) <= 1e-6)
        values = weights @ self.polytope.matrix.T
        inside = (values >= self.polytope.lower - tolerance) & (
            values <= self.polytope.upper + tolerance
        )
        result: npt.NDArray[np.bool_] = on_simplex & inside.all(1)
        return result

    def violations(self, mixture: Mixture, tolerance: float = TOLERANCE) -> list[str]:
        """What a mixture breaks, each with its numbers; empty if it is allowed."""
        values = self.polytope.matrix @ mixture.array()
        found = []
        for value, c in zip(values, self.constraints, strict=True):
            if value < c.lower - tolerance:
                found.append(f"{c.name}: {value:.4g} is {c.lower - value:.4g} below {c.lower:.4g}")
            if value > c.upper + tolerance:
                found.append(f"{c.name}: {value:.4g} is {value - c.upper:.4g} above {c.upper:.4g}")
        return found

    def active(self, mixture: Mixture, tolerance: float = 1e-4) -> list[str]:
        """Names of the constraints that hold a mixture back; not of ends that the simplex has."""
        values = self.polytope.matrix @ mixture.array()
        names = []
        for value, c in zip(values, self.constraints, strict=True):
            least, most = min(0.0, *c.coefficients.values()), max(0.0, *c.coefficients.values())
            below = c.lower > least and value - c.lower < tolerance
            above = c.upper < most and c.upper - value < tolerance
            if below or above:
                names.append(c.name)
        return list(dict.fromkeys(names))

    def unimax(self) -> Mixture:
        """Uniform as far as single domains' caps allow it (UniMax, arXiv 2304.09151).

        Domains are filled evenly; one that reaches its cap stays there and the others share the
        rest. Where other constraints forbid the result, the nearest allowed mixture is taken.
        """
        caps = np.ones(len(self.domains))
        for c in self.constraints:
            if len(c.coefficients) == 1 and next(iter(c.coefficients.values())) == 1.0:
                index = self.domains.index(next(iter(c.coefficients)))
                caps[index] = min(caps[index], c.upper)
        level, left = np.zeros(len(caps)), np.ones(len(caps), dtype=bool)
        while left.any():
            share = (1 - level[~left].sum()) / left.sum()
            full = left & (caps <= share)
            if not full.any():
                level[left] = share
                break
            level[full], left = caps[full], left & ~full
        return Mixture.from_array(self.domains, self.pull((level / level.sum())[None])[0])

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
        for row, lower, upper in zip(
            self.polytope.matrix, self.polytope.lower, self.polytope.upper, strict=True
        ):
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
        off = (weights - self.centre) @ self._equations.T
        return np.asarray(weights - off @ self._onto)

    def _towards_centre(self, weights: FloatArray) -> FloatArray:
        p = self._tight
        rows = np.vstack([p.matrix[~p.pinned], p.faces])
        upper = np.concatenate([p.upper[~p.pinned], np.ones(len(p.faces))])
        lower = np.concatenate([p.lower[~p.pinned], np.zeros(len(p.faces))])
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
            drawn = self._together(_dirichlet(count, rng, centre, concentration))
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

    def _together(self, weights: FloatArray) -> FloatArray:
        """Nothing of domains that can have none; what pinned ones have in sum, as pinned."""
        if self._tight.zero:
            weights[:, list(self._tight.zero)] = 0.0
            left = weights.sum(1, keepdims=True)
            weights = np.where(left > 0, weights / np.where(left > 0, left, 1.0), self.centre)
        for index, shares in self._blocks:
            weights[:, index] = weights[:, index].sum(1, keepdims=True) * shares
        return weights

    def _explain_empty(self) -> str:
        """Which constraints exclude each other, and by how much they are short."""
        left = np.arange(len(self.constraints))
        conflicts = []
        while self.polytope.rows(left).centre() is None:
            clash = left[self.polytope.rows(left).conflict()]
            conflicts.append("; ".join(self._shortfalls(clash)))
            left = np.setdiff1d(left, clash)
        return (
            "no mixture satisfies the constraints; these exclude each other, and one of them must "
            f"give: {' -- and so do these: '.join(conflicts)} "
            f"(what may help: {page('CONSTRAINTS', 'when-there-is-no-such-mixture')})"
        )

    def _shortfalls(self, clash: npt.NDArray[np.int64]) -> list[str]:
        lines = []
        for row, lack in zip(clash, self.polytope.rows(clash).loosening(), strict=True):
            c = self.constraints[row]
            asked = f"{c.name} asks for {_range(c)}"
            asked += f" ({c.note})" if c.note else ""
            lines.append(asked + (f", short by {lack:.4g}" if lack > TOLERANCE else ""))
        return lines


def matching(patterns: Iterable[str], names: Sequence[str], where: str) -> list[str]:
    """Domains that some names or patterns (``web/*``) stand for, in the order of ``names``.

    Raises:
        UserError: a pattern that stands for none.
    """
    found: set[str] = set()
    for pattern in patterns:
        hits = {n for n in names if n == pattern or fnmatchcase(n, pattern)}
        if not hits:
            raise unknown_name("domain", pattern, names, where)
        found |= hits
    return [n for n in names if n in found]


def _members(group: GroupBound, domains: Sequence[Domain], where: str) -> list[str]:
    """Domains of a group: by name or pattern, by their ``group``, or by a tag."""
    if group.domains:
        return matching(group.domains, [d.name for d in domains], where)
    if group.group is not None:
        found = [d.name for d in domains if d.group == group.group]
        known = sorted({d.group for d in domains if d.group})
        if not found:
            raise unknown_name("group", group.group, known, where)
        return found
    found = [d.name for d in domains if group.tag in d.tags]
    if not found:
        raise unknown_name(
            "tag", str(group.tag), sorted({t for d in domains for t in d.tags}), where
        )
    return found


def _ratio(
    name: str, of: Sequence[str], to: Sequence[str], lower: float, upper: float | None
) -> list[Constraint]:
    """``lower <= sum(of) / sum(to) <= upper`` as rows that are linear in the weights."""

    def row(factor: float) -> dict[str, float]:
        return {d: float(d in of) - factor * float(d in to) for d in dict.fromkeys((*of, *to))}

    note = f"{' + '.join(of)} over {' + '.join(to)}"
    found = [Constraint(f"{name}.lower", row(lower), lower=0.0, note=f"{note} >= {lower:g}")]
    if upper is not None:
        found.append(
            Constraint(f"{name}.upper", row(upper), upper=0.0, note=f"{note} <= {upper:g}")
        )
    return found if lower > 0 else found[1:]


def _caps(
    config: SpaceConfig, names: Sequence[str], available: Mapping[str, int]
) -> list[Constraint]:
    """Repetition caps: weight times budget is at most ``max_epochs`` times what there is."""
    if config.max_epochs is None or config.budget_tokens is None:
        return []
    missing = [d for d in names if d not in available]
    if missing:
        raise UserError(
            f"space.max_epochs: tokens of {', '.join(missing)} are not known; build the data "
            "first, or give domains[].tokens"
        )
    cap = config.max_epochs / config.budget_tokens
    return [
        Constraint(
            f"max_epochs.{d}",
            {d: 1.0},
            upper=cap * available[d],
            note=f"{config.max_epochs:g} epochs of {available[d]:,} tokens in a budget of "
            f"{config.budget_tokens:,}",
        )
        for d in names
        if cap * available[d] < 1
    ]


def _pins(pinned: Mapping[str, Mapping[str, float]]) -> list[Constraint]:
    """Each pinned domain against the largest one of its set: an equation."""
    found = []
    for name, shares in pinned.items():
        anchor = max(shares, key=lambda d: shares[d])
        found += [
            Constraint(
                f"pinned.{name}",
                {d: shares[anchor], anchor: -share},
                0.0,
                0.0,
                note=f"{d} : {anchor} = {share:g} : {shares[anchor]:g}",
            )
            for d, share in shares.items()
            if d != anchor
        ]
    return found


def _range(c: Constraint) -> str:
    low, high = c.lower, c.upper
    if np.isfinite(low) and np.isfinite(high):
        return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    return f"at least {low:.4g}" if np.isfinite(low) else f"at most {high:.4g}"


def _dirichlet(
    count: int, rng: np.random.Generator, centre: FloatArray, concentration: tuple[float, float]
) -> FloatArray:
    low, high = np.log(concentration)
    total = np.exp(rng.uniform(low, high, size=(count, 1))) * len(centre)
    gamma = rng.standard_gamma(np.maximum(total * centre, 1e-12))
    sums = gamma.sum(1, keepdims=True)
    # All gammas of a row can underflow to 0 when every shape is tiny; such a row is its centre.
    return np.where(sums > 0, gamma / np.where(sums > 0, sums, 1.0), centre)
