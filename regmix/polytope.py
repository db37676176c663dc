"""Linear programs over the simplex cut by rows ``lower <= A·w <= upper``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from regmix.mixture import FloatArray

PINNED = 1e-9
"""Bounds closer than this leave no room: an equation."""


@dataclass(frozen=True)
class Polytope:
    """``{w >= 0, sum w = 1, lower <= A·w <= upper}``; A of shape ``(n_rows, n_domains)``."""

    matrix: FloatArray
    lower: FloatArray
    upper: FloatArray

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

    def centre(self) -> FloatArray | None:
        """The point deepest inside: the largest smallest slack; None if there is no point."""
        a, b = self._below()
        rows = np.vstack([a, -np.eye(self.size)])
        equal, values = self._equal()
        answer = scipy.optimize.linprog(
            c=[*np.zeros(self.size), -1.0],
            A_ub=np.hstack([rows, np.ones((len(rows), 1))]),
            b_ub=np.concatenate([b, np.zeros(self.size)]),
            A_eq=np.hstack([equal, np.zeros((len(equal), 1))]),
            b_eq=values,
            bounds=[(0, 1)] * (self.size + 1),
        )
        return np.asarray(answer.x[: self.size]) if answer.status == 0 else None

    def minimise(self, slope: FloatArray) -> FloatArray:
        """A point with the least ``slope·w``; the polytope must not be empty."""
        a, b = self._below()
        equal, values = self._equal()
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

    def _equal(self) -> tuple[FloatArray, FloatArray]:
        """The equations, the sum of the weights first."""
        fixed = self.pinned
        rows = np.vstack([np.ones(self.size), self.matrix[fixed]])
        return rows, np.concatenate([[1.0], self.upper[fixed]])
