"""The native decoder is transformers' Llama and Qwen3: same weights, same logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.models import hf
from proxy_trainer.models.gpt import GPT, INIT_STD, rope_table, rotate
from regmix.config import ModelConfig
from regmix.sizes import ModelShape, shape

VOCAB = 300
SHAPES = {
    "llama": {},
    "one layer": {"layers": 1},
    "grouped": {"heads": 4, "kv_heads": 2},
    "multi-query": {"heads": 4, "kv_heads": 1},
    "tied": {"tied_embeddings": True},
    "qwen3": {"qk_norm": True},
    "qwen3 grouped tied": {"qk_norm": True, "heads": 4, "kv_heads": 2, "tied_embeddings": True},
    "wide mlp": {"d_ff": 136},
}


def small(**settings: object) -> ModelShape:
    return shape(ModelConfig.model_validate(
        {"size": "50k", "d_model": 32, "layers": 2, "heads": 2, "context": 48, **settings}
    ))  # fmt: skip


def made(seed: int = 0, **settings: object) -> GPT:
    model = GPT(small(**settings), VOCAB)
    model.initialise(seed)
    return model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    texts = (" ".join(f"w{i * j % 97}" for j in range(40)) for i in range(30))
    tokenizers.save(tokenizers.train_bpe(texts, VOCAB), path)
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_transformers(tmp_path: Path, tokenizer: Path, name: str) -> None:
    model = made(1, **SHAPES[name])
    with torch.no_grad():  # norms other than 1, and weights large enough for sharp attention
        for index, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(index)
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
            else:
                parameter *= 5
    hf.save(model.state_dict(), model.shape, tmp_path, tokenizer, 0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(VOCAB, (3, 48), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, expected = model(ids), theirs(ids).logits
    assert expected.std() > 0.5
    assert (ours - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item())
    assert {n for n, _ in theirs.named_parameters()} == {n for n, _ in model.named_parameters()}
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if "qwen" in name else "LlamaForCausalLM")


def test_counted_parameters_are_those_of_the_model() -> None:
    for settings in SHAPES.values():
        model = made(**settings)
        outside = {"model.embed_tokens.weight", "lm_head.weight"}
        counted = sum(p.numel() for n, p in model.named_parameters() if n not in outside)
        assert counted == model.shape.parameters


@pytest.mark.parametrize("qk_norm", [False, True])
def test_tokenizer_of_the_folder_is_the_studys(
    tmp_path: Path, tokenizer: Path, qk_norm: bool
) -> None:
    model = made(qk_norm=qk_norm)
    hf.save(model.state_dict(), model.shape, tmp_path, tokenizer, 0)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), tokenizers.load(tokenizer)
    for text in ("w1 w2 w3", " leading", "∑ 🙂 café", "two\n\nlines  and   spaces"):
        ids = ours.encode(text).ids
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text
    assert theirs.model_max_length == 48
    assert theirs.eos_token_id == 0


def test_saved_model_generates_and_stops_at_the_end_token(tmp_path: Path, tokenizer: Path) -> None:
    model = made()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[0] = model.hidden(torch.tensor([[5]]))[0, 0]  # 5 is followed by 0
    hf.save(model.state_dict(), model.shape, tmp_path, tokenizer, 0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    out = theirs.generate(
        torch.tensor([[5]]), attention_mask=torch.ones(1, 1, dtype=torch.long),
        max_new_tokens=8, do_sample=False,
    )  # fmt: skip
    assert out.tolist() == [[5, 0]]
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 0


def test_initial_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    first = made(7).state_dict()
    torch.manual_seed(2)
    again, other = made(7).state_dict(), made(8).state_dict()
    for name, value in first.items():
        assert torch.equal(value, again[name])
        if value.dim() == 2:
            assert not torch.equal(value, other[name])


def test_initial_matrices_are_a_normal_cut_at_three_sigma() -> None:
    for name, value in made().state_dict().items():
        if value.dim() == 1:
            assert (value == 1).all(), name
            continue
        assert value.abs().max() <= 3 * INIT_STD
        # the standard deviation of a standard normal cut at 3 is 0.98658
        tolerance = 5 / (2 * value.numel()) ** 0.5
        assert value.std().item() / INIT_STD == pytest.approx(0.98658, rel=tolerance)
        assert abs(value.mean().item()) < 5 * INIT_STD / value.numel() ** 0.5


def test_no_position_sees_the_future() -> None:
    model = made(qk_norm=True)
    ids = torch.randint(VOCAB, (1, 48), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 30:] = (changed[0, 30:] + 1) % VOCAB
    with torch.no_grad():
        first, second = model(ids), model(changed)
    assert torch.allclose(first[:, :30], second[:, :30], atol=1e-6)
    assert not torch.allclose(first[:, 30:], second[:, 30:], atol=1e-3)


def test_rotary_products_depend_on_distance_alone() -> None:
    cos, sin = rope_table(40, 8)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    turned_q = rotate(q.expand(1, 1, 40, 8), cos, sin)[0, 0]
    turned_k = rotate(k.expand(1, 1, 40, 8), cos, sin)[0, 0]
    product = turned_q @ turned_k.T
    for distance in (0, 1, 7):
        diagonal = product.diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-5)
    assert product[0, 0].item() == pytest.approx((q * k).sum().item(), abs=1e-5)
