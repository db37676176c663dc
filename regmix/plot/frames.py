"""Plot data: what figures and tables show, as frames; nothing here draws.

Gains are always *reference minus proposal* with every metric turned so that lower is better: a
positive gain means that the proposal is better. Weights are shares of training tokens, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from regmix import assess
from regmix.comparison import Comparison, counting_gain, gains
from regmix.diagnose.curve import Curve
from regmix.direction import sign as sign_of
from regmix.mixture import Mixture
from regmix.noise import SeedNoise
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.plot.paper import INTERVAL90
from regmix.records import RunRecord
from regmix.results import Fit, objective_values
from regmix.solve import Candidate, Proposal
from regmix.store import Store
from regmix.surrogate import Scores, Surrogate

PROPOSAL = "proposal"
REFERENCES = ("natural", "uniform")
"""The alternatives against which a proposal is reported, in this order."""
MAX_PANELS = 12
STATES = ("done", "started", "waiting", "failed")
_GOLDEN = (5**0.5 - 1) / 2


def weights(mixtures: Mapping[str, Mixture]) -> pd.DataFrame:
    """Shares by domain (index) and mixture (columns), the largest share of the proposal first.

    Without a proposal the domains keep their order. A domain that a mixture does not know has
    share 0 in it.
    """
    frame = pd.DataFrame({name: pd.Series(m.as_dict()) for name, m in mixtures.items()})
    known = list(dict.fromkeys(d for m in mixtures.values() for d in m.domains))
    frame = frame.reindex(known).fillna(0.0).rename_axis("domain")
    if PROPOSAL in frame:
        frame = frame.sort_values(PROPOSAL, ascending=False, kind="stable")
    return frame


def predicted_gains(proposal: Proposal) -> pd.DataFrame:
    """Predicted gain over every baseline: ``gain``, ``std``, ``probability``; index: its name."""
    rows = {
        c.name: {"gain": c.gain[0], "std": c.gain[1], "probability": c.probability_beaten}
        for c in proposal.baselines
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["gain", "std", "probability"])


def certainty(proposal: Proposal) -> pd.DataFrame:
    """Ranges of each weight, by domain: ``tied_low``, ``tied_high``, ``refit_low``, ``refit_high``.

    *Tied*: among mixtures that are statistically as good. *Refit*: central 90 % of the optima of
    refits to resampled runs; NaN where none were made.
    """
    frame = pd.DataFrame.from_dict(proposal.tied, orient="index", columns=["tied_low", "tied_high"])
    refits = {} if proposal.stability is None else proposal.stability.weights
    for position, name in enumerate(("refit_low", "refit_high")):
        frame[name] = pd.Series({d: v[position] for d, v in refits.items()}, dtype=float)
    return frame.rename_axis("domain")


def metric_gains(
    comparison: Comparison,
    fit: Fit,
    noise: Mapping[str, SeedNoise],
    directions: Mapping[str, str],
) -> pd.DataFrame:
    """Gains of the objective and of every metric at the target size, beside the predicted ones.

    Args:
        comparison: what was measured at the target size.
        fit: what was predicted.
        noise: between seeds, by metric, where it is known.
        directions: the study's ``objective.directions``.

    Returns:
        One row a reference, metric and seed: ``reference``, ``row`` (0 is the objective),
        ``label``, ``seed``, ``gain``, ``predicted``, ``predicted_std`` (NaN where not fitted) and
        ``limit``, below which a mean gain is within seed noise (NaN where that is not known).
    """
    rows: list[dict[str, Any]] = []
    for name, gain in gains(fit.proposal, comparison).items():
        rows += _gain_rows(
            {"reference": name, "row": 0, "label": "objective"},
            gain.by_seed,
            (gain.predicted, gain.predicted_std),
            fit.objective_noise,
        )
        baseline = next(c for c in fit.proposal.baselines if c.name == name)
        for number, metric in enumerate(target_metrics(comparison), 1):
            sign = _sign(metric, fit.objective, directions)
            rows += _gain_rows(
                {"reference": name, "row": number, "label": metric},
                _paired(comparison.values, name, metric, sign),
                _predicted_metric(fit.proposal.best, baseline, metric, sign),
                noise.get(metric),
            )
    columns = ["reference", "row", "label", "seed", "gain", "predicted", "predicted_std", "limit"]
    return pd.DataFrame(rows, columns=columns)


def target_metrics(comparison: Comparison) -> list[str]:
    """Names of the metrics that the models at the target size were measured on."""
    frame = comparison.values.drop(columns=["mixture", "seed", "run_id", "objective"])
    return [str(m) for m in frame.columns[frame.notna().any()]]


def _gain_rows(
    where: Mapping[str, Any],
    by_seed: Mapping[int, float],
    predicted: tuple[float, float],
    noise: SeedNoise | None,
) -> list[dict[str, Any]]:
    limit = float("nan")
    if noise is not None and by_seed:
        limit = counting_gain(list(by_seed.values()), noise)
    mean, std = predicted
    extra = {"predicted": mean, "predicted_std": std, "limit": limit}
    return [{**where, "seed": seed, "gain": gain, **extra} for seed, gain in by_seed.items()]


def _paired(values: pd.DataFrame, reference: str, metric: str, sign: int) -> dict[int, float]:
    """Gain by seed, over the seeds at which both the reference and the proposal were measured."""
    by_name = {name: g.set_index("seed")[metric] for name, g in values.groupby("mixture")}
    difference = (sign * (by_name[reference] - by_name[PROPOSAL])).dropna()
    seeds = difference.index.to_numpy(dtype=int).tolist()
    return dict(zip(seeds, difference.to_numpy(dtype=float).tolist(), strict=True))


def _predicted_metric(
    best: Candidate, baseline: Candidate, metric: str, sign: int
) -> tuple[float, float]:
    if metric not in best.metrics or metric not in baseline.metrics:
        return float("nan"), float("nan")
    (mean, std), (other, other_std) = best.metrics[metric], baseline.metrics[metric]
    return sign * (other - mean), float(np.hypot(std, other_std))


def _sign(metric: str, objective: Objective, directions: Mapping[str, str]) -> int:
    if metric in objective.metrics:
        return objective.signs[objective.metrics.index(metric)]
    return sign_of(metric, directions)


def held_out(data: Observations, predictions: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Held-out prediction of one metric: ``measured``, ``predicted``, ``std``, by run id.

    Runs that were measured after the fit have no held-out prediction and are left out.

    Args:
        data: what was measured.
        predictions: as :attr:`regmix.results.Fit.held_out`.
        metric: one that was fitted.
    """
    runs = data.metrics.index.intersection(predictions.index)
    return pd.DataFrame(
        {
            "measured": data.metrics.loc[runs, metric],
            "predicted": predictions.loc[runs, metric],
            "std": predictions.loc[runs, f"{metric}_std"],
        }
    )


def held_out_objective(
    data: Observations, predictions: pd.DataFrame, surrogate: Surrogate, objective: Objective
) -> pd.DataFrame:
    """The same for the objective."""
    runs = data.metrics.index.intersection(predictions.index)
    found = assess.held_out_objective(predictions.loc[runs], surrogate, objective)
    return pd.DataFrame(
        {
            "measured": objective_values(data, objective).loc[runs],
            "predicted": found.mean,
            "std": found.std,
        },
        index=runs,
    )


def scores(diagnostics: Mapping[str, Any]) -> pd.DataFrame:
    """Held-out record by metric: regressor, scores, ``spread``, ``noise``, their ratio ``snr``."""
    rows = {
        name: {
            "regressor": entry["regressor"],
            **entry["scores"],
            "spread": entry["spread"],
            "noise": np.nan if entry["noise"] is None else entry["noise"],
        }
        for name, entry in diagnostics["metrics"].items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")
    noise = frame["noise"].where(frame["noise"] > 0)
    return frame.assign(snr=frame["spread"] / noise)


def candidates(diagnostics: Mapping[str, Any]) -> pd.DataFrame:
    """Held-out scores of every regressor that was tried: one row a metric and regressor."""
    rows = [
        {"metric": name, "regressor": tried, "chosen": tried == entry["regressor"], **result}
        for name, entry in diagnostics["metrics"].items()
        for tried, result in entry["candidates"].items()
    ]
    columns = ["metric", "regressor", "chosen", *(f.name for f in fields(Scores))]
    return pd.DataFrame(rows, columns=columns)


def panels(spearman: pd.Series, limit: int = MAX_PANELS) -> list[str]:
    """Which metrics to draw, worst rank correlation first; the worst and the best if too many."""
    ordered = [str(m) for m in spearman.sort_values(kind="stable").index]
    if len(ordered) <= limit:
        return ordered
    worst = limit // 2
    return ordered[:worst] + ordered[len(ordered) - (limit - worst) :]


def shares(data: Observations, order: Sequence[str]) -> pd.DataFrame:
    """What the swarm sampled: ``domain``, ``run_id``, ``share``, ``offset``; domains in ``order``.

    ``offset`` in [-0.5, 0.5) spreads the runs of a domain, in an order without clusters.
    """
    known = [d for d in order if d in data.weights]
    wide = data.weights[known].rename_axis("run_id").reset_index()
    frame = wide.melt("run_id", var_name="domain", value_name="share")
    position = np.tile(np.arange(len(wide)), len(known))
    return frame.assign(offset=position * _GOLDEN % 1 - 0.5)


def share_quartiles(data: Observations, order: Sequence[str]) -> pd.DataFrame:
    """``low``, ``q25``, ``median``, ``q75``, ``high`` of the sampled shares, by domain."""
    known = [d for d in order if d in data.weights]
    frame = data.weights[known].quantile([0, 0.25, 0.5, 0.75, 1]).T
    frame.columns = pd.Index(["low", "q25", "median", "q75", "high"])
    return frame.rename_axis("domain")


def run_objectives(data: Observations, objective: Objective) -> pd.DataFrame:
    """Objective of every run, best first: ``name``, ``role``, ``objective``; index: run id."""
    values = objective_values(data, objective)
    frame = data.info[["name", "role"]].assign(objective=values)
    return frame.sort_values("objective", kind="stable").rename_axis("run_id")


def states(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Number of runs by role (index) and state (columns, the four that there are)."""
    found = pd.DataFrame(
        [{"role": r.spec.role, "status": r.status} for r in records], columns=["role", "status"]
    )
    counts = pd.crosstab(found["role"], found["status"])
    return counts.reindex(columns=list(STATES), fill_value=0)


def failures(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Failed runs: ``name``, ``role``, ``run_id``, ``reason``."""
    rows = [
        [r.spec.name, r.spec.role, r.spec.run_id, str(r.failure().get("reason", ""))]
        for r in records
        if r.status == "failed"
    ]
    return pd.DataFrame(rows, columns=["name", "role", "run_id", "reason"])


def realised(store: Store, order: Sequence[str]) -> pd.DataFrame:
    """How far the trained shares are from the requested ones, by domain, over finished runs.

    Returns:
        ``runs``, ``difference`` (the largest, absolute), ``epochs`` (the largest).
    """
    frame = store.query(
        "select domain, count(*) as runs, max(abs(requested - realised)) as difference, "
        "max(epochs) as epochs from mixtures where realised is not null group by domain"
    ).set_index("domain")
    return frame.reindex([d for d in order if d in frame.index])


def environments(store: Store) -> pd.DataFrame:
    """What the runs were computed with: ``key``, ``value``, ``runs``."""
    return store.query(
        "select key, value, count(distinct run_id) as runs from environments "
        "group by key, value order by key, runs desc, value"
    )


def learning(curve: Curve) -> pd.DataFrame:
    """The learning curve with 90 % bands, and what more runs would give.

    Returns:
        ``kind`` (``seen``; ``forecast``: from the last size on by a power law), ``runs``,
        ``spearman``, ``low``, ``high``.
    """
    points, found = curve.points.reset_index(), curve.forecast
    half = INTERVAL90 * points["std"]
    seen = points.assign(kind="seen", low=points["spearman"] - half, high=points["spearman"] + half)
    lack, last = 1 - float(points["spearman"].iloc[-1]), float(points["runs"].iloc[-1])
    now = 1 - lack * (found.runs / last) ** -found.exponent
    ahead = pd.DataFrame(
        {
            "kind": "forecast",
            "runs": [found.runs, found.runs + found.more],
            "spearman": [now, now + found.gain],
            "low": [now, now + found.low],
            "high": [now, now + found.high],
        }
    )
    columns = ["kind", "runs", "spearman", "low", "high"]
    return pd.concat([seen[columns], ahead[columns]], ignore_index=True)
