"""The native decoder as a Hugging Face folder: Llama, or Qwen3 where it has QK-norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from proxy_trainer.checkpoint import write_tensors
from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.models.gpt import INIT_STD, NORM_EPS, ROPE_THETA
from regmix.files import write_json, write_whole
from regmix.sizes import ModelShape


def config(shape: ModelShape, vocab_size: int, eod_id: int) -> dict[str, Any]:
    """The ``config.json`` with which transformers builds the same model."""
    family = "Qwen3" if shape.qk_norm else "Llama"
    return {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "vocab_size": vocab_size,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_ff,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "hidden_act": "silu",
        "attention_bias": False,
        "initializer_range": INIT_STD,
        "tie_word_embeddings": shape.tied_embeddings,
        "bos_token_id": eod_id,
        "eos_token_id": eod_id,
        "dtype": "float32",
    }


def save(
    weights: dict[str, Tensor], shape: ModelShape, folder: Path, tokenizer: Path, eod_id: int
) -> None:
    """Write config, weights and tokenizer; ``AutoModelForCausalLM`` loads the folder.

    Args:
        weights: a state dict in transformers' names.
    """
    vocab_size = len(weights["model.embed_tokens.weight"])
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    if shape.tied_embeddings:
        del weights["lm_head.weight"]
    write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    content = tokenizer.read_bytes()
    write_whole(folder / "tokenizer.json", lambda tmp: tmp.write_bytes(content))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.context,
            "eos_token": tokenizers.load(tokenizer).id_to_token(eod_id),
            "clean_up_tokenization_spaces": False,
        },
    )
    write_json(folder / "config.json", config(shape, vocab_size, eod_id))
