"""Linear programs over the simplex cut by rows ``lower <= A·w <= upper``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from regmix.mixture import FloatArray

PINNED = 1e-9
"""Bounds closer than this leave no room: an equation."""
NO_ROOM = 1e-8
"""The same of what linear programs find."""


@dataclass(frozen=True)
class Polytope:
    """``{w >= 0, sum w = 1, lower <= A·w <= upper}``; A of shape ``(n_rows, n_domains)``."""

    matrix: FloatArray
    lower: FloatArray
    upper: FloatArray
    zero: tuple[int, ...] = ()
    """Domains of which no point has anything, where that is known."""

    @property
    def size(self) -> int:
        """Number of domains."""
        return int(self.matrix.shape[1])

    @property
    def pinned(self) -> np.ndarray:
        """Which rows are equations, shape ``(n_rows,)``."""
        return np.asarray(np.abs(self.upper - self.lower) < PINNED)

    def rows(self, keep: np.ndarray) -> Polytope:
        """The same with some of the rows only."""
        return Polytope(self.matrix[keep], self.lower[keep], self.upper[keep])

    @property
    def faces(self) -> FloatArray:
        """Rows that give the share of each domain that a point can have something of."""
        return np.delete(np.eye(self.size), self.zero, axis=0)

    def centre(self) -> FloatArray | None:
        """The point deepest inside: the largest smallest slack; None if there is no point.

        Where an inequality leaves no room, all points are equally deep: see :meth:`tightened`.
        """
        found = self._deepest()
        return None if found is None else found[0]

    def tightened(self) -> Polytope:
        """The same points, with everything that leaves no room said as an equation.

        A group that may have nothing holds its domains at 0; bounds can together fix a sum. The
        centre is then inside of what is left. The polytope must not be empty.
        """
        found = self
        for _ in range(
            len(self.matrix) + self.size
        ):  # every round finds an equation or is the last
            point, slack = found._deepest() or (None, 0.0)
            if point is None or slack > NO_ROOM:
                break
            more = found._with_equations(point)
            if more.equations == found.equations:
                break
            found = more
        return found

    @property
    def equations(self) -> int:
        """How many there are, without that of the sum."""
        return int(self.pinned.sum()) + len(self.zero)

    def _deepest(self) -> tuple[FloatArray, float] | None:
        """The point with the largest smallest slack, and that slack."""
        a, b = self._below()
        rows = np.vstack([a, -self.faces])
        equal, values = self.equal()
        answer = scipy.optimize.linprog(
            c=[*np.zeros(self.size), -1.0],
            A_ub=np.hstack([rows, np.ones((len(rows), 1))]),
            b_ub=np.concatenate([b, np.zeros(len(rows) - len(b))]),
            A_eq=np.hstack([equal, np.zeros((len(equal), 1))]),
            b_eq=values,
            bounds=[(0, 1)] * (self.size + 1),
        )
        return (np.asarray(answer.x[: self.size]), float(answer.x[-1])) if answer.success else None

    def _with_equations(self, deepest: FloatArray) -> Polytope:
        """With those as equations that leave no room; at the deepest point they have none."""
        values = self.matrix @ deepest
        upper, lower = self.upper.copy(), self.lower.copy()
        for row in np.flatnonzero(~self.pinned & (self.upper - values <= NO_ROOM)):
            if self.upper[row] - self._least(self.matrix[row]) <= NO_ROOM:
                lower[row] = self.upper[row]
        for row in np.flatnonzero(~self.pinned & (values - self.lower <= NO_ROOM)):
            if -self._least(-self.matrix[row]) - self.lower[row] <= NO_ROOM:
                upper[row] = self.lower[row]
        empty = [
            int(d)
            for d in np.flatnonzero(deepest <= NO_ROOM)
            if d in self.zero or -self._least(-np.eye(self.size)[d]) <= NO_ROOM
        ]
        return Polytope(self.matrix, lower, upper, tuple(empty))

    def _least(self, slope: FloatArray) -> float:
        return float(slope @ self.minimise(slope))

    def minimise(self, slope: FloatArray) -> FloatArray:
        """A point with the least ``slope·w``; the polytope must not be empty."""
        a, b = self._below()
        equal, values = self.equal()
        answer = scipy.optimize.linprog(
            c=slope, A_ub=a, b_ub=b, A_eq=equal, b_eq=values, bounds=[(0, 1)] * self.size
        )
        if answer.status != 0:  # an empty space is refused before anything is minimised over it
            raise ArithmeticError(f"linear program: {answer.message}")
        return np.asarray(answer.x)

    def conflict(self) -> np.ndarray:
        """Rows that exclude each other and of which none can be spared (a deletion filter)."""
        keep = np.ones(len(self.matrix), dtype=bool)
        for row in range(len(self.matrix)):
            keep[row] = False
            if self.rows(keep).centre() is not None:
                keep[row] = True
        return np.flatnonzero(keep)

    def loosening(self) -> FloatArray:
        """The least total change of bounds that leaves a point, row by row; shape ``(n_rows,)``."""
        m = len(self.matrix)
        up, low = np.isfinite(self.upper), np.isfinite(self.lower)
        rows = np.vstack(
            [
                np.hstack([self.matrix[up], -np.eye(m)[up]]),
                np.hstack([-self.matrix[low], -np.eye(m)[low]]),
            ]
        )
        answer = scipy.optimize.linprog(
            c=[*np.zeros(self.size), *np.ones(m)],
            A_ub=rows,
            b_ub=np.concatenate([self.upper[up], -self.lower[low]]),
            A_eq=[[*np.ones(self.size), *np.zeros(m)]],
            b_eq=[1.0],
            bounds=[(0, 1)] * self.size + [(0, None)] * m,
        )
        return np.asarray(answer.x[self.size :])

    def _below(self) -> tuple[FloatArray, FloatArray]:
        """The inequalities as ``A·w <= b``."""
        up = np.isfinite(self.upper) & ~self.pinned
        low = np.isfinite(self.lower) & ~self.pinned
        a = np.vstack([self.matrix[up], -self.matrix[low]])
        return a, np.concatenate([self.upper[up], -self.lower[low]])

    def equal(self) -> tuple[FloatArray, FloatArray]:
        """The equations, the sum of the weights first."""
        fixed, empty = self.pinned, list(self.zero)
        rows = np.vstack([np.ones(self.size), self.matrix[fixed], np.eye(self.size)[empty]])
        return rows, np.concatenate([[1.0], self.upper[fixed], np.zeros(len(empty))])
