"""From settings to a decision: which objective, under which limits, and what is then best."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from regmix.config import FitConfig, LimitsConfig, ObjectiveConfig
from regmix.direction import sign
from regmix.errors import UserError, unknown_name
from regmix.mixture import Mixture
from regmix.objective import Objective
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
    settings: Settings,
    data: Observations,
    surrogate: Surrogate,
    target: str | None,
    refused: Mapping[str, str],
) -> Objective:
    """The study's objective, or one metric's alone, with reference values filled in.

    Args:
        refused: metrics that are not taken of themselves.
    """
    config = settings.objective
    if target is not None:
        return Objective.single(target, config)
    signal = signal_share(data) if config.snr_weights else None
    objective = Objective.from_config(config, data.metric_names, signal, refused)
    if not objective.reference:
        return objective
    mixture = settings.named(objective.reference)
    return objective.against(metric_values(mixture, data, surrogate))


def to_fit(
    config: ObjectiveConfig, data: Observations, refused: Mapping[str, str], target: str | None
) -> list[str]:
    """Metrics that are fitted: all but the refused ones, and those if asked for by name.

    Raises:
        UserError: limits name a metric that there is not, or as
            :meth:`regmix.objective.Objective.from_config`, before anything is fitted.
    """
    limited = {*config.limits.metrics}
    for metric in config.limits.metrics:
        if metric not in data.metric_names:
            raise unknown_name("metric", metric, data.metric_names, "objective.limits.metrics")
    if target is not None:  # the first is what is asked for; limits hold whatever is
        single = data.find_metric(target)
        return [single, *(m for m in data.metric_names if m in limited and m != single)]
    plain = config.model_copy(update={"snr_weights": False})
    named = {*Objective.from_config(plain, data.metric_names, refused=refused).metrics}
    named |= limited
    return [m for m in data.metric_names if m not in refused or m in named]


def gate(refused: Mapping[str, str], fitted: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """What the gate kept out, with reasons, and notes on what was fitted in spite of it."""
    return (
        {m: why for m, why in refused.items() if m not in fitted},
        [
            f"{metric} is fitted since it was asked for by name: {why}"
            for metric, why in refused.items()
            if metric in fitted
        ],
    )


def unheard(
    config: ObjectiveConfig, metrics: Sequence[str], refused: Collection[str]
) -> Iterator[str]:
    """A warning where the gate keeps some texts' bits per byte out of the objective of all."""
    plain = config.model_copy(update={"snr_weights": False})
    wanted = [m for m in Objective.from_config(plain, metrics).metrics if m.startswith("bpb/")]
    silent = [m for m in wanted if m in refused]
    if silent and len(silent) < len(wanted):
        yield (
            f"objective: without {', '.join(silent)}, hardly above the noise of seeds: what is "
            "best for the others can be bad there; longer proxies tell more, and "
            "`objective.weights` counts, `objective.limits` holds such a metric all the same"
        )


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
    """Allowed loss by metric, as a share of the reference's value."""
    for metric in config.metrics:
        if metric not in fitted:
            raise unknown_name("metric", metric, fitted, "objective.limits.metrics")
    common = {} if config.worse is None else dict.fromkeys(objective.metrics, config.worse)
    return {**common, **config.metrics}


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
        spread=data.objective_spread(objective.value),
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
