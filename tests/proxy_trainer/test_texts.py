"""Bits per byte of collections: by hand, as transformers has it, and files that are not right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import afterwards, kept_tasks, kinds, texts
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.results import Result
from proxy_trainer.evals.texts import Texts
from proxy_trainer.models import hf
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.losses import without_weights
from regmix.config import EvaluateConfig, ModelConfig
from regmix.errors import RegmixError, UserError
from regmix.families import TransformersShape
from regmix.files import read_json
from regmix.layout import StudyLayout
from regmix.sizes import shape
from regmix.tasks import TextCollection, taken_in

WORDS = (
    "the sum of two numbers is even where both are odd or «none» is and one may be prime".split()
)
CONTEXT = 24


def write_source(path: Path, count: int, seed: int, longest: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    found = [" ".join(rng.choice(WORDS, rng.integers(2, longest))) for _ in range(count)]
    path.write_text("".join(json.dumps({"meta": {"text": text}}) + "\n" for text in found))
    return found


def described(**more: object) -> TextCollection:
    sources = {"web": ("web.jsonl",), "books": ("books-*.jsonl",)}
    given = {"kind": "texts", "name": "held", "sources": sources, "text_field": "meta.text"}
    return TextCollection(**{**given, **more})


@pytest.fixture
def collection(tmp_path: Path) -> Texts:
    write_source(tmp_path / "web.jsonl", 7, 1)
    write_source(tmp_path / "books-1.jsonl", 3, 2)
    write_source(tmp_path / "books-2.jsonl", 2, 3, longest=300)
    return Texts.read(described(), tmp_path)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizers.save(tokenizers.train_bpe(iter([" ".join(WORDS)] * 9), 300), path)
    return path


def array(members: int = 1) -> ModelArray:
    config = ModelConfig(size="50k", d_model=32, layers=2, heads=4, context=CONTEXT)
    made = ModelArray.initialised(shape(config), 300, range(members))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.shape[1] > 1:
                parameter *= 8  # far from uniform predictions
    return made


def asked(task: Texts, found: ModelArray, tokenizer: Path) -> list[Result]:
    outcomes = task.ask(Models.of_array(found, tokenizers.load(tokenizer), 0))
    for outcome in outcomes:
        assert isinstance(outcome, Result)
    return outcomes


@torch.no_grad()
def direct(model: torch.nn.Module, task: Texts, tokenizer: Path, opening: int) -> pd.DataFrame:
    """Every document alone with transformers: nats in double precision, and its bytes."""
    encode = tokenizers.load(tokenizer).encode
    rows = []
    for document in task.documents:
        ids = encode(document.text, add_special_tokens=False).ids
        nats = 0.0
        for start in range(0, len(ids), CONTEXT):
            window = ids[start : start + CONTEXT]
            before = opening if start == 0 else ids[start - 1]
            logits = model(torch.tensor([[before, *window[:-1]]])).logits[0].double()
            logs = logits.log_softmax(-1)
            nats -= sum(logs[i, token].item() for i, token in enumerate(window))
        rows.append((document.source, nats, len(document.text.encode())))
    return pd.DataFrame(rows, columns=["source", "nats", "bytes"])


def test_equals_transformers_on_the_exported_model(
    collection: Texts, tokenizer_file: Path, tmp_path: Path
) -> None:
    found = array(3)
    results = asked(collection, found, tokenizer_file)
    for member, result in enumerate(results):
        folder = tmp_path / str(member)
        hf.save(found.member(member), found.shape, folder, tokenizer_file, 0)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        table = direct(theirs, collection, tokenizer_file, 0)
        assert table["bytes"].max() > 200, "no document longer than the context"
        by_source = {
            source: part["nats"].sum() / math.log(2) / part["bytes"].sum()
            for source, part in table.groupby("source")
        }
        assert result.metrics == pytest.approx(
            {
                "held/bpb": (by_source["web"] + by_source["books"]) / 2,
                "held/micro/bpb": table["nats"].sum() / math.log(2) / table["bytes"].sum(),
                "held/web/bpb": by_source["web"],
                "held/books/bpb": by_source["books"],
            },
            rel=1e-6,
        )
        assert result.items["nats"].to_numpy() == pytest.approx(table["nats"].to_numpy(), rel=1e-6)
        [alone] = afterwards.folder(folder, [collection], None)
        assert alone.metrics == pytest.approx(result.metrics, rel=1e-6)
    assert results[0].metrics != results[1].metrics


def test_a_model_of_another_family_opens_with_what_its_config_says(
    collection: Texts, tokenizer_file: Path, tmp_path: Path
) -> None:
    family = TransformersShape.from_config(
        {
            "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "head_dim": 16,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "initializer_range": 0.3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
            "tie_word_embeddings": False,
        },
        "here",
    )  # fmt: skip
    decoder = without_weights(family, 300)
    for unit in decoder.units:
        decoder.fill_(unit, torch.Generator().manual_seed(0))
    decoder.complete_()
    folder = tmp_path / "model"
    hf.save(decoder.state_dict(), family, folder, tokenizer_file, 7)
    [result] = afterwards.folder(folder, [collection], None)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    table = direct(theirs, collection, tokenizer_file, 7)
    assert result.items["nats"].to_numpy() == pytest.approx(table["nats"].to_numpy(), rel=1e-6)


def test_macro_and_micro_by_hand() -> None:
    parts = {
        "a": pd.DataFrame({"nats": [2.0, 4.0], "bytes": [4, 4]}),
        "b": pd.DataFrame({"nats": [30.0, 10.0, 20.0], "bytes": [10, 10, 20]}),
    }
    found = {m.name: m for m in texts.means("c", parts)}
    ln2 = math.log(2)
    assert list(found) == ["c/bpb", "c/micro/bpb", "c/a/bpb", "c/b/bpb"]
    assert found["c/a/bpb"].value == pytest.approx(6 / 8 / ln2)
    assert found["c/b/bpb"].value == pytest.approx(60 / 40 / ln2)
    assert found["c/bpb"].value == pytest.approx((6 / 8 + 60 / 40) / 2 / ln2)
    assert found["c/micro/bpb"].value == pytest.approx(66 / 48 / ln2)
    # Residuals about 0.75 nats a byte are ∓1, about 1.5 they are 15, −5, −10.
    a, b = math.sqrt(2 / 1 * 2) / 8 / ln2, math.sqrt(3 / 2 * 350) / 40 / ln2
    assert found["c/a/bpb"].std_error == pytest.approx(a)
    assert found["c/b/bpb"].std_error == pytest.approx(b)
    assert found["c/bpb"].std_error == pytest.approx(math.sqrt(a * a + b * b) / 2)
    assert [m.count for m in found.values()] == [5, 5, 2, 3]
    [one] = texts.means("c", {"b": parts["b"]})
    assert (one.name, one.value) == ("c/bpb", found["c/b/bpb"].value)
    single = texts.means("c", {"a": parts["a"], "b": parts["b"][:1]})
    assert {m.name for m in single if m.std_error is None} == {"c/bpb", "c/b/bpb"}


def test_a_table_names_documents_as_the_studys_own_text_has_them(
    collection: Texts, tokenizer_file: Path
) -> None:
    [result] = asked(collection, array(), tokenizer_file)
    table = result.items
    assert table["document"].tolist() == [*range(7), *range(5)]
    assert set(table["metric"]) == {"held/web/bpb", "held/books/bpb"}
    assert table["place"].tolist()[6:8] == ["web.jsonl:7", "books-1.jsonl:1"]
    assert table["bytes"].tolist() == [len(d.text.encode()) for d in collection.documents]
    assert result.counts["tokens_read"] == table["tokens"].sum()


def test_a_text_that_spells_a_special_token_is_text(tmp_path: Path, tokenizer_file: Path) -> None:
    rows = [{"text": "the sum"}, {"text": "the <|endoftext|> sum"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Texts.read(described(sources={"a": ("q.jsonl",)}, text_field="text"), tmp_path)
    [result] = asked(task, array(), tokenizer_file)
    short, long = result.items["tokens"]
    assert long > short + 1
    assert result.items["bytes"].tolist() == [7, 21]


def test_a_broken_model_has_a_reason_and_spoils_no_other(
    collection: Texts, tokenizer_file: Path
) -> None:
    found = array(2)
    with torch.no_grad():
        found.head[1] = math.nan
    sound, broken = collection.ask(Models.of_array(found, tokenizers.load(tokenizer_file), 0))
    assert isinstance(broken, RegmixError)
    assert "task 'held': source 'web' has no document left that can be counted" in str(broken)
    assert isinstance(sound, Result)
    [alone] = asked(collection, array(), tokenizer_file)
    assert sound.metrics == alone.metrics


def test_documents_in_batches_come_to_the_same(
    collection: Texts, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [together] = asked(collection, array(), tokenizer_file)
    monkeypatch.setattr(texts, "_AT_ONCE", 5)
    steps: list[tuple[int, int]] = []
    loaded = Models.of_array(array(), tokenizers.load(tokenizer_file), 0)
    [apart] = collection.ask(loaded, lambda done, total: steps.append((done, total)))
    assert isinstance(apart, Result)
    assert apart.metrics == pytest.approx(together.metrics, rel=1e-6)
    assert steps == [(5, 12), (10, 12), (12, 12)]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"meta": {}}, "web.jsonl:8: no 'meta.text' (there is "),
        ({"meta": {"text": " "}}, "web.jsonl:8: meta.text: expected text (found ' ')"),
        ({"meta": {"text": 3}}, "web.jsonl:8: meta.text: expected text (found 3)"),
        ([], "web.jsonl:8: expected an object"),
    ],
)
def test_a_row_without_text_is_named(
    collection: Texts, tmp_path: Path, row: object, told: str
) -> None:
    with (tmp_path / "web.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    with pytest.raises(UserError) as error:
        Texts.read(described(), tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/{told}")


def test_a_source_without_files_or_rows_is_named(collection: Texts, tmp_path: Path) -> None:
    (tmp_path / "web.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"task 'held': sources.web: no document in web.jsonl"):
        Texts.read(described(), tmp_path)
    (tmp_path / "web.jsonl").unlink()
    with pytest.raises(UserError, match="task 'held': no file at "):
        Texts.read(described(), tmp_path)


def test_a_sample_is_of_all_sources_and_says_so(collection: Texts, tokenizer_file: Path) -> None:
    found = collection.sample(6, 2)
    assert (found.name, found.available, len(found.documents)) == ("held-6-seed2", 12, 6)
    assert [d.source for d in found.documents].count("books") == 3
    assert set(found.documents) <= set(collection.sample(9, 2).documents)
    assert collection.sample(12, 0) is collection
    with pytest.raises(UserError, match="two of each of its 2 subjects or sources, 4, are the"):
        collection.sample(3, 0)
    [result] = asked(found, array(), tokenizer_file)
    assert list(result.notes) == [
        "held-6-seed2: 6 of 12, drawn with seed 2; standard errors are those of so many"
    ]


def test_a_study_takes_documents_in(collection: Texts, tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path / "study")
    layout.root.mkdir()
    (tmp_path / "held.yaml").write_text(
        "tasks:\n  - kind: texts\n    name: held\n    text_field: meta.text\n"
        "    sources: {web: [web.jsonl], books: ['books-*.jsonl']}\n"
    )
    config = EvaluateConfig(tasks=("../held.yaml",))
    kept_tasks.take_in(layout, config)
    [task] = kept_tasks.load(layout, taken_in(layout, config))
    assert task == collection
    folder = layout.evals / task.fingerprint
    assert read_json(folder / "task.json")["kind"] == "texts"
    path = folder / "documents.jsonl"
    path.write_text(path.read_text().replace("the", "teh", 1))
    with pytest.raises(UserError, match="they were changed by hand"):
        kinds.load(folder)
    (folder / "task.json").write_text('{"kind": "sums"}')
    with pytest.raises(UserError, match=r"task.json: unknown kind 'sums'. Valid: choice, "):
        kinds.load(folder)


def test_the_fingerprint_is_that_of_the_texts(collection: Texts, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("web.jsonl", "books-1.jsonl", "books-2.jsonl"):
        (other / name).write_bytes((tmp_path / name).read_bytes())
    assert Texts.read(described(), other).fingerprint == collection.fingerprint
    assert Texts.read(described(name="held2"), other).fingerprint != collection.fingerprint
    with (other / "web.jsonl").open("a") as stream:
        stream.write('{"meta": {"text": "x"}}\n')
    assert Texts.read(described(), other).fingerprint != collection.fingerprint
