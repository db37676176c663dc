"""A config.json is read as transformers reads it, or refused with its file and key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from regmix.config import ModelConfig
from regmix.errors import UserError
from regmix.families import (
    FAMILIES,
    FULL,
    SLIDING,
    TransformersShape,
    shape_from_json,
    shape_to_json,
)
from regmix.sizes import shape

VOCAB = 90
SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 64, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
ROPES = [{"rope_type": "default"}, {"rope_type": "linear", "factor": 2.0}, LLAMA3, YARN]


def config(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family, **SMALL, **changes}


def read(family: str, **changes: Any) -> TransformersShape:
    return TransformersShape.from_config(config(family, **changes), "config.json")


def theirs(raw: dict[str, Any]) -> PreTrainedConfig:
    return AutoConfig.for_model(**json.loads(json.dumps(raw)))


def optional(values: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in values.items()})


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Valid configs, most keys left out in some of them."""
    family = draw(st.sampled_from(FAMILIES))
    found = config(family) | draw(optional({
        "tie_word_embeddings": [True, False], "attention_bias": [True, False],
        "rms_norm_eps": [1e-6, 1e-5], "initializer_range": [0.02, 0.006],
        "use_cache": [True, False], "pad_token_id": [None, 3], "eos_token_id": [[1, 2], 0],
    }))  # fmt: skip
    if family != "qwen3":
        for key in draw(st.sets(st.sampled_from(["num_key_value_heads", "head_dim"]))):
            del found[key]
    found |= draw(optional({
        "llama": {"mlp_bias": [True, False]},
        "qwen3": {"use_sliding_window": [True], "sliding_window": [8, 100],
                  "max_window_layers": [0, 2, 28]},
        "olmo2": {},
        "olmo3": {"sliding_window": [8, 100],
                  "layer_types": [[SLIDING, FULL, FULL, SLIDING], [FULL] * 4]},
    }[family]))  # fmt: skip
    return found | draw(ropes(family))


@st.composite
def ropes(draw: st.DrawFn, family: str) -> dict[str, Any]:
    kind = dict(draw(st.sampled_from(ROPES)))
    theta = draw(st.sampled_from([1e4, 5e5]))
    form = draw(st.sampled_from(["none", "new", "old"]))
    if form == "none":
        return {}
    if form == "old":
        scaling = None if kind["rope_type"] == "default" else kind
        return {"rope_theta": 5e5 if family == "olmo3" else theta, "rope_scaling": scaling}
    kind["rope_theta"] = theta
    if family == "olmo3":
        return {"rope_parameters": {FULL: kind, SLIDING: {"rope_type": "default"}}}
    return {"rope_parameters": kind}


@settings(deadline=None, max_examples=150)
@given(configs())
def test_what_is_left_out_is_what_transformers_takes_it_for(raw: dict[str, Any]) -> None:
    ours = theirs(TransformersShape.from_config(raw, "config.json").to_config()).to_dict()
    expected = theirs(raw).to_dict()
    unused = {"use_cache", "pad_token_id", "eos_token_id", "architectures", "max_window_layers"}
    for found in (ours, expected):
        for key in unused:
            found.pop(key, None)
    # OLMo's configs leave out a width that follows from the others.
    expected.setdefault("head_dim", expected["hidden_size"] // expected["num_attention_heads"])
    if not expected.get("use_sliding_window", True):
        expected.pop("sliding_window")
        assert ours.pop("sliding_window") is None
    assert ours == expected


@settings(deadline=None, max_examples=100)
@given(configs())
def test_it_can_be_written_down_and_read_again(raw: dict[str, Any]) -> None:
    found = TransformersShape.from_config(raw, "config.json", context=32)
    assert shape_from_json(json.loads(json.dumps(shape_to_json(found)))) == found


def test_a_native_shape_is_written_as_its_fields() -> None:
    native = shape(ModelConfig(size="1m", qk_norm=True))
    assert shape_to_json(native) == vars(native)
    assert shape_from_json(shape_to_json(native)) == native


@settings(deadline=None, max_examples=25)
@given(configs())
def test_counted_parameters_are_those_of_the_model(raw: dict[str, Any]) -> None:
    found = TransformersShape.from_config(raw, "config.json")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(theirs(found.to_config() | {"vocab_size": VOCAB}))
    outside = {"model.embed_tokens.weight", "lm_head.weight"}
    counted = sum(p.numel() for n, p in model.named_parameters() if n not in outside)
    assert counted == found.parameters
    assert type(model).__name__ == found.to_config()["architectures"][0]


def test_flops_are_those_of_the_same_native_shape() -> None:
    native = shape(ModelConfig(size="1m", kv_heads=2))
    found = read(
        "llama", hidden_size=native.d_model, intermediate_size=native.d_ff,
        num_hidden_layers=native.layers, num_attention_heads=native.heads,
        num_key_value_heads=2, head_dim=native.head_dim, max_position_embeddings=native.context,
    )  # fmt: skip
    assert found.parameters == native.parameters
    assert found.flops_per_token(VOCAB) == pytest.approx(native.flops_per_token(VOCAB), rel=1e-12)


@pytest.mark.parametrize("window", [1, 5, 40, 64, 1000])
def test_flops_of_a_window_are_those_of_the_keys_that_are_seen(window: int) -> None:
    """Against a count of them, but for the half key on the diagonal that the formula leaves out."""
    found = read("olmo3", sliding_window=window)
    T, q = 64, found.heads * found.head_dim
    seen = [min(t + 1, window) for t in range(T)]
    sliding = sum(seen) / T - (0.5 if window >= T else min(window, T) / (2 * T))
    full = (T + 1) / 2 - 0.5
    weights = 6 * (found.parameters + VOCAB * found.d_model)
    attention = 12 * q * (3 * sliding + full)
    assert found.flops_per_token(VOCAB) == pytest.approx(weights + attention, rel=1e-12)
    whole = replace(found, sliding=(False,) * 4)
    assert found.flops_per_token(VOCAB) <= whole.flops_per_token(VOCAB)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mixtral", {}, r"c\.json: unknown model_type 'mixtral'.* Valid: llama, olmo2, olmo3, qwe"),
        ("llama", {"num_experts": 8}, r"c\.json: num_experts: mixtures of experts are not"),
        ("llama", {"auto_map": {"AutoModel": "x"}}, r"auto_map: code from the folder is not run"),
        ("llama", {"slidng_window": 8}, r"c\.json: unknown key 'slidng_window'"),
        ("olmo3", {"slidng_window": 8}, r"'slidng_window'; did you mean 'sliding_window'\?"),
        ("olmo2", {"mlp_bias": True}, r"c\.json: unknown key 'mlp_bias'"),
        ("llama", {"hidden_act": "gelu"}, r"hidden_act: expected 'silu' \(found 'gelu'\)"),
        ("llama", {"attention_dropout": 0.1}, r"attention_dropout: expected 0.* \(found 0\.1\)"),
        ("llama", {"hidden_size": "32"}, r"hidden_size: expected a whole number .* '32'"),
        ("llama", {"hidden_size": True}, r"hidden_size: expected a whole number .* True"),
        ("llama", {"num_hidden_layers": 0}, r"num_hidden_layers: expected a whole .*found 0"),
        ("llama", {"rms_norm_eps": 0}, r"rms_norm_eps: expected a number above 0"),
        ("llama", {"rms_norm_eps": float("nan")}, r"rms_norm_eps: expected a number above 0"),
        ("llama", {"tie_word_embeddings": 1}, r"tie_word_embeddings: expected true or false"),
        ("llama", {"hidden_size": None}, r"c\.json: hidden_size: missing"),
        ("qwen3", {"head_dim": None}, r"c\.json: head_dim: missing"),
        ("llama", {"hidden_size": 30}, r"hidden_size: expected a multiple of 4 attention heads"),
        ("qwen3", {"head_dim": 7}, r"head_dim: expected an even number \(found 7\)"),
        ("llama", {"num_key_value_heads": 3}, r"num_key_value_heads: expected a divisor of 4"),
        ("llama", {"architectures": ["LlamaForTokenClassification"]},
         r"architectures: expected \['LlamaForCausalLM'\] \(found"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
         r"c\.json: rope_parameters: unknown rope_type 'dynamic'.* default, linear, llama3, yarn"),
        ("llama", {"rope_scaling": {"type": "linear", "rope_type": "yarn"}},
         r"rope_scaling: type: differs from rope_type 'yarn'"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, r"rope_scaling: factor: missing"),
        ("llama", {"rope_scaling": YARN, "rope_parameters": YARN}, r"given beside rope_parameters"),
        ("llama", {"rope_parameters": {"rope_type": "default", "factor": 2.0}},
         r"rope_parameters: unknown key 'factor'"),
        ("llama", {"rope_parameters": "default"}, r"rope_parameters: expected a mapping"),
        ("olmo3", {"rope_theta": 1e4}, r"rope_theta: say it in rope_parameters, under full_att"),
        ("olmo3", {"rope_parameters": {"rope_type": "default"}},
         r"rope_parameters: unknown key 'rope_type'"),
        ("olmo3", {"layer_types": [FULL]}, r"layer_types: expected a list of 4, one a layer"),
        ("olmo3", {"layer_types": ["chunked"] * 4}, r"layer_types: unknown kind 'chunked'"),
        ("olmo3", {"sliding_window": None}, r"sliding_window: expected a whole.*found None"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": None},
         r"sliding_window: expected a whole number above 0 \(found None\)"),
        ("qwen3", {"layer_types": [SLIDING] * 4}, r"layer_types: .* needs use_sliding_window"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(
    family: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        TransformersShape.from_config(config(family, **changes), "c.json")


def test_a_context_beyond_the_positions_is_refused() -> None:
    with pytest.raises(UserError, match=r"max_position_embeddings: 64 positions .* of 65 tokens"):
        TransformersShape.from_config(config("llama"), "c.json", context=65)


def test_a_file_that_is_no_config_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match="no such file"):
        TransformersShape.load(path)
    path.write_text("[1]")
    with pytest.raises(UserError, match="expected a mapping of keys, found list"):
        TransformersShape.load(path)
    path.write_text(json.dumps(config("qwen3")))
    assert TransformersShape.load(path, 16) == replace(read("qwen3"), context=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": None, "head": 4}, r"spec\.yaml: unknown key 'head'; did you mean 'heads'\?"),
        ({"heads": None}, r"spec\.yaml: heads missing"),
        ({"transformers": config("llama")}, r"spec\.yaml: unknown key 'd_model'"),
    ],
)
def test_a_shape_that_was_changed_is_refused(change: dict[str, Any], message: str) -> None:
    raw = shape_to_json(shape(ModelConfig(size="1m"))) | change
    with pytest.raises(UserError, match=message):
        shape_from_json({k: v for k, v in raw.items() if v is not None}, "spec.yaml")
