"""A plain loop around transformers' Llama: its own loss, torch's AdamW."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from runner import CLIP, Inputs, Job, Trainer, adamw, count, serve
from torch import Tensor


def build(job: Job, inputs: Inputs, options: dict[str, Any]) -> Trainer:
    config = transformers.LlamaConfig(
        vocab_size=job.vocab_size,
        hidden_size=job.d_model,
        intermediate_size=job.d_ff,
        num_hidden_layers=job.layers,
        num_attention_heads=job.heads,
        max_position_embeddings=job.context,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = transformers.LlamaForCausalLM(config).train()
    model.load_state_dict(inputs.weights)
    run = torch.compile(model) if job.compiled else model
    optimiser = adamw(model, options["adamw"])

    def step(index: int) -> Tensor:
        ids, targets = inputs.batch(index)
        # Already shifted: every position of the context has a target, as in the other trainers.
        loss: Tensor = run(input_ids=ids, labels=targets, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    return Trainer(step, job.batch * job.context, count(model), transformers.__version__)


if __name__ == "__main__":
    serve(build, {"adamw": ("fused", "foreach")})
