"""The step loop: one run from its specification to its metrics, exactly resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from proxy_trainer import checkpoint
from proxy_trainer.data.sampler import MixtureSampler
from proxy_trainer.environment import describe
from proxy_trainer.evals.bpb import EvalSet, bits_per_byte, load_eval_sets
from proxy_trainer.events import EventLog
from proxy_trainer.loss import cross_entropy
from proxy_trainer.models import hf
from proxy_trainer.models.gpt import GPT
from proxy_trainer.optim import adamw, learning_rate
from regmix.errors import RegmixError, UserError
from regmix.files import to_json, write_new
from regmix.layout import RunLayout, StudyLayout
from regmix.manifest import DataManifest
from regmix.runs import NUMERICS, RunSpec

LOG_POINTS = 50
"""Training-loss events a run."""


class Diverged(RegmixError):
    """The loss is not a number any more; training on would only spend time."""


@dataclass
class _State:
    """Everything a run holds while it trains."""

    spec: RunSpec
    model: GPT
    optimiser: torch.optim.AdamW
    sampler: MixtureSampler
    sets: list[EvalSet]
    log: EventLog
    step: int = 0
    seconds: float = 0.0


def train(
    study: StudyLayout,
    run: RunLayout,
    *,
    checkpoint_seconds: float,
    keep_going: Callable[[], bool] = lambda: True,
    on_step: Callable[[int, int], None] | None = None,
) -> bool:
    """Train the run, measure it, and leave ``DONE``; go on from its checkpoint if it has one.

    A function of the specification alone: interrupted anywhere and run again, it comes to the
    same figures, to the bit on one kind of CPU with one thread.

    Args:
        keep_going: asked after each step, before anything is written; False: leave a checkpoint
            and end. What it raises ends the run with nothing more written.
        on_step: called with (steps done, steps in all).

    Returns:
        Whether the run is done, by this process or by another one that was faster.

    Raises:
        UserError: the data or the tokenizer is not what the run was proposed for.
        Diverged: the loss became NaN or infinite.
    """
    spec = RunSpec.load(run.spec)
    if spec.numerics != NUMERICS:
        raise UserError(
            f"{run.spec}: planned for version {spec.numerics} of the numerics, this is {NUMERICS}; "
            "run `regmix propose` again"
        )
    manifest = DataManifest.load(study.manifest)
    if manifest.fingerprint != spec.data:
        raise UserError(
            f"{run.spec}: proposed for data {spec.data}, the study now holds "
            f"{manifest.fingerprint}; run `regmix propose` again"
        )
    with EventLog(run.events) as log:
        state = _prepare(study, run, spec, manifest, log)
        metrics = _loop(state, run, checkpoint_seconds, keep_going, on_step)
        if metrics is None:
            return False
        if spec.keep_model:
            hf.save(state.model, run.model, study.tokenizer, manifest.eod_id)
        _finish(state, run, metrics)
    return True


def _prepare(
    study: StudyLayout, run: RunLayout, spec: RunSpec, manifest: DataManifest, log: EventLog
) -> _State:
    model = GPT(spec.model, spec.vocab_size)
    model.initialise(spec.seed)
    state = _State(
        spec=spec,
        model=model,
        optimiser=adamw(model, spec.plan),
        sampler=MixtureSampler(
            study,
            manifest,
            spec.mixture,
            context=spec.model.context,
            blocks=spec.plan.steps * spec.plan.batch,
            seed=spec.seed,
        ),
        sets=load_eval_sets(
            study, manifest, context=spec.model.context, max_bytes=spec.plan.eval_bytes
        ),
        log=log,
    )
    found = checkpoint.load(run.checkpoints, model, state.optimiser)
    if found is not None:
        state.step, state.seconds = found.step, found.seconds
    log.write("start", step=state.step, environment=describe())
    return state


def _loop(
    state: _State,
    run: RunLayout,
    checkpoint_seconds: float,
    keep_going: Callable[[], bool],
    on_step: Callable[[int, int], None] | None,
) -> dict[str, float] | None:
    """Train to the end; the last metrics, or None if the run was to be left at a checkpoint."""
    plan = state.spec.plan
    evaluate_at = {round(plan.steps * (i + 1) / plan.eval_points) for i in range(plan.eval_points)}
    log_every = max(1, plan.steps // LOG_POINTS)
    began, saved = time.perf_counter() - state.seconds, time.perf_counter()
    metrics: dict[str, float] = {}
    while state.step < plan.steps:
        loss, norm = _step(state)
        state.step += 1
        stop = not keep_going()
        if state.step % log_every == 0 or state.step == plan.steps:
            _log_step(state, loss, norm)
        if state.step in evaluate_at:
            metrics = _evaluate(state)
        state.seconds = time.perf_counter() - began
        if on_step:
            on_step(state.step, plan.steps)
        due = time.perf_counter() - saved > checkpoint_seconds
        if (due or stop) and state.step < plan.steps:
            progress = checkpoint.Progress(state.step, state.seconds)
            checkpoint.save(run.checkpoints, state.model, state.optimiser, progress)
            saved = time.perf_counter()
            if stop:
                return None
    return metrics


def _step(state: _State) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimiser step; returns the loss and the gradient norm before clipping."""
    plan = state.spec.plan
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(plan, state.step)
    batch = torch.from_numpy(state.sampler.batch(state.step * plan.batch, plan.batch))
    hidden = state.model.hidden(batch[:, :-1])
    loss = cross_entropy(hidden, state.model.lm_head.weight, batch[:, 1:], plan.z_loss)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), plan.clip)
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    return loss.detach(), norm


def _log_step(state: _State, loss: torch.Tensor, norm: torch.Tensor) -> None:
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(f"loss is {value} at step {state.step} of {state.spec.plan.steps}")
    state.log.write(
        "step",
        step=state.step,
        tokens=state.step * state.spec.tokens_per_step,
        loss=value,
        grad_norm=norm.item() if math.isfinite(norm.item()) else None,
        lr=learning_rate(state.spec.plan, state.step - 1),
    )


def _evaluate(state: _State) -> dict[str, float]:
    metrics = {f"bpb/{d}": v for d, v in bits_per_byte(state.model, state.sets).items()}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value} at step {state.step}")
        state.log.write(
            "metric",
            step=state.step,
            tokens=state.step * state.spec.tokens_per_step,
            name=name,
            split="valid",
            value=value,
        )
    return metrics


def _finish(state: _State, run: RunLayout, metrics: dict[str, float]) -> None:
    result = {
        "run_id": state.spec.run_id,
        "steps": state.step,
        "tokens": state.spec.tokens,
        "flops": state.spec.flops,
        "seconds": round(state.seconds, 3),
        "metrics": metrics,
        "domains": [asdict(r) for r in state.sampler.realised()],
        "environment": describe(),
    }
    write_new(run.done, to_json(result))  # of two workers that were both sure to have it, one
    for left in run.checkpoints.glob("*"):
        left.unlink()
