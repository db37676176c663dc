"""Surrogate: one fitted regressor per metric, with the record of how well it predicts."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from regmix.errors import UserError, unknown_name
from regmix.files import write_whole
from regmix.mixture import FloatArray, Mixture
from regmix.objective import Objective
from regmix.regressors import Prediction, Regressor, restore
from regmix.regressors.base import doubt

VERSION = 2
_DRAWS = 1024
"""Of what has no closed form; half of them are the others' opposites."""


@dataclass(frozen=True)
class Scores:
    """Held-out accuracy of one regressor on one metric, over all folds and repeats."""

    spearman: float
    r2: float
    mae: float
    rmse: float
    coverage90: float
    """Share of held-out runs inside their 90 % interval, after calibration."""


@dataclass(frozen=True)
class FittedMetric:
    """One metric's chosen regressor."""

    name: str
    regressor: str
    model: Regressor
    std_scale: float
    """Calibration: the regressor's standard deviations are multiplied by this."""
    scores: Scores
    candidates: dict[str, Scores]
    """Scores of every regressor that was tried."""

    def predict(self, x: FloatArray) -> Prediction:
        """Calibrated prediction for mixtures, ``x`` of shape ``(n, n_domains)``."""
        raw = self.model.predict(x)
        return Prediction(raw.mean, raw.std * self.std_scale)

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        """Calibrated standard deviation of the expected difference to a reference mixture."""
        return self.model.contrast(x, reference) * self.std_scale

    def doubt(self, x: FloatArray) -> FloatArray:
        """Calibrated standard deviation of the expected value."""
        return doubt(self.model, x) * self.std_scale


@dataclass(frozen=True)
class Surrogate:
    """Mixture to metrics: a mean and a standard deviation, always both."""

    domains: tuple[str, ...]
    metrics: tuple[FittedMetric, ...]
    correlation: FloatArray
    """Of the metrics' prediction errors, shape ``(n_metrics, n_metrics)``."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the fitted metrics."""
        return tuple(m.name for m in self.metrics)

    def metric(self, name: str) -> FittedMetric:
        """One metric by name."""
        for fitted in self.metrics:
            if fitted.name == name:
                return fitted
        raise unknown_name("metric", name, self.metric_names)

    def predict(self, x: FloatArray) -> dict[str, Prediction]:
        """Every metric for mixtures in domain order, ``x`` of shape ``(n, n_domains)``."""
        if x.ndim != 2 or x.shape[1] != len(self.domains):
            raise UserError(f"predict: shape {x.shape}, expected (n, {len(self.domains)})")
        return {m.name: m.predict(x) for m in self.metrics}

    def correlations(self, metrics: Sequence[str]) -> FloatArray:
        """Correlation of the errors of some metrics, in their order."""
        rows = [self.metric_names.index(m) for m in metrics]
        return self.correlation[np.ix_(rows, rows)]

    def objective(self, x: FloatArray, objective: Objective) -> Prediction:
        """The objective with its standard deviation, for mixtures ``(n, n_domains)``."""
        parts = [self.metric(name).predict(x) for name in objective.metrics]
        return Prediction(
            *objective.join(
                np.array([p.mean for p in parts]),
                np.array([p.std for p in parts]),
                self.correlations(objective.metrics),
            )
        )

    def objective_mean(self, x: FloatArray, objective: Objective) -> FloatArray:
        """The expected objective alone, which costs much less than its uncertainty."""
        return objective.join(
            np.array([self.metric(name).model.mean(x) for name in objective.metrics])
        )[0]

    def objective_contrast(
        self, x: FloatArray, reference: FloatArray, objective: Objective
    ) -> FloatArray:
        """Standard deviation of the difference of the expected objective to a reference's.

        Of ``worst`` it is the root mean square of :meth:`objective_steps` around the difference
        that the expected metrics have.
        """
        if objective.kind == "worst":
            both = self.objective_mean(np.vstack([reference[None], x]), objective)
            steps = self.objective_steps(x, reference, objective)
            apart = steps - (both[1:] - both[0])[:, None]
            return np.asarray(np.sqrt((apart**2).mean(1)))
        fitted = [self.metric(name) for name in objective.metrics]
        means = np.array([m.model.mean(x) for m in fitted])
        stds = np.array([m.contrast(x, reference) for m in fitted])
        return objective.join(means, stds, self.correlations(objective.metrics))[1]

    def objective_steps(
        self, x: FloatArray, reference: FloatArray, objective: Objective
    ) -> FloatArray:
        """Draws of a ``worst`` objective's difference to a reference, shape ``(n, draws)``.

        The metric that is worst may be another at the reference, and another by chance: then the
        difference is one between two metrics, in which no errors cancel. So what is drawn are all
        metrics at both mixtures, from normals that have every metric's doubt at the reference and
        contrast, and between metrics the errors' correlation. The draws are always the same ones.
        """
        fitted = [self.metric(name) for name in objective.metrics]
        level, move = _normals(len(fitted)) @ _root(self.correlations(objective.metrics)).T
        at = reference[None]
        here = np.full((1, len(level)), -np.inf)
        there = np.full((len(x), len(level)), -np.inf)
        coefficients, values = objective.coefficients, objective.reference_values
        for i, (metric, scale) in enumerate(zip(fitted, coefficients, strict=True)):
            steps = metric.contrast(x, reference)
            own, other = metric.doubt(at), metric.doubt(x)
            # Var f(x) = Var f(ref) + 2 Cov(step, f(ref)) + Var step gives the covariance.
            along = (other**2 - own**2 - steps**2) / (2 * np.maximum(own, 1e-300))
            along = np.clip(along, -steps, steps)
            across = np.sqrt(np.maximum(steps**2 - along**2, 0.0))
            start = metric.model.mean(at) - values[i]
            means = metric.model.mean(x) - values[i]
            first = own * level[:, i]
            here = np.maximum(here, scale * (start + first))
            drawn = np.outer(along, level[:, i]) + np.outer(across, move[:, i])
            there = np.maximum(there, scale * (means[:, None] + first + drawn))
        return np.asarray(there - here)

    def predict_one(self, mixture: Mixture) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of every metric for one mixture."""
        if mixture.domains != self.domains:
            raise UserError(
                f"predict: mixture over {', '.join(mixture.domains)}; the fit is over "
                f"{', '.join(self.domains)}"
            )
        found = self.predict(mixture.array()[None])
        return {name: (float(p.mean[0]), float(p.std[0])) for name, p in found.items()}

    def save(self, path: Path) -> None:
        """Write as compressed JSON; nothing in it is executable."""
        value = {
            "version": VERSION,
            "domains": self.domains,
            "correlation": self.correlation.tolist(),
            "metrics": [
                {
                    "name": m.name,
                    "regressor": m.regressor,
                    "state": m.model.state(),
                    "std_scale": m.std_scale,
                    "scores": asdict(m.scores),
                    "candidates": {k: asdict(s) for k, s in m.candidates.items()},
                }
                for m in self.metrics
            ],
        }
        packed = gzip.compress(json.dumps(value).encode(), mtime=0)
        write_whole(path, lambda tmp: tmp.write_bytes(packed))

    @classmethod
    def load(cls, path: Path) -> Surrogate:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: missing, damaged, or of another version.
        """
        try:
            raw: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        except FileNotFoundError as exc:
            raise UserError(f"{path}: no such fit; run `regmix fit`") from exc
        except (OSError, EOFError, zlib.error, ValueError) as exc:
            raise UserError(f"{path}: damaged ({exc}); run `regmix fit` again") from exc
        try:
            if raw["version"] != VERSION:
                raise UserError(f"{path}: version {raw['version']}, expected {VERSION}; fit again")
            metrics = tuple(_restore(m) for m in raw["metrics"])
            return cls(tuple(raw["domains"]), metrics, np.array(raw["correlation"]))
        except (KeyError, TypeError) as exc:
            raise UserError(f"{path}: damaged ({exc!r}); run `regmix fit` again") from exc


def _restore(raw: dict[str, Any]) -> FittedMetric:
    return FittedMetric(
        name=raw["name"],
        regressor=raw["regressor"],
        model=restore(raw["regressor"], raw["state"]),
        std_scale=raw["std_scale"],
        scores=Scores(**raw["scores"]),
        candidates={k: Scores(**s) for k, s in raw["candidates"].items()},
    )


def stack(mixtures: Sequence[Mixture]) -> FloatArray:
    """Weights of several mixtures over the same domains, shape ``(n, n_domains)``."""
    return np.array([m.weights for m in mixtures])


@lru_cache(maxsize=8)
def _normals(metrics: int) -> FloatArray:
    """Independent standard normals, shape ``(2, draws, metrics)``."""
    half = np.random.default_rng([metrics, 13]).standard_normal((2, _DRAWS // 2, metrics))
    return np.concatenate([half, -half], axis=1)


def _root(correlation: FloatArray) -> FloatArray:
    """``R`` with ``R @ R.T`` the matrix, which may be singular."""
    values, vectors = np.linalg.eigh(correlation)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
