"""What was found, in words: what the swarm can say, what it cannot, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import scipy

from regmix import assess, noise
from regmix.diagnose.curve import Curve, Forecast
from regmix.diagnose.signal import Signal
from regmix.observations import Observations
from regmix.results import Fit

Kind = Literal["can", "cannot", "do"]
WORTHWHILE = 0.005
"""Gain of the rank correlation from which on more runs are advised."""
_NOTHING = 0.001
_SOME, _FEW = 4, 2


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    kind: Kind
    topic: str
    """For programs: ``domains.flat``, ``noise.unknown`` …"""
    text: str
    names: tuple[str, ...] = ()
    """Domains, metrics or runs that it is about."""


@dataclass(frozen=True)
class Place:
    """How commands name the study."""

    name: str
    """The folder."""
    trains: bool
    """Whether runs are trained here; else they were measured elsewhere."""
    asked: int
    """Mixtures that were proposed, as ``regmix propose -n`` counts them."""

    def more_runs(self, more: int) -> str:
        """What to type for so many more runs."""
        if not self.trains:
            return f"train {more} more mixtures where these were trained, `regmix import` them"
        return (
            f"`regmix propose {self.name} -n {self.asked + more}`, `regmix train {self.name}`, "
            f"`regmix fit {self.name}`"
        )


@dataclass(frozen=True)
class Evidence:
    """All frames."""

    data: Observations
    fit: Fit
    objective: Signal
    domains: pd.DataFrame
    pairs: pd.DataFrame
    laws: pd.DataFrame
    duplicates: pd.DataFrame
    metrics: pd.DataFrame
    outliers: pd.DataFrame
    curve: Curve | None
    place: Place

    @property
    def runs(self) -> int:
        """Runs that were fitted."""
        return len(self.data.weights)

    @property
    def advised(self) -> int:
        """Least advised number of runs."""
        return assess.RUNS_A_DOMAIN * len(self.data.domains)


def findings(e: Evidence) -> Iterator[Finding]:
    """All there is to say, the most important of each kind first."""
    parts = [
        _rank,
        _noise,
        _metrics,
        _domains,
        _coverage,
        _runs,
        _learning,
        _more_runs,
        _single_runs,
    ]
    found = [f for part in parts for f in part(e)]
    for kind in ("can", "cannot", "do"):
        yield from (f for f in found if f.kind == kind)


def _rank(e: Evidence) -> Iterator[Finding]:
    rho = e.objective.spearman
    what = f"held-out Spearman {rho:.3f} over {e.runs} runs"
    if rho >= assess.ADVISED_SPEARMAN:
        yield Finding("can", "objective.rank", f"rank mixtures by the objective: {what}")
    elif rho >= assess.LEAST_SPEARMAN:
        yield Finding(
            "cannot", "objective.rank",
            f"rank mixtures by the objective finely: {what}, below "
            f"{assess.ADVISED_SPEARMAN:g}; good from bad, yes",
        )  # fmt: skip
    else:
        yield Finding(
            "cannot", "objective.rank", f"rank mixtures by the objective: {what}: little is learnt"
        )


def _noise(e: Evidence) -> Iterator[Finding]:
    o = e.objective
    if math.isnan(o.noise):
        yield from _no_noise(e)
        return
    known = f"seed noise {o.noise:.3g} from {o.freedom + 1} seeds or more"
    if o.freedom < 4:
        factor = math.sqrt(o.freedom / scipy.stats.chi2.ppf(0.05, o.freedom))
        known = f"seed noise {o.noise:.3g}, could be {factor:.1f}x that: {o.freedom + 1} seeds"
    if o.snr >= noise.ADVISED_SNR:
        yield Finding(
            "can", "objective.signal",
            "tell runs apart whose objectives differ by "
            f"{noise.counting(o.noise, o.freedom):.3g} or more: "
            f"spread {_times(o.snr)} the noise ({known})",
        )  # fmt: skip
    else:
        yield Finding(
            "cannot", "objective.signal",
            f"tell good mixtures from lucky seeds: the objective's spread is {_times(o.snr)} the "
            f"noise, below {noise.ADVISED_SNR:g}x ({known}); {_lift(o.seeds)}",
        )  # fmt: skip
        yield Finding(
            "do", "objective.signal",
            "lengthen the proxies (proxy.train.tokens): noise falls and effects grow, by how much "
            "these runs cannot tell"
            + ("" if o.seeds is None else f"; or average {o.seeds} seeds of every mixture"),
        )  # fmt: skip
    loud = e.metrics[e.metrics["snr"] < noise.LEAST_SNR].sort_values("snr", kind="stable")
    if len(loud):
        shown = [f"{m} ({_times(r['snr'])}, {_seeds(r['seeds'])})" for m, r in loud.iterrows()]
        yield Finding(
            "cannot", "metrics.noise",
            f"read {_metrics_count(len(loud))} above seed noise, spread below "
            f"{noise.LEAST_SNR:g}x: {_list(shown)}",
            tuple(map(str, loud.index)),
        )  # fmt: skip
        inside = [str(m) for m in loud.index if loud.loc[m, "in_objective"]]
        if inside:
            yield Finding(
                "do", "metrics.noise",
                f"give {_list(inside)} less weight: objective.snr_weights: true, or "
                "objective.weights without them",
                tuple(inside),
            )  # fmt: skip


def _no_noise(e: Evidence) -> Iterator[Finding]:
    yield Finding(
        "cannot", "noise.unknown",
        "tell a real difference from a lucky seed: no mixture was repeated, so no metric's noise "
        "is known",
    )  # fmt: skip
    share = f"{3 / (e.runs + 3):.0%} of all runs"
    where = (
        f"swarm.replicates: 4 in study.yaml, `regmix propose {e.place.name} -n {e.place.asked}`, "
        f"`regmix train {e.place.name}`"
        if e.place.trains
        else "where these were trained, and `regmix import` them"
    )
    yield Finding(
        "do", "noise.unknown", f"repeat one mixture with 3 other seeds ({share}): {where}"
    )


def _lift(seeds: int | None) -> str:
    if seeds is None:
        return "no number of seeds would lift it: there is no more spread than noise"
    return f"the mean of {seeds} seeds a mixture would reach that"


def _seeds(value: float) -> str:
    return "no number of seeds helps" if math.isnan(value) else f"{value:.0f} seeds"


def _metrics(e: Evidence) -> Iterator[Finding]:
    fitted = e.metrics.dropna(subset=["spearman"])
    weak = fitted[fitted["spearman"] < assess.LEAST_SPEARMAN].sort_values("spearman", kind="stable")
    good = fitted[fitted["spearman"] >= assess.LEAST_SPEARMAN]["spearman"]
    if len(good):
        yield Finding(
            "can", "metrics.predicted",
            f"predict {len(good)} of {_metrics_count(len(fitted))}: held-out Spearman "
            f"{good.min():.2f} to {good.max():.2f}, median {good.median():.2f}",
        )  # fmt: skip
    if len(weak):
        shown = [f"{m} ({r['spearman']:.2f})" for m, r in weak.iterrows()]
        yield Finding(
            "cannot", "metrics.unpredicted",
            f"predict {_metrics_count(len(weak))}, held-out Spearman below "
            f"{assess.LEAST_SPEARMAN:g}: {_list(shown, 3)}",
            tuple(map(str, weak.index)),
        )  # fmt: skip
        inside = [str(m) for m in weak.index if weak.loc[m, "in_objective"]]
        if inside and len(inside) < int(fitted["in_objective"].sum()):
            yield Finding(
                "do", "metrics.unpredicted",
                f"leave {_metrics_count(len(inside))} that nothing predicts out of the objective "
                "(objective.weights): they add their noise to it",
                tuple(inside),
            )  # fmt: skip
    twins = e.metrics[e.metrics["twin"] != ""]
    if len(twins):
        shown = [f"{m} ({r['twin']}, {r['twin_correlation']:+.4f})" for m, r in twins.iterrows()]
        yield Finding(
            "cannot", "metrics.twins",
            f"learn anything from {_metrics_count(len(twins))} that another does not say: "
            f"{_list(shown, 3)}",
            tuple(map(str, twins.index)),
        )  # fmt: skip


def _domains(e: Evidence) -> Iterator[Finding]:
    flat = e.domains[e.domains["flat"]]
    count = len(e.domains)
    loose = e.pairs[~e.pairs["pinned"].astype(bool)]
    if flat.empty and loose.empty:
        yield Finding(
            "can", "domains.varied",
            f"see the effect of all {count} domains: std of the weights "
            f"{e.domains['std'].min():.3f} to "
            f"{e.domains['std'].max():.3f}, no two of them together",
        )  # fmt: skip
    if len(flat):
        shown = [f"{d} ({_varied(r)})" for d, r in flat.iterrows()]
        names = tuple(map(str, flat.index))
        yield Finding(
            "cannot", "domains.flat",
            f"see the effect of {len(flat)} of {count} domains, whose weights hardly vary: "
            f"{_list(shown)}",
            names,
        )  # fmt: skip
        highest = flat["high"].to_numpy(dtype=float)
        bounds = [f"{d}: [0, {_up(high)}]" for d, high in zip(names, highest, strict=True)]
        yield Finding(
            "do", "domains.flat",
            "keep proposals to what was tried, space.bounds: {" + _list(bounds, 2) + "}, or widen "
            "the swarm",
            names,
        )  # fmt: skip
    if len(loose):
        shown = [f"{r.one} and {r.other} ({r.correlation:+.3f})" for r in loose.itertuples()]
        yield Finding(
            "cannot", "domains.collinear",
            f"tell apart domains whose weights go together over the runs: {_list(shown, 3)}",
            tuple(dict.fromkeys([*loose["one"], *loose["other"]])),
        )  # fmt: skip


def _coverage(e: Evidence) -> Iterator[Finding]:
    fitted = e.metrics.dropna(subset=["coverage90"])
    allowed = max(0.05, 2 * math.sqrt(0.9 * 0.1 / e.runs))
    off = fitted[(fitted["coverage90"] - 0.9).abs() > allowed]
    covered = e.objective.coverage90
    if abs(covered - 0.9) > allowed:
        trust = "too narrow: they claim too much" if covered < 0.9 else "wider than need be"
        yield Finding(
            "cannot", "coverage",
            f"take the objective's 90% intervals at their word: {covered:.0%} of the runs are "
            f"inside ({trust})",
        )  # fmt: skip
    elif off.empty:
        yield Finding(
            "can", "coverage", f"say how sure it is: {covered:.0%} of the runs are inside their "
            "90% intervals",
        )  # fmt: skip
    if len(off):
        shown = [f"{m} ({r['coverage90']:.0%})" for m, r in off.iterrows()]
        yield Finding(
            "cannot", "coverage.metrics",
            f"take the 90% intervals of {_metrics_count(len(off))} at their word: {_list(shown)}",
            tuple(map(str, off.index)),
        )  # fmt: skip


def _runs(e: Evidence) -> Iterator[Finding]:
    count = len(e.domains)
    lacking = [f"{law} ({r['parameters']})" for law, r in e.laws.iterrows() if not r["enough"]]
    short = f"; fewer runs than parameters of {_list(lacking)}" if lacking else ""
    if e.runs < e.advised:
        how = "not even a straight line is determined" if e.runs < count else (
            f"{e.advised} are advised")  # fmt: skip
        yield Finding(
            "cannot", "runs.few",
            f"tell the effects of single domains apart: {e.runs} runs for {count} domains, "
            f"{how}{short}",
        )  # fmt: skip
    elif lacking:
        yield Finding("cannot", "runs.laws", f"determine every law{short}")
    late = e.data.weights.index.difference(e.fit.held_out.index)
    if len(late):
        yield Finding(
            "cannot", "fit.late", f"use {_count(len(late), 'run')} measured after the fit"
        )
        yield Finding("do", "fit.late", f"`regmix fit {e.place.name}` to take them in")


def _single_runs(e: Evidence) -> Iterator[Finding]:
    for run, row in e.outliers.head(_FEW).iterrows():
        yield Finding(
            "cannot", "runs.outlier", f"explain run {row['name']}: {row['reasons']}", (str(run),)
        )
    if len(e.outliers):
        first, count = e.outliers.index[0], len(e.outliers)
        log = f"`{e.place.name}/runs/{first}/events.jsonl`"
        look = log if e.place.trains else "its log, where it was trained"
        others = "" if count == 1 else f" and {count - 1} other{'s' if count > 2 else ''}"
        yield Finding(
            "do", "runs.outlier", f"look at run {e.outliers['name'].iloc[0]}{others}: {look}"
        )
    twice = e.duplicates[e.duplicates["identical"].astype(bool)]
    if len(twice):  # repeats that differ measure the noise
        pairs = [f"{r.one} = {r.other}" for r in twice.itertuples()]
        yield Finding(
            "cannot", "runs.duplicates",
            f"count {_count(len(pairs), 'run')} twice: mixture and all metrics are those of "
            f"another: {_list(pairs)}",
            tuple(map(str, twice["other"])),
        )  # fmt: skip


def _learning(e: Evidence) -> Iterator[Finding]:
    if e.curve is None:
        yield Finding(
            "cannot", "curve", f"say what more runs would give: {e.runs} are too few for a curve"
        )
        return
    f = e.curve.forecast
    if not f.clear:
        yield Finding(
            "cannot", "curve",
            f"say what more runs would give: the learning curve is not clear ({f.more} more: "
            f"{f.gain:+.3f} Spearman, 90% interval {f.low:+.3f} to {f.high:+.3f})",
        )  # fmt: skip
        return
    yield Finding("can", "curve", f"say what more runs would give: {_gain(f)}")


def _more_runs(e: Evidence) -> Iterator[Finding]:
    """One command, for what is advised or for what is worth it, whichever is more."""
    f = None if e.curve is None or not e.curve.forecast.clear else e.curve.forecast
    worth = f is not None and f.gain >= WORTHWHILE
    short = 8 * math.ceil(max(e.advised - e.runs, 0) / 8)
    more = max(short, f.more if f is not None and worth else 0)
    if more:
        why = _gain(f) if f is not None and worth and more == f.more else f"{more} more runs"
        yield Finding("do", "runs.more", f"{why}: {e.place.more_runs(more)}")
    elif f is not None:
        yield Finding(
            "do", "runs.enough",
            f"spend on longer proxies rather than on more of them: {_gain(f)}",
        )  # fmt: skip


def _gain(f: Forecast) -> str:
    if f.high < _NOTHING:
        return f"{f.more} more runs would gain less than {_NOTHING} Spearman"
    return (
        f"{f.more} more runs would gain about {f.gain:.3f} Spearman ({f.low:.3f} to {f.high:.3f})"
    )


def _varied(row: pd.Series) -> str:
    return "never sampled" if row["high"] == 0 else f"std {row['std']:.4f}"


def _times(snr: float) -> str:
    return "far above" if math.isinf(snr) else f"{snr:.1f}x"


def _up(value: float) -> str:
    """Two digits, rounded up, so that what was tried stays allowed."""
    if value <= 0:
        return "0"
    digits = 1 - math.floor(math.log10(value))
    return f"{min(1.0, math.ceil(value * 10**digits - 1e-9) / 10**digits):.{max(digits, 1)}f}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _metrics_count(count: int) -> str:
    return _count(count, "metric")


def _list(names: Sequence[str], some: int = _SOME) -> str:
    more = f" and {len(names) - some} more" if len(names) > some else ""
    return ", ".join(names[:some]) + more
