"""The step loop: from where runs stand to their metrics, or until they are told to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from proxy_trainer import divergence, leftovers, starts
from proxy_trainer.data.chat.hand_on import hand_on, inherit
from proxy_trainer.data.chat.shards import ChatManifest
from proxy_trainer.evals import bpb, documents, in_training
from proxy_trainer.execution import Stepped
from proxy_trainer.models import hf
from proxy_trainer.models.card import Origin
from proxy_trainer.optim import learning_rate
from proxy_trainer.state import Run, State
from proxy_trainer.watch.point import Point
from proxy_trainer.watch.watcher import watched
from regmix.files import to_json, write_new
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest
from regmix.runs import RunSpec

LOG_POINTS = 50
"""Log points of a run."""
WATCHED_POINTS = 1000
"""Of a run that is watched: some minutes apart where it takes days."""


@dataclass(frozen=True)
class Outcome:
    """How the runs of an array ended."""

    done: tuple[str, ...] = ()
    diverged: dict[str, str] = field(default_factory=dict)
    """Run id to reason."""
    stopped: tuple[str, ...] = ()
    """Asked to stop: they left checkpoints."""

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.done + other.done,
            self.diverged | other.diverged,
            self.stopped + other.stopped,
        )


def loop(
    state: State,
    study: StudyLayout,
    manifest: DataManifest,
    checkpoint_seconds: float,
    keep_going: Callable[[], bool],
    on_step: Callable[[int, int], None] | None,
) -> Outcome:
    """Train from where a state stands to the end, or until told to stop."""
    plan = state.runs[0].spec.plan
    points = WATCHED_POINTS if any(watched(r.spec) for r in state.runs) else LOG_POINTS
    log_every = max(1, plan.steps // points)
    last = saved = time.perf_counter()
    while state.step < plan.steps and state.alive:
        stepped = _step(state)
        due = time.perf_counter() - saved > checkpoint_seconds
        due = due or state.keeper.retention.stays(state.step)
        stop, due = state.keeper.agreed(not keep_going(), due)
        if state.step % log_every == 0 or state.step == plan.steps:
            divergence.note(state, study, manifest)
            _log_step(state, stepped)
        if state.step in plan.eval_steps:
            with state.aside():
                _evaluate(state, study, keep_going)
        now = time.perf_counter()
        for run in state.runs:
            run.seconds += (now - last) / len(state.runs)
        last = now
        if on_step:
            on_step(state.step, plan.steps)
        if (stop or due) and state.step < plan.steps:
            with state.aside():
                _save(state, study, manifest)
            saved = time.perf_counter()
        if stop and state.step < plan.steps:
            state.keeper.settle()
            return _ended(state, stopped=tuple(run.spec.run_id for _, run in state.alive))
    return _completed(state, study, manifest)


def _completed(state: State, study: StudyLayout, manifest: DataManifest) -> Outcome:
    """Leave models where they are kept, and ``DONE``."""
    state.keeper.settle()
    for k, run in state.alive:
        if run.spec.keep_state:
            state.keeper.save_state(k, run)  # gone before weights are gathered: twice their size
        weights = state.trainee.array.member(k) if run.spec.keep_model else None
        if not state.keeper.writes:
            continue
        if weights is not None:
            seen, environment = state.feed.realised(k), state.keeper.environment()
            hf.save(
                weights, run.spec.model, run.layout.model, study.tokenizer, manifest.eod_id,
                origin=Origin(
                    run.spec, manifest, run.metrics, seen, environment, _chat(study, run.spec)
                ),
            )  # fmt: skip
            if run.spec.chat:
                hand_on(study.chat_data(run.spec.chat), run.layout.model)
            elif run.spec.start is not None:
                inherit(starts.model_folder(study, run.spec.start), run.layout.model)
        _finish(state, k, run)
    return _ended(state, done=tuple(run.spec.run_id for _, run in state.alive))


def _chat(study: StudyLayout, spec: RunSpec) -> ChatManifest | None:
    return ChatManifest.load(study.chat_data(spec.chat)) if spec.chat else None


def _ended(state: State, **how: tuple[str, ...]) -> Outcome:
    return Outcome(diverged={r.spec.run_id: r.failure for r in state.runs if r.failure}, **how)


def _step(state: State) -> Stepped:
    batch, which_KB = state.feed.batch(state.step, state.rows)
    rates = [learning_rate(r.spec.plan, state.step) for r in state.runs]
    found = state.trainee.step(state.step, batch, rates)
    state.losses.add(batch, which_KB, found.nats_KB)
    state.step += 1
    return found


def _save(state: State, study: StudyLayout, manifest: DataManifest) -> None:
    """Checkpoints of all runs that go on; never of one that is broken, in place of a sound one."""
    divergence.note(state, study, manifest)
    divergence.note_unsound(state)
    state.keeper.save(state.alive, state.step)
    for _, run in state.alive:
        run.saved = state.step


def _log_step(state: State, stepped: Stepped) -> None:
    """Log the step of every member that goes on."""
    figures = zip(
        stepped.loss_K.tolist(), stepped.norm_K.tolist(), state.trainee.skipped_K.tolist(),
        state.losses.take(state.keeper.total), strict=True,
    )  # fmt: skip
    for run, (loss, norm, skipped, losses) in zip(state.runs, figures, strict=True):
        if run.failure:
            continue
        run.note(
            Point(
                step=state.step,
                tokens=state.step * run.spec.tokens_per_step,
                loss=loss,
                grad_norm=norm,
                lr=learning_rate(run.spec.plan, state.step - 1),
                skipped=skipped,
                losses=losses,
            )
        )


def _evaluate(state: State, study: StudyLayout, keep_going: Callable[[], bool]) -> None:
    readings = bpb.read(state.trainee.array, state.sets)
    keep_going()  # it took its time: what is lost by now raises; told to end, it ends after this
    for k, run in state.alive:
        run.metrics = {r.name: r.value(k) for r in readings}
        for reading in readings:
            value = run.metrics[reading.name]
            if not math.isfinite(value):
                run.failure = f"{reading.name} is {value} at step {state.step}"
                run.failure += divergence.how_to_go_on(run)
                break
            tokens = state.step * run.spec.tokens_per_step
            run.log.write("metric", step=state.step, tokens=tokens, **reading.fields(k))

    def progress(done: int, total: int) -> None:
        keep_going()  # as above

    in_training.ask(state, study, progress)
    if state.step == state.runs[0].spec.plan.steps and state.keeper.writes:
        for k, run in state.alive:
            documents.save(run.layout, readings, k)
    for _, run in state.alive:
        if run.watcher is not None:
            run.watcher.evaluated(state.step, run.metrics)


def _finish(state: State, member: int, run: Run) -> None:
    result = {
        "run_id": run.spec.run_id,
        "steps": state.step,
        "tokens": run.spec.tokens,
        "flops": run.spec.flops,
        "seconds": round(run.seconds, 3),
        "members": len(state.runs),
        "skipped_steps": int(state.trainee.skipped_K[member]),
        "metrics": run.metrics,
        "domains": [asdict(r) for r in state.feed.realised(member)],
        "environment": state.keeper.environment(),
        "keep_every": state.keeper.retention.every,
    }
    write_new(run.layout.done, to_json(result))  # of two workers sure to have the run, one
    with suppress(OSError):  # what cannot be removed now, the next command sweeps away
        leftovers.clear(run.layout, state.keeper.retention)
