"""What is optimised, within which limits, and how the surrogate is fitted and solved."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from regmix.config.base import PATTERN, Names, Positive, PositiveFloat, Strict


class LimitsConfig(Strict):
    """No metric may be worse than at a reference mixture by more than a share of its value."""

    reference: str = "natural"
    """natural, uniform, or a mixture file's name in ``mixes/``."""
    worse: float | None = None
    """Share allowed for every metric of the objective; 0: none may be worse."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Shares for single metrics; they go before ``worse``."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """Probability with which each limit is to hold, by the surrogate."""


class ObjectiveConfig(Strict):
    """What is optimised; lower-is-better metrics as they are, the others turned."""

    kind: Literal["weighted", "relative", "worst"] = "weighted"
    """Weighted mean; weighted mean of relative losses against ``reference``; the worst of them."""
    weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Metric to weight; empty: every bpb/<domain>, or every metric if there is none."""
    directions: dict[str, Literal["lower", "higher"]] = Field(default_factory=dict)
    """Only for metrics whose name does not tell."""
    snr_weights: bool = False
    """Multiply each weight by the share of the metric's variance that is not seed noise."""
    reference: str = "natural"
    """natural, uniform, or a mixture file's name in ``mixes/``; for relative and worst."""
    limits: LimitsConfig = LimitsConfig()
    groups: dict[str, Annotated[Names, Field(min_length=1)]] = Field(default_factory=dict)
    """Metrics by a name of your own, for `regmix pareto`: names or patterns, such as ``mmlu/*``."""

    @field_validator("groups")
    @classmethod
    def _plain(cls, value: dict[str, Names]) -> dict[str, Names]:
        for name in value:
            if not name or PATTERN.search(name) or "," in name:
                raise ValueError(f"group '{name}': a name holds no comma, '*', '?' or '['")
        return value


class FitConfig(Strict):
    """How the surrogate is fitted and solved."""

    regressor: str = "auto"
    folds: Annotated[int, Field(ge=2)] = 5
    repeats: Annotated[int, Field(ge=1)] | None = None
    """Of the folds; empty: 3 below 96 runs, 2 below 256, then 1."""
    monotone: dict[str, dict[str, Literal["rising", "falling"]]] = Field(default_factory=dict)
    """Metric to domain to direction, for regressors that can be held to it (lightgbm)."""
    samples: Positive = 20_000
    """Mixtures simulated by the solver."""
    top_k: Positive = 100
    """Best simulated mixtures whose mean starts the local search."""
    caution: Annotated[float, Field(ge=0)] | None = None
    """Standard deviations added to the objective in the search; empty: 0 for a convex surrogate,
    else 1."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Pull to natural: this many swarm spreads of the objective per nat of divergence."""
    exclude: Names = ()
    """Runs that are not fitted: names or ids."""
    flagged: Literal["keep", "exclude"] = "keep"
    """What becomes of runs that `regmix flags` finds something wrong with."""
    bootstraps: Annotated[int, Field(ge=0)] = 12
    """Refits on resampled runs that say how far the optimum moves."""
