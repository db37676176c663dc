"""How well a surrogate predicts the objective, and what should make a person careful."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from regmix.fit import score
from regmix.mixture import FloatArray
from regmix.noise import ADVISED_SNR, LEAST_SNR
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.regressors import Prediction
from regmix.surrogate import Scores, Surrogate

ADVISED_SPEARMAN = 0.9
"""What a swarm should reach for its optimum to be trusted (DECISIONS)."""
LEAST_SPEARMAN = 0.5
"""Below it a single metric's surface means little."""
BARELY_VARIED = 0.01
"""Standard deviation of a weight over the swarm below which its effect cannot be seen."""
RUNS_A_DOMAIN = 3
"""Advised least number (Olmix, arXiv 2602.12237)."""
_SOME = 5


def values(data: Observations, objective: Objective) -> FloatArray:
    """The measured objective of every run, shape ``(n_runs,)``."""
    return objective.value({m: data.y(m) for m in objective.metrics})


def held_out_objective(
    held_out: pd.DataFrame, surrogate: Surrogate, objective: Objective
) -> Prediction:
    """The objective of held-out predictions, rows as in ``held_out``."""
    means = np.array([held_out[m].to_numpy() for m in objective.metrics])
    stds = np.array([held_out[f"{m}_std"].to_numpy() for m in objective.metrics])
    return Prediction(*objective.join(means, stds, surrogate.correlations(objective.metrics)))


def objective_scores(
    data: Observations, held_out: pd.DataFrame, surrogate: Surrogate, objective: Objective
) -> Scores:
    """Held-out scores of the objective itself."""
    aligned = held_out.loc[data.weights.index]
    return score(values(data, objective), held_out_objective(aligned, surrogate, objective))


def warnings(
    data: Observations, surrogate: Surrogate, objective: Objective, scores: Scores
) -> tuple[str, ...]:
    """What to be careful about, the decision itself first."""
    return (
        *_objective_warnings(data, objective, scores),
        *_swarm_warnings(data),
        *_metric_warnings(data, surrogate),
    )


def _objective_warnings(data: Observations, objective: Objective, scores: Scores) -> Iterator[str]:
    noise = data.objective_noise(objective.value)
    spread = data.objective_spread(objective.value)
    if spread < ADVISED_SNR * noise:
        yield (
            f"objective: the swarm's spread is {spread / noise:.1f}x the seed noise; below "
            f"{ADVISED_SNR:g}x an optimum can be a coin toss; longer proxies help most"
        )
    if scores.spearman < ADVISED_SPEARMAN:
        yield (
            f"objective: held-out rank correlation {scores.spearman:.2f}, below "
            f"{ADVISED_SPEARMAN:g}: take the proposal with care"
        )


def _swarm_warnings(data: Observations) -> Iterator[str]:
    runs, domains = data.weights.shape
    if runs < domains:
        yield (
            f"{runs} runs for {domains} domains: not even a straight line through them is "
            "determined; what is proposed rests on the regressors' priors"
        )
    elif runs < RUNS_A_DOMAIN * domains:
        yield (
            f"{runs} runs for {domains} domains: effects of single domains can hardly be told "
            f"apart; {RUNS_A_DOMAIN * domains} or more are advised (Olmix, arXiv 2602.12237)"
        )
    spread = data.weights.std()
    flat = [name for name in data.domains if spread[name] < BARELY_VARIED]
    if flat:
        yield (
            f"weights of {_list(flat)} hardly vary over the runs; their effect cannot be identified"
        )


def _metric_warnings(data: Observations, surrogate: Surrogate) -> Iterator[str]:
    weak = [
        f"{m.name} ({m.scores.spearman:.2f})"
        for m in surrogate.metrics
        if m.scores.spearman < LEAST_SPEARMAN
    ]
    if weak:
        yield f"held-out rank correlation below {LEAST_SPEARMAN:g}, not reliable: {_list(weak)}"
    noise, spread = data.noise(), data.spread()
    loud = [m.name for m in surrogate.metrics if spread[m.name] < LEAST_SNR * noise[m.name]]
    if loud:
        yield (
            f"the swarm's spread is below {LEAST_SNR:g}x the seed noise on {_list(loud)}; "
            "more tokens are needed"
        )


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return ", ".join(names[:_SOME]) + more
