"""Conversations are tokenised once for one content, whole, and what is left out is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat import build as chat
from proxy_trainer.data.chat.hand_on import hand_on
from proxy_trainer.data.chat.shards import ChatManifest, ChatTokens, open_sources
from proxy_trainer.data.sole import sole_builder
from proxy_trainer.models import hf
from proxy_trainer.models.gpt import GPT
from regmix import sizes
from regmix.chat import ChatData
from regmix.config import ModelConfig
from regmix.errors import UserError
from regmix.layout import StudyLayout

GSM8K = Path(__file__).parents[3] / "shared/data/sft/gsm8k_chat.jsonl.zst"
CONTEXT = 100
CHATML = (Path(__file__).parent / "chatml.jinja").read_text("utf-8")


def talk(number: int, words: int = 3) -> dict[str, Any]:
    answer = " ".join(f"word{number}" for _ in range(words))
    return {"messages": [{"role": "user", "content": f"say {number}"},
                         {"role": "assistant", "content": answer}]}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


Build = Callable[..., ChatManifest]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    tokenizers.save(tokenizers.train_bpe(iter(f"say word{i}" for i in range(99)), 270), path)
    return path


@pytest.fixture
def build(tmp_path: Path, tokenizer: Path) -> Build:
    """Builds two files of one source and one of another, with other settings if given."""
    write(tmp_path / "a1.jsonl", [talk(i) for i in range(20)])
    write(tmp_path / "a2.jsonl", [talk(i) for i in range(20, 50)])
    pq.write_table(pa.Table.from_pylist([talk(i) for i in range(50, 60)]), tmp_path / "b.parquet")

    def make(**changed: Any) -> ChatManifest:
        sources = (
            {"name": "talk/a", "files": ("a*.jsonl",), "epochs": 1.0},
            {"name": "b", "files": ("b.parquet",), "epochs": 1.0},
        )
        settings = {"sources": sources, **changed}
        context = settings.pop("context", CONTEXT)
        return chat.build(
            StudyLayout(tmp_path / "study"), ChatData(**settings), folder=tmp_path,
            tokenizer=tokenizer, context=context, workers=1,
        )  # fmt: skip

    return make


def folder(tmp_path: Path, manifest: ChatManifest) -> Path:
    return StudyLayout(tmp_path / "study").chat_data(manifest.fingerprint)


def decoded(tokens: ChatTokens, tokenizer: Path, trained: bool = False) -> list[str]:
    loaded = tokenizers.load(tokenizer)
    found = []
    for index in range(tokens.conversations):
        ids, mask = tokens.conversation(index)
        found.append(loaded.decode(ids[mask | (not trained)].tolist(), skip_special_tokens=False))
    return found


def state(root: Path) -> dict[Path, tuple[int, int]]:
    """Inode and modification time of everything that was tokenised."""
    stats = {p: p.stat() for p in root.rglob("*/*") if p.is_file()}
    return {p: (s.st_ino, s.st_mtime_ns) for p, s in stats.items()}


def test_shards_hold_every_conversation_in_order(
    build: Build, tmp_path: Path, tokenizer: Path
) -> None:
    manifest = build()
    assert ChatManifest.load(folder(tmp_path, manifest)) == manifest
    sources = open_sources(folder(tmp_path, manifest), manifest)
    assert list(sources) == ["talk/a", "b"]
    for name, numbers in (("talk/a", range(50)), ("b", range(50, 60))):
        tokens, found = sources[name], manifest.source(name)
        answers = [f"word{i} word{i} word{i}<|endoftext|>" for i in numbers]
        assert decoded(tokens, tokenizer, trained=True) == answers
        prompts = [f"<|user|>\nsay {i}\n<|assistant|>\n" for i in numbers]
        assert decoded(tokens, tokenizer) == [p + a for p, a in zip(prompts, answers, strict=True)]
        masks = [tokens.conversation(i)[1] for i in range(tokens.conversations)]
        assert tokens.lengths.tolist() == [len(m) for m in masks]
        assert tokens.trained.tolist() == [m.sum() for m in masks]
        assert (found.conversations, found.turns) == (len(numbers), len(numbers))
        assert (found.tokens, found.trained_tokens) == (tokens.tokens, tokens.trained.sum())
        assert (found.dropped, found.truncated, found.cut_tokens, found.shared_tokens) == (0,) * 4
    assert len(manifest.source("talk/a").shards) == 2
    assert manifest.tokens == sum(s.tokens for s in manifest.sources)
    assert (manifest.dtype, manifest.vocab_size, manifest.eod_id) == ("uint16", 270, 0)


def test_built_again_nothing_is_done_and_a_damaged_shard_is_made_again(
    build: Build, tmp_path: Path
) -> None:
    manifest = build()
    root = folder(tmp_path, manifest)
    before = state(root)
    assert build() == manifest
    again = {p: s for p, s in state(root).items() if p.parent not in (root, root / "claims")}
    assert again == {p: s for p, s in before.items() if p.parent != root / "claims"}
    damaged = root / manifest.source("b").shards[0].file
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"\.bin: has [\d,]+ bytes, the manifest says [\d,]+; del"):
        open_sources(root, manifest)
    assert build() == manifest
    assert damaged.read_bytes() == content
    Path(f"{damaged}.trained").unlink()
    with pytest.raises(UserError, match=r"\.bin\.trained: is missing"):
        open_sources(root, manifest)


def test_whatever_changes_the_tokens_has_a_folder_of_its_own(build: Build, tmp_path: Path) -> None:
    first = build()
    found = [first.fingerprint, build(context=99).fingerprint]
    found.append(build(max_length="truncate").fingerprint)
    template = (folder(tmp_path, first) / "chat_template.jinja").read_text()
    (tmp_path / "own.jinja").write_text(template.replace("<|", "<"))
    found.append(build(template="own.jinja").fingerprint)
    assert len(set(found)) == 4
    (tmp_path / "own.jinja").write_text(template)
    assert build(template="own.jinja").fingerprint == first.fingerprint
    (tmp_path / "a1.jsonl").rename(tmp_path / "a0.jsonl")  # names and times are not content
    assert build().fingerprint == first.fingerprint
    write(tmp_path / "a0.jsonl", [talk(i) for i in range(21)])
    again = build()
    assert again.fingerprint not in found
    assert again.content != first.content


def test_weights_and_epochs_are_no_part_of_what_is_tokenised(build: Build, tmp_path: Path) -> None:
    first = build()
    weighted = ({"name": "talk/a", "files": ("a*.jsonl",), "weight": 0.3},
                {"name": "b", "files": ("b.parquet",), "weight": 0.7})  # fmt: skip
    assert build(sources=weighted) == first


def test_too_long_conversations_are_dropped_or_cut_and_counted(
    build: Build, tmp_path: Path, tokenizer: Path
) -> None:
    long = [talk(1, 100), talk(2), talk(3, 60)]
    prompt = {"messages": [{"role": "user", "content": "why " * 200}, talk(0)["messages"][1]]}
    write(tmp_path / "c.jsonl", [*long, prompt])
    source = ({"name": "c", "files": ("c.jsonl",), "epochs": 1.0},)
    whole = build(sources=source, context=10_000).source("c")
    lengths = open_sources(folder(tmp_path, m := build(sources=source, context=10_000)), m)["c"]
    dropped = build(sources=source).source("c")
    assert (dropped.conversations, dropped.dropped, dropped.truncated) == (1, 3, 0)
    assert dropped.tokens + dropped.cut_tokens == whole.tokens
    manifest = build(sources=source, max_length="truncate")
    cut = manifest.source("c")
    assert (cut.conversations, cut.dropped, cut.truncated) == (3, 1, 2)
    assert cut.tokens + cut.cut_tokens == whole.tokens
    assert cut.turns == whole.turns == 4
    tokens = open_sources(folder(tmp_path, manifest), manifest)["c"]
    assert tokens.lengths.tolist() == np.minimum(lengths.lengths[:3], CONTEXT).tolist()
    for index in range(3):
        for ours, theirs in zip(
            tokens.conversation(index), lengths.conversation(index), strict=True
        ):
            assert (ours == theirs[:CONTEXT]).all()


def test_a_source_of_which_nothing_fits(build: Build) -> None:
    with pytest.raises(UserError, match=r"source 'talk/a': none of its 50 conversations fits into"):
        build(context=5)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("none.jsonl",), r"sources\.s\.files: no file at '.*none\.jsonl'"),
        (("notes.txt",), r"sources\.s\.files: '.*notes\.txt' has none of the suffixes \.jsonl, "),
        (("a1.jsonl", "a*.jsonl"), r"a1\.jsonl' is meant by 'a1\.jsonl' and by 'a\*\.jsonl'"),
    ],
)
def test_files_that_cannot_be_meant(
    build: Build, tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=message):
        build(sources=({"name": "s", "files": files, "epochs": 1.0},))


def test_a_bad_line_stops_the_build_and_leaves_no_manifest(build: Build, tmp_path: Path) -> None:
    write(tmp_path / "a2.jsonl", [talk(1), {"messages": [talk(1)["messages"][0]]}])
    with pytest.raises(UserError, match=r"a2\.jsonl:2: no turn of the assistant"):
        build()
    assert not list((tmp_path / "study").rglob("manifest.json"))
    write(tmp_path / "a2.jsonl", [talk(1)])
    assert build().source("talk/a").conversations == 21


def test_two_builds_of_the_same_do_not_meet(build: Build, tmp_path: Path) -> None:
    root = folder(tmp_path, build())
    other = sole_builder(root, root / "claims", 60.0, "command")
    with other, pytest.raises(UserError, match="another command is at work there"):
        build()
    assert build().source("talk/a").conversations


def edited(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=1), "version 1, expected 2"),
        (lambda m: m.update(fingerprint="0" * 16), "changed since it was built"),
        (lambda m: m["sources"][0]["shards"].pop(), "changed since it was built"),
        (lambda m: m["sources"].reverse(), "changed since it was built"),
        (lambda m: m.pop("sources"), r"not a manifest of conversations \(KeyError\('sources'\)\)"),
        (lambda m: m.update(more=1), "not a manifest of conversations"),
    ],
)
def test_an_edited_manifest_is_refused(
    build: Build, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    root = folder(tmp_path, build())
    edited(root, change)
    with pytest.raises(UserError, match=rf"{re.escape(str(root))}/manifest\.json: {message}"):
        ChatManifest.load(root)


def test_a_shard_outside_the_folder_is_refused(build: Build, tmp_path: Path) -> None:
    root = folder(tmp_path, build())
    edited(root, lambda m: m["sources"][1]["shards"][0].update(file="../../b.bin"))
    with pytest.raises(UserError, match=r"shard '\.\./\.\./b\.bin' lies outside its folder"):
        open_sources(root, ChatManifest.load(root))
    with pytest.raises(UserError, match="no conversations were built there"):
        ChatManifest.load(tmp_path)


def test_the_template_is_kept_beside_the_shards(build: Build, tmp_path: Path) -> None:
    manifest = build()
    root = folder(tmp_path, manifest)
    assert manifest.template == "plain.jinja"
    assert "{%- generation -%}" in (root / "chat_template.jinja").read_text()
    assert json.loads((root / "tokenizer_config.json").read_text()) == manifest.special_tokens


@pytest.mark.slow
def test_gsm8k_is_whole(build: Build) -> None:
    if not GSM8K.exists():
        pytest.skip(f"{GSM8K} is not here")
    source = ({"name": "gsm8k", "files": (str(GSM8K),), "epochs": 1.0},)
    found = build(sources=source, context=4096).source("gsm8k")
    assert (found.conversations, found.turns, found.dropped) == (7473, 7473, 0)


def test_a_model_generates_until_its_turn_ends(tmp_path: Path, tokenizer: Path) -> None:
    """Whatever ends a turn in its template, and never without the end of a document."""
    changed = Tokenizer.from_file(str(tokenizer))
    changed.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    changed.save(str(tokenizer))
    write(tmp_path / "a.jsonl", [talk(i) for i in range(9)])
    model = tmp_path / "model"
    shape = sizes.shape(ModelConfig(size="50k", d_model=8, layers=1, heads=1, context=32))
    decoder = GPT(shape, changed.get_vocab_size())
    decoder.initialise(0)
    state = decoder.state_dict()
    eod = changed.token_to_id("<|endoftext|>")
    for template, expected in ((CHATML, [eod, changed.token_to_id("<|im_end|>")]), (None, eod)):
        hf.save(state, shape, model, tokenizer, eod)
        if template:
            (tmp_path / "own.jinja").write_text(template)
        manifest = chat.build(
            StudyLayout(tmp_path / "study"),
            ChatData(
                sources=({"name": "a", "files": ("a.jsonl",), "epochs": 1.0},),
                template="own.jinja" if template else None,
            ),
            folder=tmp_path, tokenizer=tokenizer, context=CONTEXT,
        )  # fmt: skip
        hand_on(folder(tmp_path, manifest), model)
        assert GenerationConfig.from_pretrained(model).eos_token_id == expected
        asked = [{"role": "user", "content": "say 1"}]
        rendered = AutoTokenizer.from_pretrained(model).apply_chat_template(asked, tokenize=False)
        assert ("<|im_start|>" in rendered) == bool(template)
