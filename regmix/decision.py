"""From settings to a decision: which objective, under which limits, and what is then best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from regmix import assess, noise
from regmix.config import FitConfig, LimitsConfig, ObjectiveConfig
from regmix.direction import sign
from regmix.errors import UserError, unknown_name
from regmix.mixture import Mixture
from regmix.objective import Objective, of_themselves
from regmix.observations import Observations
from regmix.solve import Limit, Problem, pose
from regmix.space import Space
from regmix.surrogate import Surrogate

Named = Callable[[str], Mixture]
"""A mixture by the name that a person gives it."""


@dataclass(frozen=True)
class Settings:
    """What a study says about deciding."""

    objective: ObjectiveConfig
    fit: FitConfig
    space: Space
    named: Named
    prior: Mixture
    """What ``fit.kl`` pulls to."""


def objective_for(
    settings: Settings, data: Observations, surrogate: Surrogate, target: str | None
) -> Objective:
    """The study's objective, or one metric's alone, with reference values filled in."""
    config = settings.objective
    if target is not None:
        return Objective.single(target, config)
    signal = signal_share(data) if config.snr_weights else None
    objective = Objective.from_config(config, data.metric_names, signal, noise.noisy(data))
    if not objective.reference:
        return objective
    mixture = settings.named(objective.reference)
    return objective.against(metric_values(mixture, data, surrogate))


def left_out(settings: Settings, data: Observations) -> list[str]:
    """Metrics that an objective without weights leaves to noise, in words; [] with weights."""
    if settings.objective.weights:
        return []
    chosen = of_themselves(data.metric_names)
    reasons = {m: why for m, why in noise.noisy(data).items() if m in chosen}
    if not reasons:
        return []
    if len(reasons) == len(chosen):
        return [
            f"no metric's spread reaches {noise.LEAST_SNR:g}x its seed noise: all are in the "
            "objective, and its optimum is one of seeds; longer proxies help most"
        ]
    return [
        f"{metric} is not in the objective: {why}; objective.weights takes it all the same"
        for metric, why in reasons.items()
    ]


def limits_for(
    settings: Settings, data: Observations, surrogate: Surrogate, objective: Objective
) -> tuple[Limit, ...]:
    """The study's ``objective.limits``, in the unit of each metric.

    Raises:
        UserError: a metric is named that was not fitted.
    """
    config = settings.objective.limits
    shares = limit_shares(config, objective, surrogate.metric_names)
    if not shares:
        return ()
    reference = settings.named(config.reference)
    values = metric_values(reference, data, surrogate)
    return tuple(
        Limit(
            metric=metric,
            sign=sign(metric, settings.objective.directions),
            reference=reference,
            reference_name=config.reference,
            allowed=share * abs(values[metric]),
            confidence=config.confidence,
            scale=abs(values[metric]),
        )
        for metric, share in shares.items()
    )


def limit_shares(
    config: LimitsConfig, objective: Objective, fitted: tuple[str, ...]
) -> dict[str, float]:
    """Allowed loss by metric, as a share of the reference's value.

    Where one target is fitted alone, limits on other metrics are not known and not kept.
    """
    for metric in config.metrics:
        if metric not in fitted and len(fitted) > 1:
            raise unknown_name("metric", metric, fitted, "objective.limits.metrics")
    common = {} if config.worse is None else dict.fromkeys(objective.metrics, config.worse)
    return {m: s for m, s in {**common, **config.metrics}.items() if m in fitted}


def problem_for(
    settings: Settings, data: Observations, surrogate: Surrogate, objective: Objective
) -> Problem:
    """What the solver is given."""
    limits = limits_for(settings, data, surrogate, objective)
    return pose(
        surrogate,
        objective,
        settings.space,
        settings.fit,
        limits=limits,
        prior=settings.prior,
        spread=float(assess.values(data, objective).std(ddof=1)),
    )


def metric_values(
    mixture: Mixture, data: Observations, surrogate: Surrogate
) -> Mapping[str, float]:
    """Every fitted metric at a mixture: predicted, which is less noisy than one measured run."""
    if mixture.domains != data.domains:
        raise UserError(
            f"reference over {', '.join(mixture.domains)}; the study has {', '.join(data.domains)}"
        )
    return {name: mean for name, (mean, _) in surrogate.predict_one(mixture).items()}


def signal_share(data: Observations) -> dict[str, float]:
    """Share of each metric's variance over the swarm that is not seed noise; NaN if unknown."""
    share = 1 - (data.noise() / data.spread()) ** 2
    return {str(m): float(np.maximum(v, 0)) if v == v else float("nan") for m, v in share.items()}
