"""Observations: what a study has measured, as labelled frames joined by run id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from regmix.errors import UserError, unknown_name
from regmix.mixture import FloatArray


@dataclass(frozen=True)
class Observations:
    """Mixtures and metrics of the finished proxies of one cohort.

    All three frames share one index of run ids, in the same order. Runs that are repeats of a
    mixture with another seed are in :attr:`replicates`, not here: they measure the noise, and the
    other runs share one seed so that they differ by the mixture alone.
    """

    weights: pd.DataFrame
    """Shape ``(n_runs, n_domains)``: requested shares, columns in study order."""
    metrics: pd.DataFrame
    """Shape ``(n_runs, n_metrics)``."""
    info: pd.DataFrame
    """``name``, ``role``, ``seed``, ``tokens`` of every run."""
    replicates: pd.DataFrame
    """Metrics of repeated mixtures, indexed by run id, with a column ``mixture`` (its hash)."""
    replicate_weights: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Weights of the repeated mixtures, indexed by their hash."""
    singles: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Metrics of runs on one domain alone, by run name: references, not for fitting."""
    excluded: tuple[str, ...] = ()
    """Runs that are left out, each with its reason."""
    std_errors: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Sampling error of every metric by run id, replicates included; NaN where it is not known."""
    replicate_names: Mapping[str, str] = field(default_factory=dict)
    """Names of the runs in :attr:`replicates`, by run id."""

    def __post_init__(self) -> None:
        if not (self.weights.index.equals(self.metrics.index) and self.metrics.index.is_unique):
            raise UserError("observations: mixtures and metrics must have the same, unique run ids")

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in study order."""
        return tuple(self.weights.columns)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Metric names."""
        return tuple(self.metrics.columns)

    @property
    def names(self) -> dict[str, str]:
        """Names of all runs by run id, repeats included."""
        own = {str(r): str(n) for r, n in self.info["name"].items()}
        return {**self.replicate_names, **own}

    def of_domains(self, domains: Sequence[str], where: str) -> Observations:
        """The same with weights in a study's order.

        Args:
            where: the study says which domains it has, for messages.

        Raises:
            UserError: the runs are of other domains.
        """
        if set(domains) != set(self.domains):
            unknown = [d for d in self.domains if d not in domains]
            missing = [d for d in domains if d not in self.domains]
            told = [f"lacks {', '.join(unknown)}, which they have"] * bool(unknown)
            told += [f"has {', '.join(missing)}, which they lack"] * bool(missing)
            raise UserError(
                f"{where}: domains: the measured runs are of {', '.join(self.domains)}; the study "
                f"{' and '.join(told)}"
            )
        order, repeated = list(domains), self.replicate_weights
        return replace(
            self,
            weights=self.weights[order],
            replicate_weights=repeated if repeated.empty else repeated[order],
        )

    def frame(self) -> pd.DataFrame:
        """One row a run: info, weights (``weight/<domain>``) and metrics side by side."""
        weights = self.weights.add_prefix("weight/")
        return pd.concat([self.info, weights, self.metrics], axis=1)

    def x(self) -> FloatArray:
        """Weights, shape ``(n_runs, n_domains)``."""
        return self.weights.to_numpy(dtype=np.float64)

    def y(self, metric: str) -> FloatArray:
        """One metric, shape ``(n_runs,)``."""
        if metric not in self.metrics:
            raise unknown_name("metric", metric, self.metric_names)
        return self.metrics[metric].to_numpy(dtype=np.float64)

    def find_metric(self, part: str) -> str:
        """The metric whose name is, or alone contains, ``part``.

        Raises:
            UserError: none does, or several do; the message lists them.
        """
        if part in self.metrics:
            return part
        found = [name for name in self.metric_names if part in name]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"metric '{part}' could be any of {', '.join(found)}; write more of it")
        raise unknown_name("metric", part, self.metric_names)

    def repeats(self) -> pd.DataFrame:
        """:attr:`replicates` without :attr:`copies`: two seeds do not come to the same figures."""
        return self._repeats

    @cached_property
    def _repeats(self) -> pd.DataFrame:
        return self.replicates.drop(index=self._copied())

    @property
    def copies(self) -> tuple[str, ...]:
        """Run ids of repeats whose every metric is an earlier repeat's to the last digit."""
        return tuple(map(str, self._copied()))

    def _copied(self) -> pd.Index:
        """One metric may well come out the same, as a share of few questions does."""
        if self.replicates.empty or len(self.metric_names) < 2:
            return self.replicates.index[:0]
        same = self.replicates.duplicated(["mixture", *self.metric_names])
        return self.replicates.index[same.to_numpy()]

    def without(self, reasons: Mapping[str, str]) -> Observations:
        """The same without some runs, which :attr:`excluded` then names.

        Args:
            reasons: by run id, why it is left out; ids that are not here are of no consequence.
        """
        gone = [r for r in reasons if r in self.metrics.index or r in self.replicates.index]
        if not gone:
            return self
        keep = ~self.metrics.index.isin(gone)
        replicates = self.replicates
        if not replicates.empty:
            replicates = replicates[~replicates.index.isin(gone)]
            left = replicates["mixture"]
            replicates = replicates[left.duplicated(keep=False).to_numpy()]
        names, errors = self.names, self.std_errors
        said = [f"{names.get(r, r)} ({reasons[r]})" for r in gone]
        return replace(
            self,
            weights=self.weights[keep],
            metrics=self.metrics[keep],
            info=self.info[keep],
            replicates=replicates,
            excluded=(*self.excluded, *said),
            std_errors=errors[~errors.index.isin(gone)],
            replicate_names={r: n for r, n in self.replicate_names.items() if r not in gone},
        )

    @cached_property
    def mixtures(self) -> pd.Series:
        """By run id: the hash of a repeated mixture, the run's own id where it stands alone.

        Repeats of :attr:`replicates` that are not among the runs are there too, copies are not.
        """
        repeats = self.repeats()
        alone = self.metrics.index.drop([*self._copied(), *repeats.index], errors="ignore")
        own = pd.Series(alone, index=alone, dtype=object)
        return own if repeats.empty else pd.concat([repeats["mixture"].astype(object), own])

    def numbered(self) -> npt.NDArray[np.int64] | None:
        """A number for the mixture of every run, by its first run's place; None: all differ.

        Copies have the mixture that they copy. Shape ``(n_runs,)``, in the order of the runs.
        """
        if self.replicates.empty:
            return None
        own = self.replicates["mixture"].reindex(self.metrics.index).astype(object)
        numbers = pd.factorize(own.where(own.notna(), self.metrics.index))[0].astype(np.int64)
        return numbers if len(np.unique(numbers)) < len(numbers) else None

    def spread(self) -> pd.Series:
        """Standard deviation of every metric over the swarm's distinct mixtures, of one run each.

        A mixture that was run n times (an import) counts once, with its mean, whose noise is that
        of one run over √n; what it lacks of one run's noise is added, so that the square of a
        spread is signal² + noise² however often anything was repeated.
        """
        return self._spread(self.metrics, self.noise)

    def _spread(self, values: pd.DataFrame, noise: Callable[[], pd.Series]) -> pd.Series:
        """Variance of means over mixtures, and noise² · (1 - mean of 1/n)."""
        mixture = self.mixtures.reindex(values.index).dropna()
        if mixture.is_unique:
            return values.loc[mixture.index].std(ddof=1)
        groups = values.loc[mixture.index].groupby(mixture)
        missing = 1 - float((1 / groups.size()).mean())
        return (groups.mean().var(ddof=1) + missing * noise() ** 2) ** 0.5

    def objective_spread(self, value: Callable[[Mapping[str, FloatArray]], FloatArray]) -> float:
        """The same for an objective: ``value`` maps metric arrays to it."""
        total = value({m: self.y(m) for m in self.metric_names})
        frame = pd.DataFrame({"objective": total}, index=self.metrics.index)
        noise = pd.Series({"objective": self.objective_noise(value)})
        return float(self._spread(frame, lambda: noise)["objective"])

    def noise(self) -> pd.Series:
        """Standard deviation of every metric between seeds, pooled over repeated mixtures.

        NaN where nothing was repeated. With few repeats it is itself uncertain: from three
        seeds, by a factor of about two either way.
        """
        repeats = self.repeats()
        if repeats.empty:
            return pd.Series(np.nan, index=self.metrics.columns)
        values = from_first(repeats[list(self.metric_names)], repeats["mixture"])
        groups = values.groupby(repeats["mixture"])
        freedom = len(values) - groups.ngroups
        if freedom < 1:
            return pd.Series(np.nan, index=self.metrics.columns)
        residual = values - groups.transform("mean")
        return ((residual**2).sum() / freedom) ** 0.5

    def sampling(self) -> pd.Series:
        """Sampling error of every metric: root mean square over the runs; NaN where not known."""
        known = self.std_errors.reindex(columns=list(self.metric_names))
        return (known.astype(float) ** 2).mean() ** 0.5

    def objective_noise(self, value: Callable[[Mapping[str, FloatArray]], FloatArray]) -> float:
        """The same for an objective: ``value`` maps metric arrays to it. NaN without repeats."""
        repeats = self.repeats()
        if repeats.empty:
            return float("nan")
        columns = {m: repeats[m].to_numpy(dtype=float) for m in self.metric_names}
        total = pd.DataFrame({"objective": value(columns)}, repeats.index)
        apart = from_first(total, repeats["mixture"])["objective"]
        groups = apart.groupby(repeats["mixture"])
        freedom = len(apart) - groups.ngroups
        residual = apart - groups.transform("mean")
        return float((residual**2).sum() / freedom) ** 0.5 if freedom else float("nan")


def from_first(values: pd.DataFrame, mixture: pd.Series) -> pd.DataFrame:
    """Values less the first one of their mixture: what seeds change, and nothing else.

    Repeats that are equal have no noise at all then; a mean rounds, and would leave some 1e-17.
    """
    return values - values.groupby(mixture).transform("first")
