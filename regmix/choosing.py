"""From what was measured to a mixture: fit, solve, and trade metrics against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from regmix import __version__, decision, fit, noise, pareto, results, solve
from regmix.config import FitConfig
from regmix.errors import UserError
from regmix.files import disk_errors
from regmix.fit import FitResult
from regmix.folder import StudyFolder
from regmix.layout import StudyLayout
from regmix.link import Link
from regmix.mixture import Mixture, MixtureFile
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.pareto import Pareto
from regmix.results import Fit
from regmix.solve import Problem, Proposal
from regmix.sound import Sound
from regmix.surrogate import Surrogate
from regmix.transfer import OBJECTIVE, Transfer

Progress = Callable[[int, int], None]
_REFERENCES = ("natural", "uniform")
"""Mixtures that every study has by these names, whatever files there are."""
Larger = Callable[[Objective, pd.DataFrame], list[Transfer]]
"""What larger sizes say of an objective, and of held-out predictions by run id.

Raises :class:`UserError` where too little is measured at any of them.
"""


@dataclass(frozen=True)
class _Posed:
    """A fitted surrogate, and what is to be solved on it."""

    surrogate: str
    """Its identity."""
    result: FitResult
    single: str | None
    """The one metric that is fitted, if only one is."""
    objective: Objective
    problem: Problem


@dataclass(frozen=True)
class Choosing:
    """A study, and what was measured in it."""

    study: StudyFolder
    data: Observations
    flagged: Mapping[str, str] = field(default_factory=dict)
    """Reasons by run id, of what is in ``whole``."""
    whole: Observations | None = None
    """The data with flagged runs, where ``data`` are without them; None: nothing is left out."""
    transfer: Larger | None = None
    """What larger sizes say of an objective; None without any."""
    links: Callable[[], list[Link | str]] = list
    """From bits per byte to accuracies, or why there is none."""

    @classmethod
    def of(
        cls,
        study: StudyFolder,
        measured: Sound,
        transfer: Larger | None = None,
        links: Callable[[], list[Link | str]] = list,
    ) -> Self:
        """With flagged runs or without them, as the settings say.

        Args:
            measured: the study's runs, and what is wrong with which.
            transfer: what larger sizes say of an objective.
            links: from bits per byte to accuracies, as larger models have them.
        """
        reasons = {
            r: text for r, text in measured.flags.reasons().items() if r in measured.data.names
        }  # those of larger sizes are not fitted
        kept = measured.kept
        whole = None if kept is measured.data else measured.data
        return cls(study, kept, reasons, whole, transfer, links)

    @cached_property
    def _refused(self) -> dict[str, str]:
        """Metrics that are fitted only by name, and why."""
        return noise.refused(self.data)

    def fit(
        self,
        target: str | None = None,
        *,
        settings: FitConfig | None = None,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> Fit:
        """See :meth:`regmix.study.Study.fit`."""
        study, data = self.study, self.data
        settings = settings or study.config.fit
        _check_varied(data, study.layout)
        mixture_name = self._mixture_name(target, name)
        posed = self._pose(target, settings, progress)
        surrogate, result, single = posed.surrogate, posed.result, posed.single
        objective, problem = posed.objective, posed.problem
        larger, missing = self._larger(objective, result)
        links = self.links()
        identity = results.fit_id(
            surrogate,
            objective,
            [
                settings.model_dump(mode="json"),
                study.config.space.model_dump(mode="json"),
                [asdict(limit) for limit in problem.limits],
                {n: m.as_dict() for n, m in study.references().items()},
                problem.space.polytope.upper.tolist(),
                study.config.seed,
                mixture_name,
                sorted(self.flagged),
                *([[asdict(t.carried()) for t in larger], missing] if self.transfer else []),
                *([_told(own) for own in links]),
            ],
        )
        if results.exists(study.layout, identity):
            return results.publish(study.layout, identity)
        proposal = _carrying(self._propose(posed, settings), larger, links)
        names = {"fit_id": identity, "surrogate_id": surrogate, "mixture_name": mixture_name}
        refused, notes = decision.gate(self._refused, result.surrogate.metric_names)
        if single is None:
            notes += decision.unheard(study.config.objective, data.metric_names, refused)
        diagnostics = results.diagnose(data, result, objective, names, [*missing, *notes])
        diagnostics["links"] = [_told(own) for own in links]
        diagnostics["transfer"] = [asdict(v) for v in proposal.transfer]
        # With a target the others are not fitted for another reason: nobody asked for them.
        diagnostics["refused"] = {} if single else refused
        diagnostics["flagged"] = self._flagged(posed, proposal, target, settings)
        provenance = self._provenance(identity, proposal, objective)
        return results.save(study.layout, identity, result, proposal, diagnostics, provenance)

    def pareto(
        self,
        found: Fit,
        x: str,
        y: str,
        *,
        points: int = 15,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Pareto:
        """See :meth:`regmix.study.Study.pareto`.

        Args:
            found: the fit that judges.
        """
        sides = pareto.sides(x, y, self.data, self.study.config.objective)
        limited = self.study.config.objective.limits.metrics
        surrogate = self._surrogate_over(found, [*sides[0].metrics, *sides[1].metrics, *limited])
        ground = pareto.Ground.of(
            self._decision(self.study.config.fit), self.data, surrogate, self.study.config.seed,
            self._refused,
        )  # fmt: skip
        best = str(results.objective_values(self.data, found.objective).idxmin())
        measured = Mixture.from_array(self.study.domains, self.data.weights.loc[best].to_numpy())
        named = {**self.study.references(), solve.BEST_RUN: measured, "proposal": found.best}
        front = pareto.trace(*sides, ground, named, points=points, progress=progress)
        return replace(front, fit_id=found.fit_id).save(found.folder / pareto.FOLDER, folder)

    def problem(self, found: Fit) -> Problem:
        """What a fit's proposal was found to solve, by the study's present settings."""
        choice = self._decision(self.study.config.fit)
        return decision.problem_for(choice, self.data, found.surrogate, found.objective)

    def _mixture_name(self, target: str | None, name: str | None) -> str:
        """What the mixture file will be called, checked before anything is fitted.

        Raises:
            UserError: it is no name of a file, stands for another mixture, or a file of that name
                is there that no fit wrote.
        """
        if name is None:
            single = None if target is None else self._to_fit(target)[0]
            name = "best" if single is None else "best-" + single.replace("/", "-")
        if Path(name).name != name or name.startswith("."):
            raise UserError(f"name '{name}': a mixture file's name holds no folder")
        if name in _REFERENCES:
            raise UserError(
                f"name '{name}': always stands for the {name} mixture; choose another (--name)"
            )
        path = self.study.layout.mixture(name)
        with disk_errors(path):
            there = path.exists()
        if there and "fit" not in MixtureFile.load(path).provenance:
            raise UserError(
                f"{path}: was not written by a fit (its provenance has no 'fit') and is not "
                "replaced; choose another name (--name), or rename that file"
            )
        return name

    def _to_fit(self, target: str | None) -> list[str]:
        objective = self.study.config.objective
        return decision.to_fit(objective, self.data, self._refused, target)

    def _pose(self, target: str | None, settings: FitConfig, progress: Progress | None) -> _Posed:
        """Everything up to the solver."""
        data, refused = self.data, self._refused
        metrics = self._to_fit(target)
        single = None if target is None else metrics[0]
        surrogate, result = self._surrogate(metrics, settings, progress)
        choice = self._decision(settings)
        objective = decision.objective_for(choice, data, result.surrogate, single, refused)
        problem = decision.problem_for(choice, data, result.surrogate, objective)
        return _Posed(surrogate, result, single, objective, problem)

    def _flagged(
        self, posed: _Posed, proposal: Proposal, target: str | None, settings: FitConfig
    ) -> dict[str, Any]:
        """Flagged runs, and how the proposal changes without them (or with them).

        Returns:
            ``runs`` (reasons by name), ``excluded``, and where there are any ``other``: the
            proposal of the other choice (``weights``), how far it lies from this one
            (``distance``, total variation), and its ``objective`` by this fit.
        """
        names = (self.whole or self.data).names
        found: dict[str, Any] = {
            "runs": {str(names.get(r, r)): text for r, text in self.flagged.items()},
            "excluded": self.whole is not None,
        }
        other = self.whole or self.data.without(self.flagged)
        if other is self.data:
            return found
        quick = settings.model_copy(update={"bootstraps": 0})
        try:
            beside = replace(self, data=other, flagged={}, whole=None)
            best = beside._propose(beside._pose(target, quick, None), quick).best.mixture
        except UserError as exc:  # too few are left, or a metric has gone with them
            return {**found, "other": None, "why": str(exc)}
        values = {m: v[0] for m, v in posed.result.surrogate.predict_one(best).items()}
        return {
            **found,
            "other": {
                "weights": best.as_dict(),
                "distance": best.distance(proposal.best.mixture),
                "objective": float(posed.objective.value(values)),
            },
        }

    def _propose(self, posed: _Posed, settings: FitConfig) -> Proposal:
        study = self.study
        return solve.propose(
            posed.problem, settings, self.data, study.references(), study.config.seed
        )

    def _surrogate(
        self,
        metrics: list[str],
        settings: FitConfig,
        progress: Progress | None,
    ) -> tuple[str, FitResult]:
        """The surrogate and its identity: fitted, or found where an earlier fit left it."""
        kept = settings.model_dump(
            mode="json", include={"regressor", "folds", "repeats", "monotone"}
        )
        identity = results.surrogate_id(self.data, metrics, kept)
        found = results.find_surrogate(self.study.layout, identity)
        return identity, found or fit.fit(self.data, metrics, settings, progress)

    def _surrogate_over(self, found: Fit, metrics: list[str]) -> Surrogate:
        """A fit's surrogate, or where that lacks some metrics one like it over all of them."""
        surrogate = found.surrogate
        if set(metrics) <= set(surrogate.metric_names):
            return surrogate
        tried = {name for m in surrogate.metrics for name in m.candidates}
        settings = self.study.config.fit
        if len(tried) == 1:  # it was asked for by name
            settings = settings.model_copy(update={"regressor": tried.pop()})
        together = [m for m in self.data.metric_names if m in {*surrogate.metric_names, *metrics}]
        return self._surrogate(together, settings, None)[1].surrogate

    def _decision(self, settings: FitConfig) -> decision.Settings:
        references = self.study.references()
        return decision.Settings(
            objective=self.study.config.objective,
            fit=settings,
            space=self.study.space,
            named=self.study.mixture,
            prior=references.get("natural", references["uniform"]),
        )

    def _larger(self, objective: Objective, result: FitResult) -> tuple[list[Transfer], list[str]]:
        """What larger sizes say, or why they say nothing."""
        if self.transfer is None:
            return [], []
        try:
            return self.transfer(objective, result.held_out), []
        except UserError as exc:  # a ladder that is not trained yet takes nothing from a fit
            return [], [str(exc)]

    def _provenance(
        self, identity: str, proposal: Proposal, objective: Objective
    ) -> dict[str, object]:
        """Where a proposed mixture came from: enough to find it again, or to doubt it."""
        return {
            "fit": identity,
            "study": self.study.config.name,
            "objective": objective.describe(),
            "runs": len(self.data.weights),
            "transfer": [v.text for v in proposal.transfer] or "not measured",
            "seed": self.study.config.seed,
            "data": self.study.manifest.fingerprint if self.study.manifest else None,
            "regmix": __version__,
        }


def _check_varied(data: Observations, layout: StudyLayout) -> None:
    """Refuse what no mixture can be found from.

    Raises:
        UserError: there is one domain alone, or all runs have one mixture.
    """
    if len(data.domains) < 2:
        raise UserError(
            f"{layout.config}: domains: '{data.domains[0]}' alone has one mixture; at least two "
            "domains are needed to fit"
        )
    if len(data.weights) > 1 and not np.ptp(data.x(), axis=0).any():
        raise UserError(
            f"{layout.root}: all {len(data.weights)} runs have the same mixture; runs of different "
            "mixtures are needed to fit"
        )


def _told(found: Link | str) -> str:
    return found if isinstance(found, str) else found.text


def _carrying(
    proposal: Proposal, larger: Sequence[Transfer], links: Sequence[Link | str]
) -> Proposal:
    """A proposal with what larger sizes say of it, and of its accuracies there."""
    best = proposal.best
    own = {m: mean for m, (mean, _) in best.metrics.items()} | {OBJECTIVE: best.objective[0]}
    known = [found for found in links if isinstance(found, Link)]
    return replace(proposal, transfer=tuple(t.carried(own, known) for t in larger))
