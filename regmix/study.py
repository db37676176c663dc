"""Study: one folder, and everything that can be done with it from Python.

What the command line does, a notebook can do: ``Study.open(path)``, then ``propose``,
``observations``, ``fit``, ``best``. Training needs torch and lives in ``proxy_trainer``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from regmix import (
    comparison,
    config,
    cost,
    diagnose,
    differences,
    link,
    markup,
    noise,
    planning,
    results,
    sizes,
    sound,
)
from regmix.choosing import Choosing, Progress
from regmix.comparison import Comparison
from regmix.config import FitConfig, StudyConfig
from regmix.cost import Account
from regmix.diagnose import Diagnosis
from regmix.differences import Differences
from regmix.errors import UserError, unknown_name
from regmix.estimate import Estimate, Offer, estimate
from regmix.flags import Flags
from regmix.folder import StudyFolder
from regmix.imports import read_imports
from regmix.layout import StudyLayout
from regmix.link import Link
from regmix.mixture import Mixture
from regmix.noise import NoiseFloor
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.pareto import Pareto
from regmix.planning import Proposed
from regmix.plot import Evidence, Plots
from regmix.records import RunRecord, read_runs
from regmix.regressors import registry
from regmix.results import Fit
from regmix.runs import RunSpec
from regmix.sound import Sound
from regmix.store import Store
from regmix.store.assembling import largest
from regmix.strict import place
from regmix.transfer import Transfer
from regmix.transfer import measured as measured_transfer


class Study(StudyFolder):
    """One study folder, and what can be done with it."""

    def __init__(self, layout: StudyLayout, settings: StudyConfig) -> None:
        super().__init__(layout, settings)
        self.store = Store(layout)

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Open a study folder.

        Raises:
            UserError: there is no ``study.yaml``, or something in it is wrong.
        """
        layout = config.find_study(path)
        settings = config.load_study(layout.config)
        for key, run in settings.sizes():
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

    def _repr_html_(self) -> str:
        """For notebooks: what there is, as a small table."""
        runs = self.runs()
        counts = Counter(record.status for record in runs)
        imported = sum(len(batch.weights) for batch in read_imports(self.layout))
        told = [f"{n} {state}" for state, n in sorted(counts.items())]
        told += [f"{imported} imported"] if imported else []
        fitted = (self.layout.fits / results.LATEST).exists()
        rows = [
            ("folder", min(str(self.layout.root), os.path.relpath(self.layout.root), key=len)),
            ("domains", ", ".join(self.domains)),
            ("runs", ", ".join(told) or "none"),
            ("latest fit", self.latest_fit().fit_id if fitted else "none"),
        ]
        return markup.table(("study", self.config.name), rows)

    @property
    def plot(self) -> Plots:
        """The report's figures, of the study as it is now: ``study.plot.weights()``.

        Each reading takes the study's files in anew; keep the object for several figures.
        """
        return Plots(Evidence(self, self.store))

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
        return planning.propose(self, runs)

    def target_run(self, name: str, mixture: Mixture, seed: int | None = None) -> RunSpec:
        """The specification of a run at the target size.

        Raises:
            UserError: the data is not built, or not with the present settings.
        """
        return planning.target_run(self, name, mixture, seed)

    def add_run(self, spec: RunSpec) -> bool:
        """Write a run's specification unless it is there already; whether it was new."""
        return planning.add_run(self, spec)

    def open_runs(self, *, retry_failed: bool = False) -> list[str]:
        """Run ids that are still to be trained: of the present data, and of the present proxy.

        Runs that were planned for other data or another proxy stay where they are and are not
        trained; the larger models of ``regmix run`` are.

        Raises:
            UserError: nothing was proposed, or the data is not built with the present settings.
        """
        return planning.open_runs(self, retry_failed=retry_failed)

    def estimate(
        self, run_ids: Sequence[str], offers: Sequence[Offer], members: int, trial: float | None
    ) -> Estimate:
        """What training some runs will take; see :func:`regmix.estimate.estimate`."""
        wanted = set(run_ids)
        records = self.runs()
        return estimate(
            [r for r in records if r.spec.run_id in wanted],
            [r for r in records if r.status == "done"],
            offers=offers,
            members=members,
            trial=trial,
            cost_per_hour=self.config.launch.cost_per_hour,
        )

    def observations(self) -> Observations:
        """Mixtures and metrics of the finished proxies, as labelled frames.

        Raises:
            UserError: nothing is measured yet.
        """
        return sound.observations(self, self.store)

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
        choosing = self._choosing(settings or self.config.fit)
        return choosing.fit(target, settings=settings, name=name, progress=progress)

    def latest_fit(self, fit_id: str | None = None) -> Fit:
        """A fit on disk; default: the latest.

        Raises:
            UserError: there is none, or it is over other domains than the study has now.
        """
        return results.load(self.layout, self.domains, fit_id)

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
        found = self.latest_fit()
        choosing = self._choosing(self.config.fit)
        return choosing.pareto(found, x, y, points=points, folder=folder, progress=progress)

    def diagnose(self, progress: Progress | None = None) -> Diagnosis:
        """What the swarm can and cannot say, by the latest fit: frames, and findings in words.

        Args:
            progress: called with (steps done, in all).

        Raises:
            UserError: nothing is fitted yet.
        """
        data = self.fitted()
        root, here = self.layout.root, Path.cwd()
        place = diagnose.Place(
            name=str(root.relative_to(here) if here in root.parents else root),
            trains=self.manifest is not None,
            asked=int(
                (data.info["role"] == "swarm").sum() + (data.info["name"] == "uniform").sum()
            ),
        )
        return diagnose.diagnose(data, self.latest_fit(), self.space, place, progress)

    def transfer(self) -> list[Transfer]:
        """What every larger size of ``ladder:`` says of the order that the proxies found.

        The objective is that of the latest fit, where there is one.

        Raises:
            UserError: the study has no ladder, or too few of its mixtures are measured.
        """
        if not self.config.ladder:
            raise UserError(
                f"{self.layout.config}: ladder: is not there; give larger proxies, as in "
                "`ladder: [{model: {size: 4m}, mixtures: 12}]`, then `regmix propose` and "
                "`regmix train`"
            )
        if not (self.layout.fits / results.LATEST).exists():
            return self._transfer(None, None)
        found = self.latest_fit()
        return self._transfer(found.objective, found.held_out)

    def _transfer(
        self, objective: Objective | None, held_out: pd.DataFrame | None
    ) -> list[Transfer]:
        settings = (self.config.proxy, *self.config.ladder)
        measured, runs = self._sound(), self.store.sizes()
        wanted = [planning.template(self, own).cohorts for own in settings]
        cohorts = [largest(runs["cohort"].value_counts(), own) or own[0] for own in wanted]
        found = measured_transfer(
            runs[~runs["run_id"].isin(list(measured.left_out))], cohorts, measured.kept, objective,
            self.config.objective.directions, self.config.seed, held_out,
            self.reference(objective) if objective else "",
        )  # fmt: skip
        names = tuple(f"{measured.names[r]} ({why})" for r, why in measured.left_out.items())
        return [replace(transfer, left_out=names) for transfer in found]

    def links(self) -> list[Link | str]:
        """What bits per byte are worth in accuracy, task by task; or why that cannot be said.

        Raises:
            UserError: nothing is measured yet.
        """
        return self._links(self._sound())

    def _links(self, measured: Sound) -> list[Link | str]:
        if self.manifest is None:
            return []  # sizes of models that were measured elsewhere are not known
        info, values, _ = self.store.measured()
        left_out = list(measured.left_out)
        info, values = info.drop(left_out, errors="ignore"), values.drop(left_out, errors="ignore")
        above = planning.template(self, self.config.proxy).model.parameters
        return [
            link.find(info, values, loss, accuracy, above, self.config.objective.directions)
            for loss, accuracy in link.pairs([str(m) for m in values])
        ]

    def flags(self) -> Flags:
        """Runs that something is wrong with, each by a rule that is named.

        Raises:
            UserError: nothing is measured yet, or ``fit.exclude`` names a run that is not there.
        """
        return self._sound().flags

    def fitted(self) -> Observations:
        """The observations without the runs that the study leaves out of its figures.

        Raises:
            UserError: as :meth:`flags`.
        """
        return self._sound().kept

    def _sound(self, settings: FitConfig | None = None) -> Sound:
        return Sound.of(self, self.store, settings or self.config.fit)

    def _choosing(self, settings: FitConfig) -> Choosing:
        transfer = self._transfer if self.config.ladder else None
        measured = self._sound(settings)
        return Choosing.of(self, measured, transfer, lambda: self._links(measured))

    def cost(self) -> Account:
        """What the finished runs took, and what RegMix's published recipe would have."""
        return cost.account(self.runs(), self.manifest)

    def compare(self, *names: str) -> Differences:
        """Whether mixtures, runs or models differ by more than seeds do, metric by metric.

        Args:
            names: two or more, each against the first: mixtures by name or file, runs by id or
                name, models by path.

        Raises:
            UserError: as :func:`regmix.differences.compare`.
        """
        settings = self.config.fit
        asked = settings.exclude or settings.flagged == "exclude"
        left_out = self._sound().left_out if asked else {}
        return differences.compare(self, self.store, names, left_out)

    def noise(self) -> NoiseFloor:
        """Every metric's noise, and how wide a difference between two runs must be to count.

        Of the runs that fits take; a flagged repeat that is among them is named.

        Raises:
            UserError: as :meth:`flags`.
        """
        measured = self._sound()
        return replace(noise.floor(measured.kept), notes=measured.notes())

    def comparison(self) -> Comparison | None:
        """Measured target runs on the proposal, natural and uniform; None before there are any."""
        found = self.latest_fit()
        named = {"proposal": found.best, **self.references()}
        reference = self.reference(found.objective)
        return comparison.measured(self.store, found.objective, named, reference)
