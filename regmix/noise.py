"""Noise: how far two runs of one mixture differ, and what that leaves of a metric.

Two kinds, and they are not added up blindly. *Seed noise* is what two seeds of one mixture differ
by on the same texts and questions; it stands between any two runs that are compared. *Sampling
error* is what a metric would differ by on other texts of the same kind; runs that are measured on
the same ones share most of it, so that it cancels to an extent that single values cannot tell.
Ratios are given without it, and with all of it as the least that they can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy

from regmix import plain
from regmix.mixture import FloatArray
from regmix.observations import Observations, from_first

ADVISED_SNR, LEAST_SNR = 8.0, 3.0
"""Spread over noise from which on a metric is very stable, and stable (DECISIONS)."""
LEVEL = 0.95
"""Of the differences that count, and of what is called uneven."""
Class = Literal["very stable", "stable", "noisy", "unknown"]

_PRIOR = 4.0
"""Degrees of freedom that speak for equal noise everywhere."""
_REACH = 0.3
"""Hellinger distance over which a repeated mixture speaks for its neighbours."""
_DRAWS = 20_000
"""Of the test for equal variances; its least p-value is one over them."""
_INTERVAL = (0.95, 0.05)
"""Of the noise: its central 90 %."""


@dataclass(frozen=True)
class NoiseFloor:
    """Every metric's noise, and what it leaves of the metric."""

    metrics: pd.DataFrame
    """By metric, the clearest first: ``kind`` (the class), ``snr`` (spread over seed noise),
    ``p_signal`` (that mixtures make no difference, :func:`no_signal`, Holm-corrected),
    ``snr_least`` (with the whole sampling error), ``spread``, ``seed`` (standard deviation
    between seeds), ``seed_low``, ``seed_high`` (central 90 %), ``eval`` (sampling error),
    ``freedom``, ``seeds`` (a mixture, to be stable; NaN: no number), ``counts`` (difference of two
    runs that counts at 95 %), ``uneven`` (largest over smallest noise of the repeated mixtures),
    ``p_uneven`` (that it is the same in all, by Bartlett's test, Holm-corrected)."""
    mixtures: pd.DataFrame
    """Seed noise by repeated mixture (its hash) and metric, beside a column ``seeds``."""
    copies: tuple[str, ...]
    """Runs that are not counted, since their figures are another's to the last digit."""
    notes: tuple[str, ...] = ()
    """Runs that were left out, and flagged ones that were not."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, NaN as None, for ``--json``."""
        return {
            "metrics": plain.records(self.metrics),
            "mixtures": plain.records(self.mixtures),
            "copies": list(self.copies),
            "notes": list(self.notes),
        }

    def at_most(self, metric: str) -> tuple[float, int]:
        """The noise to judge a difference by, and its degrees of freedom.

        The pooled one; where mixtures were shown to differ in it, that of the noisiest.
        """
        p, seed, degrees = (self.metrics[c][metric] for c in ("p_uneven", "seed", "freedom"))
        if not p < 1 - LEVEL:
            return float(seed), int(degrees)
        noisiest = str(self.mixtures[metric].idxmax())
        return float(self.mixtures[metric][noisiest]), int(self.mixtures["seeds"][noisiest]) - 1


def floor(data: Observations) -> NoiseFloor:
    """The noise of every metric, pooled over the repeated mixtures."""
    degrees = freedom(data)
    spread, seed, sampling = data.spread(), data.noise(), data.sampling()
    by_mixture = _by_mixture(data)
    p_signal = dict(zip(data.metric_names, map(float, holm(no_signal(data).tolist())), strict=True))
    uneven, p_uneven = _unevenness(by_mixture, data.metric_names)
    rows = {}
    for name in data.metric_names:
        own, s = float(seed[name]), float(spread[name])
        snr = ratio(s, own)
        wanted = seeds_needed(snr, LEAST_SNR)
        low, high = _interval(own, degrees)
        rows[name] = {
            "kind": "noisy" if s == 0 else kind(snr, p_signal[name]),
            "snr": snr,
            "p_signal": p_signal[name],
            "snr_least": ratio(s, math.hypot(own, float(sampling[name]))),
            "spread": s,
            "seed": own,
            "seed_low": low,
            "seed_high": high,
            "eval": float(sampling[name]),
            "freedom": degrees,
            "seeds": float("nan") if wanted is None else float(wanted),
            "counts": counting(own, degrees),
            "uneven": uneven[name],
            "p_uneven": p_uneven[name],
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")
    frame = frame.sort_values("snr", ascending=False, kind="stable")
    return NoiseFloor(frame, by_mixture, data.copies)


def kind(snr: float, p_signal: float = float("nan")) -> Class:
    """Very stable from a ratio of 8 on, stable from 3 on, else noisy; unknown without repeats.

    Noisy, too, whatever the ratio, where it is not shown that mixtures make a difference: a ratio
    over the noise of three seeds is 3 or more by luck in one of ten metrics.
    """
    if math.isnan(snr):
        return "unknown"
    if snr < LEAST_SNR or p_signal >= 1 - LEVEL:
        return "noisy"
    return "very stable" if snr >= ADVISED_SNR else "stable"


def refused(data: Observations) -> dict[str, str]:
    """Metrics that are not fitted unless they are asked for by name, each with the reason.

    Those of class *noisy*: a surface through them would be one of seeds.
    """
    rows = floor(data).metrics.to_dict("index")
    return {m: _reason(rows[m]) for m in data.metric_names if rows[m]["kind"] == "noisy"}


def _reason(row: Mapping[Hashable, Any]) -> str:
    if row["spread"] == 0:
        return "the same in all runs"
    seeds, ratio = row["seeds"], f"spread {row['snr']:.1f}x the seed noise"
    known = f"{row['freedom']} degrees of freedom"
    if row["snr"] >= LEAST_SNR:
        return (
            f"{ratio} ({known}), but neither that nor a trend over the weights shows that mixtures "
            f"make a difference (p = {row['p_signal']:.2g}, {1 - LEVEL:.2g} is needed)"
        )
    lift = "no number of seeds lifts it" if seeds != seeds else (
        f"{seeds:.0f} seeds a mixture would lift it"
    )  # fmt: skip
    return f"{ratio}, below {LEAST_SNR:g}x ({known}); {lift}"


def no_signal(data: Observations) -> FloatArray:
    """p-value by metric that mixtures make no difference, not corrected for how many metrics.

    Two F-tests, each of which is exact for normal noise of one size: between and within mixtures
    (one-way analysis of variance, the repeats within), and the regression on the weights, which
    needs no repeats and knows the noise from all runs. Either may show it, hence twice the smaller
    (Bonferroni). NaN where neither can be made, or all values are the same.
    """
    both = np.array([_between(data), _trend(data)])
    made = (~np.isnan(both)).sum(0)
    return np.asarray(np.minimum(1.0, made * np.fmin(*both)))  # fmin: NaN only where both are


def _between(data: Observations) -> FloatArray:
    """One-way analysis of variance over the mixtures, those that were run once among them."""
    mixture = data.mixtures
    names = list(data.metric_names)
    more = data.replicates.index.difference(data.metrics.index)
    parts = [data.metrics, data.replicates.loc[more, names]] if len(more) else [data.metrics]
    values = pd.concat(parts).loc[mixture.index]
    y = values.to_numpy(dtype=float)
    codes, owner = np.unique(mixture.to_numpy(dtype=str), return_inverse=True)
    apart, freedom = len(codes) - 1, len(y) - len(codes)
    if apart < 1 or freedom < 1:
        return np.full(len(names), np.nan)
    member = np.eye(len(codes))[owner]
    means = (member.T @ y) / member.sum(0)[:, None]
    within = ((y - means[owner]) ** 2).sum(0)
    return _f_test(((y - y.mean(0)) ** 2).sum(0) - within, apart, within, freedom)


def _trend(data: Observations) -> FloatArray:
    """F-test of the least squares plane over the weights against a constant."""
    y = data.metrics.to_numpy(dtype=float)
    total = ((y - y.mean(0)) ** 2).sum(0)
    plane = np.column_stack([np.ones(len(y)), data.x()])
    solved, _, rank, _ = np.linalg.lstsq(plane, y)
    slopes, left = rank - 1, len(y) - rank
    if slopes < 1 or left < 1:
        return np.full(y.shape[1], np.nan)
    rest = ((y - plane @ solved) ** 2).sum(0)
    return _f_test(total - rest, slopes, rest, left)


def _f_test(explained: FloatArray, by: int, rest: FloatArray, left: int) -> FloatArray:
    """p-values of sums of squares with their degrees of freedom; NaN where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):  # no rest: sure; nothing at all: NaN
        return np.asarray(scipy.stats.f.sf(explained / by / (rest / left), by, left))


def freedom(data: Observations) -> int:
    """Degrees of freedom of the seed noise: repeats less repeated mixtures."""
    repeats = data.repeats()
    return 0 if repeats.empty else len(repeats) - int(repeats["mixture"].nunique())


def ratio(spread: float, noise: float) -> float:
    """Spread over noise; infinite without noise."""
    return spread / noise if noise != 0 else math.inf


def seeds_needed(snr: float, wanted: float) -> int | None:
    """Seeds a mixture whose mean would have the wanted ratio of spread to noise; None: no number.

    The spread holds the noise too: s² = signal² + noise². The mean of k seeds has noise/√k, hence
    the ratio √(1 + k · (snr² - 1)), which is to be ``wanted``.
    """
    if snr >= wanted:
        return 1
    signal = snr**2 - 1
    if not signal > 0:  # NaN too
        return None
    return math.ceil((wanted**2 - 1) / signal - 1e-9)


@dataclass(frozen=True)
class SeedNoise:
    """How far two seeds of one mixture differ on one figure, and how well that is known."""

    std: float
    """Standard deviation; NaN where nothing was repeated."""
    freedom: int

    @classmethod
    def of(cls, data: Observations, value: Callable[..., FloatArray]) -> SeedNoise:
        """That of an objective."""
        return cls(data.objective_noise(value), freedom(data))

    @property
    def known(self) -> bool:
        """Whether anything was repeated."""
        return self.freedom >= 1 and not math.isnan(self.std)

    def counting(self, seeds: int = 1) -> float:
        """Least difference of two means over so many seeds that it does not explain, at 95 %.

        NaN where it is not known.
        """
        return counting(self.std, self.freedom) / math.sqrt(seeds)


def counting(noise: float, degrees: float, level: float = LEVEL) -> float:
    """Least difference of two runs that noise does not explain: t · √2 · noise, two-sided.

    Student's t, since the noise itself is an estimate: with two degrees of freedom 4.3, not 1.96.
    """
    if not degrees >= 1:
        return float("nan")
    return float(scipy.stats.t.ppf(0.5 + level / 2, degrees)) * math.sqrt(2) * noise


def holm(p: Sequence[float]) -> FloatArray:
    """p-values corrected for how many there are (Holm 1979); NaN stays and is not counted."""
    values = np.asarray(p, dtype=float)
    found = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return found


def relative_variances(data: Observations, metrics: Sequence[str]) -> FloatArray | None:
    """Noise variance of every run and metric relative to a typical run's, ``(n, n_metrics)``.

    Each repeated mixture has a variance between its seeds; a run takes those near it, shrunk to
    the pooled one as far as there are few. None unless two or more mixtures were repeated: one
    alone says how much noise there is, not where.
    """
    repeats = data.repeats()
    if repeats.empty:
        return None
    groups = from_first(repeats[list(metrics)], repeats["mixture"]).groupby(repeats["mixture"])
    freedom = (groups.size() - 1).to_numpy(dtype=float)
    if (freedom > 0).sum() < 2:
        return None
    variances = groups.var(ddof=1).to_numpy()[freedom > 0]
    places = data.replicate_weights.loc[groups.size().index[freedom > 0]].to_numpy()
    freedom = freedom[freedom > 0, None]
    pooled = (freedom * variances).sum(0) / freedom.sum()
    ratio = variances / np.where(pooled > 0, pooled, 1.0)
    z, at = np.sqrt(data.x()), np.sqrt(places)
    distance = np.sqrt(((z[:, None] - at[None]) ** 2).sum(2) / 2)
    say = np.exp(-((distance / _REACH) ** 2)) @ np.diag(freedom[:, 0])
    found = (say @ ratio + _PRIOR) / (say.sum(1, keepdims=True) + _PRIOR)
    return np.asarray(found / np.exp(np.log(found).mean(0)))


def _interval(noise: float, degrees: int) -> tuple[float, float]:
    if degrees < 1:
        return float("nan"), float("nan")
    low, high = (noise * math.sqrt(degrees / scipy.stats.chi2.ppf(q, degrees)) for q in _INTERVAL)
    return low, high


def _by_mixture(data: Observations) -> pd.DataFrame:
    """Seed noise of every mixture that was repeated."""
    repeats = data.repeats()
    if repeats.empty:
        return pd.DataFrame(columns=["seeds", *data.metric_names]).rename_axis("mixture")
    values = from_first(repeats[list(data.metric_names)], repeats["mixture"])
    groups = values.groupby(repeats["mixture"])
    found = groups.std(ddof=1)
    found.insert(0, "seeds", groups.size())
    return found[found["seeds"] > 1]


def _unevenness(
    mixtures: pd.DataFrame, metrics: Sequence[str]
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Largest over smallest noise by metric, and the p-value of there being no difference.

    Bartlett's statistic (1937) against its own distribution for these degrees of freedom, drawn:
    the usual χ² is off for groups of two or three. Noise of 0 cannot be tested.
    """
    nothing = dict.fromkeys(metrics, float("nan"))
    if len(mixtures) < 2:
        return nothing, nothing
    degrees = mixtures["seeds"].to_numpy(dtype=float) - 1
    variances = mixtures[list(metrics)].to_numpy(dtype=float).T ** 2
    least = variances.min(1)
    apart = np.sqrt(variances.max(1) / np.where(least > 0, least, np.nan))
    null = _drawn_bartlett(tuple(degrees.tolist()))
    known = least > 0
    p = np.full(len(metrics), np.nan)
    above = _DRAWS - np.searchsorted(null, _bartlett(variances[known], degrees), side="left")
    p[known] = (above + 1) / (_DRAWS + 1)
    return (
        dict(zip(metrics, map(float, apart), strict=True)),
        dict(zip(metrics, map(float, holm(p.tolist())), strict=True)),
    )


@lru_cache(maxsize=64)
def _drawn_bartlett(degrees: tuple[float, ...]) -> FloatArray:
    """The statistic where the noise is the same everywhere, shape ``(draws,)``, sorted."""
    own = np.asarray(degrees)
    chance = np.random.default_rng([len(own), 12]).chisquare(own, (_DRAWS, len(own)))
    return np.sort(_bartlett(chance / own, own))


def _bartlett(variances: FloatArray, degrees: FloatArray) -> FloatArray:
    """ν ln s² - Σ ν_i ln s_i², shape ``(n,)``; its constant factor does not matter here."""
    pooled = (variances @ degrees) / degrees.sum()
    return np.asarray(degrees.sum() * np.log(pooled) - np.log(variances) @ degrees)
