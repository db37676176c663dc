"""What a stage may say of conversations, and what it is told where it cannot mean that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regmix import strict
from regmix.chat import ChatData
from regmix.errors import UserError


def load(tmp_path: Path, text: str) -> ChatData:
    path = tmp_path / "data.yaml"
    path.write_text(text)
    return strict.load(path, ChatData)


def test_epochs_or_weights_are_read_by_name(tmp_path: Path) -> None:
    data = load(
        tmp_path,
        """\
sources:
  - {name: sums, files: [a.jsonl, b/*.parquet], epochs: 1.5}
  - {name: talk, files: [c.jsonl.zst], epochs: 2.0, format: messages}
template: own.jinja
max_length: truncate
""",
    )
    assert data.names == ("sums", "talk")
    assert data.mixture() is None
    assert [s.epochs for s in data.sources] == [1.5, 2.0]
    assert [s.format for s in data.sources] == ["auto", "messages"]
    weighted = load(
        tmp_path,
        "sources: [{name: b, files: [b], weight: 0.7}, {name: a, files: [a], weight: 0.3}]",
    )
    mixture = weighted.mixture()
    assert mixture is not None
    assert mixture.as_dict() == {"b": 0.7, "a": 0.3}
    assert (weighted.template, weighted.max_length) == (None, "drop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []", r"data\.yaml:1: sources: .* at least 1 item"),
        ("sources: [{name: a, files: [], epochs: 1}]", r"sources\.0\.files: .* at least 1 item"),
        (
            "sources:\n- {name: a, files: [x], epochs: 1}\n- {name: b, files: [y], weight: 0.5}",
            r"every source a 'weight', or every source 'epochs' \(b: weight; a: epochs\)",
        ),
        (
            "sources:\n- {name: a, files: [x]}\n- {name: b, files: [y], epochs: 1}",
            r"every source 'epochs' \(a: neither; b: epochs\)",
        ),
        (
            "sources: [{name: a, files: [x], epochs: 1, weight: 1}]",
            r"a 'weight', or every source 'epochs' \(a: both\)",
        ),
        (
            "sources: [{name: a, files: [x], epochs: 1}, {name: a, files: [y], epochs: 1}]",
            "source 'a' is named twice",
        ),
        (
            "sources: [{name: a, files: [x], weight: 0.5}, {name: b, files: [y], weight: 0.6}]",
            r"sources: weights sum to 1\.1, not 1",
        ),
        ("sources: [{name: a, files: [x], weight: 0}]", "greater than 0"),
        ("sources: [{name: a, files: [x], epochs: 0}]", "greater than 0"),
        ("sources: [{name: a, files: [x], epochs: .inf}]", "finite number"),
        (
            "sources:\n  - name: a\n    files: [x]\n    epoch: 1",
            r":4: sources\.0\.epoch: unknown key 'epoch'; did you mean 'epochs'\?",
        ),
        (
            "sources: [{name: a, files: [x], epochs: 1, format: message}]",
            "unknown value 'message'; did you mean 'messages'.* Valid: auto, messages, prompt_comp",
        ),
        (
            "sources: [{name: a, files: [x], epochs: 1}]\nmax_length: cut",
            r":2: max_length: unknown value 'cut'.* Valid: drop, truncate",
        ),
        ("sources: [{name: a, files: x, epochs: 1}]", r"sources\.0\.files: .*list"),
        ("sources: [{name: ../a, files: [x], epochs: 1}]", "starts with neither"),
    ],
)
def test_what_does_not_go_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert re.search(message, str(caught.value)), caught.value
    assert str(caught.value).startswith(str(tmp_path / "data.yaml"))
