"""Objective: what a person prefers, over predictions and outside the models.

Nothing here is fitted: changing the objective never refits a surrogate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from regmix.config import ObjectiveConfig
from regmix.errors import UserError, unknown_name
from regmix.mixture import FloatArray

_HIGHER = re.compile(
    r"(^|[/_:])"
    r"(acc|acc_norm|accuracy|exact_match|f1|choice_prob_norm|choice_logprob|pass@\d+|score|win_rate)"
    r"($|[/_:])"
)


def direction(metric: str, given: Mapping[str, str]) -> int:
    """+1 if lower values are better, -1 if higher ones are.

    What the study says goes first; otherwise names that end in an accuracy-like word are better
    high, and everything else (bits per byte, losses, perplexities) is better low.
    """
    if metric in given:
        return 1 if given[metric] == "lower" else -1
    return -1 if _HIGHER.search(metric) else 1


@dataclass(frozen=True)
class Objective:
    """A weighted mean of metrics, each turned so that lower is better; lower is better."""

    metrics: tuple[str, ...]
    weights: tuple[float, ...]
    """Sum to 1."""
    signs: tuple[int, ...]

    @classmethod
    def from_config(cls, config: ObjectiveConfig, available: Sequence[str]) -> Objective:
        """The study's objective over the metrics that there are.

        Without weights: the plain mean of every ``bpb/…`` metric, or of all metrics if none is.

        Raises:
            UserError: a metric is named that was never measured.
        """
        for key, named in (("weights", config.weights), ("directions", config.directions)):
            for name in named:
                if name not in available:
                    raise unknown_name("metric", name, available, f"objective.{key}")
        weights = dict(config.weights)
        if not weights:
            chosen = [m for m in available if m.startswith("bpb/")] or list(available)
            weights = dict.fromkeys(chosen, 1.0)
        total = sum(weights.values())
        return cls(
            metrics=tuple(weights),
            weights=tuple(w / total for w in weights.values()),
            signs=tuple(direction(m, config.directions) for m in weights),
        )

    @classmethod
    def single(cls, metric: str, config: ObjectiveConfig) -> Objective:
        """One metric alone."""
        return cls((metric,), (1.0,), (direction(metric, config.directions),))

    @property
    def coefficients(self) -> FloatArray:
        """Signed weights, shape ``(n_metrics,)``: the objective is their sum with the metrics."""
        return np.array([w * s for w, s in zip(self.weights, self.signs, strict=True)])

    def value(self, metrics: Mapping[str, FloatArray | float]) -> FloatArray:
        """The objective of metric values; any shape, the same for every metric."""
        missing = [m for m in self.metrics if m not in metrics]
        if missing:
            raise UserError(f"objective: no value for {', '.join(missing)}")
        parts = [
            c * np.asarray(metrics[m]) for c, m in zip(self.coefficients, self.metrics, strict=True)
        ]
        return np.asarray(np.sum(parts, axis=0))

    def describe(self) -> str:
        """One line for people."""
        if len(set(self.weights)) == 1 and len(set(self.signs)) == 1:
            kind = "lower" if self.signs[0] > 0 else "higher"
            if len(self.metrics) == 1:
                return f"{self.metrics[0]} ({kind} is better)"
            return f"mean of {len(self.metrics)} metrics ({kind} is better)"
        return " + ".join(
            f"{w * s:.3g}·{m}"
            for w, s, m in zip(self.weights, self.signs, self.metrics, strict=True)
        )
