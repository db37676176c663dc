"""A tokenizer is trained or taken; either way a text is tokenised whole, and as text."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from proxy_trainer.data import tokenizer as tokenizers
from regmix.errors import UserError


def texts() -> list[str]:
    rng = random.Random(0)
    return [" ".join(f"word{rng.randint(0, 400)}" for _ in range(50)) for _ in range(60)]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return tokenizers.train_bpe(iter(texts()), 400)


def test_trained_vocabulary_is_as_large_as_asked_and_starts_with_the_end_token(
    trained: Tokenizer,
) -> None:
    assert tokenizers.vocab_size(trained) == 400
    assert trained.token_to_id(tokenizers.END_OF_DOCUMENT) == 0
    assert tokenizers.end_of_document(trained, Path("t.json")) == 0


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_from_its_tokens(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text, add_special_tokens=False).ids
    assert trained.decode(ids, skip_special_tokens=False) == text


def test_training_is_the_same_every_time(trained: Tokenizer, tmp_path: Path) -> None:
    again = tokenizers.train_bpe(iter(texts()), 400)
    assert again.to_str() == trained.to_str()


def test_too_little_text_says_how_many_entries_it_supports() -> None:
    with pytest.raises(UserError, match=r"vocab_size: the text supports only \d+ entries, 5000"):
        tokenizers.train_bpe(iter(["a few words"]), 5000)


def test_saved_file_is_loaded_and_its_fingerprint_follows_its_content(
    trained: Tokenizer, tmp_path: Path
) -> None:
    path, other = tmp_path / "deep" / "tokenizer.json", tmp_path / "other.json"
    tokenizers.save(trained, path)
    assert tokenizers.load(path).get_vocab() == trained.get_vocab()
    other.write_bytes(path.read_bytes() + b"\n")
    assert tokenizers.fingerprint(path) != tokenizers.fingerprint(other)
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("content", [None, "", "{}", "not json", '{"model": 1}'])
def test_what_is_not_a_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=re.escape(str(path)) + ": (no such tokenizer|not a tok)"):
        tokenizers.load(path)


@pytest.mark.parametrize("token", ["</s>", "<eos>", "<|end_of_text|>", "<|im_end|>"])
def test_known_end_tokens_are_found(token: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, token: 1}, unk_token="a"))
    assert tokenizers.end_of_document(tokenizer, Path("t.json")) == 1


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(UserError, match=r"t\.json: has no end-of-document token \(<\|endoftext"):
        tokenizers.end_of_document(tokenizer, Path("t.json"))


def test_truncation_and_padding_kept_in_a_file_do_not_touch_the_text(
    trained: Tokenizer, tmp_path: Path
) -> None:
    text = texts()[0]
    whole = trained.encode(text, add_special_tokens=False).ids
    changed = Tokenizer.from_str(trained.to_str())
    changed.enable_truncation(8)
    changed.enable_padding(length=4096)
    tokenizers.save(changed, tmp_path / "t.json")
    loaded = tokenizers.load(tmp_path / "t.json")
    assert loaded.encode(text, add_special_tokens=False).ids == whole


def test_a_text_that_spells_a_special_token_is_text(trained: Tokenizer, tmp_path: Path) -> None:
    tokenizers.save(trained, tmp_path / "t.json")
    loaded = tokenizers.load(tmp_path / "t.json")
    text = f"before {tokenizers.END_OF_DOCUMENT} after"
    ids = loaded.encode(text, add_special_tokens=False).ids
    assert 0 not in ids
    assert loaded.decode(ids, skip_special_tokens=False) == text


def test_vocabulary_reaches_the_largest_id_even_where_ids_have_gaps() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 7, "</s>": 70_000}, unk_token="a"))
    assert tokenizers.vocab_size(tokenizer) == 70_001


def changed(trained: Tokenizer, change: str) -> str:
    """The tokenizer's file with one thing changed."""
    raw = json.loads(trained.to_str())
    vocab = raw["model"]["vocab"]
    if change == "token":
        vocab["zz"] = vocab.pop(next(t for t, i in vocab.items() if i == 399))
        raw["model"]["merges"].pop()
    elif change == "order":
        raw["model"]["merges"][1:3] = reversed(raw["model"]["merges"][1:3])
    elif change == "fewer":
        raw["model"]["merges"].pop()
    elif change == "setting":
        raw["model"]["byte_fallback"] = True
    elif change == "normalizer":
        raw["normalizer"] = {"type": "NFC"}
    elif change == "added":
        raw["added_tokens"][0]["lstrip"] = True
    elif change == "outward":
        raw["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0,
                             "direction": "Right"}  # fmt: skip
        raw["model"]["merges"] = [" ".join(pair) for pair in raw["model"]["merges"]]
        raw["decoder"] = None
        raw = dict(reversed(raw.items()))
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("token", r"theirs\.json: not the tokenizer of .*ours\.json: token 399 is 'zz', the study"),
        ("order", r"merge 1 is \[.*\], the study's is \["),
        ("fewer", r"merge \d+ is None, the study's is \["),
        ("setting", r"model\.byte_fallback is True, the study's is False"),
        ("normalizer", r"normalizer is \{'type': 'NFC'\}, the study's is None"),
        ("added", r"added_tokens is .*'lstrip': True.*, the study's is"),
    ],
)
def test_another_tokenizer_is_told_by_its_first_difference(
    trained: Tokenizer, tmp_path: Path, change: str, message: str
) -> None:
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    tokenizers.save(trained, ours)
    theirs.write_text(changed(trained, change))
    with pytest.raises(UserError, match=message):
        tokenizers.check_same(theirs, ours)


def test_a_token_more_is_a_difference(trained: Tokenizer, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    tokenizers.save(trained, ours)
    more = Tokenizer.from_str(trained.to_str())
    more.add_special_tokens(["<|im_start|>"])
    tokenizers.save(more, theirs)
    with pytest.raises(UserError, match=r"token 400 is '<\|im_start\|>', the study's is not there"):
        tokenizers.check_same(theirs, ours)
    with pytest.raises(UserError, match=r"token 400 is not there, the study's is '<\|im_start\|>'"):
        tokenizers.check_same(ours, theirs)


def test_what_does_not_change_the_tokens_is_no_difference(
    trained: Tokenizer, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    tokenizers.save(trained, ours)
    theirs.write_text(changed(trained, "outward"))
    tokenizers.check_same(theirs, ours)
