"""Movers: what one share moves, and the mixtures that it passes through.

A mover is a domain, or domains that the study pins to each other. Its share changes and all others
keep their ratios to each other, those of a base mixture; where a constraint does not allow that,
the mixture is pulled into the space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regmix.mixture import FloatArray
from regmix.space import Space

LEAST_REACH = 0.002
"""A share that can move by less than this stands still."""


@dataclass(frozen=True)
class Mover:
    """Domains whose common share is moved."""

    name: str
    unit: FloatArray
    """How they divide their share, shape ``(n_domains,)``; 0 elsewhere, sum 1."""

    def share(self, x: FloatArray) -> FloatArray:
        """Their common share in mixtures ``(n, n_domains)``; shape ``(n,)``."""
        return np.asarray(x[:, self.unit > 0].sum(1))


def movers(space: Space) -> list[Mover]:
    """All of a space, in the order of its domains; a pinned set is one, named after its domains."""
    found, names = [], list(space.domains)
    pinned = {name: shares for shares in space.pinned.values() for name in shares}
    for name in names:
        shares = pinned.get(name, {name: 1.0})
        if next(n for n in names if n in shares) != name:
            continue  # its set came with the first of them
        unit = np.array([shares.get(n, 0.0) for n in names])
        found.append(Mover(" + ".join(n for n in names if n in shares), unit / unit.sum()))
    return found


def moved(base: FloatArray, changes: list[tuple[Mover, FloatArray]]) -> FloatArray:
    """Mixtures with the movers at given shares and all others in the base's ratios.

    Args:
        base: shape ``(n_domains,)``.
        changes: movers without a domain in common and their shares, shape ``(n,)`` each.

    Returns:
        Shape ``(n, n_domains)``; negative where the shares come to more than 1.
    """
    own = np.sum([m.unit for m, _ in changes], axis=0) > 0
    others = np.where(own, 0.0, base)
    if others.sum() <= 1e-9:  # the base has none of the others: they share evenly
        others = np.where(own, 0.0, 1.0)
    total = others.sum()
    left = 1 - np.sum([share for _, share in changes], axis=0)
    rest = left[:, None] * others / total if total > 0 else np.zeros((len(left), len(base)))
    return np.asarray(rest + sum(share[:, None] * m.unit for m, share in changes))


def reach(space: Space, mover: Mover, base: FloatArray, runs: FloatArray) -> tuple[float, float]:
    """The least and the largest share to look at: allowed, and tried by some run (or the base's).

    Args:
        runs: mixtures that were measured, shape ``(n, n_domains)``.
    """
    side = (mover.unit > 0).astype(float)
    least, most = (float(side @ space.polytope.minimise(way * side)) for way in (1.0, -1.0))
    own = float(mover.share(base[None])[0])
    tried = mover.share(runs)
    low = max(least, min(float(tried.min()), own), 0.0)
    high = min(most, max(float(tried.max()), own), 1.0)
    return low, high


def path(
    space: Space, mover: Mover, base: FloatArray, runs: FloatArray, points: int
) -> FloatArray | None:
    """Mixtures from the least to the largest share, the base among them; None: it cannot move.

    Returns:
        Shape ``(n, n_domains)``, at most ``points + 1`` rows, by rising share.
    """
    low, high = reach(space, mover, base, runs)
    if (mover.unit > 0).all() or high - low < LEAST_REACH:
        return None
    x = space.pull(moved(base, [(mover, np.linspace(low, high, points))]))
    share = mover.share(x)
    _, first = np.unique(share.round(6), return_index=True)
    own = float(mover.share(base[None])[0])
    x = np.vstack([x[first][np.abs(share[first] - own) > 1e-6], base[None]])
    x = x[np.argsort(mover.share(x), kind="stable")]
    return x if np.ptp(mover.share(x)) >= LEAST_REACH else None
