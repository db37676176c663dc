"""Plot data on what to believe: gains with intervals, noise floor, distances, larger sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from regmix import noise
from regmix.comparison import Gain
from regmix.mixture import Mixture
from regmix.noise import SeedNoise
from regmix.observations import Observations
from regmix.plot import frames
from regmix.plot.paper import INTERVAL90
from regmix.records import RunRecord
from regmix.solve import BEST_RUN, EXTRAPOLATES, Proposal

REFERENCES = (*frames.REFERENCES, BEST_RUN)
"""What gains are shown over; one domain alone, a reference too, would stretch the scale."""


def gains(proposal: Proposal, measured: Mapping[str, Gain], known: SeedNoise) -> pd.DataFrame:
    """Gain of the objective over :data:`REFERENCES`, predicted and measured, with intervals.

    Args:
        measured: as :func:`regmix.comparison.gains`.
        known: of the objective, between seeds.

    Returns:
        ``reference``, ``kind`` (``predicted``, ``measured``, ``seed``), ``seed`` (-1 for none),
        ``gain``, ``low``, ``high``: 90 % of the prediction at proxy size, 95 % of the measured mean
        by Student's t on seed noise; NaN where that is not known, and for single seeds.
    """
    rows: list[tuple[str, str, int, float, float, float]] = []
    for baseline in proposal.baselines:
        if baseline.name not in REFERENCES:
            continue
        mean, std = baseline.gain
        half = INTERVAL90 * std
        rows.append((baseline.name, "predicted", -1, mean, mean - half, mean + half))
        gain = measured.get(baseline.name)
        if gain is None:
            continue
        limit = gain.limit(known)
        rows.append(
            (baseline.name, "measured", -1, gain.mean, gain.mean - limit, gain.mean + limit)
        )
        rows += [
            (baseline.name, "seed", seed, value, math.nan, math.nan)
            for seed, value in gain.by_seed.items()
        ]
    return pd.DataFrame(rows, columns=["reference", "kind", "seed", "gain", "low", "high"])


def noise_floor(data: Observations, known: SeedNoise, spread: float) -> pd.DataFrame:
    """Spread over seed noise, the objective first, then every metric, the clearest first.

    Args:
        known: of the objective, between seeds.
        spread: of the objective over the runs.

    Returns:
        ``metric``, ``spread``, ``noise`` (standard deviations, in the metric's unit), ``snr``
        (their ratio; NaN: nothing was repeated), ``kind`` (as :func:`regmix.noise.kind`).
    """
    floor = noise.floor(data).metrics
    snr = noise.ratio(spread, known.std)
    first = pd.DataFrame(
        {"metric": ["objective"], "spread": [spread], "noise": [known.std], "snr": [snr],
         "kind": [noise.kind(snr)]}
    )  # fmt: skip
    rest = floor.rename(columns={"seed": "noise"}).reset_index()[list(first)]
    return pd.concat([first, rest], ignore_index=True)


def distances(
    data: Observations, proposal: Proposal, references: Mapping[str, Mixture]
) -> pd.DataFrame:
    """How far runs lie from their nearest other run, and the proposal and references from a run.

    Returns:
        By ``name``: ``kind`` (``run``, ``proposal`` or the reference's name), ``distance`` (total
        variation: share of the tokens that would have to change domain), ``extrapolates``.
    """
    x = data.x()
    apart = np.array([0.5 * np.abs(x - row).sum(1) for row in x])
    np.fill_diagonal(apart, np.inf)
    names = data.info["name"].astype(str)
    rows: list[dict[str, Any]] = [
        {"name": name, "kind": "run", "distance": float(d)}
        for name, d in zip(names, apart.min(1), strict=True)
        if np.isfinite(d)
    ]
    for name, mixture in {"proposal": proposal.best.mixture, **references}.items():
        distance = float(0.5 * np.abs(x - mixture.array()).sum(1).min())
        rows.append({"name": name, "kind": name, "distance": distance})
    frame = pd.DataFrame(rows, columns=["name", "kind", "distance"])
    return frame.assign(extrapolates=frame["distance"] > EXTRAPOLATES * proposal.typical_distance)


def transfer(proposal: Proposal) -> pd.DataFrame:
    """What larger sizes say of the order of mixtures, by the objective.

    Returns:
        ``size``, ``mixtures``, ``measure`` (``pairs decided alike``, ``rank correlation``),
        ``value``, ``low``, ``high`` (90 %); no row where nothing is known.
    """
    rows = [
        (verdict.large, verdict.mixtures, name, *figures)
        for verdict in proposal.transfer
        for name, figures in (
            ("pairs decided alike", verdict.accuracy),
            ("rank correlation", verdict.spearman),
        )
        if figures is not None
    ]
    return pd.DataFrame(rows, columns=["size", "mixtures", "measure", "value", "low", "high"])


def throughput(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Finished runs: ``name``, ``role``, ``tokens``, ``seconds``, ``tokens_per_second``.

    Seconds are the run's part of its process where runs train side by side.
    """
    rows = []
    for record in records:
        if record.status == "done":
            result = record.result()
            rows.append((record.spec.name, record.spec.role, result["tokens"], result["seconds"]))
    frame = pd.DataFrame(rows, columns=["name", "role", "tokens", "seconds"])
    frame = frame[frame["seconds"] > 0].reset_index(drop=True)
    return frame.assign(tokens_per_second=frame["tokens"] / frame["seconds"])
