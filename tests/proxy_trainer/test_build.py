"""Token shards hold the text and nothing else, are built once, and say when they are not whole."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import time
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from proxy_trainer import steps
from proxy_trainer.data import build
from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.shards import DomainTokens
from proxy_trainer.data.tokenise import is_valid_document
from proxy_trainer.launch.claims import Claimant, Lost
from regmix import claims
from regmix.errors import UserError
from regmix.files import write_text
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest
from regmix.study import Study

GPTNEOX = Path(__file__).parents[3] / "shared/data/tokenizer/gptneox/tokenizer.json"


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def write(path: Path, documents: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in documents))


def make(root: Path, domains: dict[str, str], tokenizer: str = "{vocab_size: 300}") -> Study:
    """A study with the given lines under `domains`, text files already written."""
    listed = "".join(f"  - {{name: {name}, {rest}}}\n" for name, rest in domains.items())
    (root / "study.yaml").write_text(
        f"name: s\ndomains:\n{listed}data: {{tokenizer: {tokenizer}, max_missing_text: 0.5}}\n"
    )
    return Study.open(root)


def stored(study: Study, domain: str, split: str) -> list[str]:
    """Every document of a split, decoded from its tokens."""
    manifest = build.load_manifest(study.layout, study.config)
    tokens = DomainTokens(study.layout, manifest, domain, split)
    tokenizer = tokenizers.load(study.layout.tokenizer)
    found = []
    for index in range(tokens.documents):
        ids = tokens.document(index).tolist()
        assert ids[-1] == manifest.eod_id
        found.append(tokenizer.decode(ids[:-1], skip_special_tokens=False))
    return found


def shard_files(study: Study) -> list[Path]:
    return sorted(p for p in study.layout.tokens.rglob("*") if ".bin" in p.name)


def state(study: Study) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every shard file."""
    return {p.name + p.parent.name: (s.st_ino, s.st_mtime_ns) for p in shard_files(study)
            for s in [p.stat()]}  # fmt: skip


def test_manifest_totals_are_those_of_a_direct_count(study: Study) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    tokenizer = tokenizers.load(study.layout.tokenizer)
    for domain in manifest.domains:
        documents = texts(study.layout.root / "text" / f"{domain.name}.jsonl")
        for split in ("train", "valid"):
            part = domain.split(split)
            own = [t for t in documents
                   if is_valid_document(t, 0.1) == (split == "valid")]  # fmt: skip
            assert part.documents == len(own) > 0
            assert part.text_bytes == sum(len(t.encode()) for t in own)
            assert part.tokens == sum(len(tokenizer.encode(t).ids) + 1 for t in own)
            assert stored(study, domain.name, split) == own
    assert (manifest.vocab_size, manifest.dtype) == (512, "uint16")
    total = sum(d.train.tokens for d in manifest.domains)
    assert manifest.natural().array() == pytest.approx(
        [d.train.tokens / total for d in manifest.domains]
    )


def normalising_tokenizer(path: Path) -> None:
    if GPTNEOX.exists():
        path.write_bytes(GPTNEOX.read_bytes())
        return
    tokenizer = tokenizers.train_bpe(iter(["some words to start from"]), 257)
    tokenizer.normalizer = normalizers.NFC()  # type: ignore[assignment]
    tokenizers.save(tokenizer, path)


def test_bytes_are_those_of_the_text_even_where_the_tokenizer_normalises(tmp_path: Path) -> None:
    documents = [unicodedata.normalize("NFD", f"Ångström café naïve {i}") for i in range(40)]
    assert all(len(unicodedata.normalize("NFC", t).encode()) < len(t.encode()) for t in documents)
    write(tmp_path / "a.jsonl", documents)
    normalising_tokenizer(tmp_path / "given.json")
    study = make(tmp_path, {"a": "train: a.jsonl, valid_share: 0.3"}, "{path: given.json}")
    domain = build.build(study.layout, study.config).domain("a")
    total = domain.train.text_bytes + domain.valid.text_bytes
    assert total == sum(len(t.encode()) for t in documents)
    found = stored(study, "a", "train") + stored(study, "a", "valid")
    assert sorted(found) == sorted(unicodedata.normalize("NFC", t) for t in documents)


def test_a_vocabulary_over_65536_takes_four_bytes_a_token(tmp_path: Path) -> None:
    vocabulary = {f"w{i}": i for i in range(70_000)} | {"</s>": 70_000}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.save(str(tmp_path / "given.json"))
    documents = [f"w{i} w{69_999 - i} w65535 w65536" for i in range(40)]
    write(tmp_path / "a.jsonl", documents)
    study = make(tmp_path, {"a": "train: a.jsonl, valid_share: 0.3"}, "{path: given.json}")
    manifest = build.build(study.layout, study.config)
    assert (manifest.dtype, manifest.vocab_size, manifest.eod_id) == ("uint32", 70_001, 70_000)
    raw = np.fromfile(study.layout.tokens / "a" / "train-00000.bin", dtype="<u4")
    assert len(raw) == manifest.domain("a").train.tokens
    assert raw.max() == 70_000
    assert sorted(stored(study, "a", "train") + stored(study, "a", "valid")) == sorted(documents)


def test_ids_with_gaps_fit_the_model_and_the_shard(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 66_000, "</s>": 9}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.save(str(tmp_path / "given.json"))
    write(tmp_path / "a.jsonl", ["a b " * (i + 1) for i in range(30)])
    study = make(tmp_path, {"a": "train: a.jsonl, valid_share: 0.3"}, "{path: given.json}")
    manifest = build.build(study.layout, study.config)
    assert (manifest.vocab_size, manifest.dtype) == (66_001, "uint32")


def test_a_text_that_spells_the_end_token_is_not_two_documents(tmp_path: Path) -> None:
    documents = [f"doc {i} <|endoftext|> still doc {i}" for i in range(60)]
    write(tmp_path / "a.jsonl", documents)
    study = make(tmp_path, {"a": "train: a.jsonl, valid_share: 0.3"}, "{vocab_size: 270}")
    manifest = build.build(study.layout, study.config)
    for split in ("train", "valid"):
        tokens = DomainTokens(study.layout, manifest, "a", split)
        ends = np.flatnonzero(tokens.take(np.arange(tokens.tokens)) == manifest.eod_id) + 1
        assert ends.tolist() == tokens.ends.tolist()


def test_valid_and_train_never_share_a_document(tmp_path: Path) -> None:
    documents = [f"document number {i} {'x' * (i % 7)}" for i in range(2000)]
    write(tmp_path / "a" / "1.jsonl", documents)
    write(tmp_path / "a" / "2.jsonl", documents[::-1] + documents[:500])
    study = make(tmp_path, {"a": "train: a, valid_share: 0.1"})
    build.build(study.layout, study.config)
    train, valid = stored(study, "a", "train"), stored(study, "a", "valid")
    assert len(train) + len(valid) == 4500
    assert not set(train) & set(valid)
    # Binomial(2000, 0.1): five standard deviations
    assert abs(len(set(valid)) - 200) < 5 * (2000 * 0.1 * 0.9) ** 0.5


def test_given_valid_sources_are_the_valid_split(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", [f"for training {i} {i * i}" for i in range(300)])
    write(tmp_path / "v.jsonl", [f"for validation {i}" for i in range(20)])
    study = make(tmp_path, {"a": "train: t.jsonl, valid: v.jsonl"})
    build.build(study.layout, study.config)
    assert stored(study, "a", "train") == texts(tmp_path / "t.jsonl")
    assert stored(study, "a", "valid") == texts(tmp_path / "v.jsonl")


def test_skipped_documents_are_counted_where_a_file_falls_wholly_into_valid(tmp_path: Path) -> None:
    share = 0.3
    held_out = next(t for i in range(99) if is_valid_document(t := f"only {i}", share))
    write(tmp_path / "a" / "1.jsonl", [f"document {i} {i * i}" for i in range(300)])
    (tmp_path / "a" / "2.jsonl").write_text(
        json.dumps({"text": held_out}) + '\n{"text": null}\n{"text": ""}\n'
    )
    study = make(tmp_path, {"a": f"train: a, valid_share: {share}"})
    domain = build.build(study.layout, study.config).domain("a")
    assert domain.train.skipped_no_text + domain.valid.skipped_no_text == 1
    assert domain.train.skipped_empty + domain.valid.skipped_empty == 1


def test_an_empty_file_among_others_is_counted_and_said(
    tmp_path: Path, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    write(tmp_path / "a" / "1.jsonl", [f"document {i} {i * i}" for i in range(300)])
    study = make(tmp_path, {"a": "train: a, valid_share: 0.2"})
    whole = build.build(study.layout, study.config)
    (tmp_path / "a" / "2.jsonl").write_bytes(b"")
    (tmp_path / "a" / "3.jsonl").write_text('{"text": ""}\n{"txet": "x"}\n{"text": " "}\n')
    (tmp_path / "a" / "4.jsonl.gz").write_bytes(gzip.compress(b""))
    command = regmix("data", "build", tmp_path)
    output, errors = command.communicate(timeout=120)
    assert command.returncode == 0, errors
    manifest = build.load_manifest(study.layout, study.config)
    assert manifest.fingerprint == whole.fingerprint
    assert stored(study, "a", "train") + stored(study, "a", "valid")
    train = manifest.domain("a").train
    assert (train.skipped_no_text, train.skipped_empty) == (1, 2)
    assert manifest.notes == tuple(
        f"domain 'a': a/{name} holds no document with text ({no_text} without the text field, "
        f"{empty} empty)"
        for name, no_text, empty in (("2.jsonl", 0, 0), ("3.jsonl", 1, 2), ("4.jsonl.gz", 0, 0))
    )
    assert all(f"note: {note}" in output for note in manifest.notes)
    before = state(study)
    assert build.build(study.layout, study.config) == manifest
    assert state(study) == before


def test_held_out_text_of_a_few_documents_is_said(tmp_path: Path) -> None:
    for name, held_out in (("many", 10), ("few", 9), ("one", 1)):
        write(tmp_path / name / "train.jsonl", [f"document {i} {i * i}" for i in range(99)])
        write(tmp_path / name / "valid.jsonl", [f"text {i} {i * i}" for i in range(held_out)])
    domains = {n: f"train: {n}/train.jsonl, valid: {n}/valid.jsonl" for n in ("many", "few", "one")}
    domains["own"] = "train: many/train.jsonl, valid_share: 0.06"
    study = make(tmp_path, domains)
    manifest = build.build(study.layout, study.config)
    valid = {name: manifest.domain(name).valid for name in manifest.names}
    assert valid["own"].documents < 10
    assert manifest.notes == tuple(
        f"domain '{name}': its bits per byte rest on {valid[name].documents} held-out document{s} "
        f"({valid[name].tokens} tokens), with fewer than 10 of which chance weighs: give it {more}"
        for name, s, more in (
            ("few", "s", "more of them under valid"),
            ("one", "", "more of them under valid"),
            ("own", "s" * (valid["own"].documents > 1), "valid_share above 0.06"),
        )
    )


def test_a_file_that_was_emptied_leaves_its_former_text_out(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / "a" / f"{number}.jsonl", [f"{number} document {i}" for i in range(200)])
    study = make(tmp_path, {"a": "train: a, valid_share: 0.2"}, "{vocab_size: 260}")
    build.build(study.layout, study.config)
    (tmp_path / "a" / "2.jsonl").write_bytes(b"")
    build.build(study.layout, study.config)
    found = stored(study, "a", "train") + stored(study, "a", "valid")
    assert sorted(found) == sorted(texts(tmp_path / "a" / "1.jsonl"))


def test_an_empty_valid_split_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    documents = [t for i in range(400) if not is_valid_document(t := f"doc {i} {i * i}", 0.02)]
    write(tmp_path / "a.jsonl", documents)
    study = make(tmp_path, {"a": "train: a.jsonl"})
    with pytest.raises(UserError, match=r"domain 'a': its valid split is empty: .*valid_share"):
        build.build(study.layout, study.config)
    assert not study.layout.manifest.exists()


def test_building_again_does_nothing(new_study: Callable[..., Study]) -> None:
    study = new_study()
    first = build.build(study.layout, study.config)
    before = state(study)
    tokenizer = study.layout.tokenizer.stat().st_ino
    calls: list[tuple[int, int]] = []
    again = build.build(study.layout, study.config, progress=lambda *c: calls.append(c))
    assert again == first
    assert state(study) == before
    assert study.layout.tokenizer.stat().st_ino == tokenizer
    assert calls == [(3, 3)]


@pytest.mark.parametrize("name", ["train-00000.bin", "valid-00000.bin.docs"])
def test_a_missing_or_shortened_shard_alone_is_built_again(
    new_study: Callable[..., Study], name: str
) -> None:
    study = new_study()
    first = build.build(study.layout, study.config)
    victim = study.layout.tokens / "sums" / name
    content = {p: p.read_bytes() for p in shard_files(study)}
    damages: list[Callable[[], object]] = [
        victim.unlink,
        lambda: os.truncate(victim, victim.stat().st_size - 1),
        lambda: victim.write_bytes(content[victim] + b"\0"),
    ]
    for damage in damages:
        before = state(study)
        damage()
        assert build.build(study.layout, study.config) == first
        after = state(study)
        changed = {key for key in before if before[key] != after[key]}
        assert all(key.endswith("sums") for key in changed)
        assert name + "sums" in changed
        assert {p: p.read_bytes() for p in shard_files(study)} == content


def test_changed_text_is_built_again_and_changes_the_fingerprint(
    new_study: Callable[..., Study],
) -> None:
    study = new_study()
    first = build.build(study.layout, study.config)
    before = state(study)
    path = study.layout.root / "text" / "code.jsonl"
    path.write_text(path.read_text().replace("return", "yield "))
    given = study.config.data.tokenizer.model_copy(update={"path": str(study.layout.tokenizer)})
    settings = study.config.model_copy(
        update={"data": study.config.data.model_copy(update={"tokenizer": given})}
    )
    second = build.build(study.layout, settings)
    assert second.fingerprint != first.fingerprint
    assert [a == b for a, b in zip(first.domains, second.domains, strict=True)] == [
        True, True, False
    ]  # fmt: skip
    changed = {key for key, value in state(study).items() if before[key] != value}
    assert changed
    assert all(key.endswith("code") for key in changed)


def test_a_build_that_fails_leaves_no_manifest_of_shards_that_changed(
    new_study: Callable[..., Study],
) -> None:
    study = new_study()
    build.build(study.layout, study.config)
    text = study.layout.root / "text"
    write(text / "prose.jsonl", [t.upper() for t in texts(text / "prose.jsonl")])
    (text / "code.jsonl").write_text("{")
    (study.layout.root / "study.yaml").write_text(
        study.layout.config.read_text().replace("vocab_size: 512", "path: tokens/tokenizer.json")
    )
    study = Study.open(study.layout.root)
    with pytest.raises(UserError, match=r"code\.jsonl:1: not JSON"):
        build.build(study.layout, study.config)
    with pytest.raises(UserError, match=r"manifest\.json: no data yet; run `regmix data build"):
        build.load_manifest(study.layout, study.config)


@pytest.mark.parametrize("suffix", ["", ".docs"])
def test_a_shortened_shard_is_named_when_it_is_read(study: Study, suffix: str) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    path = study.layout.tokens / "prose" / f"train-00000.bin{suffix}"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(
        UserError,
        match=rf"train-00000\.bin{suffix}: has {size - 1:,} bytes, the manifest says {size:,}",
    ):
        DomainTokens(study.layout, manifest, "prose", "train")
    path.unlink()
    with pytest.raises(UserError, match=rf"train-00000\.bin{suffix}: is missing"):
        DomainTokens(study.layout, manifest, "prose", "train")


def test_a_shard_outside_the_study_is_refused(study: Study) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    domain = manifest.domains[0]
    shard = replace(domain.train.shards[0], file="../../etc/passwd")
    changed = replace(
        manifest, domains=(replace(domain, train=replace(domain.train, shards=(shard,))),)
    )
    with pytest.raises(UserError, match="lies outside the study"):
        DomainTokens(study.layout, changed, domain.name, "train")


def test_another_tokenizer_than_the_shards_were_built_with_is_refused(study: Study) -> None:
    other = tokenizers.train_bpe(iter(["entirely other text"]), 257)
    tokenizers.save(other, study.layout.tokenizer)
    with pytest.raises(UserError, match=r"tokenizer \w+ is not the one the shards were built with"):
        build.load_manifest(study.layout, study.config)


def test_a_given_tokenizer_that_changed_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [f"document {i} {i * i}" for i in range(300)])
    tokenizers.save(tokenizers.train_bpe(iter(["first"]), 257), tmp_path / "given.json")
    study = make(tmp_path, {"a": "train: a.jsonl, valid_share: 0.2"}, "{path: given.json}")
    first = build.build(study.layout, study.config)
    assert build.load_manifest(study.layout, study.config) == first
    tokenizers.save(tokenizers.train_bpe(iter(["other words"]), 260), tmp_path / "given.json")
    with pytest.raises(UserError, match=r"given\.json: tokenizer \w+ is not the one"):
        build.load_manifest(study.layout, study.config)
    assert build.build(study.layout, study.config).vocab_size == 260
    build.load_manifest(study.layout, study.config)


def test_other_domains_than_were_built_are_refused(study: Study) -> None:
    text = study.layout.config.read_text()
    study.layout.config.write_text(text.replace("name: code", "name: programs"))
    with pytest.raises(
        UserError, match=r"built for domains prose, sums, code, but .*programs; run"
    ):
        build.load_manifest(study.layout, Study.open(study.layout.root).config)


CHANGES = {
    "valid_share: 0.1}\n  - {name: sums": (
        "valid_share: 0.2}\n  - {name: sums",
        r"study\.yaml:3: domains\.0\.valid_share was 0\.1 and is now 0\.2: changed since the data",
    ),
    "text/code.jsonl, valid": (
        "[text/code.jsonl, text/prose.jsonl], valid",
        r"study\.yaml:5: domains\.2\.train was \[.*\] and is now \[.*prose\.jsonl",
    ),
    "train: text/sums.jsonl": (
        "train: {path: text/sums.jsonl, text_field: body}",
        r'study\.yaml:4: domains\.1\.train\.0\.text_field was its default and is now "body"',
    ),
    "vocab_size: 512": (
        "vocab_size: 600",
        r"study\.yaml:6: data\.tokenizer\.vocab_size was 512 and is now 600",
    ),
}


@pytest.mark.parametrize("before", CHANGES)
def test_settings_changed_since_the_build_are_named_before_anything_is_planned(
    study: Study, before: str
) -> None:
    after, message = CHANGES[before]
    specs = study.propose().specs
    text = study.layout.config.read_text()
    assert before in text
    study.layout.config.write_text(text.replace(before, after))
    changed = Study.open(study.layout.root)
    mixture = specs[0].mixture
    for attempt in (
        changed.propose, changed.open_runs, lambda: changed.target_run("t", mixture),
        lambda: steps.train(changed, [specs[0].run_id]),
        lambda: build.load_manifest(changed.layout, changed.config),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            attempt()
    with pytest.raises(UserError, match="no finished proxy"):  # not of the settings: it may fit
        changed.observations()
    study.layout.config.write_text(text)
    assert Study.open(study.layout.root).propose().new == 0


def test_settings_that_shards_do_not_depend_on_may_change(study: Study) -> None:
    text = study.layout.config.read_text()
    text = text.replace("{name: prose,", "{name: prose, group: words, tags: [a],")
    text = text.replace("data: {", "data: {max_missing_text: 0.5, ")
    text = text.replace("train: text/code.jsonl", "train: [{path: text/code.jsonl}]")
    study.layout.config.write_text(text.replace("runs: 4", "runs: 5"))
    changed = Study.open(study.layout.root)
    assert changed.propose().new
    assert build.load_manifest(changed.layout, changed.config) == study.manifest


def test_building_again_takes_the_new_settings(study: Study) -> None:
    text = study.layout.config.read_text()
    study.layout.config.write_text(text.replace("valid_share: 0.1", "valid_share: 0.2"))
    changed = Study.open(study.layout.root)
    with pytest.raises(UserError, match=r"domains\.2\.valid_share was 0\.1 and is now 0\.2: chang"):
        changed.propose()
    build.build(changed.layout, changed.config)
    assert Study.open(study.layout.root).propose().new


def test_a_manifest_without_settings_is_taken_and_completed_by_the_next_build(
    study: Study,
) -> None:
    raw = json.loads(study.layout.manifest.read_text())
    del raw["settings"], raw["notes"]
    study.layout.manifest.write_text(json.dumps(raw))
    older = Study.open(study.layout.root)
    assert older.manifest is not None
    assert older.manifest.settings is None
    assert older.propose().new
    found = build.build(older.layout, older.config)
    assert found == study.manifest
    assert found.settings == older.config.data_settings()


def test_a_manifest_edited_by_hand_is_refused(study: Study) -> None:
    raw = json.loads(study.layout.manifest.read_text())
    raw["eod_id"] = 1
    study.layout.manifest.write_text(json.dumps(raw))
    with pytest.raises(UserError, match="changed since it was built"):
        DataManifest.load(study.layout.manifest)


def test_two_workers_build_what_one_builds(
    new_study: Callable[..., Study], built_root: Path
) -> None:
    study = new_study()
    found = build.build(study.layout, study.config, workers=2)
    one = DataManifest.load(Study.open(built_root).layout.manifest)
    assert found.fingerprint == one.fingerprint
    assert found == one


def test_domains_with_the_longest_names_are_built(tmp_path: Path) -> None:
    names = ["数" * 200, "数" * 199 + "学", "é" * 42]
    for number, name in enumerate(names):
        write(tmp_path / f"{number}.jsonl", [f"text {i} of {number}" for i in range(200)])
        assert len(name) <= 200
    domains = {f'"{n}"': f"train: {i}.jsonl, valid_share: 0.3" for i, n in enumerate(names)}
    study = make(tmp_path, domains, "{vocab_size: 260}")
    assert build.build(study.layout, study.config).names == tuple(names)
    for number, name in enumerate(names):
        found = stored(study, name, "train") + stored(study, name, "valid")
        assert sorted(found) == sorted(texts(tmp_path / f"{number}.jsonl"))


def test_the_tokenizer_learns_nothing_from_the_valid_split(tmp_path: Path) -> None:
    share = 0.3
    documents = [f"document {i}" for i in range(400)]
    held_out = {t for t in documents if is_valid_document(t + " zyxwvu" * 20, share)}
    held_out = {t + " zyxwvu" * 20 for t in held_out}
    plain = [t for t in documents if not is_valid_document(t, share)]
    write(tmp_path / "a.jsonl", plain + sorted(held_out))
    study = make(tmp_path, {"a": f"train: a.jsonl, valid_share: {share}"}, "{vocab_size: 280}")
    assert build.build(study.layout, study.config).domain("a").valid.documents == len(held_out) > 50
    vocabulary = tokenizers.load(study.layout.tokenizer).get_vocab()
    assert any("docu" in token for token in vocabulary)
    assert not any("zy" in token or "wv" in token for token in vocabulary)


def test_the_tokenizer_follows_the_valid_share_unless_it_is_older(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [f"document number {i * i}" for i in range(300)])
    study = make(tmp_path, {"a": "train: a.jsonl, valid_share: 0.2"}, "{vocab_size: 300}")
    build.build(study.layout, study.config)
    before = study.layout.tokenizer.read_bytes()
    other = make(tmp_path, {"a": "train: a.jsonl, valid_share: 0.4"}, "{vocab_size: 300}")
    build.build(other.layout, other.config)
    assert study.layout.tokenizer.read_bytes() != before
    record = study.layout.tokens / "tokenizer_from.json"
    older = {k: v for k, v in json.loads(record.read_text()).items() if k != "valid_share"}
    record.write_text(json.dumps(older))
    kept = study.layout.tokenizer.stat().st_ino
    build.build(study.layout, study.config)
    assert study.layout.tokenizer.stat().st_ino == kept


def test_a_second_build_at_the_same_time_is_refused(study: Study) -> None:
    layout = study.layout
    layout.tokens.mkdir(parents=True, exist_ok=True)
    with Claimant(layout.tokens, "other", 120.0).at_work() as other:
        assert other.take_folder(layout.tokens_claims, "tokens")
        with pytest.raises(
            UserError,
            match=rf"another `regmix data build` is at work there \(process {os.getpid()} on .*"
            r"its claim ends 120 seconds after it was last heard of",
        ):
            build.build(layout, study.config)
        other.release_all("done")
    build.build(layout, study.config)
    assert claims.last(layout.tokens_claims).kind == "released"  # type: ignore[union-attr]


def far(layout: StudyLayout) -> None:
    """The next claim is one of another node, heard of just now."""
    process = claims.Process("far", "boot", "pids", 1, "1")
    path = layout.tokens_claims / f"{len(claims.log(layout.tokens_claims)) + 1}.json"
    entry = replace(claims.made(path, "far", 60.0, 0), process=process)
    write_text(path, claims.to_text(entry))


def test_a_build_on_another_node_is_respected_until_it_falls_silent(study: Study) -> None:
    before = len(claims.log(study.layout.tokens_claims))
    far(study.layout)
    with pytest.raises(UserError, match=r"process 1 on far.* 60 seconds after"):
        build.build(study.layout, study.config)
    entry = claims.log(study.layout.tokens_claims)[-1]
    os.utime(entry.path, (entry.renewed - 61.0, entry.renewed - 61.0))
    manifest = build.build(study.layout, study.config)
    assert build.load_manifest(study.layout, study.config) == manifest
    log = claims.log(study.layout.tokens_claims)[before + 1 :]
    assert [(e.kind, e.reason) for e in log] == [("claimed", ""), ("released", "done")]


def test_a_build_that_was_taken_over_changes_nothing_any_more(study: Study) -> None:
    launch = study.config.launch.model_copy(update={"claim_seconds": 0.5})
    config = study.config.model_copy(update={"launch": launch})
    text = study.layout.root / "text" / "sums.jsonl"
    text.write_text(text.read_text().replace("9", "8"))
    before = state(study), study.layout.manifest.read_bytes()

    def taken(done: int, total: int) -> None:
        assert done < total
        far(study.layout)
        time.sleep(0.3)  # a few heartbeats

    with pytest.raises(Lost, match="tokens: taken over by another worker"):
        build.build(study.layout, config, progress=taken)
    assert (state(study), study.layout.manifest.read_bytes()) == before


def test_what_stopped_a_build_is_in_its_log_and_the_next_one_goes_on(study: Study) -> None:
    def stop(_: int, __: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(study.layout, study.config, progress=stop)
    last = claims.last(study.layout.tokens_claims)
    assert last is not None
    assert (last.kind, last.reason) == ("released", "KeyboardInterrupt")
    build.build(study.layout, study.config)


def test_the_claims_of_a_build_are_in_no_domains_way(tmp_path: Path) -> None:
    names = ("claims", "lock", "claims/1")
    for name in names:
        write(tmp_path / "text" / f"{name.replace('/', '-')}.jsonl",
              [f"{name} document {i * i}" for i in range(300)])  # fmt: skip
    domains = {n: f"train: text/{n.replace('/', '-')}.jsonl, valid_share: 0.2" for n in names}
    study = make(tmp_path, domains, "{vocab_size: 300}")
    manifest = build.build(study.layout, study.config)
    assert [d.name for d in manifest.domains] == list(names)
    assert build.build(study.layout, study.config) == manifest


def children(pid: int) -> set[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    direct = {int(p) for p in listed.stdout.split()}
    return direct.union(*(children(p) for p in direct)) if direct else set()


def alive(pids: set[int]) -> set[int]:
    running = set()
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if status.rsplit(")", 1)[1].split()[0] != "Z":
            running.add(pid)
    return running


@pytest.mark.slow
def test_killed_in_the_middle_nothing_is_read_and_the_next_build_is_whole(
    tmp_path: Path, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    for root in ("killed", "whole"):
        for name in ("a", "b"):
            write(tmp_path / root / f"{name}.jsonl",
                  [f"{name} {i} " + "lorem ipsum dolor " * 150 for i in range(4000)])  # fmt: skip
        make(tmp_path / root, {n: f"train: {n}.jsonl" for n in ("a", "b")}, "{vocab_size: 270}")
    study = Study.open(tmp_path / "killed")
    command = regmix("data", "build", study.layout.root)
    deadline = time.monotonic() + 60
    while not list(study.layout.tokens.rglob("*.bin.tmp-*")):
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = children(command.pid)
    assert workers
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    deadline = time.monotonic() + 10
    while alive(workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(workers)
    with pytest.raises(UserError, match="no data yet"):
        build.load_manifest(study.layout, study.config)
    again = regmix("data", "build", study.layout.root)
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    whole = Study.open(tmp_path / "whole")
    expected = build.build(whole.layout, whole.config, workers=2)
    assert build.load_manifest(study.layout, study.config) == expected
    assert expected.fingerprint in output
    assert not [p for p in study.layout.tokens.rglob("*") if ".tmp-" in p.name]


@pytest.mark.slow
def test_a_killed_worker_is_told_with_its_file_and_the_next_build_goes_on(
    tmp_path: Path, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    if not Path("/proc").exists():
        pytest.skip("needs /proc to find the worker that holds a file")
    write(tmp_path / "small.jsonl", [f"small {i} lorem" for i in range(3000)])
    write(tmp_path / "big.jsonl", [f"big {i} " + "lorem ipsum dolor " * 150 for i in range(6000)])
    names = {n: f"train: {n}.jsonl" for n in ("small", "big")}
    study = make(tmp_path, names, "{vocab_size: 270, train_bytes: 10000}")
    (tmp_path / "study.yaml").write_text(study.layout.config.read_text() + "launch: {workers: 2}\n")
    command = regmix("data", "build", study.layout.root)
    small = study.layout.tokens / "small" / "both-00000.json"
    partial = study.layout.tokens / "big" / ".train-00000.bin.tmp-part"
    deadline = time.monotonic() + 60
    while not (small.exists() and partial.exists()):
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kept = small.stat().st_mtime_ns
    holder = next(
        pid for pid in children(command.pid)
        if any(os.path.realpath(f) == str(partial) for f in Path(f"/proc/{pid}/fd").iterdir())
    )  # fmt: skip
    os.kill(holder, signal.SIGKILL)
    errors = command.communicate(timeout=60)[1]
    assert command.returncode == 1
    assert len(errors.splitlines()) == 1
    assert f"at work: {tmp_path / 'big.jsonl'} (16.3 MB); set launch.workers below 2" in errors
    assert "run the same command again" in errors
    with pytest.raises(UserError, match="no data yet"):
        build.load_manifest(study.layout, study.config)
    again = regmix("data", "build", study.layout.root)
    assert again.communicate(timeout=120) is not None
    assert again.returncode == 0
    assert small.stat().st_mtime_ns == kept
    assert build.load_manifest(study.layout, study.config).domain("big").train.documents > 5000
