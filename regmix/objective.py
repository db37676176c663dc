"""Objective: what a person prefers, over predictions and outside the models.

Nothing here is fitted: changing the objective never refits a surrogate. Every objective is a number
of which lower is better, made of one term a metric:

* ``weighted``: the weighted mean of the metrics as they are;
* ``relative``: the weighted mean of each metric's loss against a reference mixture, as a share of
  its value there, so that metrics of different units can be added;
* ``worst``: the largest of those relative losses, each times its weight over the mean weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from regmix.config import ObjectiveConfig
from regmix.direction import sign
from regmix.errors import UserError, unknown_name
from regmix.mixture import FloatArray
from regmix.pages import page

Kind = Literal["weighted", "relative", "worst"]


@dataclass(frozen=True)
class Objective:
    """Terms of metrics, each turned so that lower is better, and how they are joined."""

    metrics: tuple[str, ...]
    weights: tuple[float, ...]
    """Sum to 1."""
    signs: tuple[int, ...]
    kind: Kind = "weighted"
    reference: str = ""
    """Name of the mixture that relative terms are measured against."""
    reference_values: tuple[float, ...] = ()
    """Each metric's value there."""

    @classmethod
    def from_config(
        cls,
        config: ObjectiveConfig,
        available: Sequence[str],
        signal: Mapping[str, float] | None = None,
        refused: Mapping[str, str] | None = None,
    ) -> Objective:
        """The study's objective over the metrics that there are.

        Without weights: the plain mean of :func:`of_themselves`.

        Args:
            signal: share of each metric's variance over the swarm that is not seed noise; by it the
                weights are multiplied where the study asks for ``snr_weights``.
            refused: metrics that are not taken of themselves, only by name, and why.

        Raises:
            UserError: a metric is named that was never measured, the signal is not known, or
                nothing is named and all that would be taken is refused.
        """
        for key, named in (("weights", config.weights), ("directions", config.directions)):
            for name in named:
                if name not in available:
                    raise unknown_name("metric", name, available, f"objective.{key}")
        weights = dict(config.weights)
        if not weights:
            chosen = of_themselves(available)
            reasons = refused or {}
            weights = dict.fromkeys([m for m in chosen if m not in reasons], 1.0)
            if not weights:
                told = [f"{m} ({reasons[m]})" for m in chosen[:3]]
                more = f" and {len(chosen) - 3} more" if len(chosen) > 3 else ""
                raise UserError(
                    f"objective: nothing stands above its seed noise: {', '.join(told)}{more}; see "
                    "`regmix noise`; longer proxies help most; objective.weights, or --target, "
                    f"takes a metric all the same ({page('NOISE', 'what-follows-from-it')})"
                )
        if config.snr_weights:
            weights = _by_signal(weights, signal)
        total = sum(weights.values())
        return cls(
            metrics=tuple(weights),
            weights=tuple(w / total for w in weights.values()),
            signs=tuple(sign(m, config.directions) for m in weights),
            kind=config.kind,
            reference="" if config.kind == "weighted" else config.reference,
        )

    @classmethod
    def single(cls, metric: str, config: ObjectiveConfig) -> Objective:
        """One metric alone."""
        return cls((metric,), (1.0,), (sign(metric, config.directions),))

    def against(self, values: Mapping[str, float]) -> Objective:
        """The same objective with the reference's metrics filled in.

        Raises:
            UserError: a metric is 0 there, so that nothing can be relative to it.
        """
        for metric in self.metrics:
            if values[metric] == 0:
                raise UserError(
                    f"objective.kind {self.kind}: metric '{metric}' is 0 at the reference "
                    f"'{self.reference}'; use kind 'weighted', or leave the metric out"
                )
        return replace(self, reference_values=tuple(values[m] for m in self.metrics))

    def at(self, runs: pd.DataFrame, reference: str) -> Objective | str:
        """The same objective for runs of another size, or why there is none for them.

        Relative losses are shares of what the reference has at the *same* size: against values of
        another one, the metrics that fall most with size would count for more than they should.

        Args:
            runs: finished ones of the size, of any seed: ``mixture`` (its hash) and metrics. The
                reference's values are the means over its seeds.
            reference: hash of the reference mixture.
        """
        if not self.reference:
            return self
        own = runs[runs["mixture"] == reference].reindex(columns=list(self.metrics))
        values = {m: float(own[m].astype(float).mean()) for m in self.metrics}
        lacking = [m for m in self.metrics if math.isnan(values[m])]
        if own.empty:
            return f"its reference '{self.reference}' is not measured there"
        if lacking:
            return f"its reference '{self.reference}' is not measured on {', '.join(lacking)} there"
        try:
            return self.against(values)
        except UserError as exc:
            return str(exc)

    @property
    def coefficients(self) -> FloatArray:
        """Change of each term with its metric, times its weight; shape ``(n_metrics,)``."""
        weights = np.array([w * s for w, s in zip(self.weights, self.signs, strict=True)])
        if self.kind == "weighted":
            return weights
        if self.kind == "worst":
            weights = weights * len(weights)
        return np.asarray(weights / np.abs(self._reference()))

    def value(self, metrics: Mapping[str, FloatArray | float]) -> FloatArray:
        """The objective of metric values; any shape, the same for every metric."""
        missing = [m for m in self.metrics if m not in metrics]
        if missing:
            raise UserError(f"objective: no value for {', '.join(missing)}")
        return self.join(np.array([np.asarray(metrics[m], dtype=float) for m in self.metrics]))[0]

    def join(
        self,
        means: FloatArray,
        stds: FloatArray | None = None,
        correlation: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """The objective and its standard deviation, from those of its metrics.

        Args:
            means: shape ``(n_metrics, …)``.
            stds: the same shape; None: zeros.
            correlation: of the metrics' errors, shape ``(n_metrics, n_metrics)``; None: identity.
        """
        steps = (means.T - (self._reference() if self.kind != "weighted" else 0.0)).T
        terms = (steps.T * self.coefficients).T
        spread = np.zeros_like(terms) if stds is None else (stds.T * self.coefficients).T
        if self.kind == "worst":
            most = terms.argmax(0)[None]
            worst = np.take_along_axis(terms, most, 0)[0]
            return worst, np.abs(np.take_along_axis(spread, most, 0)[0])
        joint = spread if correlation is None else np.tensordot(correlation, spread, axes=1)
        return terms.sum(0), np.sqrt(np.maximum((spread * joint).sum(0), 0.0))

    def _reference(self) -> FloatArray:
        if not self.reference_values:
            raise UserError(f"objective: metrics of the reference '{self.reference}' are not known")
        return np.array(self.reference_values)

    def describe(self) -> str:
        """One line for people."""
        terms = self._terms()
        if self.kind == "weighted":
            return terms
        how = "worst relative loss" if self.kind == "worst" else "mean relative loss"
        return f"{how} against {self.reference}: {terms}"

    def _terms(self) -> str:
        if len(set(self.weights)) == 1 and len(set(self.signs)) == 1:
            kind = "lower" if self.signs[0] > 0 else "higher"
            if len(self.metrics) == 1:
                return f"{self.metrics[0]} ({kind} is better)"
            return f"mean of {len(self.metrics)} metrics ({kind} is better)"
        return " + ".join(
            f"{w * s:.3g}·{m}"
            for w, s, m in zip(self.weights, self.signs, self.metrics, strict=True)
        )


def of_themselves(available: Sequence[str]) -> list[str]:
    """Metrics of an objective without weights.

    Bits per byte of every domain (``bpb/…``) and of every task as a whole (``<task>/bpb``, not of
    its groups, which are parts of it); all metrics if there are none.
    """
    return [
        m for m in available if m.startswith("bpb/") or (m.endswith("/bpb") and m.count("/") == 1)
    ] or list(available)


def _by_signal(weights: dict[str, float], signal: Mapping[str, float] | None) -> dict[str, float]:
    unknown = [m for m in weights if signal is None or not np.isfinite(signal[m])]
    if unknown or signal is None:
        raise UserError(
            "objective.snr_weights: the noise of "
            f"{', '.join(unknown[:5])} is not known; repeat a mixture with other seeds "
            "(swarm.replicates), or turn snr_weights off"
        )
    kept = {m: w * signal[m] for m, w in weights.items() if signal[m] > 0}
    if not kept:
        raise UserError("objective.snr_weights: no metric varies more than its seed noise")
    return kept
