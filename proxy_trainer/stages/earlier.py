"""Runs of the study that a recipe's stage starts from, other than those of its own stages."""

from __future__ import annotations

from typing import NamedTuple

from proxy_trainer import checkpoint, retention
from proxy_trainer.data.chat.shards import ChatManifest
from proxy_trainer.moments import Moments
from proxy_trainer.optim import learning_rate
from proxy_trainer.stages.ledger import Use
from proxy_trainer.stages.metrics import CHAT
from regmix.errors import UserError, unknown_name
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest
from regmix.recipe import StartRun
from regmix.runs import RunSpec, Start


class Earlier(NamedTuple):
    """A run that a stage starts from."""

    spec: RunSpec
    start: Start
    """Without the optimiser."""

    @property
    def steps(self) -> int:
        """Steps of it that were done."""
        return self.start.step or self.spec.plan.steps

    @property
    def rate(self) -> float:
        """The learning rate that it stood at."""
        return learning_rate(self.spec.plan, self.steps - 1)


def found(study: StudyLayout, manifest: DataManifest, asked: StartRun, where: str) -> Earlier:
    """The run, if it can be started from.

    Raises:
        UserError: there is none, it has no model or no such checkpoint, or it was trained on other
            data, so that nobody can tell whether its tokens mean the same.
    """
    run = study.run(asked.run)
    if not run.spec.is_file():
        known = [path.parent.name for path in study.runs.glob("*/spec.yaml")]
        raise unknown_name("run", asked.run, sorted(known), f"{where}.run")
    spec = RunSpec.load(run.spec)
    if spec.data != manifest.fingerprint:
        raise UserError(
            f"{where}.run: run {asked.run} was trained on data {spec.data}, the study now holds "
            f"{manifest.fingerprint}; start from its folder, {run.model}"
        )
    if asked.step is None and not (run.done.exists() and (run.model / "config.json").is_file()):
        raise UserError(
            f"{where}.run: run {asked.run} has left no model, as stages and targets do once they "
            "are done; `step` starts from one of its checkpoints"
        )
    if asked.step is not None and checkpoint.at(run.checkpoints, asked.step) is None:
        there = [str(step) for step, _ in retention.found(run.checkpoints)]
        raise UserError(
            f"{where}.step: run {asked.run} has no checkpoint of step {asked.step} that can be "
            f"read; it has {', '.join(there) or 'none'} (launch.keep_every keeps them)"
        )
    return Earlier(spec, Start(run=asked.run, step=asked.step or 0))


def check_moments(study: StudyLayout, own: Earlier, where: str) -> None:
    """Make sure that the optimiser can go on.

    Raises:
        UserError: it cannot; a model's optimiser is kept for the next stage of a recipe alone.
    """
    if own.start.step:
        return
    try:
        Moments.load(study.run(own.start.run).state)
    except UserError as exc:
        raise UserError(f"{where}.run: {exc}") from exc


def seeds(study: StudyLayout, spec: RunSpec) -> dict[int, str]:
    """Seeds by which the run, those that it averages, and those before it read domains; with ids.

    Who reads by one of them again begins with the same text, in the same order.
    """
    before = (*spec.merge, *([spec.start.run] if spec.start and spec.start.run else ()))
    found = {} if spec.chat else {spec.seed: spec.run_id}
    for run_id in before:
        found = {**seeds(study, RunSpec.load(study.run(run_id).spec)), **found}
    return found


def uses(study: StudyLayout, manifest: DataManifest, own: Earlier) -> tuple[Use, ...]:
    """What the run has read, and those before it: the model has seen it."""
    spec, start = own.spec, own.spec.start
    before: tuple[Use, ...] = ()
    if start is not None and start.run:
        first = Earlier(RunSpec.load(study.run(start.run).spec), start)
        before = uses(study, manifest, first)
    label, share = f"run {spec.run_id}", own.steps / spec.plan.steps
    if not spec.chat:
        return before + tuple(
            Use(label, d, w * share * spec.tokens, manifest.domain(d).train.tokens)
            for d, w in spec.mixture.as_dict().items()
            if w
        )
    chat = ChatManifest.load(study.chat_data(spec.chat))
    sources = [(chat.source(name), epochs) for name, epochs in spec.epochs]
    return before + tuple(
        Use(label, CHAT + s.name, share * epochs * s.tokens, s.tokens, parts=s.contents)
        for s, epochs in sources
    )
