"""Which mixtures are allowed, and which of them are trained."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from regmix.config.base import (
    AsTuple,
    Bound,
    Names,
    Positive,
    PositiveFloat,
    Share,
    Strict,
    ordered,
)


class SwarmConfig(Strict):
    """Which mixtures the proxies are trained on."""

    runs: Positive = 48
    """Mixtures to fit, uniform among them; natural, its replicates and single domains on top."""
    temperature: PositiveFloat = 0.5
    """The Dirichlet's centre is the natural mixture to this power, normalised."""
    concentration: Annotated[tuple[PositiveFloat, PositiveFloat], AsTuple] = (0.5, 5.0)
    """Range of the Dirichlet's total concentration divided by the number of domains."""
    replicates: Annotated[int, Field(ge=1)] = 3
    """Runs of the natural mixture, each with another seed: the noise floor."""
    repeat: Names = ()
    """More mixtures to run with as many seeds: uniform, or files' names in ``mixes/``. They say
    whether noise differs between mixtures."""
    baselines: bool = True
    """Train uniform and every domain alone too, as far as the space allows them."""

    @model_validator(mode="after")
    def _ordered(self) -> SwarmConfig:
        if self.concentration[0] > self.concentration[1]:
            raise ValueError("concentration: the first value must not exceed the second")
        return self


class GroupBound(Strict):
    """Bounds on the sum of several weights."""

    domains: Names = ()
    """Names or patterns, such as ``web/*``."""
    group: str | None = None
    """Instead: all domains of this ``group``."""
    tag: str | None = None
    """Instead: all domains with this tag."""
    lower: Share = 0.0
    upper: Share = 1.0

    @model_validator(mode="after")
    def _checked(self) -> GroupBound:
        if bool(self.domains) + (self.group is not None) + (self.tag is not None) != 1:
            raise ValueError("give one of 'domains', 'group' and 'tag'")
        ordered((self.lower, self.upper))
        return self


class RatioBound(Strict):
    """Bounds on one sum of weights over another."""

    of: Annotated[Names, Field(min_length=1)]
    to: Annotated[Names, Field(min_length=1)]
    lower: Annotated[float, Field(ge=0)] = 0.0
    upper: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _checked(self) -> RatioBound:
        if self.upper is not None:
            ordered((self.lower, self.upper))
        elif self.lower == 0:
            raise ValueError("give 'lower' or 'upper'")
        return self


class SpaceConfig(Strict):
    """The allowed mixtures."""

    bounds: dict[str, Bound] = Field(default_factory=dict)
    """Per domain: [lower, upper]."""
    groups: dict[str, GroupBound] = Field(default_factory=dict)
    ratios: dict[str, RatioBound] = Field(default_factory=dict)
    pinned: dict[str, dict[str, PositiveFloat]] = Field(default_factory=dict)
    """By a name of your own: domains that keep these shares relative to each other."""
    max_epochs: PositiveFloat | None = None
    """Repetition cap: weight · budget_tokens ≤ max_epochs · available tokens."""
    budget_tokens: Positive | None = None
    """Training tokens of the full run; needed by ``max_epochs``."""

    @field_validator("bounds", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _checked(self) -> SpaceConfig:
        if self.max_epochs is not None and self.budget_tokens is None:
            raise ValueError("max_epochs needs budget_tokens")
        for name, shares in self.pinned.items():
            if len(shares) < 2:
                raise ValueError(f"pinned.{name}: shares of two or more domains are needed")
        pinned = [d for shares in self.pinned.values() for d in shares]
        for domain in pinned:
            if pinned.count(domain) > 1:
                raise ValueError(f"pinned: domain '{domain}' stands in two sets; join them")
        return self
