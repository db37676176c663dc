"""Regressors that are a formula with parameters: the common part.

A formula's parameters have a Gaussian posterior (Laplace's approximation): around the optimum, with
covariance σ² (JᵀWJ + Λ)⁻¹, where J holds the formula's derivatives at the runs, W the runs' weights
and Λ the prior's precision. Prediction errors follow by the delta method (Bishop 2006, section
4.4 and eq. 3.59).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from regmix.mixture import FloatArray
from regmix.regressors.base import Prediction, Shape


@dataclass(frozen=True)
class Posterior:
    """Parameters of one metric's formula and what is known of them."""

    theta: FloatArray
    """Shape ``(p,)``, of the standardised metric."""
    root: FloatArray
    """Shape ``(p, p)``: ``root @ root.T`` is the parameters' covariance."""
    noise: float
    """Standard deviation of a measurement around the formula, standardised."""
    mean: float
    scale: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "theta": self.theta.tolist(), "root": self.root.tolist()}

    def with_noise(self, std: float) -> Posterior:
        """The same of measurements that vary by so much more, in the metric's unit."""
        return replace(self, noise=math.hypot(self.noise, std / self.scale)) if std else self

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Posterior:
        """From plain values."""
        theta, root = (np.array(raw[k], dtype=np.float64) for k in ("theta", "root"))
        return cls(theta, root, *(float(raw[k]) for k in ("noise", "mean", "scale")))


class Parametric(ABC):
    """A formula in the weights; subclasses say which."""

    name: ClassVar[str]

    def __init__(self, posterior: Posterior) -> None:
        self._posterior = posterior

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """What a solver may rely on."""

    @abstractmethod
    def _value(self, x: FloatArray) -> FloatArray:
        """The formula, standardised, shape ``(n,)``."""

    @abstractmethod
    def _jacobian(self, x: FloatArray) -> FloatArray:
        """Its derivatives in the parameters, shape ``(n, p)``."""

    def mean(self, x: FloatArray) -> FloatArray:
        """Expected value of the metric, shape ``(n,)``."""
        return self._posterior.mean + self._posterior.scale * self._value(x)

    def predict(self, x: FloatArray) -> Prediction:
        """The formula's value; errors of the parameters and of a measurement in quadrature."""
        p = self._posterior
        spread = ((self._jacobian(x) @ p.root) ** 2).sum(1)
        return Prediction(self.mean(x), p.scale * np.sqrt(spread + p.noise**2))

    def doubt(self, x: FloatArray) -> FloatArray:
        """Standard deviation of the formula's value: parameters only."""
        p = self._posterior
        return np.asarray(p.scale * np.sqrt(((self._jacobian(x) @ p.root) ** 2).sum(1)))

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """Standard deviation of the difference to the reference: parameters only."""
        p = self._posterior
        steps = self._jacobian(x) - self._jacobian(reference[None])
        return np.asarray(p.scale * np.sqrt(((steps @ p.root) ** 2).sum(1)))

    def state(self) -> dict[str, Any]:
        """Parameters and the root of their covariance."""
        return {"posterior": self._posterior.as_dict()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The same formula with the same parameters."""
        return cls(Posterior.of(state["posterior"]))


def inverse_root(precision: FloatArray) -> FloatArray:
    """``R`` with ``R @ R.T`` the inverse of a symmetric matrix; directions without any are 0."""
    values, vectors = np.linalg.eigh(precision)
    known = values > max(float(values[-1]), 0.0) * 1e-12
    return np.asarray(vectors * np.where(known, 1 / np.sqrt(np.where(known, values, 1.0)), 0.0))
