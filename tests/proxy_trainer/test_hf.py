"""A saved folder is whole, says where it is from, and is only kept if it computes the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.sampler import Realised
from proxy_trainer.models import card, hf, verify
from proxy_trainer.models.card import Origin
from proxy_trainer.models.family import FamilyDecoder
from proxy_trainer.models.gpt import GPT
from proxy_trainer.models.verify import TOLERANCE, Verification
from regmix.config import ModelConfig, TrainConfig
from regmix.errors import RegmixError
from regmix.families import FAMILIES, Shape, TransformersShape
from regmix.manifest import DataManifest, DomainManifest, SplitManifest
from regmix.mixture import Mixture
from regmix.runs import RunSpec
from regmix.sizes import ModelShape, plan, shape

VOCAB, EOD = 300, 0
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    texts = (" ".join(f"w{i * j % 97}" for j in range(40)) for i in range(30))
    tokenizers.save(tokenizers.train_bpe(texts, VOCAB), path)
    return path


def small(**settings: object) -> ModelShape:
    return shape(ModelConfig.model_validate(
        {"size": "50k", "d_model": 32, "layers": 2, "heads": 2, "context": 48, **settings}
    ))  # fmt: skip


def family(name: str, **settings: Any) -> TransformersShape:
    return TransformersShape.from_config(
        {
            "model_type": name, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 8, "max_position_embeddings": 96, **settings,
        },
        "c",
    )  # fmt: skip


def weights(shape: Shape) -> dict[str, Tensor]:
    """Of attention sharp enough to tell."""
    if isinstance(shape, ModelShape):
        native = GPT(shape, VOCAB)
        native.initialise(1)
        return {n: t * 3 if t.dim() == 2 else t for n, t in native.state_dict().items()}
    decoder = FamilyDecoder(shape, VOCAB)
    generator = torch.Generator().manual_seed(1)
    for unit in decoder.units:
        decoder.fill_(unit, generator)
    decoder.complete_()
    return {n: t * 3 if t.dim() == 2 else t for n, t in decoder.state_dict().items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_loaded_with_our_logits(
    tmp_path: Path, tokenizer: Path, name: str, tied: bool
) -> None:
    windows = {"olmo3": {"sliding_window": 9}, "qwen3": {
        "sliding_window": 9, "use_sliding_window": True, "max_window_layers": 2}}  # fmt: skip
    made = family(name, tie_word_embeddings=tied, **windows.get(name, {}))
    own = weights(made)
    found = hf.save(own, made, tmp_path, tokenizer, EOD)
    assert found.difference is not None
    assert found.difference <= TOLERANCE
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(VOCAB, (3, 96), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        ours, expected = verify.with_weights(own, made, VOCAB)(ids), theirs(ids).logits
    assert expected.std() > 0.1
    assert (ours - expected).abs().max() < TOLERANCE
    assert TransformersShape.load(tmp_path / "config.json") == made


def test_large_weights_are_divided_and_load_as_one(tmp_path: Path, tokenizer: Path) -> None:
    made = small()
    own = weights(made)
    limit = 20_000
    hf.save(own, made, tmp_path, tokenizer, EOD, shard_bytes=limit)
    index = json.loads((tmp_path / hf.INDEX).read_text())
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert files == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    assert len(files) > 3
    assert set(index["weight_map"].values()) == set(files)
    assert index["weight_map"].keys() == own.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in own.values())
    for name in files:
        with safe_open(tmp_path / name, framework="pt") as file:
            sizes = [file.get_tensor(key).nbytes for key in file.keys()]  # noqa: SIM118
        assert sum(sizes) <= limit or len(sizes) == 1
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, own[key])


def test_what_an_earlier_save_left_is_not_loaded(tmp_path: Path, tokenizer: Path) -> None:
    made = small()
    first, second = weights(made), {n: t * 2 for n, t in weights(made).items()}
    for shard_bytes in (10**9, 20_000, 30_000, 10**9):
        hf.save(first, made, tmp_path, tokenizer, EOD, shard_bytes=shard_bytes)
        first, second = second, first
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        assert torch.equal(theirs.state_dict()["model.norm.weight"], second["model.norm.weight"])
    assert [p.name for p in tmp_path.glob("model*")] == [hf.WEIGHTS]


def test_generation_ends_and_chat_is_written_by_its_template(
    tmp_path: Path, tokenizer: Path
) -> None:
    made = small()
    hf.save(weights(made), made, tmp_path, tokenizer, EOD, chat_template=CHAT)
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.eos_token_id, generation.pad_token_id) == (EOD, EOD)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    talk = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
    assert theirs.apply_chat_template(talk, tokenize=False) == "user: w1 w2\nassistant: w3\n"
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    out = model.generate(**theirs(["w1", "w2"], return_tensors="pt"), max_new_tokens=2)
    assert out.shape[0] == 2


@pytest.mark.parametrize("made", [small(), family("olmo2")], ids=["native", "olmo2"])
def test_a_folder_that_computes_something_else_is_not_left_to_be_loaded(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, made: Shape
) -> None:
    own = weights(made)
    right = hf.config(made, VOCAB, EOD)
    monkeypatch.setattr(hf, "config", lambda *_: {**right, "rms_norm_eps": 0.5})
    with pytest.raises(RegmixError, match=r"other logits than .* by up to \d.*, more than 0\.000"):
        hf.save(own, made, tmp_path, tokenizer, EOD)
    assert not (tmp_path / "config.json").exists()
    assert not (tmp_path / "README.md").exists()


def test_what_differs_by_rounding_may_differ_more_where_logits_are_large(
    tmp_path: Path, tokenizer: Path
) -> None:
    """By the same part of them; the card says how large they are. A real difference is refused."""
    made = family("olmo2")
    own = weights(made)
    own["lm_head.weight"] = own["lm_head.weight"] * 1000
    found = hf.save(own, made, tmp_path, tokenizer, EOD)
    assert found.largest > 1000
    assert found.difference is not None
    assert found.difference <= TOLERANCE * found.largest
    assert f"the largest is {found.largest:.3g}." in (tmp_path / "README.md").read_text()
    other = {**own, "model.norm.weight": own["model.norm.weight"] * 1.001}
    with pytest.raises(RegmixError, match="other logits than"):
        verify.verify(tmp_path, other, made)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(
    tmp_path: Path, tokenizer: Path, value: float
) -> None:
    made = small()
    own = weights(made)
    own["model.norm.weight"] = own["model.norm.weight"] * value
    with pytest.raises(RegmixError, match="they differ by up to nan"):
        hf.save(own, made, tmp_path, tokenizer, EOD)


def test_a_window_is_part_of_what_is_compared(tmp_path: Path, tokenizer: Path) -> None:
    """The batch is longer than the window, so that a folder without it is found out."""
    made = family("olmo3", sliding_window=80, max_position_embeddings=200)
    own = weights(made)
    hf.save(own, made, tmp_path, tokenizer, EOD)
    with pytest.raises(RegmixError, match="other logits"):
        verify.verify(tmp_path, own, replace(made, window=85))


def test_without_memory_it_is_said_that_nothing_was_compared(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small()
    own = weights(made)
    needed = 3 * 4 * sum(t.numel() for t in own.values())
    monkeypatch.setattr(verify, "free_memory", lambda: needed - 1)
    found = hf.save(own, made, tmp_path, tokenizer, EOD)
    assert found.difference is None
    shown = MarkdownIt().render((tmp_path / "README.md").read_text())
    assert f"Not checked when it was saved: {found.reason}." in shown
    assert "0.0 GB of memory are needed for it" in found.reason
    assert verify.verify(tmp_path, own, made, free=needed).difference is not None


def test_free_memory_is_a_part_of_the_machines() -> None:
    import os

    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < verify.free_memory() <= whole


def origin(domains: list[str], metrics: dict[str, float], name: str = "run") -> Origin:
    split = SplitManifest(tokens=12_345, documents=67, text_bytes=54_321, shards=())
    data = DataManifest(
        tuple(DomainManifest(d, split, replace(split, tokens=890)) for d in domains),
        vocab_size=VOCAB, eod_id=EOD, dtype="uint16", tokenizer="abc123",
    )  # fmt: skip
    model = small()
    spec = RunSpec(
        name=name, role="target", mixture=Mixture.of({d: 1 / len(domains) for d in domains}),
        model=model, plan=plan(TrainConfig(tokens=10_000, batch_tokens=480), model),
        vocab_size=VOCAB, data="d", seed=4,
    )  # fmt: skip
    seen = [Realised(d, 1 / len(domains), 0.25, 4_321, 0.35) for d in domains]
    environment = {"torch": "2.13", "regmix": "0.1", "host": "secret-host", "worker": "w.7"}
    return Origin(spec, data, metrics, seen, environment)


def tables(text: str) -> list[list[list[str]]]:
    """Cells of every table as a reader sees them; nothing may be read as markup."""
    found: list[list[list[str]]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        if token.type in ("table_open", "table_close"):
            inside = token.type == "table_open"
            found += [[] for _ in range(inside)]
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            kinds = {child.type for child in token.children or []}
            assert kinds <= {"text", "text_special"}, (token.content, kinds)
            found[-1][-1].append("".join(c.content for c in token.children or []))
    return found


def body(text: str) -> str:
    _, front, rest = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["regmix"],
    }  # fmt: skip
    return rest


def test_the_card_has_the_figures_of_the_run() -> None:
    made = origin(["web", "code"], {"bpb/web": 1.25, "bpb/code": 0.5})
    text = card.text(small(), VOCAB, Verification(3e-6, 96, largest=12.5), made)
    shown = body(text)
    _, training, mixture, data, metrics, versions = tables(shown)
    assert ["run", made.spec.run_id] in training
    assert ["tokens", f"{made.spec.tokens:,}"] in training
    assert ["training FLOPs", f"{made.spec.flops:.4g}"] in training
    assert mixture[1:] == [[d, "50.0000%", "25.0000%", "4,321", "0.35"] for d in ("web", "code")]
    assert data[1:] == [[d, "12,345", "67", "54,321", "890"] for d in ("web", "code")]
    assert metrics[1:] == [["bpb/web", "1.25"], ["bpb/code", "0.5"]]
    assert ["torch", "2.13"] in versions
    assert "secret-host" not in text
    assert "at most 3e-06, at 96 positions" in shown
    assert "the largest is 12.5." in shown
    assert made.spec.mixture.id in text
    assert made.data.fingerprint in text


MARKUP = "|\\`*_[]()<>&#!~$:@ -+.{}'\"=/01http"
names = st.text(
    st.one_of(st.sampled_from(MARKUP), st.characters()), min_size=1, max_size=24
).filter(lambda x: x.isprintable() and not x.isspace())


@settings(deadline=None, max_examples=300)
@given(st.lists(names, min_size=1, max_size=4, unique=True), names)
def test_names_are_shown_as_they_are(domains: list[str], title: str) -> None:
    made = origin(domains, {f"bpb/{d}": 1.0 for d in domains}, name=title)
    shown = body(card.text(small(), VOCAB, Verification(None, 0, title), made))
    _, _, mixture, data, metrics, _ = tables(shown)
    expected = [" ".join(d.split()) for d in domains]
    assert [row[0] for row in mixture[1:]] == expected
    assert [row[0] for row in data[1:]] == expected
    assert [row[0] for row in metrics[1:]] == [" ".join(f"bpb/{d}".split()) for d in domains]
    first = MarkdownIt("commonmark").parse(shown)[1]
    assert "".join(c.content for c in first.children or []) == " ".join(title.split())


def test_a_card_without_an_origin_still_says_how_to_load_it(
    tmp_path: Path, tokenizer: Path
) -> None:
    made = family("olmo3")
    hf.save(weights(made), made, tmp_path, tokenizer, EOD)
    text = (tmp_path / "README.md").read_text()
    shown = body(text)
    assert ["kind", "decoder, olmo3, QK-norm"] in tables(shown)[0]
    assert "## Mixture" not in text
    code = text.split("```python\n")[1].split("```")[0].replace('"."', repr(str(tmp_path)))
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["model"].config.model_type == "olmo3"
    assert scope["tokenizer"].eos_token_id == EOD
