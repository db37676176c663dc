"""From what was measured to a mixture: fit, solve, and trade metrics against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from regmix import __version__, decision, fit, pareto, results, solve
from regmix.config import FitConfig
from regmix.errors import UserError
from regmix.fit import FitResult
from regmix.folder import StudyFolder
from regmix.mixture import Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.pareto import Pareto
from regmix.results import Fit
from regmix.surrogate import Surrogate

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Choosing:
    """A study, and what was measured in it."""

    study: StudyFolder
    data: Observations

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
        if name is not None and (Path(name).name != name or name.startswith(".")):
            raise UserError(f"name '{name}': a mixture file's name holds no folder")
        metrics = list(data.metric_names) if target is None else [data.find_metric(target)]
        single = None if target is None else metrics[0]
        surrogate, result = self._surrogate(metrics, settings, progress)
        choice = self._decision(settings)
        objective = decision.objective_for(choice, data, result.surrogate, single)
        problem = decision.problem_for(choice, data, result.surrogate, objective)
        mixture_name = name or ("best" if single is None else "best-" + single.replace("/", "-"))
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
            ],
        )
        if results.exists(study.layout, identity):
            return results.publish(study.layout, identity)
        proposal = solve.propose(problem, settings, data, study.references(), study.config.seed)
        names = {"fit_id": identity, "surrogate_id": surrogate, "mixture_name": mixture_name}
        notes = [] if single else decision.left_out(choice, data)
        diagnostics = results.diagnose(data, result, objective, names, notes)
        provenance = self._provenance(identity, objective)
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
        surrogate = self._surrogate_over(found, [*sides[0].metrics, *sides[1].metrics])
        ground = pareto.Ground.of(
            self._decision(self.study.config.fit), self.data, surrogate, self.study.config.seed
        )
        best = str(results.objective_values(self.data, found.objective).idxmin())
        measured = Mixture.from_array(self.study.domains, self.data.weights.loc[best].to_numpy())
        named = {**self.study.references(), solve.BEST_RUN: measured, "proposal": found.best}
        front = pareto.trace(*sides, ground, named, points=points, progress=progress)
        return replace(front, fit_id=found.fit_id).save(found.folder / pareto.FOLDER, folder)

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
        return self._surrogate(list(self.data.metric_names), settings, None)[1].surrogate

    def _decision(self, settings: FitConfig) -> decision.Settings:
        references = self.study.references()
        return decision.Settings(
            objective=self.study.config.objective,
            fit=settings,
            space=self.study.space,
            named=self.study.mixture,
            prior=references.get("natural", references["uniform"]),
        )

    def _provenance(self, identity: str, objective: Objective) -> dict[str, object]:
        """Where a proposed mixture came from: enough to find it again, or to doubt it."""
        return {
            "fit": identity,
            "study": self.study.config.name,
            "objective": objective.describe(),
            "runs": len(self.data.weights),
            "seed": self.study.config.seed,
            "data": self.study.manifest.fingerprint if self.study.manifest else None,
            "regmix": __version__,
        }
