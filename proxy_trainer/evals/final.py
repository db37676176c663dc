"""What finished models are measured on beside bits per byte, and what of it is kept."""

from __future__ import annotations

from collections.abc import Sequence

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import documents, kept_tasks
from proxy_trainer.evals.bpb import Reading
from proxy_trainer.evals.models import Models
from proxy_trainer.models.array import ModelArray
from proxy_trainer.state import State
from regmix.errors import RegmixError
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest


def measure(state: State, study: StudyLayout, readings: Sequence[Reading]) -> None:
    """Ask all members together, and leave the results in their runs' folders.

    Called in every process that trains the models, at the end. A run of which nothing can be said
    on a task has failed.

    Raises:
        UserError: a task's questions are not there any more.
    """
    _ask(state, study)
    if not state.keeper.writes:
        return
    for k, run in state.alive:
        documents.save(run.layout, readings, k)


def _ask(state: State, study: StudyLayout) -> None:
    spec = state.runs[0].spec
    if not spec.tasks:
        return
    array = state.trainee.array
    # Workers' runs alone are measured on tasks: proxy_trainer.steps.train_sharded sees to it.
    assert isinstance(array, ModelArray)
    tokenizer = tokenizers.load(study.tokenizer)
    models = Models.of_array(array, tokenizer, DataManifest.load(study.manifest).eod_id)
    if spec.chat:
        models = models.of_conversations(study.chat_data(spec.chat))
    for task in kept_tasks.load(study, spec.tasks):
        outcomes = task.ask(models)
        for k, run in state.alive:
            outcome = outcomes[k]
            if isinstance(outcome, RegmixError):
                run.failure = str(outcome)
                continue
            outcome.save(run.layout.eval_result(task.fingerprint), run_id=run.spec.run_id)
            run.metrics |= outcome.metrics
