"""Rows are conversations that the template takes whole, or the file, the line and what is wrong."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat import template as templates
from proxy_trainer.data.chat.conversations import conversations
from proxy_trainer.data.chat.template import ChatTemplate
from regmix.chat import ChatFormat
from regmix.errors import UserError

TALK = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
OTHER = [
    {"role": "system", "content": ""},
    *TALK,
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizers.save(tokenizers.train_bpe(iter(["a few words"]), 257), path)
    return templates.find(None, path)


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory, template: ChatTemplate) -> ChatTemplate:
    """A template that reads more of a message than its role and content."""
    text = template.text.replace(
        "message.content + eos_token", "message.get('thought', '') + message.content + eos_token"
    ).replace("'assistant')", "'assistant', 'tool')")
    return ChatTemplate(text, "thinking.jinja", template.special_tokens)


def read(path: Path, template: ChatTemplate, form: ChatFormat = "auto") -> list[Any]:
    return [[dict(m) for m in c.messages] for c in conversations(path, form, template)]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_all_formats_of_files_hold_the_same(
    tmp_path: Path, template: ChatTemplate, name: str
) -> None:
    rows = [{"messages": TALK, "id": 1}, {"messages": OTHER, "id": 2}]
    raw = "\n\n".join(json.dumps(row) for row in rows).encode()
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2])
        path.write_bytes(pack(raw) if pack else raw)
    assert read(path, template) == [TALK, OTHER]
    found = list(conversations(path, "messages", template))
    assert [c.turns for c in found] == [1, 2]
    at = ": row 2" if name.endswith("parquet") else ":3"
    assert found[1].where == f"{path}{at}"


def test_prompt_and_completion_are_a_user_and_an_assistant(
    tmp_path: Path, template: ChatTemplate
) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "a?", "completion": "b"}, {"messages": OTHER})
    assert read(path, template) == [TALK, OTHER]
    pair = {"prompt": "a?", "completion": "b", "messages": OTHER}
    both = lines(tmp_path / "b.jsonl", pair)
    assert read(both, template, "prompt_completion") == [TALK]
    assert read(both, template, "messages") == [OTHER]
    # Data sets that keep the first message as a column of its own are messages all the same.
    assert read(lines(tmp_path / "c.jsonl", {"prompt": "a", "messages": OTHER}), template) == [
        OTHER
    ]


def test_keys_without_a_value_are_not_there(tmp_path: Path, template: ChatTemplate) -> None:
    """Parquet gives every message all keys that any message has."""
    talk = [{**m, "tool_calls": None} for m in TALK]
    assert read(lines(tmp_path / "a.jsonl", {"messages": talk, "tools": []}), template) == [TALK]


def test_what_the_template_reads_may_be_there(
    tmp_path: Path, template: ChatTemplate, thinking: ChatTemplate
) -> None:
    talk = [TALK[0], {**TALK[1], "thought": "hm"}, {"role": "tool", "content": "4"}, TALK[1]]
    path = lines(tmp_path / "a.jsonl", {"messages": talk})
    assert read(path, thinking) == [talk]
    assert thinking.roles == ("system", "user", "assistant", "tool")
    with pytest.raises(
        UserError, match=r"messages\[1\] \(assistant\): the template plain\.jinja do"
    ):
        read(path, template)


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "expected an object, found list"),
        ({"text": "x"}, "no 'messages', nor 'prompt' and 'completion'; its keys: text"),
        ({}, r"its keys: \(none\)"),
        ({"prompt": "x"}, "its keys: prompt"),
        ({"messages": TALK, "prompt": "a", "completion": "b"}, "set the source's format to mess"),
        ({"messages": "hello"}, "messages: expected a list of messages, found str"),
        ({"messages": []}, "messages: expected a list of messages, found an empty list"),
        ({"messages": ["hello"]}, r"messages\[0\]: expected a message .*, found str"),
        ({"messages": [USER]}, r"no turn of the assistant, .*\(roles: user\)"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\]: role: expected a text, found nothing"),
        ({"messages": [USER, {"role": "assistent", "content": "x"}]},
         r"messages\[1\]: unknown role 'assistent'; did you mean 'assistant'\? Valid: assis"),
        ({"messages": [{"from": "human", "value": "x"}]}, r"messages\[0\]: role: expected a text"),
        ({"messages": [{"role": "user", "content": ["a"]}]},
         r"messages\[0\] \(user\): content: expected a text, found list"),
        ({"messages": [USER, {"role": "assistant", "content": None}]},
         r"\(assistant\): content: expected a text, found nothing"),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]},
         "content is empty: the assistant would learn to say nothing"),
        ({"messages": [{**USER, "weight": 0}, TALK[1]]}, "does not read 'weight', so it would be"),
        ({"messages": TALK, "tools": [{"name": "f"}]}, "'tools' would not be seen by the template"),
        ({"prompt": "a", "completion": ["b"]}, "completion .*: expected a text, found list"),
        ({"prompt": "a", "completion": ""}, r"completion \(assistant\): content is empty"),
        ({"messages": [{"role": "user", "content": "\ud800"}, TALK[1]]}, "not valid Unicode"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_conversation_is_told_with_its_line(
    tmp_path: Path, template: ChatTemplate, row: object, message: str
) -> None:
    path = lines(tmp_path / "a.jsonl", {"messages": TALK}, row)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}:2: .*{message}"):
        read(path, template)


def test_a_format_that_a_row_does_not_have(tmp_path: Path, template: ChatTemplate) -> None:
    path = lines(tmp_path / "a.jsonl", {"messages": TALK})
    with pytest.raises(UserError, match=r":1: no 'prompt' and 'completion'; its keys: messages"):
        read(path, template, "prompt_completion")


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_conversations(
    tmp_path: Path, template: ChatTemplate, content: bytes
) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jsonl: holds no conversation"):
        read(tmp_path / "a.jsonl", template)


def test_damaged_files_are_told_as_those_of_documents_are(
    tmp_path: Path, template: ChatTemplate
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TALK}) + '\n{"mess')
    with pytest.raises(UserError, match=r"a\.jsonl:2: not JSON"):
        read(tmp_path / "a.jsonl", template)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"none of the columns messages, prompt, .* in text"):
        read(tmp_path / "a.parquet", template)
