"""A model as a Hugging Face folder that ``AutoModelForCausalLM`` loads, checked as it is saved.

A native decoder is Llama there, or Qwen3 where it has QK-norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from proxy_trainer.checkpoint import write_tensors
from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.models import card as cards
from proxy_trainer.models.card import Origin
from proxy_trainer.models.gpt import INIT_STD, NORM_EPS, ROPE_THETA
from proxy_trainer.models.verify import Verification, verify
from regmix.errors import RegmixError
from regmix.families import Shape, TransformersShape
from regmix.files import write_json, write_text, write_whole
from regmix.sizes import ModelShape

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
"""Weights beyond it are divided over files of at most as much."""


def config(shape: Shape, vocab_size: int, eod_id: int) -> dict[str, Any]:
    """The ``config.json`` with which transformers builds the same model."""
    return described(shape).to_config() | {
        "vocab_size": vocab_size,
        "bos_token_id": eod_id,
        "eos_token_id": eod_id,
        "pad_token_id": None,
        "dtype": "float32",
    }


def model(weights: Mapping[str, Tensor], shape: Shape) -> Any:
    """The model of transformers that has some weights, on the CPU, without a folder.

    Args:
        weights: a state dict in transformers' names, of which no copy is made.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    vocab_size = len(weights["model.embed_tokens.weight"])
    settings = config(shape, vocab_size, 0) | {"bos_token_id": None, "eos_token_id": None}
    made: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        AutoConfig.for_model(**settings)
    )
    made.load_state_dict(weights, assign=True)
    made.tie_weights()
    return made.eval()


def described(shape: Shape) -> TransformersShape:
    """A native shape as the family that computes the same; others as they are."""
    if not isinstance(shape, ModelShape):
        return shape
    return TransformersShape.from_config(
        {
            "model_type": "qwen3" if shape.qk_norm else "llama",
            "hidden_size": shape.d_model,
            "intermediate_size": shape.d_ff,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "max_position_embeddings": shape.context,
            "rms_norm_eps": NORM_EPS,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
            "initializer_range": INIT_STD,
            "tie_word_embeddings": shape.tied_embeddings,
        },
        "native shape",
    )


def native(shape: TransformersShape) -> ModelShape | None:
    """The native shape that computes the same, if there is one."""
    if shape.heads * shape.head_dim != shape.d_model:
        return None
    found = ModelShape(
        d_model=shape.d_model,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        d_ff=shape.d_ff,
        context=shape.context,
        qk_norm=shape.qk_norm,
        tied_embeddings=shape.tied_embeddings,
    )
    # Positions beyond the context are never computed, and change nothing without scaling.
    return found if described(found) == replace(shape, positions=shape.context) else None


def save(
    weights: dict[str, Tensor],
    shape: Shape,
    folder: Path,
    tokenizer: Path,
    eod_id: int,
    *,
    origin: Origin | None = None,
    chat_template: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Verification:
    """Write weights, configs, tokenizer and model card; ``AutoModelForCausalLM`` loads the folder.

    Args:
        weights: a state dict in transformers' names.
        origin: how the model came about, for its card.
        chat_template: Jinja text by which the tokenizer writes conversations.
        shard_bytes: of weights a file.

    Raises:
        RegmixError: transformers, loading the folder, computes other logits; or the disk is full.
            The folder is then left without ``config.json``, so that nobody loads it.
        UserError: the folder is not writable.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    vocab_size = len(weights["model.embed_tokens.weight"])
    kept = {
        name: tensor
        for name, tensor in weights.items()
        if not (shape.tied_embeddings and name == "lm_head.weight")
    }
    sizes = {name: tensor.nbytes for name, tensor in kept.items()}
    write_weights(folder, sizes, kept.__getitem__, shard_bytes)
    _save_tokenizer(folder, tokenizer, shape, eod_id, chat_template)
    tokens = {"bos_token_id": eod_id, "eos_token_id": eod_id, "pad_token_id": eod_id}
    write_json(folder / "generation_config.json", tokens)
    write_json(folder / "config.json", config(shape, vocab_size, eod_id))
    try:
        found = verify(folder, weights, shape)
    except RegmixError:
        (folder / "config.json").unlink()
        raise
    write_text(folder / "README.md", cards.text(shape, vocab_size, found, origin))
    return found


def write_weights(
    folder: Path,
    sizes: Mapping[str, int],
    tensor: Callable[[str], Tensor],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """One file, or several and an index; files of an earlier save are gone afterwards.

    Args:
        sizes: bytes of every tensor.
        tensor: gives one by its name; no more than one file's are held at once.
        shard_bytes: of weights a file.

    Raises:
        RegmixError: the disk is full.
        UserError: the folder is not writable.
    """
    parts = list(_parts(sizes, shard_bytes))
    names = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    if len(parts) == 1:
        names = [WEIGHTS]
    for old in (*folder.glob("model-*-of-*.safetensors"), folder / WEIGHTS, folder / INDEX):
        if old.name not in names:
            old.unlink(missing_ok=True)
    for name, part in zip(names, parts, strict=True):
        tensors = {key: tensor(key).contiguous() for key in part}
        write_tensors(folder / name, tensors, {"format": "pt"})
        del tensors  # before the next part's are asked for
    if len(parts) > 1:
        placed = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        total = sum(sizes.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})


def _parts(sizes: Mapping[str, int], limit: int) -> Iterator[list[str]]:
    """Tensors in order, as many together as a file may hold; one that is larger has its own."""
    part: list[str] = []
    size = 0
    for name, own in sizes.items():
        if part and size + own > limit:
            yield part
            part, size = [], 0
        part.append(name)
        size += own
    yield part


def _save_tokenizer(
    folder: Path, tokenizer: Path, shape: Shape, eod_id: int, chat_template: str | None
) -> None:
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
    if chat_template is not None:
        write_text(folder / "chat_template.jinja", chat_template)
