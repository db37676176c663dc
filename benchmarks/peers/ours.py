"""Our trainer's step, as `proxy_trainer.train` takes it, on batches held in memory."""

from __future__ import annotations

from typing import Any

import torch
from runner import BETAS, CLIP, LR, Inputs, Job, Trainer, serve
from torch import Tensor

from proxy_trainer.data.batch import Batch
from proxy_trainer.members import Members
from proxy_trainer.setup import set_up
from regmix import __version__
from regmix.sizes import ModelShape, TrainPlan


def build(job: Job, inputs: Inputs, options: dict[str, Any]) -> Trainer:
    """The one place that knows our trainer: an array of members, and a step of all of them."""
    set_up()  # as every worker of ours does
    members = min(job.members, options["array"])
    made = Members(
        _shape(job), job.vocab_size, _plan(job), [0] * members,
        device=torch.device("cpu"), separator=0,
    )  # fmt: skip
    for member in range(members):
        made.array.load_member(member, inputs.weights)

    def step(index: int) -> Tensor:
        ids, targets = inputs.batch(index)
        batch = torch.cat([ids, targets[:, -1:]], dim=1).expand(members, -1, -1)
        return made.step(index, Batch(batch), [LR] * members).loss_K[0]

    parameters = sum(p.numel() for p in made.array.parameters()) // members
    return Trainer(step, members * job.batch * job.context, parameters, __version__)


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
        eval_steps=(),
        skip_sigma=0.0,
        data_share=1.0,
        document_mask=False,
    )


if __name__ == "__main__":
    serve(build, {"array": (1, 2, 4, 8, 16)})
