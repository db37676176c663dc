"""Conversations to token ids, and which of these the assistant wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, processors

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat.conversations import Conversation
from proxy_trainer.data.chat.template import ChatTemplate, Span, exchange
from proxy_trainer.data.shards import IntArray
from regmix.errors import UserError

BoolArray = npt.NDArray[np.bool_]
_FIRST_PRIVATE = 0xF0000
"""Where Unicode's characters begin that nobody else gives a meaning to."""


@dataclass(frozen=True)
class Encoded:
    """One conversation."""

    ids: IntArray
    """Shape ``(tokens,)``."""
    trained: BoolArray
    """Which tokens carry loss: those that hold nothing but what the assistant wrote. The first
    never does, since nothing comes before it that it could be predicted from."""
    shared: BoolArray
    """Tokens that hold the assistant's text and the template's as well; they are not trained."""


@dataclass(frozen=True)
class _Rendered:
    text: str
    spans: list[Span]
    stands_for: Mapping[str, str]
    """Single characters of the text, and the spelled special tokens in whose place they stand."""


class ChatEncoder:
    """Renders and tokenises.

    The text of a conversation is tokenised whole, as ``apply_chat_template`` does, so that the
    special tokens of the template are these tokens. A message that *spells* one does not get it:
    it is text there, as in every document of the study.
    """

    def __init__(self, tokenizer: Path, template: ChatTemplate) -> None:
        """Load the tokenizer.

        Raises:
            UserError: it does not read one of the template's special tokens as one token, or joins
                the template's last character before a turn with the turn's first word.
        """
        self._path, self._template = tokenizer, template
        self._as_text, self._tokenizer = _load(tokenizer), _load(tokenizer)
        self._tokenizer.encode_special_tokens = False
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = sorted((t.content for t in added if t.special), key=len, reverse=True)
        self._check_special()
        self._check_seam()

    def encode(self, batch: Sequence[Conversation]) -> list[Encoded]:
        """Token ids and masks of conversations.

        Raises:
            UserError: the template refuses one of them, or marks nothing of it.
        """
        rendered = [self._render(conversation) for conversation in batch]
        encodings = self._tokenizer.encode_batch(
            [r.text for r in rendered], add_special_tokens=False
        )
        return [self._encoded(*found) for found in zip(batch, rendered, encodings, strict=True)]

    def turn_ends(self) -> tuple[int, ...]:
        """The token by which the assistant ends a turn, if it is one of its own, not of words."""
        encoding = self._tokenizer.encode(self._template.ending, add_special_tokens=False)
        added = self._tokenizer.get_added_tokens_decoder()
        return tuple(encoding.ids[:1]) if encoding.ids[:1] and encoding.ids[0] in added else ()

    def _render(self, conversation: Conversation) -> _Rendered:
        messages, stands_for = self._set_apart(conversation.messages)
        try:
            text, spans = self._template.render(messages)
        except UserError as exc:
            raise UserError(f"{conversation.where}: {exc}") from exc
        return _Rendered(text, spans, stands_for)

    def _set_apart(
        self, messages: Sequence[Mapping[str, Any]]
    ) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, str]]:
        """Messages with a single unused character for every special token that they spell."""
        spelled = [token for token in self._special if _holds(messages, token)]
        if not spelled:
            return messages, {}
        unused = (c for c in map(chr, range(_FIRST_PRIVATE, 0x10FFFF)) if not _holds(messages, c))
        characters = {token: next(unused) for token in spelled}
        changed = [_replaced(message, characters) for message in messages]
        return changed, {character: token for token, character in characters.items()}

    def _encoded(self, conversation: Conversation, rendered: _Rendered, encoding: Any) -> Encoded:
        ids = np.asarray(encoding.ids, dtype=np.int64)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        if rendered.stands_for:
            ids, offsets = self._put_back(conversation, rendered, ids, offsets)
        trained, shared = _masked(offsets, rendered.spans)
        if not trained.any():
            raise UserError(
                f"{conversation.where}: the template {self._template.origin} puts no token of the "
                "assistant inside a generation block"
            )
        return Encoded(ids, trained, shared)

    def _put_back(
        self, conversation: Conversation, rendered: _Rendered, ids: IntArray, offsets: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Tokens of the spelled text for those of the characters that stand for it."""
        all_ids: list[npt.NDArray[Any]] = []
        all_offsets: list[npt.NDArray[Any]] = []
        done = 0
        for place, character in enumerate(rendered.text):
            token = rendered.stands_for.get(character)
            if token is None:
                continue
            own = np.flatnonzero((offsets[:, 0] <= place) & (offsets[:, 1] > place))
            spelled = self._spelled(token, character)
            if not spelled or not len(own) or (offsets[own] != (place, place + 1)).any():
                raise UserError(
                    f"{conversation.where}: the tokenizer cannot keep the text '{token}' apart "
                    "from the token of that name; write it in another way"
                )
            all_ids += [ids[done : own[0]], np.asarray(spelled)]
            all_offsets += [offsets[done : own[0]], np.full((len(spelled), 2), (place, place + 1))]
            done = int(own[-1]) + 1
        return (
            np.concatenate([*all_ids, ids[done:]]).astype(np.int64),
            np.concatenate([*all_offsets, offsets[done:]]).astype(np.int64),
        )

    def _check_seam(self) -> None:
        where = str(self._path)
        words = [Conversation(where, exchange("Which?", f"{c} it is")) for c in ascii_letters]
        for sample in self.encode(words):
            if sample.shared.any():
                token = self._tokenizer.id_to_token(int(sample.ids[sample.shared][0]))
                raise UserError(
                    f"{self._template.origin}: begins or ends the assistant's words inside a token "
                    f"('{token}'), which could never be trained; move the space into the "
                    "generation block, or put a line feed in its place"
                )

    def _spelled(self, token: str, character: str) -> list[int]:
        """A special token's letters as tokens, after the character; none if one holds both.

        Some tokenizers put a space before a text, which is not before the letters then.
        """
        encoding = self._as_text.encode(character + token, add_special_tokens=False)
        if any(first < 1 < end for first, end in encoding.offsets):
            return []
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [number for number, (first, _) in pairs if first >= 1]

    def _check_special(self) -> None:
        for name, token in self._template.special_tokens.items():
            number = self._tokenizer.token_to_id(token)
            found = self._tokenizer.encode(f"a{token}", add_special_tokens=False).ids
            if number is None or number not in found:
                raise UserError(
                    f"{self._path}: does not read {name} '{token}' as one token; add it to "
                    "added_tokens there"
                )


def _load(path: Path) -> Tokenizer:
    """A tokenizer whose offsets are those of all characters.

    Some trim spaces off them: a token of a template's space and a turn's first word would look as
    if it were the turn's alone.
    """
    tokenizer = tokenizers.load(path)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _masked(offsets: IntArray, spans: Sequence[Span]) -> tuple[BoolArray, BoolArray]:
    """Which tokens lie inside the assistant's characters, and which only in part."""
    first, end = offsets.T
    trained = np.zeros(len(offsets), dtype=np.bool_)
    shared = np.zeros(len(offsets), dtype=np.bool_)
    for start, stop in spans:
        # A token without characters, where the span begins, comes before what is generated.
        inside = (first >= start) & (end <= stop) & ((end > first) | (first > start))
        trained |= inside
        shared |= (first < stop) & (end > start) & ~inside
    trained[:1] = False
    return trained, shared


def _holds(value: Any, text: str) -> bool:
    """Whether a text stands in any text of a nested value."""
    if isinstance(value, str):
        return text in value
    if isinstance(value, Mapping):
        return any(_holds(inner, text) for inner in value.values())
    return isinstance(value, (list, tuple)) and any(_holds(inner, text) for inner in value)


def _replaced(value: Any, by: Mapping[str, str]) -> Any:
    """A nested value with other texts in its texts."""
    if isinstance(value, str):
        for old, new in by.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, Mapping):
        return {key: _replaced(inner, by) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(inner, by) for inner in value]
    return value
