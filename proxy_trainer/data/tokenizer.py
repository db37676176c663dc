"""The tokenizer of a study: trained on its own text, or a `tokenizer.json` handed in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from regmix.errors import UserError
from regmix.files import write_whole

END_OF_DOCUMENT = "<|endoftext|>"
_KNOWN_END_TOKENS = (END_OF_DOCUMENT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")


def train_bpe(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with ``vocab_size`` entries, the end-of-document token first.

    Every byte is in the alphabet, so that any text can be written and nothing is unknown.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise UserError(
            f"tokenizer.vocab_size: the text supports only {tokenizer.get_vocab_size()} entries, "
            f"{vocab_size} were asked; lower it or add text"
        )
    return tokenizer


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write ``tokenizer.json`` whole."""
    write_whole(path, lambda tmp: tokenizer.save(str(tmp)))


def load(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json`` for whole texts that are nothing but text.

    Truncation and padding that the file may ask for are off, and a text that spells a special
    token (``<|endoftext|>`` in a web page) does not get that token.

    Raises:
        UserError: missing, or not a tokenizer.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such tokenizer file")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # the Rust library raises plain Exception
        raise UserError(f"{path}: not a tokenizer.json ({exc})") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def with_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """One like it that gives a text the special tokens that it spells, as transformers does."""
    return Tokenizer.from_str(tokenizer.to_str())


def vocab_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id: some tokenizers leave ids out."""
    return 1 + max(tokenizer.get_vocab().values())


def check_same(theirs: Path, ours: Path) -> None:
    """Refuse a tokenizer that writes texts in other tokens than the study's.

    Files are compared as the library understands them, so that the order of keys, older ways to
    write merges, and what only concerns decoding, padding or templates do not count.

    Args:
        theirs: of a model to start from.
        ours: of the study.

    Raises:
        UserError: the first difference, or a file that is no tokenizer.
    """
    found, wanted = load(theirs), load(ours)
    told = _differing_token(found.get_vocab(), wanted.get_vocab()) or _differing_part(
        json.loads(found.to_str()), json.loads(wanted.to_str())
    )
    if told:
        raise UserError(f"{theirs}: not the tokenizer of {ours}: {told}")


def _differing_token(found: dict[str, int], wanted: dict[str, int]) -> str:
    """The token of the smallest id that is not the same in both."""
    differing = set(found.items()) ^ set(wanted.items())
    if not differing:
        return ""
    number = min(token_id for _, token_id in differing)
    first, second = (
        sorted(token for token, token_id in vocab.items() if token_id == number)
        for vocab in (found, wanted)
    )
    return f"token {number} is {_quoted(first)}, the study's is {_quoted(second)}"


def _quoted(tokens: list[str]) -> str:
    return " and ".join(map(repr, tokens)) or "not there"


def _differing_part(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first setting that is not the same in both, beside the vocabulary."""
    merges = found["model"].pop("merges", []), wanted["model"].pop("merges", [])
    for rank, (first, second) in enumerate(zip_longest(*merges)):
        if first != second:
            return f"merge {rank} is {first}, the study's is {second}"
    for key, second in wanted["model"].items():
        if key != "vocab" and found["model"].get(key) != second:
            return f"model.{key} is {found['model'].get(key)!r}, the study's is {second!r}"
    if found["model"] != wanted["model"]:  # of other kinds, or scores of tokens
        return "models or scores of tokens differ"
    for key in ("added_tokens", "normalizer", "pre_tokenizer"):
        if found[key] != wanted[key]:
            return f"{key} is {found[key]!r}, the study's is {wanted[key]!r}"
    return ""


def fingerprint(path: Path) -> str:
    """Identity of a tokenizer file: SHA-256 of its bytes, 16 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def identity(path: Path) -> str:
    """The fingerprint of a tokenizer that a person names.

    Raises:
        UserError: missing, or not a tokenizer.
    """
    load(path)
    return fingerprint(path)


def end_of_document(tokenizer: Tokenizer, path: Path) -> int:
    """Id of the token that ends a document.

    Raises:
        UserError: the tokenizer has none of the known ones.
    """
    for token in _KNOWN_END_TOKENS:
        token_id = tokenizer.token_to_id(token)
        if token_id is not None:
            return int(token_id)
    raise UserError(f"{path}: has no end-of-document token ({', '.join(_KNOWN_END_TOKENS)})")
