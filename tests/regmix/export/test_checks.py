"""What is compared before a file is written or read: layouts, caps, options, outputs, names."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from regmix.config import Domain
from regmix.config.mixtures import SpaceConfig
from regmix.errors import UserError
from regmix.export import (
    Asked,
    Stage,
    export,
    exporter,
    import_mixture,
    locate,
    names,
    needs_paths,
    settled,
)
from regmix.export.base import Request
from regmix.mixture import Mixture, MixtureFile
from regmix.places import Place, Places
from regmix.space import Space
from regmix.study import Study

HALF = {"web": 0.5, "code": 0.5}


def save(folder: Path, weights: dict[str, float] = HALF, name: str = "mix") -> Path:
    path = folder / f"{name}.yaml"
    MixtureFile(name, Mixture.of(weights)).save(path)
    return path


def data(known: dict[str, int] | None = None, **more: Any) -> Places:
    counts = known or {"web": 1_000_000, "code": 1_000_000}
    domains = {
        n: Place((f"/data/{n}.jsonl",), (f"/data/{n}-v.jsonl",), t, 100) for n, t in counts.items()
    }
    return Places(domains, "paths.yaml", **more)


def no_text(*_: object) -> dict[str, Place]:
    raise UserError("text was looked for")


@pytest.mark.parametrize("layout", ["olmo-core", "megatron", "text", "mds"])
@pytest.mark.parametrize("to", names())
def test_data_laid_out_for_another_trainer_are_refused(
    to: str, layout: str, tmp_path: Path
) -> None:
    reads = exporter(to).reads
    asked = Asked(tokens=100_000) if to == "axolotl" else Asked()
    arguments = (save(tmp_path), to, tmp_path / "out" / "f", data(layout=layout), asked)
    if layout == reads or (reads == "own" and layout == "mds"):
        export(*arguments)
        return
    with pytest.raises(UserError) as error:
        export(*arguments)
    said = str(error.value)
    assert said.startswith(f"paths.yaml: layout: its files are in the layout '{layout}', and the")
    assert f"format '{to}' reads" in said
    if reads in ("olmo-core", "megatron"):
        assert f"run `regmix data export STUDY --to {reads}`" in said


@settings(max_examples=300, deadline=None)
@given(
    available=st.integers(1, 10**9),
    budget=st.integers(10**4, 10**13),
    epochs=st.floats(1.0, 50.0),
)
def test_a_mixture_on_its_cap_is_allowed_by_the_space_here_and_by_olmo_core(
    available: int, budget: int, epochs: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The space's own cap is the weight; OLMo-core compares whole tokens, by its own lines."""
    assume(1e-6 < epochs * available / budget < 1 - 1e-6)
    tokens = {"a": available, "b": budget}
    config = SpaceConfig(max_epochs=epochs, budget_tokens=budget)
    space = Space.from_config(config, [Domain(name=n, train=()) for n in tokens], tokens)
    cap = next(c for c in space.constraints if "a" in c.coefficients)
    on_cap = Mixture.of({"a": cap.upper, "b": 1 - cap.upper})
    assert not space.violations(on_cap)
    folder = tmp_path_factory.getbasetemp() / "caps"
    mix, file = save(folder, on_cap.as_dict()), folder / "f"
    asked = Asked(tokens=budget, max_epochs=epochs)
    export(mix, "megatron", file, data(tokens), asked)
    export(mix, "olmo-core", file, data(tokens), asked)
    for source in yaml.safe_load(file.read_text())["sources"]:
        there = tokens[source["source_name"]]
        needed = int(budget * source["target_ratio"])
        assert int(there * 1.0 * source["max_repetition_ratio"]) >= needed
        assert there * (source["max_repetition_ratio"] - epochs) <= 1 + 1e-9 * budget
    beyond = {"a": cap.upper + 1e-6, "b": 1 - cap.upper - 1e-6}
    assert space.violations(Mixture.of(beyond))
    with pytest.raises(UserError, match=r"domain 'a'.*at most .* may be"):
        export(save(folder, beyond), "olmo-core", file, data(tokens), asked)


def test_olmo_cores_cap_holds_the_tolerance_of_ours() -> None:
    """A share beyond its cap by the tolerance is more tokens than the plain cap gives."""
    weights, budget = {"a": 0.2 + 9e-10, "b": 0.8 - 9e-10}, 10**12
    places = {"a": Place(("/a",), (), 10**11), "b": Place(("/b",), (), 10**12)}
    asked = Request("m", (Stage(0, weights),), places, (), tokens=budget, max_epochs=2.0)
    sources = yaml.safe_load(exporter("olmo-core").write(asked).text)["sources"]
    needed = int(budget * sources[0]["target_ratio"])
    assert int(10**11 * 2.0) < needed  # the trainer would refuse it
    assert int(10**11 * sources[0]["max_repetition_ratio"]) == needed
    assert sources[1]["max_repetition_ratio"] == 2.0


@pytest.mark.parametrize("what", ["mixture", "stage", "mapping", "study", "link", "data", "bin"])
def test_an_export_is_not_written_over_what_it_is_made_from(
    what: str, make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study()
    mix, late = save(tmp_path), save(tmp_path, HALF, "late")
    mapping, text, prefix = tmp_path / "paths.yaml", tmp_path / "web.jsonl", tmp_path / "code"
    text.write_text("{}\n")
    prefix.with_suffix(".bin").write_bytes(b"x")
    Places({"web": Place((str(text),)), "code": Place((str(prefix),))}, str(mapping)).save(mapping)
    os.link(mix, tmp_path / "link.yaml")
    output = {
        "mixture": mix, "stage": late, "mapping": mapping, "study": study.layout.config,
        "link": tmp_path / "link.yaml", "data": text, "bin": prefix.with_suffix(".bin"),
    }[what]  # fmt: skip
    before = output.read_bytes()
    form = exporter("nanotron")
    mapped = locate(form, None, mapping, no_text)
    named = locate(form, study.layout.root, None, no_text, names_only=True)
    inputs = (*mapped.inputs, *named.inputs)
    with pytest.raises(UserError, match=r"(is read for this|is data of domain).*\(-o\)"):
        export(mix, "nanotron", output, mapped.places, Asked(stages={5: late}, inputs=inputs))
    assert output.read_bytes() == before
    other = tmp_path / "other.yaml"
    assert export(mix, "nanotron", other, mapped.places, Asked(stages={5: late}, inputs=inputs))


def test_an_import_is_not_written_over_what_it_is_made_from(tmp_path: Path) -> None:
    file, mapping = tmp_path / "train.yaml", tmp_path / "paths.yaml"
    file.write_text("streams: {web: {proportion: 1}, code: {proportion: 1}}\n")
    mapping.write_text("kind: paths\ndomains: {web: {paths: a}, code: {paths: b}}\n")
    for output in (file, mapping):
        before = output.read_text()
        with pytest.raises(UserError, match=rf"{output.name}: is read for this; write to another"):
            import_mixture(file, "streaming", output, data(), inputs=(mapping,))
        assert output.read_text() == before


def test_names_are_enough_where_the_file_has_them(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study, file = make_study(), tmp_path / "f.py"
    assert not study.layout.root.joinpath("text").exists()
    file.write_text(
        "MIXTURE = [{'name': 'web', 'weight': 0.5},\n"
        "           {'name': 'code', 'weight': 0.5, 'paths': ['x']}]\n"
    )
    assert not needs_paths(file, "interleave")
    found = locate(exporter("interleave"), study.layout.root, None, no_text, names_only=True)
    mixture, _ = import_mixture(file, "interleave", tmp_path / "b.yaml", found.places)
    # Half of the documents each; the manifest says that all have 100 tokens.
    assert mixture.mixture.as_dict() == {"web": 0.5, "code": 0.5, "math": 0.0}
    file.write_text("1 /a 1 /b\n")
    assert needs_paths(file, "megatron-args")


def test_tokens_alone_are_checked_by_the_studys_cap(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study("space: {max_epochs: 3, budget_tokens: 500000}\n")
    found = locate(exporter("megatron"), study.layout.root, None, no_text, names_only=True)
    asked = settled(Asked(tokens=10**7), exporter("megatron"), found)
    assert (asked.tokens, asked.max_epochs) == (10**7, 3.0)
    asked = settled(Asked(max_epochs=2.0), exporter("megatron"), found)
    assert (asked.tokens, asked.max_epochs) == (500_000, 2.0)
    mix, output = save(tmp_path), tmp_path / "f"
    with pytest.raises(UserError, match=r"5 epochs, where at most 3 may be"):
        export(mix, "megatron", output, data(), Asked(tokens=10**7, max_epochs=3.0))
    notes = export(mix, "megatron", output, data(), Asked(tokens=10**7)).notes
    assert "repetition not checked: --max-epochs not given" in notes


@pytest.mark.parametrize("limit", [math.nan, math.inf, 0.0, -1.0])
@pytest.mark.parametrize("to", ["olmo-core", "megatron"])
def test_a_cap_is_a_number_above_0(to: str, limit: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--max-epochs .*: must be a number above 0"):
        export(save(tmp_path), to, tmp_path / "f", data(), Asked(max_epochs=limit))


@pytest.mark.parametrize("to", names())
def test_a_seed_that_a_format_cannot_hold_is_said(to: str, tmp_path: Path) -> None:
    asked = Asked(tokens=100_000) if to == "axolotl" else Asked()
    places, mix, file = data(), save(tmp_path), tmp_path / "f"
    export(mix, to, file, places, asked)
    plain = file.read_text()
    notes = export(mix, to, file, places, replace(asked, seed=7)).notes
    said = f"--seed 7: the format '{to}' holds no seed; give it to the trainer" in notes
    assert said == (file.read_text() == plain)
    assert said == (
        to not in ("nanotron", "litgpt", "streaming", "torchtitan", "interleave", "interleave-json")
    )


def test_a_tokenizer_that_nothing_is_compared_with_is_said(tmp_path: Path) -> None:
    mix, note = save(tmp_path), "tokenizer not checked: paths.yaml does not say whose tokens it"
    found = export(mix, "megatron", tmp_path / "f", data(), Asked(tokenizer="a"))
    assert any(text.startswith(note) for text in found.notes)
    assert note in (tmp_path / "f").read_text()
    found = export(mix, "megatron", tmp_path / "f", data(tokenizer="a"), Asked(tokenizer="a"))
    assert not any(text.startswith(note) for text in found.notes)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/web_v1.5", "web_v1.5"),
        ("/x/cc.2023_text_document", "cc.2023_text_document"),
        ("/x/cc.2023_text_document.bin", "cc.2023_text_document"),
        ("/x/v1.5.idx", "v1.5"),
    ],
)
def test_a_name_keeps_its_dots(path: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text(f"1 {path} 1 /y/other\n")
    found, _ = import_mixture(file, "megatron-args", tmp_path / "b.yaml", None)
    assert found.mixture.domains == (name, "other")


@pytest.mark.parametrize("end", ["", ".bin", ".idx"])
@pytest.mark.parametrize("known", ["", ".bin", ".idx"])
def test_a_prefix_is_known_by_its_files(end: str, known: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text(f"1 /d/web{end} 3 /d/code\n")
    places = Places({n: Place((f"/d/{n}{known}",)) for n in ("web", "code")}, "paths.yaml")
    found, _ = import_mixture(file, "megatron-args", tmp_path / "b.yaml", places)
    assert found.mixture.as_dict() == {"web": 0.25, "code": 0.75}
