"""Questions out of files: what a row has to be, what a sample is, what a study keeps of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import kept_tasks, prompts, questions
from proxy_trainer.evals.questions import Question, Questions, Subject
from regmix import strict
from regmix.config import EvaluateConfig
from regmix.errors import UserError
from regmix.layout import StudyLayout
from regmix.tasks import ChoiceTask, TasksFile, taken_in

ROW = {"subject": "abstract_algebra", "question": "Which?", "choices": ["a", "b"], "answer": 1}


def described(**more: object) -> ChoiceTask:
    return ChoiceTask(
        **{"name": "t", "files": ("q.jsonl",), "fields": {"subject": "subject"}, **more}
    )


def write_rows(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Path:
    found = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not found.is_dir():
        pytest.skip(f"real data is not there: {found}")
    return found


def test_a_prompt_is_header_shots_and_question(tmp_path: Path) -> None:
    shot = {**ROW, "question": "First?", "choices": ["x", "y z"]}
    write_rows(tmp_path / "dev.jsonl", shot, {**shot, "question": "Second?", "answer": 0}, shot)
    write_rows(tmp_path / "q.jsonl", ROW)
    task = questions.read(
        described(shot_files=("dev.jsonl",), shots=2, header="About {subject}:\n\n"), tmp_path
    )
    [asked] = task.questions
    assert task.subjects[asked.subject].before(2) + asked.text + asked.choices[1] == (
        "About abstract algebra:\n\nQuestion: First?\nAnswer: y z\n\n"
        "Question: Second?\nAnswer: x\n\nQuestion: Which?\nAnswer: b"
    )
    assert (asked.answer, asked.place) == (1, "q.jsonl:1")


def test_mmlu_as_it_ships(shared: Path) -> None:
    [task] = kept_tasks.read(
        ["mmlu"], folder=Path(), data=shared / "eval", where="here", limit=None
    )
    rows = Counter(q.subject for q in task.questions)
    assert (len(rows), sum(rows.values())) == (57, 14_079)
    grouped = [name for names in task.groups.values() for name in names]
    assert sorted(grouped) == sorted(rows), "every subject is in one group"
    assert {len(s.shots) for s in task.subjects.values()} == {5}
    before = task.subjects["high_school_physics"].before(1)
    assert before.startswith(
        "The following are multiple choice questions (with answers) about high school physics:\n\n"
        "Question: "
    )
    assert before.endswith("\n\n")


def test_any_field_stands_in_a_template(tmp_path: Path) -> None:
    row = {
        "passage": "Long {question} ago.", "ask": "When?", "opts": {"text": ["now", "then"]},
        "key": "B",
    }  # fmt: skip
    pd.DataFrame([row]).to_parquet(tmp_path / "q.parquet")
    task = questions.read(
        described(
            files=("*.parquet",),
            fields={"question": "ask", "choices": "opts.text", "answer": "key"},
            answer_is="letter",
            question="{passage}\nQ: {question}\nA:",
        ),
        tmp_path,
    )
    [asked] = task.questions
    assert asked.text == "Long {question} ago.\nQ: When?\nA:"  # what a row holds is no template
    assert (asked.subject, asked.choices, asked.answer) == ("t", (" now", " then"), 1)


@pytest.mark.parametrize(
    ("change", "more", "told"),
    [
        ({"answer": 2}, {}, "answer: 2 is no index of its 2 choices (0 to 1)"),
        ({"answer": -1}, {}, "answer: -1 is no index"),
        ({"answer": True}, {}, "answer: True is no index"),
        ({"answer": "C"}, {"answer_is": "letter"}, "answer: 'C' is none of A, B"),
        ({"answer": "c"}, {"answer_is": "text"}, "answer: 'c' is not one of the choices"),
        ({"question": None}, {}, "question: expected text (found None)"),
        ({"question": "  "}, {}, "question: expected text (found '  ')"),
        ({"question": "\ud800"}, {}, "question: text is not valid Unicode"),
        ({"choices": ["a"]}, {}, "choices: expected a list of two choices or more"),
        ({"choices": ["a", 3]}, {}, "choices: expected texts (found 3)"),
        ({"subject": ""}, {}, "subject: expected text (found '')"),
        ({"subject": "a/b"}, {}, "subject: a subject is not empty and has no '/'"),
    ],
)
def test_a_row_that_is_not_as_described_is_named(
    tmp_path: Path, change: dict[str, object], more: dict[str, object], told: str
) -> None:
    write_rows(tmp_path / "q.jsonl", ROW | ({"answer": "A"} if more else {}), {**ROW, **change})
    if more.get("answer_is") == "text":
        write_rows(tmp_path / "q.jsonl", {**ROW, "answer": "a"}, {**ROW, **change})
    with pytest.raises(UserError) as error:
        questions.read(described(**more), tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'q.jsonl'}:2: {told}")


def test_a_missing_field_names_those_that_there_are(tmp_path: Path) -> None:
    row = {k: v for k, v in ROW.items() if k != "answer"}
    write_rows(tmp_path / "q.jsonl", row)
    with pytest.raises(UserError, match=r"q.jsonl:1: no 'answer' \(there is subject, question"):
        questions.read(described(), tmp_path)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"shots": 2, "shot_files": ("dev.jsonl",)}, "'abstract_algebra' has 1 of 2 shots"),
        ({"groups": {"all": ("algebra",)}}, "groups.all: unknown subject 'algebra'; did you mean"),
        ({"groups": {"abstract_algebra": ("abstract_algebra",)}}, "is a subject's name too"),
        ({"files": ("none.jsonl",)}, "no file at"),
        ({"files": ("q.csv",)}, "has none of the suffixes"),
        ({"files": ("empty.jsonl",)}, "no question in empty.jsonl"),
    ],
)
def test_what_a_task_asks_for_has_to_be_there(
    tmp_path: Path, more: dict[str, object], told: str
) -> None:
    write_rows(tmp_path / "q.jsonl", ROW)
    write_rows(tmp_path / "dev.jsonl", ROW)
    (tmp_path / "q.csv").write_text("question\n")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match=told):
        questions.read(described(**more), tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a/b, files: [q]", "tasks.0.name: a task's name has no '/'"),
        ("name: a, files: [q], shots: 3", "shots: 3 need shot_files"),
        ("name: a, files: [q], choice: ' {option}'", "must hold {choice} once"),
        ("name: a, files: [q], header: '{topic}'", "may hold {subject} alone"),
        ("name: a, files: [q], groups: {micro: [b]}", "'micro' stands for all questions"),
        ("name: a, files: []", "tasks.0.files: "),
        ("name: a, files: [q], shot: 3", "unknown key 'shot'; did you mean 'shots'?"),
        ("name: a, files: [q], fields: {ask: q}", "tasks.0.fields.ask: unknown key 'ask'"),
        ("name: bpb, files: [q]", "metrics of the name 'bpb/…' are those of the study's own text"),
        ("kind: texts, name: chat, sources: {a: [q]}", "'chat/…' are those of the study's own"),
        ("kind: text, name: a, sources: {a: [q]}", "tasks.0.kind: unknown kind 'text'; did you"),
        ("kind: 3, name: a, sources: {a: [q]}", "tasks.0.kind: unknown kind '3'"),
        ("kind: texts, name: a, files: [q]", "unknown key 'files'. Valid: kind, name, sources"),
        ("kind: texts, name: a, sources: {}", "tasks.0.sources: "),
        ("kind: texts, name: a, sources: {b: []}", "tasks.0.sources.b: "),
        ("kind: texts, name: a, sources: {micro: [q]}", "tasks.0.sources: a source's name"),
        ("kind: texts, name: a, sources: {b/c: [q]}", "tasks.0.sources: a source's name"),
    ],
)
def test_a_description_is_strict(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "tasks.yaml"
    path.write_text(f"tasks:\n  - {{{text}}}\n")
    with pytest.raises(UserError) as error:
        strict.load(path, TasksFile)
    assert str(error.value).startswith(f"{path}:2: ")
    assert told in str(error.value)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "q.jsonl", ROW)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("tasks: [{name: same, files: [q.jsonl]}]\n")
    with pytest.raises(UserError, match=r"b.yaml: task 'same' is in .*a.yaml too"):
        kept_tasks.read(["a.yaml", "b.yaml"], folder=tmp_path, data=None, where="here")


def test_a_sample_has_no_name_that_another_task_has(tmp_path: Path) -> None:
    many = [{**ROW, "question": f"Which of {i}?"} for i in range(30)]
    write_rows(tmp_path / "many.jsonl", *many)
    write_rows(tmp_path / "few.jsonl", *many[:10])
    for name, file in (("x", "many"), ("x-10", "few")):
        (tmp_path / f"{file}.yaml").write_text(
            f"tasks: [{{name: {name}, files: [{file}.jsonl], fields: {{subject: subject}}}}]\n"
        )
    asked = {"folder": tmp_path, "data": None, "where": "here"}
    assert len(kept_tasks.read(["many.yaml", "few.yaml"], **asked)) == 2
    with pytest.raises(UserError, match=r"few.yaml: task 'x-10' is in .*many.yaml too"):
        kept_tasks.read(["many.yaml", "few.yaml"], **asked, limit=10)


def test_a_task_that_is_not_known_or_has_no_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"here: unknown task 'mmul'; did you mean 'mmlu'\?"):
        kept_tasks.read(["mmul"], folder=tmp_path, data=None, where="here")
    with pytest.raises(UserError, match="where the questions of 'mmlu' are is not said"):
        kept_tasks.read(["mmlu"], folder=tmp_path, data=None, where="here")


def made(sizes: list[int]) -> Questions:
    rng = np.random.default_rng(0)
    own = [
        Question(f"{s}:{i}", f"s{s}", f"{rng.random()}", (" a", " b"), 0)
        for s, size in enumerate(sizes)
        for i in range(size)
    ]
    return Questions("t", {f"s{s}": Subject("", ()) for s in range(len(sizes))}, {}, (*own,), 0)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.data())
def test_a_sample_takes_of_all_subjects_alike_and_is_part_of_a_larger_one(
    sizes: list[int], data: st.DataObject
) -> None:
    task = made(sizes)
    limit = data.draw(st.integers(2 * len(sizes), sum(sizes)))
    found = task.sample(limit, 3)
    assert len(found.questions) == limit
    counts = Counter(q.subject for q in found.questions)
    most = max(counts.values())
    assert all(counts[f"s{s}"] >= min(size, most - 1) for s, size in enumerate(sizes))
    more = task.sample(min(limit + 3, sum(sizes)), 3)
    assert set(found.questions) <= set(more.questions)
    if limit < sum(sizes):
        assert found.name == f"t-{limit}-seed3"
    shuffled = Questions("t", task.subjects, {}, task.questions[::-1], 0)
    assert set(shuffled.sample(limit, 3).questions) == set(found.questions)


def test_a_sample_too_small_for_an_error_is_refused() -> None:
    with pytest.raises(UserError, match="two of each of its 3 subjects or sources, 6, are"):
        made([5, 5, 5]).sample(5, 0)
    assert made([50]).sample(10, 0).questions != made([50]).sample(10, 1).questions


def test_a_choice_without_a_token_leaves_its_question_out(tmp_path: Path) -> None:
    wrong = {**ROW, "choices": ["a", " "]}
    long = {**ROW, "choices": ["a", "b " * 40]}
    write_rows(tmp_path / "q.jsonl", ROW, wrong, long)
    task = questions.read(described(), tmp_path)
    tokenizer = tokenizers.train_bpe(iter(["Question Answer"]), 262)
    found = prompts.encode(task, tokenizer, 40)
    assert [p.index for p in found.all] == [0]
    assert found.excluded[1] == "a choice without a token ('  ')"
    assert found.excluded[2].startswith("a choice of ")


def test_what_is_taken_in_comes_back_and_is_not_changed_by_hand(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path / "study")
    layout.root.mkdir()
    write_rows(layout.root.parent / "q.jsonl", ROW, {**ROW, "question": "Why? «é»"})
    (tmp_path / "tasks.yaml").write_text("tasks: [{name: own, files: [q.jsonl]}]\n")
    config = EvaluateConfig(tasks=("../tasks.yaml",))
    with pytest.raises(UserError, match="its tasks are not taken in; run `regmix data build"):
        taken_in(layout, config)
    kept_tasks.take_in(layout, config)
    [task] = kept_tasks.load(layout, taken_in(layout, config))
    whole = kept_tasks.read(["tasks.yaml"], folder=tmp_path, data=None, where="")
    assert [task] == whole
    with pytest.raises(UserError, match="evaluate: changed since the data were built"):
        taken_in(layout, config.model_copy(update={"limit": 50}))
    path = layout.evals / task.fingerprint / "questions.jsonl"
    path.write_text(path.read_text().replace('"answer": 1', '"answer": 0', 1))
    with pytest.raises(UserError, match="they were changed by hand"):
        kept_tasks.load(layout, taken_in(layout, config))
    assert taken_in(layout, EvaluateConfig()) == ()


def test_the_fingerprint_is_that_of_what_is_asked_not_of_where_it_lies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "q.jsonl", ROW)
    first, second = (questions.read(described(), tmp_path / name) for name in ("a", "b"))
    assert first.fingerprint == second.fingerprint
    for change in ({"header": "x"}, {"choice": "{choice}"}, {"name": "u"}):
        other = questions.read(described(**change), tmp_path / "a")
        assert other.fingerprint != first.fingerprint
