"""Shards in other trainers' layouts hold the same documents; what is damaged is not passed on."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from proxy_trainer.data import build, layouts
from proxy_trainer.data.places import text_places
from proxy_trainer.data.shards import DTYPES, DomainTokens, ShardWriter
from regmix.errors import UserError
from regmix.manifest import DataManifest, DomainManifest, SplitManifest
from regmix.places import load_places
from regmix.study import Study

TOKENS = {"uint16": 2**16, "uint32": 2**31}


def index_of(path: Path) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Type code, lengths, byte offsets and document bounds of an ``.idx``, by its description."""
    raw = path.read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, bounds = struct.unpack_from("<QBQQ", raw, 9)
    assert version == 1
    at = 9 + 8 + 1 + 8 + 8
    lengths = np.frombuffer(raw, "<i4", sequences, at)
    offsets = np.frombuffer(raw, "<i8", sequences, at + 4 * sequences)
    documents = np.frombuffer(raw, "<i8", bounds, at + 12 * sequences)
    assert len(raw) == at + 12 * sequences + 8 * bounds
    return code, lengths, offsets, documents


def shards_of(study: Study, dtype: str, shards: int = 3) -> DataManifest:
    """A domain of several shards by hand, with the largest ids that the type may hold."""
    rng = np.random.default_rng(3)
    splits = {}
    for split in ("train", "valid"):
        done = []
        for i in range(shards):
            writer = ShardWriter(study.layout.domain_tokens("a/b") / f"{split}{i}.bin", dtype)
            for _ in range(5):
                ids = rng.integers(1, TOKENS[dtype], rng.integers(1, 9)).tolist()
                writer.add([*ids, TOKENS[dtype] - 1], 1)
            done.append(writer.close(study.layout.tokens))
        counts = sum(s.tokens for s in done), sum(s.documents for s in done)
        splits[split] = SplitManifest(*counts, 10, tuple(done))
    domain = DomainManifest("a/b", splits["train"], splits["valid"])
    return DataManifest((domain,), TOKENS[dtype], 0, dtype, "tok")


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_both_layouts_hold_every_document_of_every_shard(dtype: str, study: Study) -> None:
    manifest = shards_of(study, dtype)
    olmo, found = layouts.export_shards(study.layout, manifest, "olmo-core")
    mega, prefixes = layouts.export_shards(study.layout, manifest, "megatron")
    assert load_places(olmo).domains == found.domains
    for split, files, prefix in (
        ("train", found.domains["a/b"].paths, prefixes.domains["a/b"].paths),
        ("valid", found.domains["a/b"].valid, prefixes.domains["a/b"].valid),
    ):
        ours = DomainTokens(study.layout, manifest, "a/b", split)
        expected = ours.take(np.arange(ours.tokens))
        flat = np.concatenate([np.fromfile(f, DTYPES[dtype]) for f in files])
        assert len(files) == 3
        assert np.array_equal(flat, expected)
        (only,) = prefix
        code, lengths, offsets, bounds = index_of(Path(f"{only}.idx"))
        kind = {8: np.dtype("<u2"), 4: np.dtype("<i4")}[code]
        assert np.array_equal(np.fromfile(f"{only}.bin", kind), expected)
        assert np.array_equal(lengths, ours.ends - ours.starts)
        assert np.array_equal(offsets, ours.starts * kind.itemsize)
        assert bounds.tolist() == list(range(16))
    assert (found.tokenizer, found.data) == ("tok", manifest.fingerprint)
    assert mega.parent.name == "megatron"


def test_again_does_nothing_and_what_is_gone_is_made_again(study: Study) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    for to in layouts.LAYOUTS:
        path, _ = layouts.export_shards(study.layout, manifest, to)
        files = sorted(f for f in path.parent.rglob("*") if f.is_file())
        before = {f: f.stat().st_ino for f in files}
        layouts.export_shards(study.layout, manifest, to)
        assert {f: f.stat().st_ino for f in files} == before
        content = files[0].read_bytes()
        files[0].unlink()
        layouts.export_shards(study.layout, manifest, to)
        assert files[0].read_bytes() == content
        assert not list(path.parent.rglob("*.tmp-*"))


def test_what_is_cut_short_is_made_again(study: Study) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    for to in layouts.LAYOUTS:
        path, _ = layouts.export_shards(study.layout, manifest, to)
        for file in sorted(f for f in path.parent.rglob("train*") if f.is_file()):
            content = file.read_bytes()
            file.write_bytes(content[:-2])
            layouts.export_shards(study.layout, manifest, to)
            assert file.read_bytes() == content


def test_another_mapping_file_is_not_replaced(study: Study, tmp_path: Path) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    mapping = tmp_path / "paths.yaml"
    mapping.write_text("kind: paths\ndomains: {web: {paths: s3://b/web}}\n")
    before = mapping.read_text()
    said = r"paths.yaml: is there already, of no layout and without the fingerprint.*\(-o\)"
    with pytest.raises(UserError, match=said):
        layouts.export_shards(study.layout, manifest, "megatron", tmp_path)
    assert mapping.read_text() == before
    mapping.write_text("layout: megatron\n" + before)
    with pytest.raises(UserError, match="of the layout 'megatron' and without the fingerprint"):
        layouts.export_shards(study.layout, manifest, "megatron", tmp_path)
    mapping.unlink()
    layouts.export_shards(study.layout, manifest, "megatron", tmp_path)
    before = mapping.read_text()
    with pytest.raises(UserError, match="of the layout 'megatron', and would be replaced by one"):
        layouts.export_shards(study.layout, manifest, "olmo-core", tmp_path)
    assert mapping.read_text() == before
    mapping.write_text(before.replace(manifest.fingerprint, "of-data-before"))
    layouts.export_shards(study.layout, manifest, "megatron", tmp_path)
    assert mapping.read_text() == before


def test_the_type_of_ids_without_a_header_is_said(study: Study) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    path, _ = layouts.export_shards(study.layout, manifest, "olmo-core")
    assert load_places(path).dtype == manifest.dtype
    path, _ = layouts.export_shards(study.layout, manifest, "megatron")
    assert load_places(path).dtype is None


def test_another_folder_and_one_that_was_moved(study: Study, tmp_path: Path) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    path, _ = layouts.export_shards(study.layout, manifest, "olmo-core", tmp_path / "out")
    assert path == tmp_path / "out" / "paths.yaml"
    shutil.move(tmp_path / "out", tmp_path / "moved")
    moved = load_places(tmp_path / "moved" / "paths.yaml")
    assert all(Path(p).is_file() for place in moved.domains.values() for p in place.paths)


def test_a_damaged_shard_is_refused_and_no_mapping_file_says_otherwise(study: Study) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    path, _ = layouts.export_shards(study.layout, manifest, "megatron")
    shard = study.layout.tokens / manifest.domain("sums").train.shards[0].file
    raw = bytearray(shard.read_bytes())
    raw[7] ^= 1
    shard.write_bytes(raw)
    (path.parent / "sums" / "train.bin").unlink()
    with pytest.raises(UserError, match=r"sums/.*: is not what the manifest says it is"):
        layouts.export_shards(study.layout, manifest, "megatron")
    assert not path.exists()
    shard.write_bytes(raw[:-2])
    with pytest.raises(UserError, match="the manifest says"):
        layouts.export_shards(study.layout, manifest, "olmo-core")


def test_an_unknown_layout_and_a_path_outside_are_refused(study: Study) -> None:
    manifest = build.load_manifest(study.layout, study.config)
    with pytest.raises(UserError, match="--to: unknown layout 'olmo'; did you mean 'olmo-core'"):
        layouts.export_shards(study.layout, manifest, "olmo")
    domain = manifest.domains[0]
    outside = replace(domain.train.shards[0], file="../../elsewhere.bin")
    wrong = replace(manifest, domains=(
        replace(domain, train=replace(domain.train, shards=(outside,))), *manifest.domains[1:],
    ))  # fmt: skip
    with pytest.raises(UserError, match="lies outside the study"):
        layouts.export_shards(study.layout, wrong, "olmo-core")


def test_a_studys_text_is_found(new_study: Callable[..., Study]) -> None:
    study = new_study()
    found = text_places(study.layout, study.config)
    assert found["code"].paths == (str(study.layout.root / "text" / "code.jsonl"),)
    assert found["code"].text_field == "text"


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("{hub: some/dataset}", r"study.yaml: domains.a.train: hub:some/dataset is a dataset on"),
        ("[]", r"study.yaml: domains.a.train: no source"),
        ("[{path: t.jsonl}, {path: t.jsonl, text_field: body}]", "text_field is 'body' and 'text'"),
        ("gone.jsonl", r"study.yaml: domains.a.train: no file at"),
    ],
)
def test_text_that_cannot_be_named_is_refused(train: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "x", "body": "y"}) + "\n")
    (tmp_path / "study.yaml").write_text(f"name: s\ndomains:\n  - {{name: a, train: {train}}}\n")
    study = Study.open(tmp_path)
    with pytest.raises(UserError, match=said):
        text_places(study.layout, study.config)


def test_the_commands_from_a_study_to_a_trainers_file_and_back(
    study: Study, regmix: Callable[..., object], tmp_path: Path
) -> None:
    from subprocess import Popen

    def run(*arguments: object, code: int = 0) -> str:
        process = regmix(*arguments)
        assert isinstance(process, Popen)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        assert "Traceback" not in err
        return str(out if code == 0 else err)

    root = study.layout.root
    mix = study.layout.mixture("best")
    mix.parent.mkdir(exist_ok=True)
    mix.write_text("weights: {prose: 0.5, sums: 0.3, code: 0.2}\n")
    file = tmp_path / "o.yaml"
    assert "no shards in this layout" in run("export", mix, "--to", "olmo-core", "-o", file, code=2)
    assert "mapping file" in run("data", "export", root, "--to", "olmo-core")
    said = run("export", mix, "--to", "olmo-core", "-o", file, "--tokens", 10_000)
    assert "at most 1 epochs of any domain in 10,000 tokens" in said
    assert "24.9 epochs" in run(
        "export", mix, "--to", "olmo-core", "-o", file, "--tokens", 10**6, code=2
    )
    assert f"ids are {build.load_manifest(study.layout, study.config).dtype}" in file.read_text()
    assert "study.yaml: is read for this" in run(
        "export", mix, "--to", "trl", "-o", study.layout.config, code=2
    )
    assert "best.yaml: is read for this" in run("export", mix, "--to", "trl", "-o", mix, code=2)
    assert "must be a number above 0" in run(
        "export", mix, "--to", "trl", "-o", file, "--max-epochs", "nan", code=2
    )
    said = run("export", mix, "--to", "trl", "-o", tmp_path / "t.yaml", "--seed", 3)
    assert "--seed 3: the format 'trl' holds no seed" in said
    assert "in the file (documents)" in said
    back = tmp_path / "back.yaml"
    run("import-mixture", tmp_path / "t.yaml", "--from", "trl", "-o", back, "--study", root)
    assert "prose: 0.5" in back.read_text()
    snippet = tmp_path / "m.py"
    run("export", mix, "--to", "interleave", "-o", snippet)
    text = root / "text"
    shutil.move(text, tmp_path / "elsewhere")  # the file has names: no data are needed
    run("import-mixture", snippet, "--from", "interleave", "-o", back, "--study", root)
    assert "prose: 0.5" in back.read_text()
    assert "m.py: is read for this" in run(
        "import-mixture", snippet, "--from", "interleave", "-o", snippet, "--study", root, code=2
    )
    shutil.move(tmp_path / "elsewhere", text)
    other = tmp_path / "tokenizer.json"
    other.write_text(study.layout.tokenizer.read_text() + "\n")
    tokens = ("--tokens", 10_000)
    options = ("export", mix, "--to", "olmo-core", "-o", file, *tokens, "--tokenizer")
    run(*options, study.layout.tokenizer)
    assert "its tokens are those of tokenizer" in run(*options, other, code=2)
    assert "unknown format 'megatrn'; did you mean 'megatron'" in run(
        "export", mix, "--to", "megatrn", "-o", file, code=2
    )
