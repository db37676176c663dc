"""The data manifest: what the shards hold, and that it is what was built."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmix.errors import UserError
from regmix.manifest import DataManifest

Maker = Callable[[Mapping[str, int]], DataManifest]
TOKENS = {"web": 6000, "code": 3000, "math": 1000}


def test_round_trip(make_manifest: Maker, tmp_path: Path) -> None:
    manifest = make_manifest(TOKENS)
    path = tmp_path / "tokens" / "manifest.json"
    manifest.save(path)
    assert DataManifest.load(path) == manifest
    assert DataManifest.load(path).fingerprint == manifest.fingerprint


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=6))
def test_natural_is_the_share_of_training_tokens(make_manifest: Maker, counts: list[int]) -> None:
    manifest = make_manifest({f"d{i}": n for i, n in enumerate(counts)})
    natural = manifest.natural()
    assert sum(natural.weights) == pytest.approx(1, abs=1e-12)
    for name, tokens in manifest.available_tokens().items():
        assert natural[name] == pytest.approx(tokens / sum(counts))


def test_look_ups(make_manifest: Maker) -> None:
    manifest = make_manifest(TOKENS)
    assert manifest.names == ("web", "code", "math")
    assert manifest.domain("code").split("train").tokens == 3000
    assert manifest.domain("code").split("valid").tokens == 300
    assert manifest.available_tokens() == TOKENS
    with pytest.raises(UserError, match="unknown domain 'cod'; did you mean 'code'"):
        manifest.domain("cod")
    with pytest.raises(UserError, match="unknown split 'test'"):
        manifest.domain("code").split("test")


def test_the_fingerprint_is_the_content(make_manifest: Maker) -> None:
    manifest = make_manifest(TOKENS)
    first, *rest = manifest.domains
    shard = replace(first.train.shards[0], content="else")
    others = [
        replace(manifest, tokenizer="else"),
        replace(manifest, eod_id=5),
        replace(manifest, dtype="uint32"),
        replace(manifest, domains=tuple(reversed(manifest.domains))),
        replace(
            manifest,
            domains=(replace(first, train=replace(first.train, shards=(shard,))), *rest),
        ),
    ]
    assert len({manifest.fingerprint, *(m.fingerprint for m in others)}) == len(others) + 1
    moved = replace(first.train.shards[0], file="elsewhere.bin")
    same = replace(
        manifest, domains=(replace(first, train=replace(first.train, shards=(moved,))), *rest)
    )
    assert same.fingerprint == manifest.fingerprint


def changed(raw: dict[str, Any]) -> dict[str, Any]:
    raw["domains"][0]["train"]["shards"][0]["content"] = "else"
    return raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed, r"manifest\.json: changed since it was built; run `regmix data build` again"),
        (lambda raw: {**raw, "version": 99},
         r"manifest\.json: version 99, expected 1; build again"),
        (lambda raw: {k: v for k, v in raw.items() if k != "domains"},
         r"manifest\.json: not a data manifest .*'domains'"),
        (lambda raw: [raw], r"manifest\.json: not a data manifest"),
    ],
)  # fmt: skip
def test_what_was_not_built_is_refused(
    make_manifest: Maker, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "tokens" / "manifest.json"
    make_manifest(TOKENS).save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        DataManifest.load(path)


def test_no_manifest_means_no_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no data yet; run `regmix data build .*study`"):
        DataManifest.load(tmp_path / "study" / "tokens" / "manifest.json")
    path = tmp_path / "manifest.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest\.json: not valid JSON .*line 1"):
        DataManifest.load(path)
