"""The formulas that a page can compute: values, and where they are formulas their derivatives.

Each part is what ``js/surrogate.js`` computes too, in the same order of operations as far as that
matters; a test compares the two. Values are of a standardised metric, shape ``(n,)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import scipy

from regmix.mixture import FloatArray


@dataclass(frozen=True)
class Basis:
    """Features of a mixture that all stand-ins share.

    With ``s = √w``: a constant, ``s``, ``w``, for every knot and domain ``max(s − knot, 0)``, and a
    Matérn 5/2 kernel around every centre. Square roots, because a step from 0 to 1 % of a domain
    is as long as it is consequential; hinges, because trees step along single domains.
    """

    knots: FloatArray
    """Shape ``(k, n_domains)``, in square roots of shares."""
    centres: FloatArray
    """Shape ``(m, n_domains)``, likewise."""
    length: float
    """Of the kernel."""

    def features(self, x: FloatArray) -> FloatArray:
        """Shape ``(n, 1 + (2 + k) · n_domains + m)``."""
        roots = np.sqrt(x)
        hinges = [np.maximum(roots - knot, 0.0) for knot in self.knots]
        squared = (roots**2).sum(1)[:, None] + (self.centres**2).sum(1) - 2 * roots @ self.centres.T
        near = _matern(np.sqrt(5 * np.maximum(squared, 0.0)) / self.length)
        return np.hstack([np.ones((len(x), 1)), roots, x, *hinges, near])


class Inputs:
    """Mixtures, and what several parts need of them."""

    def __init__(self, x: FloatArray, basis: Basis | None) -> None:
        self.x, self._basis = x, basis

    @cached_property
    def roots(self) -> FloatArray:
        """Square roots of the shares."""
        return np.sqrt(self.x)

    @cached_property
    def features(self) -> FloatArray:
        """Of the basis."""
        assert self._basis is not None, "a stand-in without a basis"
        return self._basis.features(self.x)


@dataclass(frozen=True)
class Ridge:
    """``θ₀ + θ · features``: the weights, and with ``roots`` their square roots too."""

    kind: ClassVar[str] = "ridge"
    theta: FloatArray
    roots: bool

    def value(self, at: Inputs) -> FloatArray:
        """Shape ``(n,)``."""
        return np.asarray(self.jacobian(at) @ self.theta)

    def jacobian(self, at: Inputs) -> FloatArray:
        """Derivatives in θ, shape ``(n, p)``."""
        parts = [np.ones((len(at.x), 1)), at.x, *([at.roots] if self.roots else [])]
        return np.asarray(np.hstack(parts))


@dataclass(frozen=True)
class Exponential:
    """``c + sign · exp(min(a + t·w, largest))``, within ``reach`` of 0 (loglinear)."""

    kind: ClassVar[str] = "exponential"
    c: float
    a: float
    t: FloatArray
    sign: float
    reach: float
    largest: float

    def value(self, at: Inputs) -> FloatArray:
        """Shape ``(n,)``."""
        return np.asarray(np.clip(self.c + self._grown(at), -self.reach, self.reach))

    def jacobian(self, at: Inputs) -> FloatArray:
        """Derivatives in (c, a, t)."""
        grown = self._grown(at)[:, None]
        return np.hstack([np.ones_like(grown), grown, grown * at.x])

    def _grown(self, at: Inputs) -> FloatArray:
        return np.asarray(self.sign * np.exp(np.minimum(self.a + at.x @ self.t, self.largest)))


@dataclass(frozen=True)
class Powers:
    """``c + sign · Σ f (w + a)^-g``, within ``reach`` of 0 (powerlaw)."""

    kind: ClassVar[str] = "powers"
    c: float
    f: FloatArray
    a: FloatArray
    g: FloatArray
    sign: float
    reach: float

    def value(self, at: Inputs) -> FloatArray:
        """Shape ``(n,)``."""
        return np.asarray(np.clip(self.c + self._terms(at).sum(1), -self.reach, self.reach))

    def jacobian(self, at: Inputs) -> FloatArray:
        """Derivatives in (c, log f, log a, log g)."""
        terms, shifted = self._terms(at), at.x + self.a
        parts = [terms, -terms * self.g * self.a / shifted, -terms * self.g * np.log(shifted)]
        return np.hstack([np.ones((len(at.x), 1)), *parts])

    def _terms(self, at: Inputs) -> FloatArray:
        return np.asarray(self.sign * self.f * np.exp(-self.g * np.log(at.x + self.a)))


@dataclass(frozen=True)
class Process:
    """``Σ_j weights_j k(√w, inputs_j)``: a Gaussian process' mean (gp)."""

    kind: ClassVar[str] = "process"
    inputs: FloatArray
    weights: FloatArray
    length: FloatArray
    signal: float
    linear: float

    def value(self, at: Inputs) -> FloatArray:
        """Shape ``(n,)``."""
        return np.asarray(self.kernel(at) @ self.weights)

    def kernel(self, at: Inputs) -> FloatArray:
        """Covariance with every run, shape ``(n, n_runs)``."""
        a, b = at.roots / self.length, self.inputs / self.length
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        near = self.signal * _matern(np.sqrt(5 * np.maximum(squared, 0.0)))
        return np.asarray(near + self.linear * (at.roots @ self.inputs.T))


@dataclass(frozen=True)
class StandIn:
    """Coefficients on the shared basis, fitted to what cannot be exported."""

    kind: ClassVar[str] = "stand-in"
    coefficients: FloatArray

    def value(self, at: Inputs) -> FloatArray:
        """Shape ``(n,)``."""
        return np.asarray(at.features @ self.coefficients)


Formula = Ridge | Exponential | Powers
Part = Formula | Process | StandIn


@dataclass(frozen=True)
class FormulaStd:
    """``scale · √(|J root|² + noise²)`` of the metric's only part, at most ``limit``."""

    kind: ClassVar[str] = "formula"
    root: FloatArray
    noise: float
    scale: float
    limit: float | None

    def std(self, part: Part, at: Inputs) -> FloatArray:
        """Shape ``(n,)``."""
        assert isinstance(part, Formula)
        spread = ((part.jacobian(at) @ self.root) ** 2).sum(1)
        found = self.scale * np.sqrt(spread + self.noise**2)
        return np.asarray(found if self.limit is None else np.minimum(found, self.limit))


@dataclass(frozen=True)
class ProcessStd:
    """``scale · √(max(prior − |factor⁻¹ k|², 0) + noise)`` of the metric's only part."""

    kind: ClassVar[str] = "process"
    factor: FloatArray
    """Lower triangle of the Cholesky factor, row by row, shape ``(n (n + 1) / 2,)``."""
    noise: float
    scale: float

    def std(self, part: Part, at: Inputs) -> FloatArray:
        """Shape ``(n,)``."""
        assert isinstance(part, Process)
        size = len(part.inputs)
        factor = np.zeros((size, size))
        factor[np.tril_indices(size)] = self.factor
        white = scipy.linalg.solve_triangular(
            factor, part.kernel(at).T, lower=True, check_finite=False
        )
        prior = part.signal + part.linear * (at.roots**2).sum(1)
        variance = np.maximum(prior - (white**2).sum(0), 0.0) + self.noise
        return np.asarray(self.scale * np.sqrt(variance))


@dataclass(frozen=True)
class StandInStd:
    """``exp`` of coefficients on the shared basis, kept between what was seen."""

    kind: ClassVar[str] = "stand-in"
    coefficients: FloatArray
    low: float
    """Logarithm of the least standard deviation that it was fitted to."""
    high: float

    def std(self, part: Part, at: Inputs) -> FloatArray:
        """Shape ``(n,)``; whatever the metric's parts are."""
        del part
        return np.exp(np.clip(at.features @ self.coefficients, self.low, self.high))


Std = FormulaStd | ProcessStd | StandInStd
PARTS: dict[str, type[Part]] = {p.kind: p for p in (Ridge, Exponential, Powers, Process, StandIn)}
STDS: dict[str, type[Std]] = {s.kind: s for s in (FormulaStd, ProcessStd, StandInStd)}


def _matern(r: FloatArray) -> FloatArray:
    return np.asarray((1 + r + r**2 / 3) * np.exp(-r))
