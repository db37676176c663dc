"""The demo's corpus folder and the study that is written for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmix.config import load_study
from regmix.demo import PRESETS, domain_files, study_yaml
from regmix.errors import UserError
from regmix.files import TEXT_SUFFIXES
from regmix.study import Study


def corpus(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text", encoding="utf-8")
    for split in ("train", "valid"):
        (root / split).mkdir(parents=True, exist_ok=True)
    return root


def test_domains_are_files_by_name(tmp_path: Path) -> None:
    root = corpus(
        tmp_path, "train/web.jsonl.zst", "valid/web.jsonl", "train/code.txt", "valid/code.parquet",
        "train/README.md", "train/.web.jsonl", "train/sub/x.jsonl",
    )  # fmt: skip
    assert domain_files(root) == {
        "code": (root / "train/code.txt", root / "valid/code.parquet"),
        "web": (root / "train/web.jsonl.zst", root / "valid/web.jsonl"),
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train/a.jsonl", "train/b.jsonl", "valid/a.jsonl"), "b stands in only one of train and"),
        (("train/a.jsonl", "valid/a.jsonl"), "1 domains found; a mixture needs two or more"),
        ((), "0 domains found"),
        (
            ("train/a.jsonl", "train/a.txt", "valid/a.jsonl"),
            r"a\.txt: domain 'a' stands in a\.jsonl",
        ),
        (
            ("train/my web.jsonl", "valid/my web.jsonl"),
            r"my web\.jsonl: domain 'my web': a name has",
        ),
    ],
)
def test_what_is_no_corpus_is_refused(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        domain_files(corpus(tmp_path, *files))


def test_a_folder_without_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder 'train'; a corpus has train/<domain>\.jsonl"):
        domain_files(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="no folder 'valid'"):
        domain_files(tmp_path)


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("folder", ["demo", "my demo", "2024"])
def test_the_study_opens_and_follows_the_preset(tmp_path: Path, size: str, folder: str) -> None:
    root = tmp_path / folder
    text = corpus(
        root / "corpus", *(f"{s}/{d}.jsonl" for s in ("train", "valid") for d in ("web", "1e5"))
    )
    preset = PRESETS[size]
    (root / "study.yaml").write_text(study_yaml(text, root, preset, size, 7), encoding="utf-8")
    study = Study.open(root)
    assert study.domains == ("1e5", "web")
    assert study.config.seed == 7
    assert study.config.swarm.runs == preset.mixtures
    assert study.config.proxy.model.size == preset.proxy_size
    assert study.config.proxy.train == preset.proxy
    assert study.config.target.model.size == preset.target_size
    assert study.config.target.train == preset.target
    assert study.config.domains[1].train[0].path == "corpus/train/web.jsonl"


def test_a_corpus_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    text = corpus(
        tmp_path / "text", *(f"{s}/{d}.txt" for s in ("train", "valid") for d in ("a", "b"))
    )
    path = tmp_path / "demo" / "study.yaml"
    path.parent.mkdir()
    path.write_text(study_yaml(text, path.parent, PRESETS["tiny"], "tiny", 0), encoding="utf-8")
    assert load_study(path).domains[0].valid[0].path == str(text / "valid" / "a.txt")


def test_the_real_corpus_is_one(real_data: Path) -> None:
    found = domain_files(real_data / "corpus")
    assert sorted(found) == ["books", "code", "docs", "knowledge", "math", "wiki"]
    assert all(train.is_file() and valid.is_file() for train, valid in found.values())


def test_the_demo_takes_every_file_that_the_trainer_reads(tmp_path: Path) -> None:
    names = [f"d{i}{suffix}" for i, suffix in enumerate(TEXT_SUFFIXES)]
    root = corpus(tmp_path, *(f"{split}/{n}" for split in ("train", "valid") for n in names))
    assert sorted(domain_files(root)) == sorted(f"d{i}" for i in range(len(TEXT_SUFFIXES)))


@pytest.mark.parametrize("name", ["math.jsonl.xz", "math.csv"])
def test_a_file_that_cannot_be_read_is_not_passed_over(tmp_path: Path, name: str) -> None:
    text = corpus(tmp_path, *(f"{s}/{d}.jsonl" for s in ("train", "valid") for d in ("a", "b")))
    (text / "train" / name).write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}: none of the suffixes \.jsonl"):
        domain_files(text)
