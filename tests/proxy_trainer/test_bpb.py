"""Bits per byte is what a direct computation gives, document by document."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from proxy_trainer.data import build
from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.shards import DomainTokens
from proxy_trainer.data.tokenise import is_valid_document
from proxy_trainer.evals import bpb
from proxy_trainer.models import hf
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.reading import TOKENS
from regmix.config import ModelConfig
from regmix.manifest import DataManifest
from regmix.sizes import shape
from regmix.study import Study

ALL = 10**9


def made(context: int = 32, vocab: int = 512, seeds: tuple[int, ...] = (3,)) -> ModelArray:
    dims = shape(ModelConfig(size="50k", d_model=32, layers=2, heads=2, context=context))
    model = ModelArray.initialised(dims, vocab, seeds)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape[1] > 1:
                parameter *= 10  # far from uniform predictions
    return model


@pytest.fixture(scope="module")
def data(built_root: Path) -> tuple[Study, DataManifest]:
    study = Study.open(built_root)
    return study, build.load_manifest(study.layout, study.config)


def valid_texts(study: Study, domain: str) -> list[str]:
    path = study.layout.root / "text" / f"{domain}.jsonl"
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    return [t for t in texts if is_valid_document(t, 0.1)]


@torch.no_grad()
def direct_nats(model: torch.nn.Module, ids: list[int], eod: int, context: int) -> float:
    """Nats of one document: a token is given those before it in its window, the first eod."""
    total = 0.0
    for start in range(0, len(ids), context):
        window = ids[start : start + context]
        before = eod if start == 0 else ids[start - 1]
        logits = model(torch.tensor([[before, *window[:-1]]])).logits[0].double()
        logs = logits.log_softmax(-1)
        total -= sum(logs[i, token].item() for i, token in enumerate(window))
    return total


def test_equals_a_direct_computation_with_transformers(
    data: tuple[Study, DataManifest], tmp_path: Path
) -> None:
    study, manifest = data
    model = made()
    hf.save(model.member(0), model.shape, tmp_path, study.layout.tokenizer, manifest.eod_id)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = tokenizers.load(study.layout.tokenizer)
    sets = bpb.load_eval_sets(study.layout, manifest, context=32, max_bytes=ALL)
    [found] = bpb.bits_per_byte(model, sets)
    for domain in manifest.names:
        texts = valid_texts(study, domain)
        encoded = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
        assert max(map(len, encoded)) > 32, "no document longer than the context"
        nats = sum(direct_nats(theirs, ids, manifest.eod_id, 32) for ids in encoded)
        size = sum(len(t.encode()) for t in texts)
        assert found[f"bpb/{domain}"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)


def test_a_model_that_knows_nothing_pays_the_logarithm_of_the_vocabulary(
    data: tuple[Study, DataManifest],
) -> None:
    study, manifest = data
    model = made()
    with torch.no_grad():
        model.head.zero_()
    sets = bpb.load_eval_sets(study.layout, manifest, context=32, max_bytes=ALL)
    [found] = bpb.bits_per_byte(model, sets)
    for s in sets:
        part = manifest.domain(s.name.removeprefix("bpb/")).valid
        tokens = part.tokens - part.documents  # the end-of-document tokens are not scored
        assert s.tokens == tokens
        assert s.text_bytes == part.text_bytes
        assert found[s.name] == pytest.approx(tokens * math.log2(512) / part.text_bytes)


@pytest.mark.parametrize("context", [1, 5, 32, 1000])
def test_every_text_token_is_scored_once_after_the_token_before_it(
    data: tuple[Study, DataManifest], context: int
) -> None:
    study, manifest = data
    for s in bpb.load_eval_sets(study.layout, manifest, context=context, max_bytes=ALL):
        tokens = DomainTokens(study.layout, manifest, s.name.removeprefix("bpb/"), "valid")
        documents = [tokens.document(i)[:-1].tolist() for i in range(tokens.documents)]
        assert all(len(i) == len(t) <= context for i, t in zip(s.inputs, s.targets, strict=True))
        # windows of one document follow each other; put together they are its text
        scored: list[list[int]] = []
        for window, target in zip(s.inputs, s.targets, strict=True):
            assert window[1:].tolist() == target[:-1].tolist()
            if window[0] == manifest.eod_id:
                scored.append([])
            else:
                assert window[0] == scored[-1][-1]
            scored[-1] += target.tolist()
        assert sorted(scored) == sorted(documents)
        assert manifest.eod_id not in np.concatenate(s.targets)


@pytest.mark.parametrize("batch_tokens", [1, 33, 700, 100_000])
def test_the_batch_changes_nothing(
    data: tuple[Study, DataManifest], batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, manifest = data
    model = made()
    sets = bpb.load_eval_sets(study.layout, manifest, context=32, max_bytes=ALL)
    [expected] = bpb.bits_per_byte(model, sets)
    monkeypatch.setitem(TOKENS, "cpu", batch_tokens)
    [found] = bpb.bits_per_byte(model, sets)
    assert found == pytest.approx(expected, rel=1e-6)
    for reading, windows in zip(bpb.read(model, sets), sets, strict=True):
        assert len(reading.bytes_M) == len(set(windows.documents))
        assert reading.bytes_M.sum() == windows.text_bytes
        assert found[reading.name] == reading.value(0)


def test_a_document_has_its_own_bits_whatever_it_is_measured_with(
    data: tuple[Study, DataManifest],
) -> None:
    study, manifest = data
    model = made()
    sets = bpb.load_eval_sets(study.layout, manifest, context=32, max_bytes=3000)
    for windows, together in zip(sets, bpb.read(model, sets), strict=True):
        for number, size in enumerate(windows.document_bytes):
            own = [i for i, d in enumerate(windows.documents) if d == number]
            alone = bpb.EvalSet(
                "alone",
                [windows.inputs[i] for i in own],
                [windows.targets[i] for i in own],
                [0] * len(own),
                [size],
            )
            [found] = bpb.read(model, [alone])
            assert found.nats_KM[0, 0] == pytest.approx(together.nats_KM[0, number], rel=1e-6)
            assert found.bytes_M[0] == together.bytes_M[number]
            assert found.std_error(0) is None


def test_the_standard_error_is_that_of_a_bootstrap_over_documents(
    data: tuple[Study, DataManifest],
) -> None:
    study, manifest = data
    model = made(seeds=(3, 4))
    sets = bpb.load_eval_sets(study.layout, manifest, context=32, max_bytes=ALL)
    rng = np.random.default_rng(0)
    for reading in bpb.read(model, sets):
        count = len(reading.bytes_M)
        assert count > 15
        drawn = rng.integers(count, size=(20_000, count))
        size = reading.bytes_M[drawn].sum(1)
        for member in range(2):
            bits = reading.nats_KM[member][drawn].sum(1) / math.log(2) / size
            # A bootstrap's variance is that of n documents, not of n − 1.
            expected = bits.std() * math.sqrt(count / (count - 1))
            assert reading.std_error(member) == pytest.approx(expected, rel=0.03)


def test_members_are_measured_together_as_they_are_alone(
    data: tuple[Study, DataManifest],
) -> None:
    study, manifest = data
    sets = bpb.load_eval_sets(study.layout, manifest, context=32, max_bytes=2000)
    found = bpb.bits_per_byte(made(seeds=(3, 4, 5)), sets)
    assert found == [bpb.bits_per_byte(made(seeds=(seed,)), sets)[0] for seed in (3, 4, 5)]
    assert found[0] != found[1]


@pytest.mark.parametrize("room", [1, 150, 1000, 2500])
def test_a_limit_cuts_at_a_token_and_counts_the_bytes_that_are_left(
    data: tuple[Study, DataManifest], room: int
) -> None:
    study, manifest = data
    tokenizer = tokenizers.load(study.layout.tokenizer)
    for s in bpb.load_eval_sets(study.layout, manifest, context=1000, max_bytes=room):
        texts = set(valid_texts(study, s.name.removeprefix("bpb/")))
        found = [tokenizer.decode(t.tolist()) for t in s.targets]
        assert sum(len(t.encode()) for t in found) == s.text_bytes
        assert all(any(t.startswith(f) for t in texts) for f in found)
        if room < manifest.domain(s.name.removeprefix("bpb/")).valid.text_bytes:
            assert abs(s.text_bytes - room) < 20, "further off than one token"


def test_a_cut_never_falls_inside_a_character(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"text": f"plain {i}"}) + "\n" for i in range(9))
    )
    text = "数学の🙂" * 50  # no merges are learnt for it: three or four tokens a character
    (tmp_path / "v.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (tmp_path / "study.yaml").write_text(
        "name: s\ndomains: [{name: a, train: t.jsonl, valid: v.jsonl}]\n"
        "data: {tokenizer: {vocab_size: 260}}\n"
    )
    study = Study.open(tmp_path)
    manifest = build.build(study.layout, study.config)
    tokenizer = tokenizers.load(study.layout.tokenizer)
    for room in range(1, 60, 3):
        [s] = bpb.load_eval_sets(study.layout, manifest, context=1000, max_bytes=room)
        found = tokenizer.decode(np.concatenate(s.targets).tolist())
        assert text.startswith(found)
        assert "�" not in found
        assert len(found.encode()) == s.text_bytes
        assert room - 4 < s.text_bytes < room + 4


def test_documents_are_taken_in_one_order_whatever_the_limit(
    data: tuple[Study, DataManifest],
) -> None:
    study, manifest = data
    few = bpb.load_eval_sets(study.layout, manifest, context=1000, max_bytes=600)
    many = bpb.load_eval_sets(study.layout, manifest, context=1000, max_bytes=1600)
    for a, b in zip(few, many, strict=True):
        assert len(a.inputs) > 1
        for x, y in zip(a.targets, b.targets, strict=False):
            assert x.tolist() == y[: len(x)].tolist()
