"""Documents come out of every kind of file as they went in, and damage is named."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from proxy_trainer.data import build
from proxy_trainer.data.sources import Counts, documents, expand
from regmix.config import Source
from regmix.errors import RegmixError, UserError
from regmix.study import Study

TEXTS = ["plain", "zwei\nZeilen", "数学 ∑ 🙂", 'quote " and \\ backslash', "  spaces kept  "]


def lines(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({field: t, "id": i}) + "\n" for i, t in enumerate(texts)).encode()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def read(path: str | Path, root: Path, **settings: object) -> tuple[list[str], Counts]:
    counts = Counts()
    source = Source.model_validate({"path": str(path), **settings})
    found = [t for item in expand(source, root, "domains.d.train") for t in documents(item, counts)]
    return found, counts


JSON_WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "a.jsonl": bytes,
    "a.jsonl.gz": gzip.compress,
    "a.jsonl.zst": zstd,
    "a.json.gz": gzip.compress,
    "a.json.zst": zstd,
}


@pytest.mark.parametrize("name", JSON_WRITERS)
def test_json_lines_come_back_whole_and_are_counted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(JSON_WRITERS[name](lines(TEXTS)))
    found, counts = read(name, tmp_path)
    assert found == TEXTS
    assert counts == Counts(documents=5, text_bytes=sum(len(t.encode()) for t in TEXTS))


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.txt", bytes), ("a.md", bytes), ("a.txt.gz", gzip.compress), ("a.txt.zst", zstd)],
)
def test_a_plain_file_is_one_document(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(pack("erste\r\nzweite ∑\n".encode()))
    assert read(name, tmp_path)[0] == ["erste\r\nzweite ∑\n"]


def test_parquet_reads_the_named_column(tmp_path: Path) -> None:
    table = pa.table({"content": [*TEXTS, None, ""], "text": ["no"] * 7})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found, counts = read("a.parquet", tmp_path, text_field="content")
    assert found == TEXTS
    assert (counts.no_text, counts.empty) == (1, 1)


def test_parquet_without_the_column_lists_the_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": TEXTS}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: no column 'text'; columns: content"):
        read("a.parquet", tmp_path)


def test_what_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"a\.parquet: not a parquet file"):
        read("a.parquet", tmp_path)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_damaged_parquet_page_names_file_and_row_group(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"text {i * 7919}" * 9 for i in range(300)]})
    pq.write_table(table, path, row_group_size=100, compression=compression, use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    raw[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"a\.parquet: row group 2 of 3: .*(damaged|invalid UTF-8)"):
        read("a.parquet", tmp_path)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match=r"a\.parquet: not a parquet file"):
        read("a.parquet", tmp_path)


def test_invalid_utf8_in_a_parquet_column_names_file_row_group_and_byte(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"fine", b"fine", b"caf\xe9 noir"], pa.binary())
    column = pa.StringArray.from_buffers(4, *raw.buffers()[1:])  # pyarrow itself checks no text
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", row_group_size=2)
    message = r"a\.parquet: row group 2 of 2: invalid UTF-8 .*0xe9 after 'caf'"
    with pytest.raises(UserError, match=message):
        read("a.parquet", tmp_path)


def test_folder_and_glob_read_known_files_in_name_order(tmp_path: Path) -> None:
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "b.txt").write_text("second")
    (tmp_path / "d" / "a.jsonl").write_bytes(lines(["first"]))
    (tmp_path / "d" / "deep" / "c.md").write_text("third")
    (tmp_path / "d" / "notes.pdf").write_text("not text")
    assert read("d", tmp_path)[0] == ["first", "second", "third"]
    assert read("d/**/*.md", tmp_path)[0] == ["third"]
    assert read(tmp_path / "d" / "*.txt", Path("/"))[0] == ["second"]


def test_hub_reads_local_files_through_datasets(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(lines([*TEXTS, ""], "content"))
    source = Source(
        hub="json", hub_args={"data_files": str(tmp_path / "x.json")}, text_field="content"
    )
    counts = Counts()
    [item] = expand(source, tmp_path, "domains.d.train")
    assert list(documents(item, counts)) == TEXTS
    assert counts.empty == 1
    assert item.label == "hub:json"


@pytest.mark.parametrize(
    ("hub", "hub_args"),
    [
        ("json", {"data_files": "@/d/x.json"}),
        ("json", {"data_files": {"train": ["@/d/*.json"]}}),
        ("json", {"data_files": "x.json", "data_dir": "@/d"}),
        ("json", {"data_dir": "@/d"}),
        ("@/d", {}),
        ("@/d", {"data_files": "x.json"}),
    ],
)
def test_changed_local_files_of_a_dataset_change_its_stamp(
    tmp_path: Path, hub: str, hub_args: dict[str, object]
) -> None:
    def place(value: object) -> object:
        return json.loads(json.dumps(value).replace("@", tmp_path.as_posix()))

    path = tmp_path / "d" / "x.json"
    path.parent.mkdir()
    path.write_bytes(lines(["first"]))
    source = Source.model_validate({"hub": place(hub), "hub_args": place(hub_args)})
    [item] = expand(source, tmp_path, "domains.d.train")
    assert list(documents(item, Counts())) == ["first"]
    stamps = [item.stamp, item.stamp]
    path.write_bytes(lines(["first", "second"]))
    stamps.append(item.stamp)
    assert list(documents(item, Counts())) == ["first", "second"]
    os.utime(path, ns=(1, 1))
    stamps.append(item.stamp)
    assert stamps[0] == stamps[1]
    assert len({json.dumps(s) for s in stamps}) == 3


@pytest.mark.parametrize(
    ("hub", "hub_args"),
    [("owner/name", {"data_dir": "d"}), ("json", {"data_files": "https://host/x.json"})],
)
def test_a_remote_dataset_is_stamped_by_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: str, hub_args: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.json").write_bytes(lines(["not of this dataset"]))
    source = Source.model_validate({"hub": hub, "hub_args": hub_args})
    [item] = expand(source, tmp_path, "domains.d.train")
    assert item.stamp == [source.model_dump(mode="json")]


def test_hub_failure_names_the_dataset(tmp_path: Path) -> None:
    source = Source(hub="json", hub_args={"data_files": str(tmp_path / "absent.json")})
    [item] = expand(source, tmp_path, "domains.d.train")
    with pytest.raises(RegmixError, match=r"hub:json: could not be read"):
        list(documents(item, Counts()))


@pytest.mark.parametrize("pattern", ["absent.jsonl", "*.jsonl", "empty-folder"])
def test_nothing_there_names_key_and_place(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty-folder").mkdir()
    with pytest.raises(UserError, match=r"domains\.d\.train: no file at '.*" + pattern.strip("*")):
        read(pattern, tmp_path)


def test_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(UserError, match=r"a\.docx' has none of the suffixes \.jsonl, .*\.parquet"):
        read("a.docx", tmp_path)


def test_documents_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    records = [{"text": "a"}, {"body": "b"}, {"text": None}, {"text": 3}, ["text"], {"text": " \n"}]
    content = "\n".join(json.dumps(r) for r in records) + "\n\n   \n"
    (tmp_path / "a.jsonl").write_text(content)
    found, counts = read("a.jsonl", tmp_path)
    assert found == ["a"]
    assert counts == Counts(documents=1, text_bytes=1, no_text=4, empty=1)


def test_invalid_utf8_names_file_line_and_byte(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(["fine"]) + b'{"text": "caf\xe9"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: invalid UTF-8 at byte 13 "):
        read("a.jsonl", tmp_path)
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(UserError, match=r"a\.txt: invalid UTF-8 at byte 3 "):
        read("a.txt", tmp_path)


def test_a_lone_surrogate_names_file_and_document(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "ok"}\n\n{"text": "half \\ud83d"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl: document 2: text is not valid Unicode"):
        read("a.jsonl", tmp_path)


def test_what_is_not_json_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(["fine", "fine"]) + b'{"text": "cut o')
    with pytest.raises(UserError, match=r"a\.jsonl:3: not JSON \(Unterminated string"):
        read("a.jsonl", tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
@pytest.mark.parametrize("damage", ["cut", "half", "garbled", "checksum", "not compressed"])
def test_damaged_compression_is_an_error_not_a_shorter_text(
    tmp_path: Path, kind: str, suffix: str, pack: Callable[[bytes], bytes], damage: str
) -> None:
    whole = pack(lines([f"line {i * 7919 % 1000}" for i in range(3000)]))
    content = {
        "cut": whole[:-1],
        "half": whole[: len(whole) // 2],
        "garbled": whole[:20] + b"\xff" * 64 + whole[84:],
        "checksum": whole[:-5] + bytes([whole[-5] ^ 1, whole[-4] ^ 1]) + whole[-3:],
        "not compressed": lines(TEXTS),
    }[damage]
    name = f"a.{kind}{suffix}"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: cannot be decompressed"):
        read(name, tmp_path)


def test_zstd_files_joined_end_to_end_are_read_to_the_end(tmp_path: Path) -> None:
    first, second = lines(TEXTS), lines(["x" * 100_000, "last"])
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"  # as pzstd writes between frames
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(first) + skippable + zstd(second))
    assert read("a.jsonl.zst", tmp_path)[0] == [*TEXTS, "x" * 100_000, "last"]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(first) + gzip.compress(second))
    assert read("a.jsonl.gz", tmp_path)[0] == [*TEXTS, "x" * 100_000, "last"]


def test_zstd_with_a_long_window_and_streamed_content_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = b"".join(packer.compress(lines([str(i)])) for i in range(2000)) + packer.flush()
    (tmp_path / "a.jsonl.zst").write_bytes(data)
    assert read("a.jsonl.zst", tmp_path)[0] == [str(i) for i in range(2000)]


def build_with(study: Study, prose: str | bytes) -> None:
    path = study.layout.root / "text" / "prose.jsonl"
    path.write_bytes(prose if isinstance(prose, bytes) else prose.encode())
    build.build(study.layout, study.config)


def test_a_domain_without_any_document_fails_the_build(new_study: Callable[..., Study]) -> None:
    study = new_study()
    message = r"domain 'prose': its train split is empty: no document for it in .*prose\.jsonl; add"
    with pytest.raises(UserError, match=message):
        build_with(study, "")
    assert not study.layout.manifest.exists()


def test_too_large_a_share_without_text_is_an_error_with_its_numbers(
    new_study: Callable[..., Study],
) -> None:
    study = new_study()
    good = (study.layout.root / "text" / "prose.jsonl").read_text()
    with pytest.raises(
        UserError,
        match=r"'prose', train: 20 of \d+ documents .* at most 1\.0% may .*text_field right",
    ):
        build_with(study, good + '{"txet": "x"}\n' * 20)
    assert not study.layout.manifest.exists()
    build_with(study, good + '{"txet": "x"}\n{"text": ""}\n')
    part = build.load_manifest(study.layout, study.config).domain("prose").train
    assert (part.skipped_no_text, part.skipped_empty) == (1, 1)
