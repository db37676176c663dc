"""Each format's file, whole: what the trainer's documented schema asks, and nothing else."""

from __future__ import annotations

import ast
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix import __version__
from regmix.errors import UserError
from regmix.export import Request, Stage, Unit, exporter, names
from regmix.export.base import Written
from regmix.places import Place

GOLDEN = Path(__file__).parent / "golden"
PLACES = {
    "web": Place(("/data/web.jsonl",), ("/data/web-valid.jsonl",), 6_000_000, 5_000),
    "code": Place(("/data/code.jsonl",), ("/data/code-valid.jsonl",), 2_000_000, 500, "content"),
}
TOKENS = {"web": 0.75, "code": 0.25}
DOCUMENTS = {"web": 0.9090909090909091, "code": 0.09090909090909091}
"""0.75 / 1,200 and 0.25 / 4,000, by their sum."""
STAGED = ("levanter", "nanotron")


def request(to: str, weights: dict[str, float] | None = None, **changed: Any) -> Request:
    if weights is None:
        weights = TOKENS if exporter(to).unit is Unit.TOKENS else DOCUMENTS
    stages = [Stage(0, weights)]
    if to in STAGED:
        stages.append(Stage(2048, {"code": 1.0}))
    values: dict[str, Any] = {
        "name": "best", "stages": tuple(stages), "places": PLACES, "notes": ("what it is",),
        "tokens": 4_000_000, "max_epochs": 2.0, "seed": 7,
    }  # fmt: skip
    return Request(**{**values, **changed})


def written(to: str, **changed: Any) -> Written:
    if to == "trl":  # takes one column of all
        changed.setdefault("places", {**PLACES, "code": replace(PLACES["code"], text_field="text")})
    return exporter(to).write(request(to, **changed))


@pytest.mark.parametrize("to", names())
def test_the_file_is_the_golden_one(to: str) -> None:
    found = written(to)
    assert found.text.replace(__version__, "VERSION") == (GOLDEN / to).read_text("utf-8")
    for name, text in found.beside.items():
        assert text == (GOLDEN / f"{to}.{name}").read_text("utf-8")


@pytest.mark.parametrize("to", names())
def test_the_notes_are_in_the_file_where_it_can_hold_any(to: str) -> None:
    assert ("what it is" in written(to).text) == (to != "megatron-args")


@pytest.mark.parametrize("to", ["olmo-core", "nanotron", "streaming", "levanter", "trl"])
def test_a_yaml_1_1_reader_sees_numbers_as_numbers(to: str) -> None:
    """Python writes small weights as 5e-05, which YAML 1.1 takes for text."""
    places = dict.fromkeys(TOKENS, PLACES["web"])
    small = request(to, {"web": 1 - 5e-5, "code": 5e-5}, places=places)
    assert 5e-5 in list(numbers(yaml.safe_load(exporter(to).write(small).text)))


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, float):
        yield value


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=12))
def test_levanters_blocks_keep_every_share(raw: list[float]) -> None:
    """By the trainer's own rule: whole samples of a block, the rest to the largest."""
    total = math.fsum(raw)
    weights = {f"d{i}": w / total for i, w in enumerate(raw)}
    places = dict.fromkeys(weights, PLACES["web"])
    asked = Request("m", (Stage(0, weights),), places, ())
    data = yaml.safe_load(exporter("levanter").write(asked).text)["data"]
    block = data["mixture_block_size"]
    assert block < 2**16
    counts = {n: int(w * block) for n, w in weights.items()}
    largest = max(counts, key=lambda n: counts[n])
    counts[largest] += block - sum(counts.values())
    for name, weight in weights.items():
        assert counts[name] / block == pytest.approx(weight, rel=0.02, abs=len(raw) / block)
        assert counts[name] > 0


def test_levanter_says_what_a_share_comes_to_or_refuses_one_that_gets_nothing() -> None:
    def write(small: float) -> Written:
        return exporter("levanter").write(request("levanter", {"web": 1 - small, "code": small}))

    assert any("'code' gets 3 of 32,768 samples" in note for note in write(1e-4).notes)
    with pytest.raises(UserError, match=r"weight of 'code' is 1e-05.*32,768.*none at all"):
        write(1e-5)


@pytest.mark.parametrize("to", ["megatron", "megatron-args", "megatron-splits", "nanotron",
                                "streaming", "litgpt", "llama-factory"])  # fmt: skip
def test_what_weighs_one_path_a_domain_refuses_several(to: str) -> None:
    several = {**PLACES, "web": Place(("/a.jsonl", "/b.jsonl"), ("/v.jsonl",), 10, 5)}
    with pytest.raises(UserError, match=r"domain 'web' has 2 (prefixes|paths)"):
        written(to, places=several)


@pytest.mark.parametrize(
    ("to", "paths", "said"),
    [
        ("interleave", ("/a.npy",), r"'/a.npy' is not text that the trainer can load: it ends in"),
        ("interleave", ("/a.jsonl", "/a.parquet"), "domain 'web' has files for json and parquet"),
        ("trl", ("/a.txt",), r"'/a.txt' is one document, of which the trainer would make one a"),
        ("axolotl", ("/a.md",), r"'/a.md' is one document.*write it as such a file, and name"),
        ("levanter", ("/a.npy",), r"'/a.npy' is not text.*in none of .jsonl, .jsonl.gz"),
        ("levanter", ("/a.txt",), r"'/a.txt' is one document"),
        ("llama-factory", ("/a.jsonl.zst",), r"in none of .jsonl, .json, .parquet; write it as"),
        ("llama-factory", ("/a.jsonl.gz",), r"'/a.jsonl.gz' is not text that the trainer can"),
        ("llama-factory", ("/folder",), r"'/folder' is not text that the trainer can load"),
        ("llama-factory", ("/a.txt",), r"'/a.txt' is one document"),
        ("llama-factory", ("s3://b/a.jsonl",), r"'s3://b/a.jsonl' is a URL, and LLaMA-Factory"),
        ("llama-factory", ("/[a]/b.jsonl",), r"has one of \* \? \[, which LLaMA-Factory takes"),
        (
            "axolotl",
            ("s3://b/1.jsonl", "s3://b/2.jsonl"),
            r"domain 'web' has 2 paths and 's3://b/1",
        ),
        ("axolotl", ("/1.jsonl", "s3://b/2.jsonl"), r"'s3://b/2.jsonl' among them"),
        ("axolotl", ("hf://b/1.jsonl",), r"'hf://b/1.jsonl' begins with none of s3://"),
        ("torchtitan-mix", ("/a.parquet",), r"'/a.parquet' is not a .jsonl file"),
        ("torchtitan-mix", ("s3://b/a.jsonl",), r"'s3://b/a.jsonl' is not a .jsonl file"),
        ("megatron-args", ("/a b",), "'/a b': --data-args-path splits its file at white space"),
    ],
)
def test_paths_that_the_trainer_cannot_read_are_refused(
    to: str, paths: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        written(to, places=dict.fromkeys(PLACES, Place(paths, ("/v",), 10, 5)))


def test_a_text_file_is_one_document_where_the_trainer_can_be_told_so() -> None:
    places = {**PLACES, "web": Place(("/a.txt", "/b.md"), (), 10, 5, "body")}
    for to in ("interleave", "torchtitan"):
        literal = written(to, places=places).text.partition("MIXTURE = ")[2].partition("]\n")[0]
        web = ast.literal_eval(literal + "]")[0]
        assert web["builder"] == "text"
        assert web["options"] == {"sample_by": "document"}
        assert web["text_field"] == "text"  # the builder's own column


def test_litgpt_validates_on_what_is_held_out_and_says_where_nothing_is() -> None:
    def bare(*domains: str) -> Written:
        places = {n: replace(p, valid=()) if n in domains else p for n, p in PLACES.items()}
        return written("litgpt", places=places)

    assert 'self.loader(self.dataset("valid")' in bare().text
    assert not bare().notes
    (note,) = bare("code").notes
    assert note == "not validated on, as they have no held-out folder: code"
    assert 'self.loader(self.dataset("valid")' in bare("code").text
    (note,) = bare("web", "code").notes
    assert note.startswith("no held-out folders, so validation is on eval.max_iters batches")
    assert 'self.loader(self.dataset("path"), drop_last=False)' in bare("web", "code").text
    several = {**PLACES, "web": replace(PLACES["web"], valid=("/v", "/w"))}
    with pytest.raises(UserError, match="domain 'web' has 2 paths of held-out data"):
        written("litgpt", places=several)


def test_trl_is_told_the_column_of_the_text() -> None:
    places = dict.fromkeys(PLACES, PLACES["code"])
    value = yaml.safe_load(written("trl", places=places).text)
    assert value["dataset_text_field"] == "content"
    assert [entry["columns"] for entry in value["datasets"]] == [["content"]] * 2
    assert "dataset_text_field" not in yaml.safe_load(written("trl").text)


@pytest.mark.parametrize("to", ["trl", "axolotl", "interleave-json"])
def test_names_are_patterns_that_mean_them_alone(to: str) -> None:
    places = {**PLACES, "web": replace(PLACES["web"], paths=("/a[1]*/b?.jsonl",))}
    if to == "trl":
        places["code"] = replace(places["code"], text_field="text")
    text = exporter(to).write(request(to, places=places)).text
    value = yaml.safe_load(text)["datasets"][0]
    assert value["paths" if to == "interleave-json" else "data_files"] == ["/a[[]1][*]/b[?].jsonl"]
    assert exporter(to).read(text, Path("f"))[0][0].paths == ("/a[1]*/b?.jsonl",)


def test_olmo_core_is_told_what_the_ids_are() -> None:
    found = written("olmo-core", dtype="uint32")
    assert "# ids are uint32: give the trainer's dataset that dtype\n" in found.text


def test_levanter_says_so_of_every_domain_and_stage() -> None:
    weights = {"web": 1 - 3e-4, "code": 1e-4, "math": 2e-4}
    later = {"web": 1 - 5e-4, "math": 5e-4}
    places = dict.fromkeys(weights, PLACES["web"])
    stages = (Stage(0, weights), Stage(2048, later))
    notes = exporter("levanter").write(Request("m", stages, places, ())).notes
    assert notes[:3] == (
        "'code' gets 3 of 32,768 samples in a block: a share of 9.16e-05 for 0.0001",
        "'math' gets 6 of 32,768 samples in a block: a share of 0.000183 for 0.0002",
        "'math' gets 16 of 32,768 samples in a block from step 2048 on: a share of 0.000488 for "
        "0.0005",
    )


def test_levanter_looks_at_held_out_files_too() -> None:
    places = {**PLACES, "web": replace(PLACES["web"], valid=("/v.npy",))}
    with pytest.raises(UserError, match=r"'/v.npy' is not text that the trainer can load"):
        written("levanter", places=places)


def test_the_splits_need_held_out_data() -> None:
    with pytest.raises(UserError, match="domain 'web' has no held-out data"):
        written("megatron-splits", places={**PLACES, "web": Place(("/a",))})


def test_trl_refuses_texts_under_two_names() -> None:
    with pytest.raises(UserError, match="text_field is 'content' and 'text'"):
        exporter("trl").write(request("trl"))


def test_names_that_llama_factory_would_split_are_refused() -> None:
    places = {"a,b": PLACES["web"]}
    with pytest.raises(UserError, match="domain 'a,b': LLaMA-Factory splits names at commas"):
        exporter("llama-factory").write(Request("m", (Stage(0, {"a,b": 1.0}),), places, ()))


def test_names_that_torchtitan_would_mix_up_are_refused() -> None:
    places = {"Web": PLACES["web"], "web": PLACES["web"]}
    with pytest.raises(UserError, match="domains 'Web' and 'web' are one name to torchtitan"):
        exporter("torchtitan").write(
            Request("m", (Stage(0, {"Web": 0.5, "web": 0.5}),), places, ())
        )


def test_axolotl_repeats_whole_passes_and_needs_the_size_of_the_run() -> None:
    text = written("axolotl", tokens=20_000_000).text
    sizes = [e["split"] for e in yaml.safe_load(text)["datasets"]]
    # 0.75 · 20M / 1,200 tokens = 12,500 documents of 5,000; 0.25 · 20M / 4,000 = 1,250 of 500.
    assert sizes == [
        "train[:5000]", "train[:5000]", "train[:2500]",
        "train[:500]", "train[:500]", "train[:250]",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"Axolotl has no weights.*give --tokens"):
        written("axolotl", tokens=None)
    with pytest.raises(UserError, match=r"domain 'code': 0\.0909 of the documents of 2,000 tokens"):
        written("axolotl", tokens=2_000)


@pytest.mark.parametrize(
    ("to", "text", "said"),
    [
        ("olmo-core", "sources:\n- {source_name: a}\n", r"sources\[0\]: has no 'target_ratio'"),
        ("olmo-core", "sources:\n- {source_name: a, target_ratio: much, paths: []}\n",
         r"sources\[0\].target_ratio: 'much' is not a number"),
        ("olmo-core", "sources: {}\n", "sources: expected a list of entries, found {}"),
        ("olmo-core", "sources:\n- {source_name: a, target_ratio: -1, paths: []}\n",
         "a weight of -1; it must be finite and >= 0"),
        ("megatron", "DATA_PATH=(\n 0.5 a 0.5\n)\n", "3 words; expected a weight and a prefix"),
        ("megatron-args", "a b", "word 1: 'a' is not a number"),
        ("megatron-splits", '{"train": 3}', "train: expected a path or a list of them, found 3"),
        ("nanotron", "data_stages:\n- {name: a, start_training_step: 0}\n",
         r"data_stages\[0\].start_training_step: 0 is not a step from 1 on"),
        ("nanotron", "data_stages:\n- {start_training_step: 1, data: {dataset: "
         "{dataset_folder: [a, b], dataset_weights: [1]}}}\n", "must be a list of 2, one a folder"),
        ("streaming", "streams: {a: {local: /a, repeat: 2}}\n", "streams.a: has 'repeat'"),
        ("levanter", "train_weights: [[0, {a: 1}], [b]]\n", r"train_weights\[1\]: \['b'\] is not"),
        ("levanter", "train_weights: [[0, {a: 1}], [0, {b: 1}]]\n",
         r"train_weights\[1\]: a stage begins at step 0 already"),
        ("nanotron", "data_stages:\n" + 2 * "- {start_training_step: 1, data: {dataset: "
         "{dataset_folder: a}}}\n", r"data_stages\[1\]: a stage begins at training step 1 alr"),
        ("olmo-core", "sources:\n- {source_name: a, target_ratio: 1, paths: [3]}\n",
         r"sources\[0\].paths: expected text, found 3"),
        ("llama-factory", "dataset: a,b\ninterleave_probs: '1'\n", "1 for 2 datasets"),
        ("axolotl", "datasets:\n- {path: /a, split: 'train[:50%]'}\n",
         r"split 'train\[:50%\]' does not say how many documents"),
        ("litgpt", "MIXTURE = [open('/etc/passwd')]\n", "MIXTURE: is not a plain literal"),
        ("interleave", "MIXTURE = 3\n", "MIXTURE: expected a list of entries, found 3"),
        ("interleave", "x = 1\n", r"has no 'MIXTURE = \["),
        ("trl", "datasets:\n- {path: json, fraction: true}\n", "fraction: True is not a number"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused_with_its_place(to: str, text: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^file.*{said}"):
        exporter(to).read(text, Path("file"))


def test_what_teams_write_by_hand_is_read_too() -> None:
    """Forms of the same format that an export does not write."""

    def weights(to: str, text: str) -> list[tuple[str, float]]:
        parts = exporter(to).read(text, Path("f"))[0]
        return [(p.name or p.paths[0], p.weight) for p in parts]

    assert weights("megatron", "python pretrain.py --data-path 30 a 70 'b c' --lr 1") == [
        ("a", 30), ("b c", 70),
    ]  # fmt: skip
    assert weights("megatron-splits", '{"train": "1 a 3 b"}') == [("a", 1), ("b", 3)]
    assert weights("megatron-splits", '{"train": [0.5, "a", 2, "b"]}') == [("a", 0.5), ("b", 2)]
    assert weights("streaming", "streams: {a: {proportion: 2}}") == [("a", 2)]
    assert weights("levanter", "train_weights: {a: 0.5, b: 0.5}") == [("a", 0.5), ("b", 0.5)]
    one = "data_stages: [{start_training_step: 1, data: {dataset: {dataset_folder: a}}}]"
    assert weights("nanotron", one) == [("a", 1.0)]
    assert weights("llama-factory", "dataset: a\ninterleave_probs: 1.0") == [("a", 1.0)]


def test_json_is_json_and_python_compiles() -> None:
    for to in names():
        text = written(to).text
        if to in ("megatron-splits", "interleave-json"):
            json.loads(text)
        elif "MIXTURE" in text:
            compile(text, to, "exec")
