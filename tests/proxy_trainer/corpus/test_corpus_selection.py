"""The split and the sample depend on the content of documents and on nothing else."""

from __future__ import annotations

import pytest

from proxy_trainer.corpus.selection import (
    VALID_SHARE,
    Document,
    make_document,
    select,
    split_targets,
    unique,
)


def documents(count: int) -> list[Document]:
    made = [make_document(f"document number {n} " + "word " * 100, "s") for n in range(count)]
    return [document for document in made if document is not None]


def test_about_the_valid_share_of_documents_is_valid() -> None:
    pool = documents(5000)
    share = sum(document.split == "valid" for document in pool) / len(pool)
    assert share == pytest.approx(VALID_SHARE, abs=0.01)


def test_a_smaller_scale_takes_a_prefix_of_each_split() -> None:
    pool = documents(8000)
    small, large = select(pool, 3_000_000, 0.2, 7), select(pool, 3_000_000, 1.0, 7)
    for split in ("train", "valid"):
        assert small[split] == large[split][: len(small[split])]
        assert len(small[split]) < len(large[split])


def test_the_sample_does_not_depend_on_the_order_of_the_pool() -> None:
    pool = documents(500)
    assert select(pool, 60_000, 1.0, 0) == select(pool[::-1], 60_000, 1.0, 0)


def test_the_seed_moves_no_document_across_the_split() -> None:
    pool = documents(3000)
    first, second = select(pool, 500_000, 1.0, 0), select(pool, 500_000, 1.0, 1)
    assert first["train"] != second["train"]
    assert not {d.digest for d in first["train"]} & {d.digest for d in second["valid"]}


def test_scale_never_shrinks_valid_below_its_minimum() -> None:
    assert split_targets(2_000_000, 0.01)["valid"] >= 40_000
    assert split_targets(2_000_000, 1.0) == {"train": 1_920_000, "valid": 80_000}


def test_short_texts_are_no_documents_and_bad_characters_are_replaced() -> None:
    assert make_document("too short", "s") is None
    document = make_document("a lone surrogate \ud800 cannot be written as UTF-8 text", "s")
    assert document is not None
    assert "?" in document.text


def test_unique_keeps_the_first_and_remembers() -> None:
    seen: set[bytes] = set()
    pool = documents(3)
    assert unique([*pool, pool[0]], seen) == pool
    assert unique(pool, seen) == []
