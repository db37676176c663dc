"""OLMo-core's transformer as its train module steps it: its own loss and compilation by block."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from olmo_core.nn.attention import AttentionBackendName
from olmo_core.nn.feed_forward import FeedForwardConfig
from olmo_core.nn.transformer import TransformerConfig
from runner import CLIP, Inputs, Job, Trainer, adamw, count, serve
from torch import Tensor

NAMES = {
    "model.embed_tokens": "embeddings",
    "lm_head": "lm_head.w_out",
    "model.norm": "lm_head.norm",
    "model.layers": "blocks",
    "self_attn.q_proj": "attention.w_q",
    "self_attn.k_proj": "attention.w_k",
    "self_attn.v_proj": "attention.w_v",
    "self_attn.o_proj": "attention.w_out",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_forward_norm",
}
"""Parts of Llama's parameter names, and OLMo-core's."""


def build(job: Job, inputs: Inputs, options: dict[str, Any]) -> Trainer:
    config = TransformerConfig.llama_like(
        d_model=job.d_model,
        vocab_size=job.vocab_size,
        n_layers=job.layers,
        n_heads=job.heads,
        rope_theta=10_000,
        layer_norm_eps=1e-5,
        feed_forward=FeedForwardConfig(hidden_size=job.d_ff, bias=False),
        attn_backend=AttentionBackendName.torch,
    )
    model = config.build(init_device="cpu").train()
    model.load_state_dict({_name(k): v for k, v in inputs.weights.items()})
    if job.compiled:
        model.apply_compile()
    optimiser = adamw(model, options["adamw"])
    parameters = list(model.parameters())

    def step(index: int) -> Tensor:
        ids, targets = inputs.batch(index)
        found = model(
            ids,
            labels=targets,
            loss_reduction="sum",
            loss_div_factor=(targets != -100).sum(),
            return_logits=False,
        )
        found.loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        torch.nn.utils.clip_grads_with_norm_(parameters, CLIP, norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss: Tensor = found.ce_loss
        return loss

    return Trainer(step, job.batch * job.context, count(model), version("ai2-olmo-core"))


def _name(name: str) -> str:
    for ours, theirs in NAMES.items():
        if name.startswith(ours) or f".{ours}." in name:
            name = name.replace(ours, theirs)
    return name


if __name__ == "__main__":
    serve(build, {"adamw": ("fused", "foreach")})
