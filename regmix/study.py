"""Study: one folder, and everything that can be done with it from Python.

What the command line does, a notebook can do: ``Study.open(path)``, then ``propose``,
``observations``, ``fit``, ``best``. Training needs torch and lives in ``proxy_trainer``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from regmix import (
    __version__,
    comparison,
    config,
    decision,
    design,
    diagnose,
    fit,
    pareto,
    results,
    sizes,
    solve,
)
from regmix.comparison import Comparison
from regmix.config import FitConfig, LaunchConfig, RunConfig, StudyConfig
from regmix.diagnose import Diagnosis
from regmix.errors import UserError, unknown_name
from regmix.estimate import Estimate, estimate
from regmix.fit import FitResult
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest
from regmix.mixture import Mixture, MixtureFile
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.pareto import Pareto
from regmix.records import RunRecord, read_runs
from regmix.regressors import registry
from regmix.results import Fit
from regmix.runs import RunSpec
from regmix.sizes import ModelShape, TrainPlan
from regmix.space import Space
from regmix.store import Store, cohort
from regmix.strict import place
from regmix.surrogate import Surrogate

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Proposed:
    """What ``propose`` planned."""

    specs: tuple[RunSpec, ...]
    new: int
    """How many of them were not there before."""
    acceptance: float
    pulled: int
    notes: tuple[str, ...]


class Study:
    """One study folder."""

    def __init__(self, layout: StudyLayout, settings: StudyConfig) -> None:
        self.layout = layout
        self.config = settings
        self.store = Store(layout)

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Open a study folder.

        Raises:
            UserError: there is no ``study.yaml``, or something in it is wrong.
        """
        layout = config.find_study(path)
        settings = config.load_study(layout.config)
        for key, run in (("proxy", settings.proxy), ("target", settings.target)):
            try:
                sizes.plan(run.train, sizes.shape(run.model))
            except UserError as exc:  # now, and not after the data were built
                raise UserError(f"{layout.config}: {key}.{exc}") from exc
        names = ("auto", *registry.names())
        if settings.fit.regressor not in names:
            where = place(layout.config, ("fit", "regressor"))
            raise unknown_name("regressor", settings.fit.regressor, names, where)
        text_only = all(d.train for d in settings.domains)
        if text_only and not any(layout.imports.glob("*/import.json")):
            config.check_text_metrics(layout.config, settings)
        return cls(layout, settings)

    def __repr__(self) -> str:
        return f"Study({str(self.layout.root)!r}, domains={list(self.domains)})"

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in study order."""
        return self.config.domain_names

    @cached_property
    def manifest(self) -> DataManifest | None:
        """What the token shards hold; None if the data is not built (or was measured elsewhere)."""
        return DataManifest.load(self.layout.manifest) if self.layout.manifest.exists() else None

    @cached_property
    def space(self) -> Space:
        """The allowed mixtures."""
        return Space.from_config(self.config.space, self.config.domains, self.available_tokens())

    def available_tokens(self) -> dict[str, int]:
        """Training tokens by domain: counted where the data is built, else as ``study.yaml`` says.

        Domains of which neither is known are left out.
        """
        if self.manifest:
            return self.manifest.available_tokens()
        return {d.name: d.tokens for d in self.config.domains if d.tokens is not None}

    def references(self) -> dict[str, Mixture]:
        """The obvious alternatives: natural (where tokens are known) and uniform."""
        found = {}
        tokens = self.available_tokens()
        if self.manifest:
            found["natural"] = self.manifest.natural()
        elif len(tokens) == len(self.domains):
            total = sum(tokens.values())
            found["natural"] = Mixture.of({d: tokens[d] / total for d in self.domains})
        return {**found, "uniform": Mixture.uniform(self.domains)}

    def runs(self) -> list[RunRecord]:
        """Every run that was proposed."""
        return read_runs(self.layout)

    def propose(self, runs: int | None = None) -> Proposed:
        """Plan a swarm: write one specification a run; what is already there is kept.

        Args:
            runs: mixtures to fit, uniform among them; default: the study's ``swarm.runs``. Asking
                for more later adds to the same swarm.

        Raises:
            UserError: the data is not built, or not with the present settings; or too few runs
                are asked for.
        """
        swarm_config = self.config.swarm
        if runs is not None:
            if runs < 1:
                raise UserError(f"propose: {runs} runs; at least 1 is needed")
            swarm_config = swarm_config.model_copy(update={"runs": runs})
        manifest = self._as_configured()
        swarm = design.swarm(swarm_config, self.space, manifest.natural(), self.config.seed)
        template = self._template(self.config.proxy)
        specs = tuple(
            replace(template, name=p.name, role=p.role, mixture=p.mixture, seed=p.seed)
            for p in swarm.runs
        )
        new = sum(self.add_run(spec) for spec in specs)
        return Proposed(specs, new, swarm.acceptance, swarm.pulled, swarm.notes)

    def target_run(self, name: str, mixture: Mixture, seed: int | None = None) -> RunSpec:
        """The specification of a run at the target size.

        Raises:
            UserError: the data is not built, or not with the present settings.
        """
        self._as_configured()
        template = self._template(self.config.target)
        return replace(
            template,
            name=name,
            role="target",
            mixture=mixture,
            seed=self.config.seed if seed is None else seed,
            keep_model=True,
        )

    def stage_run(self, stage: config.StageConfig, mixture: Mixture) -> RunSpec:
        """The specification that a stage file stands for.

        Raises:
            UserError: the data is not built, or not with the present settings; or the stage would
                repeat a domain more often than its ``max_epochs``.
        """
        manifest = self._as_configured()
        template = self._template(RunConfig(model=stage.model, train=stage.train))
        spec = replace(
            template,
            name=stage.name,
            role="target",
            mixture=mixture,
            seed=stage.seed,
            keep_model=True,
        )
        if stage.max_epochs is not None:
            _check_epochs(spec, manifest, stage.max_epochs)
        return spec

    def add_run(self, spec: RunSpec) -> bool:
        """Write a run's specification unless it is there already; whether it was new."""
        path = self.layout.run(spec.run_id).spec
        if path.exists():
            return False
        spec.save(path)
        return True

    def open_runs(self, *, retry_failed: bool = False) -> list[str]:
        """Run ids that are still to be trained: of the present data, and of the present proxy.

        Runs that were planned for other data or another proxy stay where they are and are not
        trained; the larger models of ``regmix run`` are.

        Raises:
            UserError: nothing was proposed, or the data is not built with the present settings.
        """
        records = self.runs()
        if not records:
            raise UserError(f"{self.layout.root}: no run yet; `regmix propose` plans some")
        skip = ("done",) if retry_failed else ("done", "failed")
        present = cohort(self._template(self.config.proxy))
        data = self._as_configured().fingerprint
        return [
            r.spec.run_id
            for r in records
            if r.status not in skip
            and r.spec.data == data
            and (r.spec.role == "target" or cohort(r.spec) == present)
        ]

    def estimate(
        self, run_ids: Sequence[str], settings: LaunchConfig, workers: int, members: int
    ) -> Estimate:
        """What training some runs will take, by the speed of those that have finished."""
        wanted = set(run_ids)
        records = self.runs()
        return estimate(
            [r for r in records if r.spec.run_id in wanted],
            [r for r in records if r.status == "done"],
            launcher=settings.launcher,
            workers=workers,
            members=members,
            cost_per_hour=settings.cost_per_hour,
        )

    def observations(self) -> Observations:
        """Mixtures and metrics of the finished proxies, as labelled frames.

        Raises:
            UserError: nothing is measured yet.
        """
        wanted = cohort(self._template(self.config.proxy)) if self.manifest else None
        return self.store.observations(wanted)

    def fit(
        self,
        target: str | None = None,
        *,
        settings: FitConfig | None = None,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> Fit:
        """Fit a surrogate, solve for the best mixture, and write both.

        Args:
            target: one metric (or an unambiguous part of its name) to fit and optimise alone;
                default: the study's objective, over all metrics.
            settings: default: the study's ``fit``.
            name: of the mixture file; default: ``best`` or ``best-<target>``.

        Raises:
            UserError: too few runs, an unknown metric or regressor, or an infeasible space.
        """
        settings = settings or self.config.fit
        if name is not None and (Path(name).name != name or name.startswith(".")):
            raise UserError(f"name '{name}': a mixture file's name holds no folder")
        data = self.observations()
        metrics = list(data.metric_names) if target is None else [data.find_metric(target)]
        single = None if target is None else metrics[0]
        surrogate, result = self._surrogate(data, metrics, settings, progress)
        choice = self._decision(settings)
        objective = decision.objective_for(choice, data, result.surrogate, single)
        problem = decision.problem_for(choice, data, result.surrogate, objective)
        mixture_name = name or ("best" if single is None else "best-" + single.replace("/", "-"))
        identity = results.fit_id(
            surrogate,
            objective,
            [
                settings.model_dump(mode="json"),
                self.config.space.model_dump(mode="json"),
                [asdict(limit) for limit in problem.limits],
                {n: m.as_dict() for n, m in self.references().items()},
                problem.space.polytope.upper.tolist(),
                self.config.seed,
                mixture_name,
            ],
        )
        if results.exists(self.layout, identity):
            return results.publish(self.layout, identity)
        proposal = solve.propose(problem, settings, data, self.references(), self.config.seed)
        names = {"fit_id": identity, "surrogate_id": surrogate, "mixture_name": mixture_name}
        diagnostics = results.diagnose(data, result, objective, names)
        provenance = self._provenance(identity, objective, data)
        return results.save(self.layout, identity, result, proposal, diagnostics, provenance)

    def _surrogate(
        self,
        data: Observations,
        metrics: list[str],
        settings: FitConfig,
        progress: Progress | None,
    ) -> tuple[str, FitResult]:
        """The surrogate and its identity: fitted, or found where an earlier fit left it."""
        kept = settings.model_dump(
            mode="json", include={"regressor", "folds", "repeats", "monotone"}
        )
        identity = results.surrogate_id(data, metrics, kept)
        found = results.find_surrogate(self.layout, identity)
        return identity, found or fit.fit(data, metrics, settings, progress)

    def _decision(self, settings: FitConfig) -> decision.Settings:
        references = self.references()
        return decision.Settings(
            objective=self.config.objective,
            fit=settings,
            space=self.space,
            named=self.mixture,
            prior=references.get("natural", references["uniform"]),
        )

    def mixture(self, name: str) -> Mixture:
        """A mixture by name: natural, uniform, or a file's in ``mixes/``.

        Raises:
            UserError: there is none of that name; with those that there are.
        """
        references = self.references()
        if name in references:
            return references[name]
        files = sorted(p.stem for p in self.layout.mixes.glob("*.yaml"))
        if name not in files:
            missing = "" if "natural" in references else (
                " ('natural' is known once the data is built, or with domains[].tokens)"
            )  # fmt: skip
            raise UserError(f"{unknown_name('mixture', name, (*references, *files))}{missing}")
        return MixtureFile.load(self.layout.mixture(name), self.domains).mixture

    def _provenance(
        self, identity: str, objective: Objective, data: Observations
    ) -> dict[str, object]:
        """Where a proposed mixture came from: enough to find it again, or to doubt it."""
        return {
            "fit": identity,
            "study": self.config.name,
            "objective": objective.describe(),
            "runs": len(data.weights),
            "seed": self.config.seed,
            "data": self.manifest.fingerprint if self.manifest else None,
            "regmix": __version__,
        }

    def latest_fit(self, fit_id: str | None = None) -> Fit:
        """A fit on disk; default: the latest."""
        return results.load(self.layout, fit_id)

    def best(self) -> Mixture:
        """The mixture that the latest fit proposes."""
        return self.latest_fit().best

    def predict(self, mixtures: pd.DataFrame, fit_id: str | None = None) -> pd.DataFrame:
        """Predict metrics for mixtures: columns ``<metric>`` and ``<metric>_std``.

        Args:
            mixtures: indexed by id, one column a domain; in any order.

        Raises:
            UserError: nothing is fitted yet, or a domain of the fit has no column.
        """
        surrogate = self.latest_fit(fit_id).surrogate
        missing = [d for d in surrogate.domains if d not in mixtures]
        if missing:
            raise UserError(f"predict: no column for domain {', '.join(missing)}")
        found = surrogate.predict(mixtures[list(surrogate.domains)].to_numpy(dtype=float))
        columns = {}
        for metric, prediction in found.items():
            columns[metric], columns[f"{metric}_std"] = prediction.mean, prediction.std
        return pd.DataFrame(columns, index=mixtures.index)

    def pareto(
        self,
        x: str,
        y: str,
        *,
        points: int = 15,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Pareto:
        """The front of mixtures between two groups of metrics, by the latest fit.

        Written to ``fits/<fit_id>/pareto/<x>-vs-<y>.csv``, where the report finds it.

        Args:
            x: names, unambiguous parts or patterns of metrics, or groups of the study's
                ``objective.groups``, with commas between them.
            y: the same; no metric may stand on both sides.
            points: at most so many mixtures.
            folder: where the CSV is written too.
            progress: called with (steps done, in all).

        Raises:
            UserError: nothing is fitted yet, or a name stands for no metric or for several.
        """
        found, data = self.latest_fit(), self.observations()
        sides = pareto.sides(x, y, data, self.config.objective)
        surrogate = self._surrogate_over(found, data, [*sides[0].metrics, *sides[1].metrics])
        ground = pareto.Ground.of(
            self._decision(self.config.fit), data, surrogate, self.config.seed
        )
        best = str(results.objective_values(data, found.objective).idxmin())
        measured = Mixture.from_array(self.domains, data.weights.loc[best].to_numpy())
        named = {**self.references(), solve.BEST_RUN: measured, "proposal": found.best}
        front = pareto.trace(*sides, ground, named, points=points, progress=progress)
        return replace(front, fit_id=found.fit_id).save(found.folder / pareto.FOLDER, folder)

    def diagnose(self, progress: Progress | None = None) -> Diagnosis:
        """What the swarm can and cannot say, by the latest fit: frames, and findings in words.

        Args:
            progress: called with (steps done, in all).

        Raises:
            UserError: nothing is fitted yet.
        """
        data = self.observations()
        root, here = self.layout.root, Path.cwd()
        place = diagnose.Place(
            name=str(root.relative_to(here) if here in root.parents else root),
            trains=self.manifest is not None,
            asked=int(
                (data.info["role"] == "swarm").sum() + (data.info["name"] == "uniform").sum()
            ),
        )
        return diagnose.diagnose(data, self.latest_fit(), self.space, place, progress)

    def _surrogate_over(self, found: Fit, data: Observations, metrics: list[str]) -> Surrogate:
        """A fit's surrogate, or where that lacks some metrics one like it over all of them."""
        surrogate = found.surrogate
        if set(metrics) <= set(surrogate.metric_names):
            return surrogate
        tried = {name for m in surrogate.metrics for name in m.candidates}
        settings = self.config.fit
        if len(tried) == 1:  # it was asked for by name
            settings = settings.model_copy(update={"regressor": tried.pop()})
        return self._surrogate(data, list(data.metric_names), settings, None)[1].surrogate

    def comparison(self) -> Comparison | None:
        """Measured target runs on the proposal, natural and uniform; None before there are any."""
        found = self.latest_fit()
        named = {"proposal": found.best, **self.references()}
        return comparison.measured(self.store, found.objective, named)

    def _built(self) -> DataManifest:
        """The data, of the domains that the study names; for what is measured already."""
        if self.manifest is None:
            raise UserError(
                f"{self.layout.root}: the data is not built; run "
                f"`regmix data build {self.layout.root}` first"
            )
        self.manifest.check_domains(self.config, self.layout)
        return self.manifest

    def _as_configured(self) -> DataManifest:
        """The data, built with the settings that the study has now; for what is to be trained."""
        manifest = self._built()
        manifest.check_settings(self.config, self.layout)
        return manifest

    def _matched(self, plan: TrainPlan, model: ModelShape, settings: RunConfig) -> TrainPlan:
        """The plan with the share of the data that gives it the full run's epochs, if asked for."""
        budget = self.config.space.budget_tokens
        if settings.train.repetition == "none" or budget is None:
            return plan
        tokens = plan.steps * plan.batch * model.context
        return replace(plan, data_share=min(1.0, tokens / budget))

    def _template(self, settings: RunConfig) -> RunSpec:
        manifest = self._built()
        model = sizes.shape(settings.model)
        return RunSpec(
            name="",
            role="swarm",
            mixture=manifest.natural(),
            model=model,
            plan=self._matched(sizes.plan(settings.train, model), model, settings),
            vocab_size=manifest.vocab_size,
            data=manifest.fingerprint,
            seed=self.config.seed,
        )


def _check_epochs(spec: RunSpec, manifest: DataManifest, limit: float) -> None:
    for name, weight in spec.mixture.as_dict().items():
        available = manifest.domain(name).train.tokens
        epochs = weight * spec.tokens / available
        if epochs > limit:
            raise UserError(
                f"domain '{name}': {weight:.3g} of {spec.tokens:,} tokens asks {epochs:.2f} epochs "
                f"of its {available:,}; max_epochs is {limit:g}, short by "
                f"{int(weight * spec.tokens - limit * available):,} tokens"
            )
