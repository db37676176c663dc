"""Our trainer's step, as `proxy_trainer.train` takes it, on batches held in memory."""

from __future__ import annotations

from typing import Any

import torch
from runner import BETAS, CLIP, LR, Inputs, Job, Trainer, count, serve
from torch import Tensor

from proxy_trainer.loss import cross_entropy
from proxy_trainer.models.gpt import GPT
from proxy_trainer.optim import adamw
from regmix import __version__
from regmix.sizes import ModelShape, TrainPlan


def build(job: Job, inputs: Inputs, options: dict[str, Any]) -> Trainer:
    """The one place that knows our trainer: the members of this process, and a step of them."""
    model = GPT(_shape(job), job.vocab_size)
    model.load_state_dict(inputs.weights)
    plan = _plan(job)
    optimiser = adamw(model, plan)

    def step(index: int) -> Tensor:
        ids, targets = inputs.batch(index)
        loss = cross_entropy(model.hidden(ids), model.lm_head.weight, targets, plan.z_loss)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    return Trainer(step, job.batch * job.context, count(model), __version__)


def _shape(job: Job) -> ModelShape:
    return ModelShape(
        d_model=job.d_model,
        layers=job.layers,
        heads=job.heads,
        kv_heads=job.heads,
        d_ff=job.d_ff,
        context=job.context,
        qk_norm=False,
        tied_embeddings=False,
    )


def _plan(job: Job) -> TrainPlan:
    """Constant learning rate, no decay and no z-loss: what every peer can do too."""
    return TrainPlan(
        steps=1_000_000,
        batch=job.batch,
        lr=LR,
        min_lr_ratio=1.0,
        schedule="constant",
        warmup_share=0.0,
        decay_share=0.0,
        weight_decay=0.0,
        beta1=BETAS[0],
        beta2=BETAS[1],
        clip=CLIP,
        z_loss=0.0,
        eval_bytes=0,
        eval_points=1,
    )


if __name__ == "__main__":
    serve(build)
