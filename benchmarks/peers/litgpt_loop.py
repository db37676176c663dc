"""litgpt's GPT as its ``pretrain`` trains it: its chunked cross-entropy or its plain one."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from litgpt.config import Config
from litgpt.model import GPT
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import chunked_cross_entropy
from runner import CLIP, Inputs, Job, Trainer, adamw, count, serve
from torch import Tensor


def build(job: Job, inputs: Inputs, options: dict[str, Any]) -> Trainer:
    config = Config(
        name="llama-like",
        block_size=job.context,
        vocab_size=job.vocab_size,
        padded_vocab_size=job.vocab_size,
        n_layer=job.layers,
        n_head=job.heads,
        n_embd=job.d_model,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=1e-5,
        mlp_class_name="LLaMAMLP",
        intermediate_size=job.d_ff,
        rope_base=10_000,
    )
    model = GPT(config).train()
    weights: dict[str, Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, dict(inputs.weights))
    model.load_state_dict(weights)
    run = torch.compile(model) if job.compiled else model
    optimiser = adamw(model, options["adamw"])

    def step(index: int) -> Tensor:
        ids, targets = inputs.batch(index)
        loss = chunked_cross_entropy(run(ids), targets, chunk_size=options["chunk"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
        return loss.detach()

    return Trainer(step, job.batch * job.context, count(model), version("litgpt"))


if __name__ == "__main__":
    serve(build, {"adamw": ("fused", "foreach"), "chunk": (128, 0)})
