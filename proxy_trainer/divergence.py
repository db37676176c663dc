"""Runs whose loss, gradient or weights are no numbers: they stop, and what was before is kept.

A model that is broken stays as it was before the step that broke it: no update is made from then
on. So it can still be saved when that is noticed, at the next log point or checkpoint.
"""

from __future__ import annotations

import shutil

from proxy_trainer.models import hf
from proxy_trainer.state import Run, State
from proxy_trainer.watch.watcher import watched
from regmix.errors import RegmixError
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest


def note(state: State, study: StudyLayout, manifest: DataManifest) -> None:
    """Find the runs that have diverged since the last look; called in all processes.

    Members of a swarm are frozen where they are, and that is recorded. Of a run that is watched
    the last sound step's checkpoint and model are kept, and its failure says how to go on.
    """
    found = zip(state.runs, state.trainee.broken_K.tolist(), strict=True)
    for k, (run, broken) in enumerate(found):
        if run.failure or not broken:
            continue
        what = f"loss or gradient is no number at step {broken} of {run.spec.plan.steps}"
        if watched(run.spec) and broken > 1 and state.keeper.sound(k):
            state.keeper.save([(k, run)], broken - 1)
            run.saved = broken - 1
            run.failure = what + how_to_go_on(run, _save_model(state, k, run, study, manifest))
        else:
            run.failure = what + how_to_go_on(run)


def note_unsound(state: State) -> None:
    """Find watched runs whose weights are no numbers, so that these are not saved."""
    for k, run in state.alive:
        if watched(run.spec) and not state.keeper.sound(k):
            at = f"step {state.step} of {run.spec.plan.steps}"
            run.failure = f"weights are no numbers after {at}{how_to_go_on(run)}"


def how_to_go_on(run: Run, model: str = "") -> str:
    """The end of a watched run's failure: what is left of it, and what can be done with that.

    Args:
        model: what became of the model at its last checkpoint, if it was to be saved too.
    """
    if not watched(run.spec):
        return ""
    plan = run.spec.plan
    calmer = f"lower train.lr (now {plan.lr:.3g})"
    if not plan.skip_sigma:
        calmer += " or leave out spikes (train.skip_sigma: 6)"
    if not run.saved:
        return f"; there is no checkpoint from before it: {calmer}"
    return (
        f"; the checkpoint of step {run.saved}, from before it, is kept: the same command goes on "
        f"from there, to the same end unless a device was at fault; to go on otherwise, {calmer}"
        f"{model}"
    )


def _save_model(state: State, k: int, run: Run, study: StudyLayout, manifest: DataManifest) -> str:
    """Save the model for another run to start from; what is to be said of it."""
    if not run.spec.keep_model:
        return ""
    folder = run.layout.before
    weights = state.trainee.array.member(k)

    def write() -> str:
        try:
            if state.keeper.writes:
                hf.save(weights, run.spec.model, folder, study.tokenizer, manifest.eod_id)
        except RegmixError as exc:  # the run fails for its own reason, not for this one
            shutil.rmtree(folder, ignore_errors=True)
            return f"; its model could not be saved ({exc})"
        return f" in a stage that starts from its model, {folder}"

    return state.keeper.together(write)  # of which the others hear at the next log point
