"""Recipes carried out: stage after stage, the runs of each, and what becomes of them."""

from __future__ import annotations

import errno
import math
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from proxy_trainer import merging, steps
from proxy_trainer.evals.results import WHOLE
from proxy_trainer.stages import history, ledger, metrics
from proxy_trainer.stages.plan import Recipe, Stage
from regmix.config import LaunchConfig
from regmix.errors import RegmixError
from regmix.files import disk_errors, write_json, write_text
from regmix.records import RunRecord
from regmix.runs import RunSpec, Start
from regmix.sizes import ModelShape

Display = Callable[[Sequence[str], str], AbstractContextManager[Callable[[], None]]]
"""Shows how runs get on: given their ids and a title, yields what to call meanwhile."""


_TRIES = 10
"""At giving the final model its name, should other commands do so at the same time."""


@dataclass(frozen=True)
class Tried:
    """One run of a stage, as it ended."""

    spec: RunSpec
    metrics: dict[str, float]
    """Empty if it failed."""
    failure: str = ""


@dataclass(frozen=True)
class Ended:
    """A stage that is over."""

    stage: Stage
    tried: tuple[Tried, ...]
    metric: str
    """What runs were compared by."""
    chosen: Tried
    """What the next stage goes on from: a run, or the average of all."""

    def value(self, run: Tried) -> float:
        """The metric of a run, lower is better; NaN if it failed."""
        return metrics.value(run.metrics, self.metric)

    @property
    def spread(self) -> float:
        """Standard deviation of the metric over the runs that ended; NaN of fewer than two."""
        values = [self.value(t) for t in self.tried if not t.failure]
        return statistics.stdev(values) if len(values) > 1 else math.nan


def execute(
    recipe: Recipe,
    *,
    settings: LaunchConfig | None = None,
    display: Display,
    on_stage: Callable[[Ended], None],
) -> Path:
    """Carry out all stages; what is done is kept. The folder of the final model.

    Args:
        settings: default: the study's ``launch``.
        on_stage: called with each stage that is over.

    Raises:
        UserError: before anything starts, as :func:`proxy_trainer.stages.resolve.resolve`.
        RegmixError: all runs of a stage failed, or training could not go on.
    """
    start: Start | None = None
    ended: list[Ended] = []
    _record(recipe, ended, done=False)  # what is planned can be read while the first one trains
    for position, stage in enumerate(recipe.stages):
        if start is not None:
            start = replace(start, optimiser=stage.optimiser)
        specs = stage.runs(start)
        for spec in specs:
            recipe.study.add_run(spec)
        with display([s.run_id for s in specs], stage.config.name) as poll:
            failures = _train(recipe, stage, specs, settings, poll)
        ended.append(_ended(recipe, stage, specs, failures, settings))
        on_stage(ended[-1])
        start = Start(run=ended[-1].chosen.spec.run_id)
        _record(recipe, ended, position + 1 == len(recipe.stages))
    return _final(recipe, ended)


def check(recipe: Recipe, settings: LaunchConfig | None = None) -> None:
    """Make sure that every stage's runs could be started, without starting any.

    Args:
        settings: default: the study's ``launch``.

    Raises:
        UserError: the launcher cannot start what the recipe asks for, or a tracker is missing.
    """
    for stage in recipe.stages:
        ids = [spec.run_id for spec in stage.variants]
        if _sharded(recipe, stage):
            steps.check_sharded(recipe.study, ids, stage.parallel, settings)
        else:
            steps.check(recipe.study, ids, settings)


def _sharded(recipe: Recipe, stage: Stage) -> bool:
    """Whether runs are trained as gangs: spread, in a way that workers have not, or not native."""
    spread = stage.parallel
    asked = spread.recompute or spread.compiled or spread.rows is not None
    return stage.world > 1 or asked or not isinstance(recipe.shape, ModelShape)


def _train(
    recipe: Recipe,
    stage: Stage,
    specs: Sequence[RunSpec],
    settings: LaunchConfig | None,
    poll: Callable[[], None],
) -> dict[str, str]:
    """Train a stage's runs; why some could not go on that are not marked as failed."""
    ids = [s.run_id for s in specs]
    if _sharded(recipe, stage):
        return steps.train_sharded(recipe.study, ids, stage.parallel, poll, settings)
    if steps.train(recipe.study, ids, poll, settings).busy:
        raise RegmixError(f"{', '.join(ids)}: being trained by another command")
    return {}


def _ended(
    recipe: Recipe,
    stage: Stage,
    specs: Sequence[RunSpec],
    failures: Mapping[str, str],
    settings: LaunchConfig | None,
) -> Ended:
    _ask(recipe, stage, specs, settings)
    tried = tuple(_tried(recipe, spec, failures.get(spec.run_id, "")) for spec in specs)
    good = [t for t in tried if not t.failure]
    if not good:
        raise RegmixError(
            f"stage '{stage.config.name}': all runs failed; the first: {tried[0].failure}"
        )
    metric = stage.config.metric or metrics.default(stage.config.kind, good[0].metrics)
    if stage.config.keep == "merge" or stage.config.orders > 1:
        if len(good) < len(tried):
            failed = ", ".join(t.spec.run_id for t in tried if t.failure)
            raise RegmixError(
                f"stage '{stage.config.name}': an average of all runs is asked for, and {failed} "
                "failed"
            )
        chosen = _merged(recipe, stage, [t.spec for t in good], settings)
    else:
        chosen = min(good, key=lambda t: metrics.value(t.metrics, metric))
    return Ended(stage, tried, metric, chosen)


def _tried(recipe: Recipe, spec: RunSpec, failure: str = "") -> Tried:
    record = RunRecord(recipe.study.layout.run(spec.run_id), spec)
    if record.status == "failed":
        return Tried(spec, {}, str(record.failure()["reason"]))
    if failure and record.status != "done":
        return Tried(spec, {}, failure)
    asked = {
        metric["name"]: float(metric["value"])
        for found in record.evals(at_end=True)
        for metric in found["metrics"]
        if metric["split"] == WHOLE
    }
    return Tried(spec, {**record.result()["metrics"], **asked})


def _ask(
    recipe: Recipe, stage: Stage, specs: Sequence[RunSpec], settings: LaunchConfig | None
) -> None:
    """Ask finished models what they were not asked as they ended: averages, or a task since."""
    if stage.tasks:
        ids = [spec.run_id for spec in specs]
        found = steps.ask(recipe.study, stage.tasks, run_ids=ids, settings=settings)
        if found.failed:
            raise RegmixError("; ".join(f"run {own}: {why}" for own, why in found.failed.items()))
        if found.busy:
            raise RegmixError(f"{', '.join(found.busy)}: being asked by another command")


def _merged(
    recipe: Recipe, stage: Stage, specs: Sequence[RunSpec], settings: LaunchConfig | None
) -> Tried:
    """The average of some runs: a run of its own, measured as they are."""
    if len(specs) == 1:
        return _tried(recipe, specs[0])
    spec = replace(
        specs[0],
        name=f"{specs[0].name}-merge",
        merge=tuple(s.run_id for s in specs),
        keep_state=False,
    )
    recipe.study.add_run(spec)
    merging.carry_out(recipe.study.layout, spec)
    _ask(recipe, stage, [spec], settings)
    return _tried(recipe, spec)


def _record(recipe: Recipe, ended: Sequence[Ended], done: bool) -> None:
    """What the recipe has come to so far."""
    uses = recipe.uses([e.chosen.spec for e in ended])
    stages = [
        {
            "stage": e.stage.config.name,
            "kind": e.stage.config.kind,
            "metric": e.metric,
            "chosen": e.chosen.spec.run_id,
            "metrics": e.chosen.metrics,
            "runs": [
                {
                    "run_id": t.spec.run_id,
                    "lr": t.spec.plan.lr,
                    "seed": t.spec.seed,
                    "metrics": t.metrics,
                    "failure": t.failure,
                }
                for t in e.tried
            ],
        }
        for e in ended
    ]
    write_json(
        _folder(recipe) / "recipe.json",
        {
            "recipe": recipe.config.name,
            "done": done,
            "stages": stages,
            "uses": [{**asdict(use), "epochs": use.epochs} for use in uses],
            "epochs": ledger.totals(uses),
        },
    )


def _final(recipe: Recipe, ended: Sequence[Ended]) -> Path:
    """The final model in the recipe's own folder, put there whole; its card tells all stages."""
    folder, study = _folder(recipe), recipe.study.layout
    target = folder / "model"
    passed = [history.Passed(e.stage, e.chosen.spec, e.metric, e.chosen.metrics) for e in ended]
    # A name of its own: of two commands that end together each puts its whole, and alike.
    with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".model.tmp-") as own:
        made, old = Path(own) / "made", Path(own) / "old"
        shutil.copytree(study.run(passed[-1].spec.run_id).model, made)
        card = made / "README.md"
        write_text(card, history.with_stages(card.read_text("utf-8"), study, passed))
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                target.rename(old)
            try:
                made.rename(target)
                break
            except OSError as exc:  # another command's is there again
                if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                shutil.rmtree(old, ignore_errors=True)
        else:
            raise RegmixError(f"{target}: other commands write it again and again")
    return target


def _folder(recipe: Recipe) -> Path:
    return recipe.study.layout.recipes / recipe.config.name
