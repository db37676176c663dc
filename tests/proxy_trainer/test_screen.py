"""Evaluation items are found in documents exactly where the rule says, and left out of training."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_trainer import steps
from proxy_trainer.data import build, contamination
from proxy_trainer.data.screen import LEAST_WORDS, Screen, ShortItems, words
from proxy_trainer.data.tokenise import is_valid_document
from regmix.errors import UserError
from regmix.study import Study

TEXT = st.lists(st.sampled_from("a b c d".split()), max_size=30).map(" ".join)


def by_hand(items: list[str], text: str, length: int) -> list[int]:
    """The rule, written as it is said."""
    held = []
    document = words(text)
    for index, item in enumerate(items):
        own = words(item)
        size = min(length, len(own))
        if size < min(LEAST_WORDS, length):
            continue
        grams = {tuple(own[i : i + size]) for i in range(len(own) - size + 1)}
        if any(tuple(document[i : i + size]) in grams for i in range(len(document) - size + 1)):
            held.append(index)
    return held


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=5), TEXT, st.integers(5, 13))
def test_it_finds_what_the_rule_says(items: list[str], text: str, length: int) -> None:
    screen = Screen.of(items, length)
    assert screen.found(text) == by_hand(items, text, length)
    assert screen.items == len(items)
    least = min(LEAST_WORDS, length)
    assert screen.judged() == sum(len(words(i)) >= least for i in items)


def test_case_and_punctuation_do_not_hide_an_item() -> None:
    item = "What is the degree of the field extension Q(sqrt(2), sqrt(3)) over the rationals, Q?"
    screen = Screen.of([item], 13)
    spread = item.upper().replace(" ", " \n- ").replace(",", ";")
    assert screen.found(f"Exam. {spread} Answer: 4") == [0]
    assert screen.found(item.replace("extension", "extensions")) == []


SPELLED = st.lists(st.sampled_from("a B c ? + .".split()), max_size=9).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(SPELLED, max_size=6), SPELLED)
def test_short_items_are_found_whole_and_as_they_are(items: list[str], text: str) -> None:
    def spelled(t: str) -> str:
        return " ".join(t.casefold().split())

    expected = [
        i for i, item in enumerate(items)
        if 0 < len(words(item)) < LEAST_WORDS and spelled(item) in spelled(text)
    ]  # fmt: skip
    assert ShortItems(items, 13).found(text) == expected


def test_a_short_item_is_no_part_of_a_word() -> None:
    short = ShortItems(["Which is true?", "x + 1"], 13)
    assert short.found("So:  which\nis TRUE? That.") == [0]
    assert short.found("Which is true.") == []
    assert short.found("Sandwhich is true?") == []
    assert short.found("max + 12") == []


def test_it_is_the_same_once_it_was_written(tmp_path: Path) -> None:
    items = [" ".join(f"w{i + j}" for j in range(20)) for i in range(3)] + ["one two three"]
    path = tmp_path / "screen.npz"
    Screen.of(items, 13).save(path)
    found = Screen.load(path)
    assert found.found(" ".join(f"w{j}" for j in range(1, 14))) == [0, 1]
    assert (found.items, found.judged()) == (4, 3)
    Screen.of([], 13).save(path)
    assert Screen.load(path).found("one two") == []
    np.savez(path, vocabulary=np.array([b"x"], dtype=object))
    with pytest.raises(UserError, match="not a screen of evaluation items"):
        Screen.load(path)


def planted(study: Study, held: int, whole: int) -> list[str]:
    """Items that stand in the first training documents of prose: some in part, some whole."""
    path = study.layout.root / "text" / "prose.jsonl"
    lines = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    share = study.config.domains[0].valid_share
    texts = [t for t in lines if not is_valid_document(t, share)]
    items = [" ".join(["unheard", "of", *words(t)[:13]]) for t in texts[:held]]
    items += [" ".join(words(t)[:14]) for t in texts[held : held + whole]]
    return items


def write_items(folder: Path, items: list[str]) -> Path:
    path = folder / "items.jsonl"
    rows = [{"question": item, "choices": ["yes", "no"]} for item in items]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_planted_items_are_reported_by_domain(new_study: Callable[..., Study]) -> None:
    study = new_study()
    first = study.layout.root / "text" / "sums.jsonl"
    share = study.config.domains[1].valid_share
    sums = [json.loads(line)["text"] for line in first.read_text().splitlines()]
    one = next(t for t in sums if not is_valid_document(t, share)).splitlines()[0]
    items = [*planted(study, held=3, whole=2), "much too short", "never " * 20, one]
    path = write_items(study.layout.root, items)
    found = steps.contamination(study, contamination.given([path], ["question"]))
    shown = found.set_index("domain")
    assert found["domain"].iloc[0] == "prose"
    prose = shown.loc["prose"]
    assert (prose["items"], prose["judged"], prose["items held"]) == (8, 6, 5)
    assert (prose["held whole"], prose["contaminated"], prose["short held"]) == (2, 5, 0)
    assert (shown.loc["sums", "short held"], shown.loc["sums", "contaminated"]) == (1, 0)
    assert (shown.loc[["sums", "code"], "items held"] == 0).all()


RECIPE = """\
kind: recipe
name: tiny
study: study
model: {size: 50k}
stages:
  - {name: pretrain, kind: pretrain, mixture: mix.yaml}
  - name: sft
    kind: sft
    data: {sources: [{name: talk, files: [talk.jsonl], epochs: 1},
                     {name: pairs, files: [pairs.jsonl], epochs: 1}]}
"""


def test_conversations_of_a_recipe_are_searched(new_study: Callable[..., Study]) -> None:
    study = new_study()
    folder = study.layout.root.parent
    item = " ".join(f"word{i}" for i in range(15))
    talk = [
        {"messages": [{"role": "user", "content": f"Say {item}!"},
                      {"role": "assistant", "content": "No."}]},
        {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Hm."}]},
    ]  # fmt: skip
    pairs = [{"prompt": "And?", "completion": item[: item.index("word13")]}]
    for name, rows in (("talk", talk), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    path = write_items(study.layout.root, [item])
    given = contamination.given([path], ["question"])
    shown = steps.contamination(study, given, recipe=recipe).set_index("domain")
    columns = ["documents", "contaminated", "held whole"]
    assert shown.loc["sft/talk", columns].tolist() == [2, 1, 1]
    assert shown.loc["sft/pairs", columns].tolist() == [1, 1, 0]
    assert (shown.loc[["prose", "sums", "code"], "items held"] == 0).all()
    (folder / "pairs.jsonl").write_text('{"prompt": "And?", "completion": 3}\n')
    with pytest.raises(UserError, match=r"pairs\.jsonl:1: content: expected a text"):
        steps.contamination(study, given, recipe=recipe)
    recipe.write_text(RECIPE[: RECIPE.index("  - name: sft")])
    with pytest.raises(UserError, match="no stage of it trains on conversations"):
        steps.contamination(study, given, recipe=recipe)


def test_contaminated_documents_are_left_out_and_counted(new_study: Callable[..., Study]) -> None:
    study = new_study()
    before = build.build(study.layout, study.config)
    write_items(study.layout.root, planted(study, held=3, whole=2))
    path = study.layout.config
    benchmark = "{name: planted, files: [items.jsonl], fields: [question]}"
    path.write_text(
        path.read_text().replace(
            "data: {", f"data: {{decontaminate: {{benchmarks: [{benchmark}]}}, ", 1
        )
    )
    study = Study.open(study.layout.root)
    with pytest.raises(UserError, match="decontaminate"):
        build.load_manifest(study.layout, study.config)
    after = build.build(study.layout, study.config)
    own, other = after.domain("prose"), before.domain("prose")
    assert own.train.contaminated == 5
    assert own.train.documents == other.train.documents - 5
    assert own.valid.shards == other.valid.shards
    assert after.domain("sums") == before.domain("sums")
    assert after.fingerprint != before.fingerprint
    assert build.load_manifest(study.layout, study.config) == after
    write_items(study.layout.root, planted(study, held=1, whole=0))
    assert build.build(study.layout, study.config).domain("prose").train.contaminated == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"choices": []}', r"items\.jsonl:1: no field 'question'; fields: choices"),
        ("[1]", r"items\.jsonl:1: expected an object, found list"),
        ("{", r"items\.jsonl:1: not JSON"),
        ("", "no items in"),
    ],
)
def test_items_that_cannot_be_read(new_study: Callable[..., Study], row: str, message: str) -> None:
    study = new_study()
    path = study.layout.root / "items.jsonl"
    path.write_text(row)
    with pytest.raises(UserError, match=message):
        steps.contamination(study, contamination.given([path], ["question"]))


@pytest.mark.slow
def test_the_command(
    new_study: Callable[..., Study], regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    study = new_study()
    path = write_items(study.layout.root, planted(study, held=0, whole=2))
    root = study.layout.root
    output, errors = regmix(
        "data", "contamination", root, "--file", path, "--field", "question", "--csv"
    ).communicate(timeout=120)
    assert "\nprose,items.jsonl,215,2,2,2,2,1.0,2,0\n" in output, errors
    assert output.startswith("domain,benchmark,")
    lacking = regmix("data", "contamination", root, "--file", path)
    _, errors = lacking.communicate(timeout=60)
    assert lacking.returncode == 2
    assert "--field: is needed too" in errors
    nothing = regmix("data", "contamination", root)
    _, errors = nothing.communicate(timeout=60)
    assert nothing.returncode == 2
    assert "names no benchmark, and none is given" in errors
