"""Which runs a study trains: the swarm, larger models, and what of them is still to be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from regmix import design, sizes, tasks
from regmix.config import ProxyConfig, RunConfig
from regmix.errors import UserError
from regmix.folder import StudyFolder
from regmix.mixture import Mixture
from regmix.records import read_runs
from regmix.runs import RunSpec
from regmix.sizes import ModelShape, TrainPlan


@dataclass(frozen=True)
class Proposed:
    """What ``propose`` planned."""

    specs: tuple[RunSpec, ...]
    new: int
    """How many of them were not there before."""
    acceptance: float
    pulled: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        runs = [
            {"run_id": s.run_id, "name": s.name, "role": s.role, "tokens": s.tokens,
             "flops": s.flops, "weights": s.mixture.as_dict()}
            for s in self.specs
        ]  # fmt: skip
        return {
            "runs": runs,
            "new": self.new,
            "acceptance": self.acceptance,
            "pulled": self.pulled,
            "notes": list(self.notes),
        }


def propose(study: StudyFolder, runs: int | None = None) -> Proposed:
    """See :meth:`regmix.study.Study.propose`."""
    swarm_config = study.config.swarm
    if runs is not None:
        if runs < 1:
            raise UserError(f"propose: {runs} runs; at least 1 is needed")
        swarm_config = swarm_config.model_copy(update={"runs": runs})
    manifest = study.as_configured()
    repeated = {name: study.mixture(name) for name in swarm_config.repeat}
    natural = manifest.natural()
    swarm = design.swarm(swarm_config, study.space, natural, study.config.seed, repeated)
    shared = template(study, study.config.proxy)
    specs = tuple(
        replace(shared, name=p.name, role=p.role, mixture=p.mixture, seed=p.seed)
        for p in swarm.runs
    )
    specs += tuple(_ladder(study, shared))
    notes = (*swarm.notes, *_earlier(study, shared))
    new = sum(add_run(study, spec) for spec in specs)
    return Proposed(specs, new, swarm.acceptance, swarm.pulled, notes)


def _earlier(study: StudyFolder, proxy: RunSpec) -> tuple[str, ...]:
    """What becomes of proxies that were trained before the numerics changed."""
    cohorts = Counter(r.spec.cohort for r in read_runs(study.layout) if r.status == "done")
    present, *before = (cohorts[cohort] for cohort in proxy.cohorts)
    if not sum(before):
        return ()
    return (
        f"{sum(before)} finished runs are of an earlier version of the numerics, which this one "
        f"({proxy.numerics}) cannot add to: a fit goes by the version of which most runs are done "
        f"(this one: {present}, an earlier one: {max(before)})",
    )


def _ladder(study: StudyFolder, proxy: RunSpec) -> Iterator[RunSpec]:
    """The mixtures that are trained again at larger sizes; the same however large the swarm is."""
    base = design.swarm(
        study.config.swarm, study.space, study.as_configured().natural(), study.config.seed
    )
    own = [p for p in base.runs if p.seed == study.config.seed]
    for index, step in enumerate(study.config.ladder):
        shared = template(study, step)
        if replace(shared, keep_model=proxy.keep_model).cohort == proxy.cohort:
            raise UserError(f"{study.layout.config}: ladder.{index}: is the proxy itself")
        for p in design.spread(own, step.mixtures):
            yield replace(
                shared, name=f"ladder{index + 1}-{p.name}", role="ladder", mixture=p.mixture
            )


def target_run(study: StudyFolder, name: str, mixture: Mixture, seed: int | None = None) -> RunSpec:
    """See :meth:`regmix.study.Study.target_run`."""
    study.as_configured()
    shared = template(study, study.config.target)
    return replace(
        shared,
        name=name,
        role="target",
        mixture=mixture,
        seed=study.config.seed if seed is None else seed,
        keep_model=True,
    )


def add_run(study: StudyFolder, spec: RunSpec) -> bool:
    """See :meth:`regmix.study.Study.add_run`."""
    path = study.layout.run(spec.run_id).spec
    if path.exists():
        return False
    spec.save(path)
    return True


def open_runs(study: StudyFolder, *, retry_failed: bool = False) -> list[str]:
    """See :meth:`regmix.study.Study.open_runs`."""
    records = read_runs(study.layout)
    if not records:
        raise UserError(f"{study.layout.root}: no run yet; `regmix propose` plans some")
    skip = ("done",) if retry_failed else ("done", "failed")
    wanted = (study.config.proxy, *study.config.ladder)
    present = {template(study, settings).cohort for settings in wanted}
    data = study.as_configured().fingerprint
    return [
        r.spec.run_id
        for r in records
        if r.status not in skip
        and r.spec.data == data
        and (r.spec.role == "target" or r.spec.cohort in present)
    ]


def template(study: StudyFolder, settings: RunConfig) -> RunSpec:
    """A run of the natural mixture with these settings and no name; to be filled in.

    Raises:
        UserError: the data is not built, or of other domains.
    """
    manifest = study.built()
    model = sizes.shape(settings.model)
    return RunSpec(
        name="",
        role="swarm",
        mixture=manifest.natural(),
        model=model,
        plan=_matched(study, sizes.plan(settings.train, model), model, settings),
        vocab_size=manifest.vocab_size,
        data=manifest.fingerprint,
        seed=study.config.seed,
        keep_model=isinstance(settings, ProxyConfig) and settings.keep_model,
        tasks=tasks.taken_in(study.layout, study.config.evaluate),
        tasks_at=study.config.evaluate.points,
    )


def _matched(
    study: StudyFolder, plan: TrainPlan, model: ModelShape, settings: RunConfig
) -> TrainPlan:
    """The plan with the share of the data that gives it the full run's epochs, if asked for."""
    budget = study.config.space.budget_tokens
    if settings.train.repetition == "none" or budget is None:
        return plan
    tokens = plan.steps * plan.batch * model.context
    return replace(plan, data_share=min(1.0, tokens / budget))
