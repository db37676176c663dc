"""Models asked tasks while they are in training: at its end, or at every evaluation point."""

from __future__ import annotations

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import kept_tasks
from proxy_trainer.evals.asking import of_run, place
from proxy_trainer.evals.models import Models, WriteNothingError
from proxy_trainer.evals.task import Progress
from proxy_trainer.models.array import ModelArray
from proxy_trainer.state import State
from regmix.errors import RegmixError
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest


def ask(state: State, study: StudyLayout, progress: Progress) -> None:
    """Ask all members together, and leave the results in their runs' folders.

    Called in every process that trains the models, at each of their evaluation points. A run of
    which nothing can be said on a task has failed. A task that is answered in words is left for
    afterwards where several processes hold the model, which the log says.

    Raises:
        UserError: a task's questions are not there any more.
    """
    spec = state.runs[0].spec
    last = state.step == spec.plan.steps
    if not (state.alive and spec.tasks and (last or spec.tasks_at == "every")):
        return
    models = _models(state, study)
    for task in kept_tasks.load(study, spec.tasks):
        try:
            outcomes = task.ask(models, progress)
        except WriteNothingError as exc:  # in all processes alike; kept models can be asked later
            for _, run in state.alive:
                text = f"not asked '{task.name}': {exc}"
                run.log.write("warning", step=state.step, about=task.name, text=text)
            continue
        for k, run in state.alive:
            outcome = outcomes[k]
            if isinstance(outcome, RegmixError):
                run.failure = str(outcome)
                continue
            run.metrics |= outcome.metrics
            if state.keeper.writes:
                step = None if last else state.step
                path = run.layout.asked(task.fingerprint, step).done
                outcome.save(path, items=last, **place(run.spec, step))


def _models(state: State, study: StudyLayout) -> Models:
    array, tokenizer = state.trainee.array, tokenizers.load(study.tokenizer)
    opening = DataManifest.load(study.manifest).eod_id
    if isinstance(array, ModelArray):
        found = Models.of_array(array, tokenizer, opening)
    else:
        # Loads torch.distributed, which takes a second that other workers need not spend.
        from proxy_trainer.sharded.model import ShardedModel
        from proxy_trainer.sharded.reader import ShardedReader

        assert isinstance(array, ShardedModel)
        found = Models(array, ShardedReader(array), tokenizer, array.shape.context, opening)
    return of_run(found, study, state.runs[0].spec)
