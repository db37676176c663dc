"""From a mixture file to a trainer's and back: shares, what is left out, what is refused."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix.errors import UserError
from regmix.export import (
    Asked,
    Unit,
    export,
    exporter,
    import_mixture,
    locate,
    names,
    settled,
    stages,
    study_of,
)
from regmix.files import write_text
from regmix.mixture import Mixture, MixtureFile
from regmix.places import Place, Places, load_places
from regmix.study import Study

STAGED = ("levanter", "nanotron")
counter = itertools.count()


def save(folder: Path, weights: dict[str, float], name: str = "mix") -> Path:
    path = folder / f"{name}.yaml"
    MixtureFile(name, Mixture.of(weights)).save(path)
    return path


def data(counts: dict[str, tuple[int, int]], **more: Any) -> Places:
    """Domains with tokens and documents."""
    domains = {
        name: Place((f"/data/{name}.jsonl",), (f"/data/{name}-valid.jsonl",), *count)
        for name, count in counts.items()
    }
    return Places(domains, "paths.yaml", **more)


THREE = data({"web": (600_000, 1000), "code": (300_000, 300), "math": (100_000, 2000)})
HALF = {"web": 0.5, "code": 0.3, "math": 0.2}

mixtures = st.lists(
    st.tuples(st.floats(1e-3, 1), st.integers(1, 10**6), st.integers(1, 1000)),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("to", [n for n in names() if n != "axolotl"])
@settings(max_examples=15, deadline=None)
@given(drawn=mixtures)
def test_there_and_back_is_the_same_mixture(
    to: str, drawn: list[tuple[float, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"{to}-{next(counter)}"
    total = math.fsum(w for w, _, _ in drawn)
    weights = {f"d{i}": w / total for i, (w, _, _) in enumerate(drawn)}
    places = data({f"d{i}": (docs * mean, docs) for i, (_, docs, mean) in enumerate(drawn)})
    export(save(folder, weights), to, folder / "file", places, Asked())
    found, _ = import_mixture(folder / "file", to, folder / "back.yaml", places)
    assert found.mixture.domains == tuple(weights)
    assert found.mixture.as_dict() == pytest.approx(weights, abs=1e-12)
    assert MixtureFile.load(folder / "back.yaml").mixture == found.mixture


@settings(max_examples=50, deadline=None)
@given(drawn=mixtures)
def test_drawing_documents_by_the_written_weights_gives_the_asked_tokens(
    drawn: list[tuple[float, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Σ over documents drawn, by definition: p_i documents of m_i tokens each."""
    folder = tmp_path_factory.getbasetemp() / f"units-{next(counter)}"
    total = math.fsum(w for w, _, _ in drawn)
    weights = {f"d{i}": w / total for i, (w, _, _) in enumerate(drawn)}
    means = {f"d{i}": mean for i, (_, _, mean) in enumerate(drawn)}
    places = data({f"d{i}": (docs * mean, docs) for i, (_, docs, mean) in enumerate(drawn)})
    found = export(save(folder, weights), "interleave-json", folder / "f", places, Asked())
    assert math.fsum(found.written.values()) == pytest.approx(1)
    tokens = {n: p * means[n] for n, p in found.written.items()}
    all_tokens = math.fsum(tokens.values())
    assert {n: t / all_tokens for n, t in tokens.items()} == pytest.approx(weights)


@pytest.mark.parametrize("to", names())
def test_zero_weights_are_left_out_and_said(to: str, tmp_path: Path) -> None:
    mix = save(tmp_path, {"web": 0.7, "code": 0.3, "math": 0.0})
    asked = Asked(tokens=100_000) if to == "axolotl" else Asked()
    found = export(mix, to, tmp_path / "file", THREE, asked)
    text = (tmp_path / "file").read_text()
    assert "math.jsonl" not in text
    assert "weight 0, left out: math" in found.notes
    assert ("weight 0, left out: math" in text) == (to != "megatron-args")
    back, notes = import_mixture(tmp_path / "file", to, tmp_path / "back.yaml", THREE)
    assert back.mixture["math"] == 0
    assert back.mixture["web"] == pytest.approx(0.7, abs=1e-2 if to == "axolotl" else 1e-12)
    assert "not in the file, so 0: math" in notes


@pytest.mark.parametrize("to", names())
def test_every_file_says_in_which_unit_it_is(to: str, tmp_path: Path) -> None:
    asked = Asked(tokens=100_000) if to == "axolotl" else Asked()
    found = export(save(tmp_path, HALF), to, tmp_path / "file", THREE, asked)
    unit = exporter(to).unit
    assert any(note.startswith(f"weights are shares of {unit.value}") for note in found.notes)
    if to != "megatron-args":
        assert f"weights are shares of {unit.value}" in (tmp_path / "file").read_text()


def test_a_domain_that_the_data_lack_and_the_other_way_round(tmp_path: Path) -> None:
    mix = save(tmp_path, {"web": 0.5, "codes": 0.3, "math": 0.2})
    with pytest.raises(UserError, match=r"mix.yaml: weights \(data: paths.yaml\): unknown domain "
                       r"'codes'; did you mean 'code'"):  # fmt: skip
        export(mix, "olmo-core", tmp_path / "f", THREE, Asked())
    mix = save(tmp_path, {"web": 0.5, "code": 0.5})
    with pytest.raises(UserError, match=r"mix.yaml: weights \(data: paths.yaml\): no weight for "
                       r"'math'; every domain needs one \(0 leaves it out\)"):  # fmt: skip
        export(mix, "olmo-core", tmp_path / "f", THREE, Asked())
    assert not (tmp_path / "f").exists()


def test_a_domain_without_weight_needs_no_data(tmp_path: Path) -> None:
    mix = save(tmp_path, {**HALF, "gone": 0.0})
    assert export(mix, "olmo-core", tmp_path / "f", THREE, Asked()).written == HALF


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    places = replace(THREE, tokenizer="aaaa")
    mix = save(tmp_path, HALF)
    with pytest.raises(UserError, match=r"paths.yaml: its tokens are those of tokenizer aaaa, not "
                       "of bbbb"):  # fmt: skip
        export(mix, "olmo-core", tmp_path / "f", places, Asked(tokenizer="bbbb"))
    export(mix, "olmo-core", tmp_path / "f", places, Asked(tokenizer="aaaa"))


@pytest.mark.parametrize("to", ["olmo-core", "axolotl", "megatron"])
def test_more_tokens_than_the_epochs_allow_are_refused(to: str, tmp_path: Path) -> None:
    mix = save(tmp_path, HALF)
    export(mix, to, tmp_path / "f", THREE, Asked(tokens=1_000_000, max_epochs=2.0))
    with pytest.raises(
        UserError,
        match=r"domain 'math': 0.2 of 1,000,001 tokens are 200,000, and 100,000 are there: "
        r"2 epochs, where at most 2 may be",
    ):
        export(mix, to, tmp_path / "f", THREE, Asked(tokens=1_000_001, max_epochs=2.0))
    if to != "megatron":
        with pytest.raises(UserError, match="at most 1 may be"):
            export(mix, to, tmp_path / "f", THREE, Asked(tokens=1_000_000))


def test_what_could_not_be_checked_is_said(tmp_path: Path) -> None:
    mix = save(tmp_path, HALF)
    found = export(mix, "olmo-core", tmp_path / "f", THREE, Asked())
    assert any("repetition not checked" in note for note in found.notes)
    unknown = replace(THREE, domains={n: replace(p, tokens=None)
                                      for n, p in THREE.domains.items()})  # fmt: skip
    found = export(mix, "olmo-core", tmp_path / "f", unknown, Asked(tokens=10**9))
    assert "repetition not checked, tokens not known: web, code, math" in found.notes
    with pytest.raises(UserError, match=r"paths.yaml: the mean tokens of a document of 'web' are "
                       "not known, and this format weighs documents"):  # fmt: skip
        export(mix, "interleave", tmp_path / "f", unknown, Asked())


@pytest.mark.parametrize("to", STAGED)
def test_stages_begin_at_their_steps(to: str, tmp_path: Path) -> None:
    later = save(tmp_path, {"web": 0.0, "code": 0.5, "math": 0.5}, "late")
    mix, file = save(tmp_path, HALF), tmp_path / "f"
    export(mix, to, file, THREE, Asked(stages={2048: later}))
    with pytest.raises(UserError, match="f: has stages that begin at steps 0, 2048; choose one"):
        import_mixture(file, to, tmp_path / "b.yaml", THREE)
    with pytest.raises(UserError, match="f: --at: unknown stage '7'"):
        import_mixture(file, to, tmp_path / "b.yaml", THREE, at=7)
    for at, weights in ((0, HALF), (2048, {"web": 0.0, "code": 0.5, "math": 0.5})):
        found, _ = import_mixture(file, to, tmp_path / "b.yaml", THREE, at=at)
        assert found.mixture.as_dict() == pytest.approx(weights)


def test_stages_where_there_are_none_are_refused(tmp_path: Path) -> None:
    mix = save(tmp_path, HALF)
    with pytest.raises(UserError, match="--then: the format 'trl' holds one mixture, not stages"):
        export(mix, "trl", tmp_path / "f", THREE, Asked(stages={1: mix}))
    with pytest.raises(UserError, match="--tokens, --max-epochs: not with --then"):
        export(mix, "nanotron", tmp_path / "f", THREE, Asked(stages={1: mix}, tokens=5))
    with pytest.raises(UserError, match="--then 0: a later stage begins after one step"):
        export(mix, "nanotron", tmp_path / "f", THREE, Asked(stages={0: mix}))


@pytest.mark.parametrize("given_text", ["5", "x=a.yaml", "-1=a.yaml", "=a.yaml", "5=", "²=a"])
def test_a_stage_is_a_step_and_a_file(given_text: str) -> None:
    with pytest.raises(UserError, match=r"--then .*: expected STEP=MIX.yaml"):
        stages([given_text])


def test_a_step_given_twice_is_refused() -> None:
    assert stages(["5=a.yaml", "9=b=c.yaml"]) == {5: Path("a.yaml"), 9: Path("b=c.yaml")}
    with pytest.raises(UserError, match="step 5 is given twice"):
        stages(["5=a.yaml", "05=b.yaml"])


def test_what_stands_beside_an_export_is_not_overwritten(tmp_path: Path) -> None:
    mix, file = save(tmp_path, HALF), tmp_path / "args.yaml"
    info = tmp_path / "dataset_info.json"
    assert export(mix, "llama-factory", file, THREE, Asked()).files == (file, info)
    export(mix, "llama-factory", file, THREE, Asked())
    info.write_text("{}")
    with pytest.raises(UserError, match=r"dataset_info.json: is there already and says something"):
        export(mix, "llama-factory", file, THREE, Asked())
    assert info.read_text() == "{}"
    with pytest.raises(UserError, match="is the name of a file that is written beside it"):
        export(mix, "llama-factory", info, THREE, Asked())
    info.unlink()
    info.mkdir()
    with pytest.raises(UserError, match=r"dataset_info.json: cannot be read"):
        export(mix, "llama-factory", file, THREE, Asked())


def test_a_teams_own_weights_are_divided_by_their_sum_and_that_is_said(tmp_path: Path) -> None:
    file = tmp_path / "data.txt"
    file.write_text("30 /data/web.jsonl 70 /data/code.jsonl\n")
    found, notes = import_mixture(file, "megatron-args", tmp_path / "b.yaml", THREE)
    assert found.mixture.as_dict() == {"web": 0.3, "code": 0.7, "math": 0.0}
    assert notes[0] == "its weights sum to 100; each was divided by that"
    assert found.provenance["imported"] == "data.txt"


def test_without_data_names_come_from_the_files(tmp_path: Path) -> None:
    file = tmp_path / "data.txt"
    file.write_text("1 /x/web_text_document 3 /y/code\n")
    found, _ = import_mixture(file, "megatron-args", tmp_path / "b.yaml", None)
    assert found.mixture.as_dict() == {"web_text_document": 0.25, "code": 0.75}
    file.write_text("1 /web/train 3 /code/train\n")
    with pytest.raises(UserError, match=r"'train' stands in two entries \(/web/train, /code/tr"):
        import_mixture(file, "megatron-args", tmp_path / "b.yaml", None)


def test_several_files_of_a_domain_add_up(tmp_path: Path) -> None:
    places = Places({"web": Place(("/w/0", "/w/1")), "code": Place(("/c",))}, "paths.yaml")
    file = tmp_path / "data.txt"
    file.write_text("1 /w/0 2 /w/1 1 /c\n")
    found, _ = import_mixture(file, "megatron-args", tmp_path / "b.yaml", places)
    assert found.mixture.as_dict() == {"web": 0.75, "code": 0.25}


def test_data_of_no_domain_and_names_of_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("1 /elsewhere 1 /data/web.jsonl\n")
    with pytest.raises(UserError, match="f: '/elsewhere' is no domain's data in paths"):
        import_mixture(file, "megatron-args", tmp_path / "b.yaml", THREE)
    file.write_text("streams: {wev: {proportion: 1}}\n")
    with pytest.raises(UserError, match="unknown domain 'wev'; did you mean 'web'"):
        import_mixture(file, "streaming", tmp_path / "b.yaml", THREE)
    file.write_text("sources: [{source_name: web, target_ratio: 0.5}, "
                    "{source_name: web, target_ratio: 0.5}]\n")  # fmt: skip
    with pytest.raises(UserError, match="'web' stands in two entries"):
        import_mixture(file, "olmo-core", tmp_path / "b.yaml", THREE)


def test_shares_of_documents_need_documents_to_come_back(tmp_path: Path) -> None:
    export(save(tmp_path, HALF), "interleave", tmp_path / "f", THREE, Asked())
    with pytest.raises(UserError, match="f: its weights are shares of documents: give --study or"):
        import_mixture(tmp_path / "f", "interleave", tmp_path / "b.yaml", None)


def test_no_weights_at_all_and_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("0 /data/web.jsonl\n")
    with pytest.raises(UserError, match="f: all weights are zero"):
        import_mixture(tmp_path / "f", "megatron-args", tmp_path / "b.yaml", THREE)
    with pytest.raises(UserError, match="g: no such file"):
        import_mixture(tmp_path / "g", "megatron-args", tmp_path / "b.yaml", THREE)
    (tmp_path / "h").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="h: cannot be read"):
        import_mixture(tmp_path / "h", "megatron-args", tmp_path / "b.yaml", THREE)


def no_text(*_: object) -> dict[str, Place]:
    return {n: Place((f"/text/{n}.jsonl",)) for n in ("web", "code", "math")}


def test_a_mixture_finds_its_own_study(make_study: Callable[..., Study]) -> None:
    study = make_study()
    mix = study.layout.mixture("best")
    save(mix.parent, HALF, "best")
    assert study_of(mix, None) == study.layout.root.resolve()
    assert study_of(study.layout.root / "elsewhere.yaml", None) is None
    assert study_of(mix, Path("other")) == Path("other")


def test_counts_and_the_tokenizer_come_from_the_study(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study("space: {max_epochs: 3, budget_tokens: 500000}\n")
    found = locate(exporter("interleave"), study.layout.root, None, no_text)
    assert found.places.domains["web"] == Place(("/text/web.jsonl",), (), 600_000, 6_000)
    assert any("hold held-out documents too" in note for note in found.places.notes)
    read = Asked(tokenizer="tok", inputs=found.inputs)
    assert settled(Asked(), exporter("interleave"), found) == read
    capped = settled(Asked(), exporter("olmo-core"), found)
    assert (capped.tokens, capped.max_epochs) == (500_000, 3.0)
    given_by_hand = Asked(tokens=7, max_epochs=1.0)
    assert settled(given_by_hand, exporter("olmo-core"), found) == replace(
        given_by_hand, tokenizer="tok", inputs=found.inputs
    )
    path = tmp_path / "paths.yaml"
    write_text(
        path,
        "kind: paths\ntokenizer: other\ndomains: {web: {paths: a.jsonl}, code: {paths: b.jsonl}, "
        "math: {paths: c.jsonl, tokens: 5, documents: 1}}\n",
    )
    mixed = locate(exporter("interleave"), study.layout.root, path, no_text)
    assert mixed.places.domains["web"].mean_tokens == 100
    assert mixed.places.domains["math"].mean_tokens == 5
    with pytest.raises(UserError, match="its tokens are those of tokenizer other, not of tok"):
        export(
            save(tmp_path, HALF), "interleave", tmp_path / "f", mixed.places,
            settled(Asked(), exporter("interleave"), mixed),
        )  # fmt: skip


def test_where_the_data_are_must_be_said(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study()
    root = study.layout.root
    with pytest.raises(UserError, match="no data: give --study, or --paths with a mapping file"):
        locate(exporter("trl"), None, None, no_text)
    with pytest.raises(UserError, match="the format 'litgpt' is of data that the trainer's own"):
        locate(exporter("litgpt"), root, None, no_text)
    with pytest.raises(UserError, match=r"no shards in this layout; run `regmix data export .*--to "
                       "olmo-core`"):  # fmt: skip
        locate(exporter("olmo-core"), root, None, no_text)


def test_shards_of_other_data_are_refused(make_study: Callable[..., Study]) -> None:
    study = make_study()
    path = study.layout.exported("olmo-core")
    domains = {n: Place((str(path.parent / n),), (), 5, 1) for n in HALF}
    Places(domains, str(path), "olmo-core", "tok", "stale").save(path)
    with pytest.raises(UserError, match=r"shards of data stale, but .*manifest.json has"):
        locate(exporter("olmo-core"), study.layout.root, None, no_text)


def test_a_mapping_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "paths.yaml"
    domains = {
        "web": Place(
            (str(tmp_path / "sub" / "a"), "s3://b/c"), (str(tmp_path / "v"),), 9, 3, "body"
        ),
        "code": Place(("/abs",)),
    }
    places = Places(domains, str(path), "olmo-core", "tok", "data")
    places.save(path)
    assert load_places(path) == places
    assert yaml.safe_load(path.read_text())["domains"]["web"]["paths"] == ["a", "s3://b/c"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: paths\n", "domains: Field required"),
        ("kind: mixture\ndomains: {a: {paths: b}}\n", "unknown value 'mixture'"),
        ("kind: paths\ndomains: {}\n", "domains"),
        ("kind: paths\ndomains:\n  a: {path: b}\n", r":3: domains.a.path: unknown key 'path'; did"),
        ("kind: paths\ndomains:\n  a: {paths: []}\n", r":3: domains.a.paths"),
        ("kind: paths\ndomains:\n  a: {paths: b, tokens: 0}\n", r":3: domains.a.tokens"),
        ("kind: paths\ndomains:\n  a b: {paths: b}\n", r":3: domains.a b: domain 'a b'"),
        (
            "kind: paths\ndomains:\n  a: {paths: x}\n  b: {paths: x}\n",
            "belongs to domain 'a' already",
        ),
    ],
)
def test_a_mapping_file_that_is_not_right_names_the_place(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "paths.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"paths.yaml.*{said}"):
        load_places(path)


def test_units_are_those_of_the_requirement() -> None:
    tokens = {n for n in names() if exporter(n).unit is Unit.TOKENS}
    assert tokens == {
        "olmo-core", "megatron", "megatron-args", "megatron-splits", "nanotron", "litgpt",
        "streaming", "torchtitan", "levanter",
    }  # fmt: skip


def test_json_exports_hold_every_digit(tmp_path: Path) -> None:
    mix = save(tmp_path, {"web": 1 / 3, "code": 1 / 3, "math": 1 / 3})
    export(mix, "megatron-splits", tmp_path / "f", THREE, Asked())
    assert json.loads((tmp_path / "f").read_text())["train"][0] == repr(1 / 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  train_weights:\n    a: 1\n    a: 2\n", r"x\.yaml:4: 'a' is named twice"),
        ("data: [\n", r"x\.yaml:2: not valid YAML"),
        ("data: {train_weights: {a: 1.0e+308, b: 1.0e+308}}", r"x\.yaml: its weights sum to more"),
        (f"data: {{train_weights: {{a: {'9' * 401}}}}}", r"x\.yaml: .*a weight of inf"),
        (f"data: {'[' * 5000}{']' * 5000}", r"x\.yaml: .*nested too deep"),
    ],
)
def test_a_trainers_file_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as told:
        import_mixture(path, "levanter", tmp_path / "out.yaml", None)
    assert "unicode string" not in str(told.value)
    assert not (tmp_path / "out.yaml").exists()


@pytest.mark.parametrize("key", ["tokens", "documents"])
def test_a_mapping_file_with_a_number_of_too_many_digits(tmp_path: Path, key: str) -> None:
    path = tmp_path / "paths.yaml"
    text = f"kind: paths\ndomains:\n  web: {{paths: [a], {key}: {'9' * 401}}}\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"paths\.yaml:3: domains\.web\.{key}: .*less than"):
        load_places(path)
    path.write_text(text.replace("[a]", "[~nosuchuser/a]").replace("9" * 401, "9"), "utf-8")
    with pytest.raises(UserError, match="~nosuchuser/a: the home folder of '~nosuchuser'"):
        load_places(path)
