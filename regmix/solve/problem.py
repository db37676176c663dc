"""The problem that is solved: what is lowered, over which mixtures, under which limits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy

from regmix.mixture import FloatArray, Mixture
from regmix.objective import Objective
from regmix.regressors import Shape
from regmix.space import Space
from regmix.surrogate import Surrogate

_CHUNK = 8_192


@dataclass(frozen=True)
class Limit:
    """A metric that may not be worse than at a reference by more than an amount."""

    metric: str
    sign: int
    """+1: lower is better."""
    reference: Mixture
    reference_name: str
    allowed: float
    """In the metric's unit; 0: it may not be worse at all."""
    confidence: float
    """Probability with which that is to hold."""
    scale: float
    """The metric's size at the reference."""

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"limits.{self.metric}"

    def excess(self, surrogate: Surrogate, x: FloatArray) -> FloatArray:
        """How far each mixture is beyond the limit, in the metric's unit; <= 0: it holds."""
        fitted, at = surrogate.metric(self.metric), self.reference.array()
        loss = self.sign * (fitted.model.mean(x) - fitted.model.mean(at[None]))
        margin = float(scipy.stats.norm.ppf(self.confidence))
        if margin > 0:
            loss = loss + margin * fitted.contrast(x, at)
        return np.asarray(loss - self.allowed)


@dataclass(frozen=True)
class Problem:
    """Lower ``objective + caution · std + kl · divergence from the prior`` over a space."""

    surrogate: Surrogate
    objective: Objective
    space: Space
    limits: tuple[Limit, ...] = ()
    caution: float = 0.0
    """Standard deviations added to the objective (DECISIONS: an optimum of the mean alone is
    drawn to where nothing was measured, and the more so the smaller the swarm)."""
    kl: float = 0.0
    """Objective units a nat."""
    prior: Mixture | None = None
    uncertainty: Surrogate | None = None
    """Whose standard deviations count; None: the surrogate's own."""

    def value(self, x: FloatArray) -> FloatArray:
        """What is lowered, for mixtures ``(n, n_domains)``; the one path all solvers use."""
        parts = [self._value(x[i : i + _CHUNK]) for i in range(0, len(x), _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _value(self, x: FloatArray) -> FloatArray:
        if not self.caution:
            total = self.surrogate.objective_mean(x, self.objective)
        elif self.uncertainty is None:
            found = self.surrogate.objective(x, self.objective)
            total = found.mean + self.caution * found.std
        else:
            spread = self.uncertainty.objective(x, self.objective).std
            total = self.surrogate.objective_mean(x, self.objective) + self.caution * spread
        if self.kl and self.prior is not None:
            total = total + self.kl * divergence(x, self.prior)
        return np.asarray(total)

    def excess(self, x: FloatArray) -> FloatArray:
        """How far beyond each limit, shape ``(n, n_limits)``; <= 0 everywhere is allowed."""
        if not self.limits:
            return np.zeros((len(x), 0))
        return np.column_stack([limit.excess(self.surrogate, x) for limit in self.limits])

    def allowed(self, x: FloatArray) -> np.ndarray:
        """Which mixtures keep the space's constraints and all limits."""
        found: np.ndarray = self.space.contains(x, 1e-7)
        if self.limits:
            found = found & (self.excess(x) <= 1e-9).all(1)
        return found

    @property
    def shape(self) -> Shape:
        """What is known of the lowered function: smooth; convex only without caution."""
        fitted = [self.surrogate.metric(m) for m in self.objective.metrics]
        shapes = [f.model.shape for f in fitted]
        bent = map(Shape.convex_times, shapes, self.objective.coefficients)
        convex = all(bent) and not self.caution and not self.limits
        smooth = all(s.smooth for s in shapes) and self.objective.kind != "worst"
        return Shape(smooth, int(convex))

    def without_caution(self) -> Problem:
        """The same, lowering the expected objective alone."""
        return replace(self, caution=0.0)


def divergence(x: FloatArray, prior: Mixture) -> FloatArray:
    """Kullback-Leibler divergence of mixtures from a prior, in nats; a prior of 0 counts 1e-9."""
    q = np.maximum(prior.array(), 1e-9)
    return np.asarray((x * np.log(np.maximum(x, 1e-300) / q)).sum(1))
