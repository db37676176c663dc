"""A Hugging Face folder is a start like any other, or is refused with what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.models import hf
from proxy_trainer.models.folder import load_folder
from proxy_trainer.models.gpt import GPT
from proxy_trainer.sharded.model import ShardedModel
from proxy_trainer.sharded.ranks import Ranks
from regmix.config import ModelConfig
from regmix.errors import UserError
from regmix.families import FAMILIES, Shape, TransformersShape
from regmix.sizes import ModelShape, shape

VOCAB = 300
SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 48, "vocab_size": VOCAB,
    "rms_norm_eps": 3e-6, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
NATIVE: dict[str, dict[str, Any]] = {
    "llama": {},
    "grouped": {"heads": 4, "kv_heads": 2},
    "qwen3 tied": {"qk_norm": True, "tied_embeddings": True},
}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    texts = (" ".join(f"w{i * j % 97}" for j in range(40)) for i in range(30))
    tokenizers.save(tokenizers.train_bpe(texts, VOCAB), path)
    return path


def native(name: str) -> ModelShape:
    return shape(ModelConfig.model_validate(
        {"size": "50k", "d_model": 32, "layers": 2, "heads": 2, "context": 48, **NATIVE[name]}
    ))  # fmt: skip


@pytest.fixture
def theirs(tmp_path: Path) -> Callable[..., Any]:
    """Makes a folder of a family's model as transformers saves it."""

    def make(family: str = "llama", *, shard_size: str = "50GB", **settings: Any) -> Any:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(family, **{**SMALL, **settings})
        )
        model.save_pretrained(tmp_path / "theirs", max_shard_size=shard_size)
        return model.eval()

    return make


def sharded(ranks: Ranks, wanted: Shape, vocab_size: int = VOCAB) -> ShardedModel:
    return ShardedModel(wanted, vocab_size, None, ranks, recompute=False, half_precision=False)


@pytest.mark.parametrize("shard_size", ["50GB", "20KB"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saved_computes_the_same_sharded(
    tmp_path: Path, theirs: Callable[..., Any], ranks: Ranks,
    family: str, tied: bool, shard_size: str,
) -> None:  # fmt: skip
    model = theirs(family, tie_word_embeddings=tied, shard_size=shard_size)
    assert (tmp_path / "theirs" / hf.INDEX).exists() == (shard_size == "20KB")
    found, weights = load_folder(tmp_path / "theirs", context=32)
    assert isinstance(found, TransformersShape)
    assert (found.context, found.positions, weights.vocab_size) == (32, 48, VOCAB)
    own = sharded(ranks, found)
    own.load(weights)
    expected = model.state_dict()
    for name, value in own.member(0).items():
        assert torch.equal(value, expected[name]), name
    ids = torch.randint(VOCAB, (2, 32), generator=torch.Generator().manual_seed(2))
    keep = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids.roll(1, 1).flatten(), reduction="none"
    )
    ours = own.nats(ids, keep, ids.roll(1, 1).flatten())
    assert ours.tolist() == [pytest.approx(nats.view_as(ids).sum(1).tolist(), rel=1e-6)]


@pytest.mark.parametrize("name", NATIVE)
def test_our_own_folder_comes_back(
    tmp_path: Path, tokenizer: Path, ranks: Ranks, name: str
) -> None:
    model = GPT(native(name), VOCAB)
    model.initialise(3)
    hf.save(model.state_dict(), model.shape, tmp_path, tokenizer, 0)
    found, weights = load_folder(tmp_path)
    assert found == model.shape
    own = sharded(ranks, found)
    own.load(weights)
    for key, value in own.member(0).items():
        assert torch.equal(value, model.state_dict()[key])
    weights.check_tokenizer(tokenizer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_become_single_precision(
    tmp_path: Path, theirs: Callable[..., Any], ranks: Ranks, dtype: torch.dtype
) -> None:
    theirs()
    path = tmp_path / "theirs" / hf.WEIGHTS
    half = {n: t.to(dtype) for n, t in load_file(path).items()}
    save_file(half, path, {"format": "pt"})
    found, weights = load_folder(path.parent)
    own = sharded(ranks, found)
    own.load(weights)
    for name, value in own.member(0).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, half[name].float())


def test_the_native_decoder_is_chosen_only_where_it_computes_the_same() -> None:
    for name in NATIVE:
        described = hf.described(native(name))
        assert hf.native(described) == native(name)
        assert hf.native(replace(described, positions=96)) == native(name)
        for change in (
            {"norm_eps": 1e-6}, {"rope": replace(described.rope, theta=5e5)},
            {"attention_bias": True}, {"init_std": 0.01}, {"head_dim": 32},
        ):  # fmt: skip
            assert hf.native(replace(described, **change)) is None
    olmo = TransformersShape.from_config(
        {"model_type": "olmo2", **{k: v for k, v in SMALL.items() if k != "rms_norm_eps"}}, "c"
    )
    assert hf.native(olmo) is None


def test_a_tied_head_that_is_there_must_be_the_embedding(
    tmp_path: Path, theirs: Callable[..., Any], ranks: Ranks
) -> None:
    theirs(tie_word_embeddings=True)
    path = tmp_path / "theirs" / hf.WEIGHTS
    tensors = load_file(path)
    save_file(tensors | {HEAD: tensors[EMBEDDING].clone()}, path, {"format": "pt"})
    found, weights = load_folder(path.parent)
    sharded(ranks, found).load(weights)
    save_file(tensors | {HEAD: tensors[EMBEDDING] + 1}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        load_folder(path.parent)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden_layers": 2}, r"config\.json: has num_hidden_layers 3, the run wants 2"),
        ({"rms_norm_eps": 1e-5, "num_key_value_heads": 4},
         r"has num_key_value_heads 2, the run wants 4; rms_norm_eps 3e-06, the run wants 1e-05"),
        ({"model_type": "qwen3"}, r"has architectures \['LlamaForC.*; model_type 'llama', the run"),
        ({"max_position_embeddings": 96}, r"has max_position_embeddings 48, the run wants 96"),
        ({"tie_word_embeddings": True}, r"has tie_word_embeddings False, the run wants True"),
    ],
)  # fmt: skip
def test_another_architecture_is_told_key_by_key(
    tmp_path: Path, theirs: Callable[..., Any], ranks: Ranks, settings: dict[str, Any], message: str
) -> None:
    theirs()
    _, weights = load_folder(tmp_path / "theirs")
    wanted = TransformersShape.from_config({"model_type": "llama", **SMALL, **settings}, "run")
    with pytest.raises(UserError, match=message):
        sharded(ranks, wanted).load(weights)


def test_fewer_positions_and_other_first_weights_are_the_runs_to_choose(
    tmp_path: Path, theirs: Callable[..., Any], ranks: Ranks
) -> None:
    theirs()
    _, weights = load_folder(tmp_path / "theirs")
    changes = {"max_position_embeddings": 24, "initializer_range": 0.01}
    wanted = TransformersShape.from_config({"model_type": "llama", **SMALL, **changes}, "run")
    model = sharded(ranks, wanted)
    model.load(weights)
    expected = dict(weights)
    for name, value in model.member(0).items():
        assert torch.equal(value, expected[name])


def test_another_vocabulary_is_refused(
    tmp_path: Path, theirs: Callable[..., Any], ranks: Ranks
) -> None:
    theirs()
    found, weights = load_folder(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"config\.json: has vocab_size 300, the run wants 301"):
        sharded(ranks, found, 301).load(weights)


def broken(change: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = dict(tensors)
    if change == "missing":
        del found["model.norm.weight"], found["model.layers.0.mlp.up_proj.weight"]
    elif change == "unknown":
        found["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    elif change == "size":
        found["model.norm.weight"] = torch.ones(31)
    else:
        found["model.norm.weight"] = torch.ones(32, dtype=torch.int8)
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"layers\.0\.mlp\.up_proj\.weight missing; model\.norm\.weight missing$"),
        ("unknown", r"theirs: not the tensors of its config: .*rotary_emb\.inv_freq not known$"),
        ("size", r"model\.norm\.weight is 31, expected 32$"),
        ("kind", r"model\.norm\.weight: values of kind I8; expected one of BF16, F16, F32"),
    ],
)
def test_tensors_that_are_not_the_models_are_listed(
    tmp_path: Path, theirs: Callable[..., Any], ranks: Ranks, change: str, message: str
) -> None:
    theirs()
    path = tmp_path / "theirs" / hf.WEIGHTS
    save_file(broken(change, load_file(path)), path, {"format": "pt"})

    def start() -> None:
        found, weights = load_folder(path.parent)
        sharded(ranks, found).load(weights)

    with pytest.raises(UserError, match=message):
        start()


def test_pickled_weights_are_refused_unread(tmp_path: Path, theirs: Callable[..., Any]) -> None:
    theirs()
    folder = tmp_path / "theirs"
    (folder / hf.WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"has neither model\.safetensors nor model\.safetens"):
        load_folder(folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: pickled weights are not read, since"):
        load_folder(folder)


def test_a_file_cut_short_is_refused(tmp_path: Path, theirs: Callable[..., Any]) -> None:
    theirs()
    path = tmp_path / "theirs" / hf.WEIGHTS
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"model\.safetensors: not a whole safetensors file"):
        load_folder(path.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": "../secret.safetensors"}, r"norm\.weight: expected a file's name"),
        ({"model.norm.weight": "/etc/passwd"}, r"norm\.weight: expected a file's name"),
        ({"model.norm.weight": 3}, r"weight_map: model\.norm\.weight: expected a file's name"),
        ({"model.norm.weight": "model-9.safetensors"}, r"norm\.weight: no such file model-9"),
        ({"model.other.weight": None}, r"names tensors that their files lack: model\.other"),
        ({"model.norm.weight": ""}, r"leaves out tensors of its files: model\.norm\.weight"),
    ],
)
def test_an_index_leads_to_files_of_its_folder_alone(
    tmp_path: Path, theirs: Callable[..., Any], change: dict[str, Any], message: str
) -> None:
    theirs(shard_size="20KB")
    index = tmp_path / "theirs" / hf.INDEX
    raw = json.loads(index.read_text())
    first = raw["weight_map"][EMBEDDING]
    for name, file in change.items():
        raw["weight_map"][name] = first if file is None else file
        if file == "":
            del raw["weight_map"][name]
    index.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=message):
        load_folder(index.parent)


def test_two_sets_of_weights_are_refused(tmp_path: Path, theirs: Callable[..., Any]) -> None:
    theirs(shard_size="20KB")
    theirs_whole = tmp_path / "theirs" / hf.WEIGHTS
    save_file({"x": torch.ones(1)}, theirs_whole)
    with pytest.raises(UserError, match=r"has both model\.safetensors and model\.safetensors\.ind"):
        load_folder(tmp_path / "theirs")


def test_a_folder_must_be_one_with_a_config(tmp_path: Path, theirs: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        load_folder(tmp_path)
    theirs()
    config = tmp_path / "theirs" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": "300"}))
    with pytest.raises(UserError, match=r"config\.json: vocab_size: expected a whole .*'300'"):
        load_folder(tmp_path / "theirs")


def test_another_tokenizer_or_none_is_refused(
    tmp_path: Path, tokenizer: Path, theirs: Callable[..., Any]
) -> None:
    theirs()
    _, weights = load_folder(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file, so that nobody"):
        weights.check_tokenizer(tokenizer)
    other = tokenizers.train_bpe(iter(["some other text, " * 40 + "and more of it"]), 270)
    tokenizers.save(other, tmp_path / "theirs" / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json: not the tokenizer of .*: token \d+ is"):
        weights.check_tokenizer(tokenizer)
