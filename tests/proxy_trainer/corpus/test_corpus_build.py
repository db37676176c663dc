"""The build's promises, on small made-up recipes and on the real ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from proxy_trainer.corpus import (
    RECIPES,
    CorpusSummary,
    DomainRecipe,
    Source,
    Work,
    build_corpus,
    docs,
    mathematics,
)
from proxy_trainer.corpus.base import Shard, generator_shards
from proxy_trainer.corpus.selection import MIN_VALID_BYTES, SPLITS
from regmix.errors import RegmixError, UserError

SMALL = 0.02


def texts(out: Path, split: str, domain: str) -> list[str]:
    data = zstandard.decompress((out / split / f"{domain}.jsonl.zst").read_bytes())
    return [json.loads(line)["text"] for line in data.decode().split("\n") if line]


def content(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def numbers(work: Work) -> Iterator[str]:
    for _ in range(1000):
        yield "made up: " + " ".join(str(work.rng.randrange(10**6)) for _ in range(200))


def shared_text(work: Work) -> Iterator[str]:
    shared = random.Random("the same in every domain")
    for _ in range(1500):
        yield " ".join(str(shared.randrange(10**6)) for _ in range(200))


def fake(name: str, documents: Callable[[Work], Iterator[str]] = numbers) -> DomainRecipe:
    return DomainRecipe(
        name=name,
        description="numbers",
        licence="none",
        target_bytes=1_000_000,
        sources=lambda: (Source("numbers", "1", "none"),),
        shards=lambda: generator_shards("numbers", 2),
        documents=documents,
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CorpusSummary]:
    """The real corpus, small, from few packages: parsing them all is what takes the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docs, "_PACKAGES", {"numpy": ("numpy", ()), "networkx": ("networkx", ())})
        patch.setattr(mathematics, "_PACKAGES", ("mpmath",))
        # One process: the patches do not reach others.
        yield build_corpus(tmp_path_factory.mktemp("corpus"), workers=1, scale=SMALL)


def test_real_domains_are_all_there_with_enough_to_validate_on(real: CorpusSummary) -> None:
    assert [domain.name for domain in real.domains] == [recipe.name for recipe in RECIPES]
    assert len(real.domains) >= 5
    for domain in real.domains:
        for split in SPLITS:
            found = texts(real.out, split, domain.name)
            assert len(found) == domain.splits[split].documents
            assert sum(len(text.encode()) for text in found) == domain.splits[split].bytes
        assert domain.splits["valid"].bytes >= MIN_VALID_BYTES


def test_no_real_document_is_in_two_places_or_of_extreme_size(real: CorpusSummary) -> None:
    everything = [
        text
        for domain in real.domains
        for split in SPLITS
        for text in texts(real.out, split, domain.name)
    ]
    assert len(everything) == len(set(everything))
    assert all(40 <= len(text.encode()) <= 16_000 for text in everything)


def test_real_targets_are_the_demo_size_and_far_from_uniform() -> None:
    targets = [recipe.target_bytes for recipe in RECIPES]
    assert 15_000_000 <= sum(targets) <= 22_000_000
    assert min(targets) >= 1_000_000
    assert max(targets) / min(targets) >= 3


def test_real_summary_says_where_the_text_came_from(real: CorpusSummary) -> None:
    report = json.loads((real.out / "corpus.json").read_text(encoding="utf-8"))
    assert CorpusSummary.from_json(report, real.out, reused=False) == real
    for domain in real.domains:
        assert sum(source.documents for source in domain.sources) == sum(
            split.documents for split in domain.splits.values()
        )
        assert all(source.licence for source in domain.sources)


def test_one_process_and_two_write_the_same_bytes(real: CorpusSummary, tmp_path: Path) -> None:
    recipes = [recipe for recipe in RECIPES if recipe.name in ("code", "exercises")]
    for folder, workers in (("one", 1), ("two", 2)):
        build_corpus(tmp_path / folder, workers=workers, scale=SMALL, recipes=recipes)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    # A domain does not depend on which others are built, but for the texts they share.
    assert texts(tmp_path / "one", "train", "exercises") == texts(real.out, "train", "exercises")


def test_a_finished_corpus_is_returned_without_work(tmp_path: Path) -> None:
    first = build_corpus(tmp_path, workers=1, recipes=[fake("a")])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = build_corpus(tmp_path, workers=1, recipes=[fake("a")])
    assert again == first
    assert (first.reused, again.reused) == (False, True)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize("damage", ["other seed", "missing file", "broken summary"])
def test_anything_else_is_built_again(tmp_path: Path, damage: str) -> None:
    build_corpus(tmp_path, workers=1, recipes=[fake("a")], seed=int(damage == "other seed"))
    if damage == "missing file":
        (tmp_path / "valid" / "a.jsonl.zst").unlink()
    elif damage == "broken summary":
        (tmp_path / "corpus.json").write_text("{", encoding="utf-8")
    again = build_corpus(tmp_path, workers=1, recipes=[fake("a")])
    assert not again.reused
    build_corpus(tmp_path / "fresh", workers=1, recipes=[fake("a")])
    for split in SPLITS:
        assert texts(tmp_path, split, "a") == texts(tmp_path / "fresh", split, "a")


def test_a_build_that_fails_leaves_no_summary_and_no_temporary_file(tmp_path: Path) -> None:
    build_corpus(tmp_path, workers=1, recipes=[fake("a")])
    with pytest.raises(RegmixError):
        build_corpus(tmp_path, workers=1, recipes=[fake("a"), fake("b", lambda work: iter(()))])
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["a.jsonl.zst", "a.jsonl.zst"]


def test_the_seed_changes_the_sample(tmp_path: Path) -> None:
    for seed in (0, 1):
        build_corpus(tmp_path / str(seed), workers=1, seed=seed, recipes=[fake("a")])
    assert texts(tmp_path / "0", "train", "a") != texts(tmp_path / "1", "train", "a")


def test_the_first_domain_keeps_a_text_that_several_hold(tmp_path: Path) -> None:
    recipes = [fake("a", shared_text), fake("b", shared_text)]
    with pytest.raises(RegmixError, match="domain 'b' is too small"):
        build_corpus(tmp_path, workers=1, recipes=recipes)


def test_a_domain_that_is_too_small_says_what_was_asked_found_and_looked_at(
    tmp_path: Path,
) -> None:
    few = replace(
        fake("a"),
        sources=lambda: (Source("numbers", "1", "none"), Source("absentia", None, "none")),
        documents=lambda work: iter(["x" * 100]),
    )
    with pytest.raises(RegmixError) as caught:
        build_corpus(tmp_path, workers=1, scale=0.5, recipes=[few])
    message = str(caught.value)
    for part in ("'a'", "500000", "found 100 ", "numbers 1", "absentia (absent)", "Install"):
        assert part in message


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_bytes(b"caf\xe9 = 1")

    def documents(work: Work) -> Iterator[str]:
        assert all(work.read(path) is None for path in work.shard.files)
        yield from numbers(work)

    def shards() -> Iterator[Shard]:
        yield from generator_shards("numbers", 2)
        yield Shard("files", "numbers", root=tmp_path, files=(tmp_path / "bad.py",))

    recipe = replace(fake("a"), shards=shards, documents=documents)
    summary = build_corpus(tmp_path / "out", workers=1, recipes=[recipe])
    assert summary.domains[0].sources[0].unreadable == ("bad.py",)


def test_progress_counts_the_shards_of_each_domain(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    build_corpus(
        tmp_path,
        workers=1,
        recipes=[fake("a"), fake("b")],
        progress=lambda domain, done, total: calls.append((domain, done, total)),
    )
    assert calls == [("a", 1, 2), ("a", 2, 2), ("b", 1, 2), ("b", 2, 2)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"scale": 0.0}, "scale is 0"),
        ({"scale": float("nan")}, "nan"),
    ],
)
def test_arguments_out_of_range_are_refused(
    tmp_path: Path, arguments: dict[str, float], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        build_corpus(tmp_path, **arguments)  # type: ignore[arg-type]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        build_corpus(tmp_path / "file")
