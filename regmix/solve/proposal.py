"""Proposal: a mixture, what is predicted of it, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from regmix import markup, quantities
from regmix.mixture import Mixture
from regmix.transfer import Verdict

Interval = tuple[float, float]

EXTRAPOLATES = 1.5
"""A mixture further from every run than this many typical distances between runs extrapolates."""


@dataclass(frozen=True)
class Candidate:
    """A mixture beside the proposal: predicted metrics and how likely the proposal beats it."""

    name: str
    mixture: Mixture
    objective: tuple[float, float]
    """Mean and standard deviation of a measurement."""
    metrics: dict[str, tuple[float, float]]
    gain: tuple[float, float]
    """Expected objective here minus that of the proposal, and its standard deviation."""
    probability_beaten: float
    """That the proposal's expected objective is lower."""
    nearest_distance: float
    """Total variation to the nearest run."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "weights": self.mixture.as_dict(),
            "objective": _pair(self.objective),
            "metrics": {m: _pair(v) for m, v in self.metrics.items()},
            "gain": _pair(self.gain),
            "probability_beaten": self.probability_beaten,
            "nearest_distance": self.nearest_distance,
        }

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Candidate:
        """From plain values."""
        return cls(
            name=raw["name"],
            mixture=Mixture.of(raw["weights"]),
            objective=_tuple(raw["objective"]),
            metrics={m: _tuple(v) for m, v in raw["metrics"].items()},
            gain=_tuple(raw["gain"]),
            probability_beaten=raw["probability_beaten"],
            nearest_distance=raw["nearest_distance"],
        )


@dataclass(frozen=True)
class Relaxed:
    """What an active constraint costs."""

    constraint: str
    gain: float
    """How much lower the objective would be without it."""


@dataclass(frozen=True)
class Pulled:
    """What a pull to natural changes."""

    strength: float
    """Swarm spreads of the objective a nat."""
    distance: float
    """Total variation from natural."""
    loss: float
    """How much higher what the search lowers (objective and caution) is than at the proposal."""


@dataclass(frozen=True)
class Stability:
    """How far the optimum moves when the runs are resampled."""

    refits: int
    distance: float
    """Mean total variation between the optima of two refits."""
    weights: dict[str, Interval]
    """Central 90 % of each domain's weight."""


@dataclass(frozen=True)
class Proposal:
    """The best mixture, and how sure that is."""

    best: Candidate
    baselines: tuple[Candidate, ...]
    method: str
    """How it was found: ``simulation``, ``multi-start`` or ``convex``."""
    gap: float | None
    """Convex: how much lower the lowered function can be at most."""
    active: tuple[str, ...]
    """Constraints that hold it back."""
    nearest_run: str
    typical_distance: float
    """Median total variation of a run to its nearest other run."""
    tied: dict[str, Interval]
    """Per domain, the range its weight takes among mixtures that are statistically as good."""
    stability: Stability | None = None
    relaxed: tuple[Relaxed, ...] = ()
    pulled: tuple[Pulled, ...] = field(default=())
    transfer: tuple[Verdict, ...] = ()
    """What larger sizes say of the order that proxies put mixtures in; () where none was asked."""

    @property
    def nearest_distance(self) -> float:
        """Total variation to the nearest run."""
        return self.best.nearest_distance

    @property
    def extrapolates(self) -> bool:
        """Whether the proposal lies further from any run than runs lie from each other."""
        return self.nearest_distance > EXTRAPOLATES * self.typical_distance

    def baseline(self, name: str) -> Candidate | None:
        """A baseline by name, where there is one."""
        return next((c for c in self.baselines if c.name == name), None)

    def _repr_html_(self) -> str:
        """For notebooks: shares with their ranges, and gains over the baselines."""
        percent, names = quantities.percent, [c.name for c in self.baselines]
        mixtures = [c.mixture for c in self.baselines]
        rows = [
            (d, percent(w), f"{percent(self.tied[d][0])} to {percent(self.tied[d][1])}",
             *(percent(m[d]) for m in mixtures))
            for d, w in sorted(self.best.mixture.as_dict().items(), key=lambda item: -item[1])
        ]  # fmt: skip
        gained = [
            (c.name, quantities.with_error(*c.gain, sign=True),
             quantities.chance(c.probability_beaten))
            for c in self.baselines
        ]  # fmt: skip
        return markup.table(("domain", "proposal", "as good", *names), rows) + markup.table(
            ("gain over", "predicted", "better with probability"), gained
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``proposal.yaml``."""
        return {
            "kind": "proposal",
            "best": self.best.as_dict(),
            "baselines": [c.as_dict() for c in self.baselines],
            "method": self.method,
            "gap": self.gap,
            "active_constraints": list(self.active),
            "nearest_run": self.nearest_run,
            "typical_distance": self.typical_distance,
            "extrapolates": self.extrapolates,
            "tied": _ranges(self.tied),
            "stability": None
            if self.stability is None
            else {**asdict(self.stability), "weights": _ranges(self.stability.weights)},
            "relaxed": [asdict(r) for r in self.relaxed],
            "pulled": [asdict(p) for p in self.pulled],
            "transfer": [_listed(asdict(v)) for v in self.transfer],
        }

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Proposal:
        """From plain values."""
        stability = raw["stability"]
        if stability is not None:
            stability = Stability(**{**stability, "weights": _intervals(stability["weights"])})
        return cls(
            best=Candidate.of(raw["best"]),
            baselines=tuple(Candidate.of(c) for c in raw["baselines"]),
            method=raw["method"],
            gap=raw["gap"],
            active=tuple(raw["active_constraints"]),
            nearest_run=raw["nearest_run"],
            typical_distance=raw["typical_distance"],
            tied=_intervals(raw["tied"]),
            stability=stability,
            relaxed=tuple(Relaxed(**r) for r in raw["relaxed"]),
            pulled=tuple(Pulled(**p) for p in raw["pulled"]),
            transfer=tuple(Verdict.of(v) for v in raw.get("transfer", ())),  # older fits have none
        )


def _pair(value: tuple[float, float]) -> dict[str, float]:
    return {"mean": value[0], "std": value[1]}


def _tuple(raw: dict[str, float]) -> tuple[float, float]:
    return raw["mean"], raw["std"]


def _listed(raw: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, which YAML has a word for."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in raw.items()}


def _ranges(found: dict[str, Interval]) -> dict[str, list[float]]:
    return {d: list(v) for d, v in found.items()}


def _intervals(raw: dict[str, list[float]]) -> dict[str, Interval]:
    return {d: (v[0], v[1]) for d, v in raw.items()}
