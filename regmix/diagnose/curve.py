"""The learning curve: held-out rank accuracy of the objective against the number of runs.

Each fold is predicted by regressors that have seen a fifth, two, three and four fifths of the runs,
none of them in the fold; all sizes are judged on the same runs. A mixture that was run several
times is seen, and held out, with all of its runs. What more runs would give is read off a power law
``1 - ρ = a · n^-b`` (Hestness et al., arXiv 1712.00409), its interval from resampling the mixtures
that it is judged on and the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from regmix import assess, plain
from regmix.fit import numbered_anew, rank_correlation
from regmix.mixture import FloatArray
from regmix.noise import relative_variances
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.regressors import CANDIDATES, Context, regressor
from regmix.regressors.base import in_threads, rows_of
from regmix.regressors.held_out import Folds
from regmix.surrogate import Surrogate

FOLDS = 5
LEAST_RUNS = 16
"""Different mixtures below which a fifth is too few to fit anything."""
SECONDS = 25.0
"""What the curve may cost, by :func:`_cost`."""
MOST_ROUNDS = 8
_DRAWS = 300
_LEVELS = (0.05, 0.95)
_MOST_MORE = 64
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Forecast:
    """What more runs would give."""

    runs: int
    """How many there are."""
    more: int
    gain: float
    """Of the rank correlation."""
    low: float
    high: float
    """Central 90 %."""
    exponent: float
    """b of ``1 - ρ = a · n^-b``."""

    @property
    def clear(self) -> bool:
        """Whether the curve rises beyond what chance would do."""
        return self.low > 0


@dataclass(frozen=True)
class Curve:
    """Rank accuracy by number of runs."""

    points: pd.DataFrame
    """Index ``runs`` (that a regressor has seen): ``spearman``, ``std`` (by resampling)."""
    forecast: Forecast
    regressor: str
    directly: bool
    """The objective was predicted as one quantity; else its metrics were, and joined."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, NaN as None, for JSON."""
        return {
            "regressor": self.regressor,
            "directly": self.directly,
            "points": plain.records(self.points),
            "forecast": plain.row(asdict(self.forecast)),
        }

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Curve:
        """From what :meth:`as_dict` gave."""
        points = pd.DataFrame(raw["points"]).set_index("runs").astype(float)
        known: dict[str, Any] = raw["forecast"]
        forecast: dict[str, Any] = {k: float("nan") if v is None else v for k, v in known.items()}
        return cls(points, Forecast(**forecast), raw["regressor"], raw["directly"])


def choose(surrogate: Surrogate, objective: Objective) -> str:
    """The fit's regressor where all of the objective's metrics share one, else ``gp``."""
    names = {surrogate.metric(m).regressor for m in objective.metrics}
    only = names.pop() if len(names) == 1 else ""
    return only if only in CANDIDATES else "gp"


def learn(
    data: Observations,
    objective: Objective,
    kind: str,
    progress: Progress | None = None,
    rounds: int | None = None,
) -> Curve | None:
    """The learning curve; None where there are too few runs, or the objective never varies.

    Args:
        kind: name of the regressor.
        rounds: of folds, at most (default: 8); more of them make narrower intervals.
    """
    runs = len(data.weights)
    truth = assess.values(data, objective)
    order = np.argsort(data.weights.index.to_numpy(dtype=str))
    repeated = numbered_anew(data.numbered(), order)
    mixtures = Context(mixtures=repeated).mixtures_of(runs)
    count = int(mixtures.max(initial=-1)) + 1
    if count < LEAST_RUNS or np.ptp(truth) == 0:
        return None
    x, truth = data.x()[order], truth[order]
    sizes = [round(runs * k / FOLDS) for k in range(1, FOLDS)]
    metrics = list(objective.metrics)
    per_fold = sum(_cost(size) for size in sizes)
    directly = len(metrics) * per_fold * 2 > SECONDS
    if directly:
        y, context = truth[:, None], Context(mixtures=repeated)
    else:
        y = np.column_stack([data.y(m)[order] for m in metrics])
        noise = relative_variances(data, metrics)
        context = Context(None if noise is None else noise[order], mixtures=repeated)
    affordable = int(SECONDS / (per_fold * y.shape[1]))
    rounds = min(rounds or MOST_ROUNDS, max(1, affordable // FOLDS))
    used = min(FOLDS, max(2, affordable)) if rounds == 1 else FOLDS
    plan = [(repeat, fold) for repeat in range(rounds) for fold in range(used)]
    folds = Folds.draw(runs, FOLDS, rounds, repeated)
    found = np.full((rounds, len(sizes), runs), np.nan)
    kept = [round(count * k / FOLDS) for k in range(1, FOLDS)]

    def evaluate(step: int) -> None:
        repeat, fold = plan[step]
        out = folds.of[repeat] == fold
        inside = np.random.default_rng([repeat, fold, 10]).permutation(np.unique(mixtures[~out]))
        for number, size in enumerate(kept):
            seen = np.sort(rows_of(mixtures, inside[: min(size, len(inside))]))
            models = regressor(kind).fit_all(x[seen], y[seen], context.rows(seen))
            means = np.array([m.mean(x[out]) for m in models])
            found[repeat, number, out] = means[0] if directly else objective.join(means)[0]
        if progress:
            progress(step + 1, len(plan))

    if directly:  # one column leaves the other cores idle
        in_threads(evaluate, len(plan))
    else:
        for step in range(len(plan)):
            evaluate(step)
    return _read(found, truth, mixtures, sizes, (kind, directly))


def _cost(size: int) -> float:
    """Seconds to fit one metric to so many runs, measured with ``gp`` on two busy cores."""
    return float(0.005 + 0.33 * (size / 400) ** 2.5)


def _read(
    found: FloatArray,
    truth: FloatArray,
    mixtures: npt.NDArray[np.int64],
    sizes: Sequence[int],
    how: tuple[str, bool],
) -> Curve:
    """The curve of held-out predictions ``(rounds, sizes, runs)``; NaN: not predicted."""
    runs, count = len(truth), int(mixtures.max()) + 1
    whole = _accuracy(found, truth, np.arange(runs))
    drawn = []
    for draw in range(_DRAWS):
        rng = np.random.default_rng([draw, 11])
        picked = rng.integers(len(found), size=len(found))
        rows = rows_of(mixtures, rng.integers(count, size=count))
        drawn.append(_accuracy(found[picked], truth, rows))
    points = pd.DataFrame(
        {"spearman": whole, "std": np.std(drawn, axis=0, ddof=1)},
        index=pd.Index(list(sizes), name="runs"),
    )
    more = min(_MOST_MORE, max(8, 8 * round(runs / 16)))
    gain, exponent = _extrapolate(sizes, whole, runs, more)
    gains = [_extrapolate(sizes, d, runs, more)[0] for d in drawn]
    low, high = (float(q) for q in np.quantile(gains, _LEVELS))
    return Curve(points, Forecast(runs, more, gain, low, high, exponent), *how)


def _accuracy(found: FloatArray, truth: FloatArray, rows: np.ndarray) -> FloatArray:
    """Rank correlation by size on some runs, the mean over the rounds."""
    scores = []
    for predicted in found:
        known = rows[~np.isnan(predicted[0, rows])]
        scores.append([rank_correlation(truth[known], p[known]) for p in predicted])
    return np.asarray(np.mean(scores, axis=0))


def _extrapolate(
    sizes: Sequence[int], spearman: FloatArray, runs: int, more: int
) -> tuple[float, float]:
    """What ``more`` runs gain, and the exponent, by least squares on logarithms."""
    lack = np.log(np.maximum(1 - spearman, 1e-6))
    slope, at_one = np.polyfit(np.log(sizes), lack, 1)
    now, then = np.exp(at_one + slope * np.log([runs, runs + more]))
    return float(now - then), -float(slope)
