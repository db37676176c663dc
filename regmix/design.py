"""Swarm designs: which mixtures the proxies are trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from regmix.config import SwarmConfig
from regmix.mixture import FloatArray, Mixture
from regmix.space import Sample, Space

MINIMUM_WEIGHT = 2e-4
"""Sampled weights below this are set to 0, as RegMix does: a share of a run that small is noise."""


@dataclass(frozen=True)
class Planned:
    """One mixture of a swarm."""

    name: str
    role: str
    """``swarm``, ``baseline`` (natural, uniform), ``replicate``, ``single`` (one domain alone)."""
    mixture: Mixture
    seed: int


@dataclass(frozen=True)
class Swarm:
    """The runs of one swarm, and how they were found."""

    runs: tuple[Planned, ...]
    acceptance: float
    """Share of sampled mixtures that the space allowed as they fell."""
    pulled: int
    notes: tuple[str, ...]
    """What a person should know: baselines that the space does not allow."""


def swarm(
    config: SwarmConfig,
    space: Space,
    natural: Mixture,
    seed: int,
    repeated: Mapping[str, Mixture] | None = None,
) -> Swarm:
    """A space-filling swarm around the natural mixture.

    Sampled mixtures follow RegMix (arXiv 2407.01492, section 3.1): a Dirichlet around the natural
    distribution, flattened by a temperature, over a wide range of concentrations, small weights
    set to 0. All runs share one seed (common random numbers), except the replicates of the natural
    mixture, which take the seeds after it.

    Uniform is one of the ``config.runs`` mixtures. Every domain alone comes on top: a reference
    that is measured and shown, but not fitted, since a surface that must also pass through the
    corners of the simplex is a worse one where mixtures are sought (docs/DECISIONS.md).

    Args:
        repeated: ``config.repeat`` with their mixtures, repeated as natural is.
    """
    notes: list[str] = []
    fixed = _baselines(config, space, natural, seed, notes)
    count = config.runs - sum(p.role == "baseline" for p in fixed)
    drawn = [_draw(config, space, natural, seed, index) for index in range(count)]
    sampled = [
        Planned(f"mix-{i:04d}", "swarm", Mixture.from_array(space.domains, d.weights[0]), seed)
        for i, d in enumerate(drawn)
    ]
    proposed, pulled = sum(d.proposed for d in drawn), sum(d.pulled for d in drawn)
    planned = {(p.mixture.id, p.seed) for p in fixed}
    replicates: list[Planned] = []
    for name, mixture in {"natural": natural, **(repeated or {})}.items():
        for run in _replicates(config, space, name, mixture, seed, notes):
            if (mixture.id, run.seed) not in planned:  # one mixture may have two names
                planned.add((mixture.id, run.seed))
                replicates.append(run)
    acceptance = (count - pulled) / proposed if proposed else 1.0
    return Swarm((*replicates, *fixed, *sampled), acceptance, pulled, tuple(notes))


def spread(planned: Sequence[Planned], count: int) -> list[Planned]:
    """Some mixtures of a swarm that lie far apart: the baselines, then always the farthest one.

    Args:
        planned: of one seed; single domains and replicates are passed over.
        count: how many; all of them if there are not as many.
    """
    usable = [p for p in planned if p.role in ("baseline", "swarm")]
    chosen = [p for p in usable if p.role == "baseline"][:count]
    rest = [p for p in usable if p not in chosen]
    while rest and len(chosen) < count:
        near = [min((_distance(p, c) for c in chosen), default=0.0) for p in rest]
        chosen.append(rest.pop(int(np.argmax(near))))
    return chosen


def _distance(one: Planned, other: Planned) -> float:
    """Total variation."""
    weights = other.mixture.as_dict()
    return sum(abs(w - weights[d]) for d, w in one.mixture.as_dict().items()) / 2


def _draw(config: SwarmConfig, space: Space, natural: Mixture, seed: int, index: int) -> Sample:
    """One sampled mixture; a function of its index, so that a larger swarm extends a smaller."""
    rng = np.random.default_rng([seed, 3, index])
    centre = natural.array() ** config.temperature
    drawn = space.sample(1, rng, centre=centre / centre.sum(), concentration=config.concentration)
    return replace(drawn, weights=_drop_small(drawn.weights, space))


def _replicates(
    config: SwarmConfig,
    space: Space,
    name: str,
    mixture: Mixture,
    seed: int,
    notes: list[str],
) -> list[Planned]:
    broken = space.violations(mixture)
    if broken:
        notes.append(f"the {name} mixture breaks {'; '.join(broken)}; it is trained all the same")
    return [
        Planned(name if i == 0 else f"{name}-seed{i}", "baseline" if i == 0 else "replicate",
                mixture, seed + i)
        for i in range(config.replicates)
    ]  # fmt: skip


def _baselines(
    config: SwarmConfig, space: Space, natural: Mixture, seed: int, notes: list[str]
) -> list[Planned]:
    if not config.baselines:
        return []
    wanted = [("uniform", "baseline", Mixture.uniform(space.domains))]
    wanted += [(f"only-{d}", "single", Mixture.only(d, space.domains)) for d in space.domains]
    found = []
    for name, role, mixture in wanted:
        broken = space.violations(mixture)
        if broken:
            notes.append(f"baseline {name} is left out: {'; '.join(broken)}")
        elif mixture.id != natural.id:
            found.append(Planned(name, role, mixture, seed))
    return found


def _drop_small(weights: FloatArray, space: Space) -> FloatArray:
    """Zero what is too small to matter, unless the space does not allow the result."""
    cut = np.where(weights < MINIMUM_WEIGHT, 0.0, weights)
    cut /= cut.sum(1, keepdims=True)
    return np.where(space.contains(cut)[:, None], cut, weights)
