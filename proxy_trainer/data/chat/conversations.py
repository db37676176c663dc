"""Conversations out of files, checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy_trainer.data.chat.template import ChatTemplate
from proxy_trainer.data.sources import json_lines, parquet_rows, utf8
from regmix.chat import ChatFormat
from regmix.errors import UserError, unknown_name
from regmix.files import JSON_LINES, PARQUET

SUFFIXES = JSON_LINES + PARQUET
"""Files that conversations can be read from."""
_PAIR = ("prompt", "completion")
_TOOLS = ("tools", "functions", "documents")
"""What a template could be given beside messages, and is not given here."""


@dataclass(frozen=True)
class Conversation:
    """Messages that can be rendered, and where they were found."""

    where: str
    """File and line, or row, for messages."""
    messages: tuple[Mapping[str, Any], ...]

    @property
    def turns(self) -> int:
        """Turns of the assistant."""
        return sum(m["role"] == "assistant" for m in self.messages)


def conversations(
    path: Path, form: ChatFormat, template: ChatTemplate, pair: tuple[str, str] = _PAIR
) -> Iterator[Conversation]:
    """Every conversation of a file, in order.

    Args:
        form: what a row holds.
        pair: keys of a prompt and of its completion.
        template: says which roles and which keys of a message there are.

    Raises:
        UserError: file, line and what is wrong there: the first row that is not a conversation,
            has no turn of the assistant, or holds something that the template would leave out.
    """
    found = False
    for where, row in _rows(path, pair):
        found = True
        yield Conversation(where, _messages(where, row, form, template, pair))
    if not found:
        raise UserError(f"{path}: holds no conversation")


def texts(path: Path, form: ChatFormat, pair: tuple[str, str] = _PAIR) -> Iterator[str]:
    """What every conversation of a file says, all turns one after the other; no template is needed.

    Raises:
        UserError: file, line and what is wrong there.
    """
    for where, row in _rows(path, pair):
        if _form(where, row, form, pair) == "prompt_completion":
            said = [row[key] for key in pair]
        else:
            said = [
                m.get("content") if isinstance(m, Mapping) else None for m in _listed(where, row)
            ]
        for content in said:
            if not isinstance(content, str):
                raise UserError(f"{where}: content: expected a text, found {_kind(content)}")
        yield "\n".join(map(str, said))


def _rows(path: Path, pair: tuple[str, str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    if path.name.endswith(PARQUET):
        for number, row in parquet_rows(path, ("messages", *pair, *_TOOLS)):
            yield f"{path}: row {number}", row
        return
    for number, record in json_lines(path):
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: expected an object, found {_kind(record)}")
        yield f"{path}:{number}", record


def _messages(
    where: str,
    row: Mapping[str, object],
    form: ChatFormat,
    template: ChatTemplate,
    pair: tuple[str, str],
) -> tuple[Mapping[str, Any], ...]:
    for key in _TOOLS:
        if row.get(key):
            raise UserError(
                f"{where}: '{key}' would not be seen by the template; render them into a system "
                "message, or remove the key"
            )
    if _form(where, row, form, pair) == "prompt_completion":
        return tuple(
            _message(f"{where}: {key}", {"role": role, "content": row.get(key)}, template)
            for role, key in zip(("user", "assistant"), pair, strict=True)
        )
    messages = tuple(
        _message(f"{where}: messages[{n}]", message, template)
        for n, message in enumerate(_listed(where, row))
    )
    if not any(m["role"] == "assistant" for m in messages):
        roles = ", ".join(dict.fromkeys(m["role"] for m in messages))
        raise UserError(
            f"{where}: no turn of the assistant, so there is nothing to train on (roles: {roles})"
        )
    return messages


def _listed(where: str, row: Mapping[str, object]) -> list[object]:
    given = row.get("messages")
    if not isinstance(given, list) or not given:
        raise UserError(
            f"{where}: messages: expected a list of messages, found "
            + ("an empty list" if given == [] else _kind(given))
        )
    return given


def _form(
    where: str, row: Mapping[str, object], form: ChatFormat, pair: tuple[str, str]
) -> ChatFormat:
    """What a row holds, made sure of."""
    forms: dict[ChatFormat, tuple[str, ...]] = {
        "messages": ("messages",),
        "prompt_completion": pair,
    }
    there = [name for name, keys in forms.items() if all(row.get(k) is not None for k in keys)]
    if form == "auto" and len(there) == 2:
        raise UserError(
            f"{where}: has 'messages' as well as '{pair[0]}' and '{pair[1]}'; set the source's "
            "format to messages or to prompt_completion"
        )
    if form == "auto" and there:
        return there[0]
    if form in there:
        return form
    keys = " and ".join(f"'{k}'" for k in forms.get(form, ("messages",)))
    other = f", nor '{pair[0]}' and '{pair[1]}'" if form == "auto" else ""
    has = ", ".join(map(str, row)) or "(none)"
    raise UserError(f"{where}: no {keys}{other}; its keys: {has}")


def _message(where: str, value: object, template: ChatTemplate) -> Mapping[str, Any]:
    """One message without the keys that hold nothing."""
    if not isinstance(value, Mapping):
        raise UserError(
            f"{where}: expected a message with 'role' and 'content', found {_kind(value)}"
        )
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str):
        raise UserError(f"{where}: role: expected a text, found {_kind(role)}")
    if role not in template.roles:
        raise unknown_name("role", role, template.roles, where)
    where = f"{where} ({role})"
    if not isinstance(content, str):
        raise UserError(f"{where}: content: expected a text, found {_kind(content)}")
    utf8(content, where)
    if role == "assistant" and not content.strip():
        raise UserError(f"{where}: content is empty: the assistant would learn to say nothing")
    kept = {key: item for key, item in value.items() if item is not None}
    for key in kept:
        if key not in template.fields:
            raise UserError(
                f"{where}: the template {template.origin} does not read '{key}', so it would be "
                "left out; remove it, or give a template that reads it"
            )
    return kept


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
