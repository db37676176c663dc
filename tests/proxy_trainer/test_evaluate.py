"""Runs measured on tasks as they end and afterwards: once, alike, and where the store finds it."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from proxy_trainer import steps
from proxy_trainer.evals import afterwards, kept_tasks
from proxy_trainer.evals.asking import Asking
from proxy_trainer.evals.task import Task
from proxy_trainer.launch.running import Outcome
from regmix import paired
from regmix.errors import UserError
from regmix.files import read_json
from regmix.study import Study

METRICS = ("acc", "acc_norm", "acc_bytes", "bpb", "choice_logprob", "choice_prob_norm")
TASKS = """\
tasks:
  - name: sums
    files: [questions.jsonl]
    fields: {subject: subject}
    question: "{question}"
    groups: {small: [ones]}
"""
TARGET = """\
target:
  model: {size: 50k, d_model: 32, layers: 2, heads: 2, context: 32}
  train: {tokens: 2560, batch_tokens: 128, eval_bytes: 2000}
"""


def write_task(root: Path) -> None:
    rows = [
        {
            "subject": "ones" if a < 10 else "tens",
            "question": f"{a} + {b} =",
            "choices": [str(a + b), str(a + b + 3), str(a * 2)],
            "answer": 0,
        }
        for a in (2, 3, 5, 8, 40, 51, 73)
        for b in (1, 4, 9)
    ]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tasks.yaml").write_text(TASKS)


@pytest.fixture
def measured(study: Study) -> Study:
    """A built study whose runs are measured on a task."""
    plain = study.propose()
    write_task(study.layout.root)
    with study.layout.config.open("a") as stream:
        stream.write("evaluate: {tasks: [tasks.yaml]}\n" + TARGET)
    found = Study.open(study.layout.root)
    steps.build_data(found)
    proposed = found.propose()
    assert not {s.run_id for s in plain.specs} & {s.run_id for s in proposed.specs}
    return found


def result(study: Study, run_id: str) -> dict[str, dict[str, float]]:
    [path] = study.layout.run(run_id).evals.glob("*.json")
    return {m["name"]: m for m in read_json(path)["metrics"]}


def tasks(study: Study) -> list[Task]:
    return kept_tasks.Asked((), None, None, None).read(study.layout)


def test_a_run_without_tasks_is_the_run_that_it_was(study: Study) -> None:
    spec = study.propose().specs[0]
    assert "tasks" not in spec.to_dict()
    assert spec.tasks == ()


def test_a_run_that_can_say_nothing_has_failed(
    measured: Study, train_runs: Callable[..., Outcome]
) -> None:
    path = measured.layout.root / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["choices"][1] = "9" * 400 if row["subject"] == "ones" else row["choices"][1]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps.build_data(measured)
    spec = measured.propose().specs[0]
    outcome = train_runs(measured, [spec.run_id])
    assert outcome.failed == [spec.run_id]
    reason = read_json(measured.layout.run(spec.run_id).failed)["reason"]
    assert "task 'sums': subject 'ones' has no question left" in reason


def test_proxies_are_measured_as_they_end(
    measured: Study, train_runs: Callable[..., Outcome]
) -> None:
    ids = measured.open_runs()
    outcome = train_runs(measured, ids, members=3)
    assert sorted(outcome.done) == sorted(ids)
    values = set()
    for run_id in ids:
        run = measured.layout.run(run_id)
        found = result(measured, run_id)
        done = read_json(run.done)["metrics"]
        for group in ("", "small/", "micro/"):
            for metric in METRICS:
                name = f"sums/{group}{metric}"
                assert done[name] == found[name]["value"]
        assert "sums/ones/acc" in found
        assert "sums/ones/acc" not in done
        values.add(found["sums/bpb"]["value"])
        table = pd.read_parquet(run.documents)
        for metric, part in table.groupby("metric"):
            bits = part["nats"].sum() / math.log(2) / part["bytes"].sum()
            assert done[str(metric)] == pytest.approx(bits, rel=1e-12)
    assert len(values) == len(ids), "runs differ"
    data = measured.observations()
    assert {f"sums/{m}" for m in METRICS} <= set(data.metric_names)
    assert not any(name.startswith(("sums/ones", "sums/tens")) for name in data.metric_names)
    rows = measured.store.query("select * from metrics where std_error is not null")
    assert {"bpb/prose", "sums/bpb", "sums/small/bpb", "sums/tens/bpb"} <= set(rows["name"])
    one = rows[(rows["run_id"] == ids[0]) & (rows["name"] == "sums/bpb")]
    assert one["std_error"].tolist() == [result(measured, ids[0])["sums/bpb"]["std_error"]]


def test_kept_models_are_asked_once_and_as_they_were_in_training(
    measured: Study, train_runs: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [measured.target_run("t", measured.references()["natural"], seed) for seed in (1, 2)]
    for spec in specs:
        measured.add_run(spec)
    ids = [spec.run_id for spec in specs]
    train_runs(measured, ids)
    before = {run_id: result(measured, run_id) for run_id in ids}
    again = steps.ask(measured, tasks(measured))
    assert (len(again.runs), again.asked, again.failed) == (2, 0, {})
    for run_id in ids:
        [path] = measured.layout.run(run_id).evals.glob("*.json")
        path.unlink()
    measured.store.ingest()
    assert measured.store.query("select * from metrics where name = 'sums/bpb'").empty
    again = steps.ask(measured, tasks(measured))
    assert (len(again.runs), again.asked) == (2, 2)
    for run_id in ids:
        found = result(measured, run_id)
        for name, metric in before[run_id].items():
            assert found[name]["value"] == pytest.approx(metric["value"], abs=1e-5), name
    assert len(measured.store.query("select * from metrics where name = 'sums/bpb'")) == 2
    folder = measured.layout.run(ids[0]).model
    [alone] = afterwards.folder(folder, tasks(measured), None)
    for mean in alone.means:
        assert mean.value == pytest.approx(before[ids[0]][mean.name]["value"], abs=1e-5)
    sample = tasks(measured)[0].sample(10, 0)
    assert steps.ask(measured, [sample]).asked == 2
    asking = Asking(measured.layout, ids, [sample.fingerprint])
    assert asking.members(asking.pieces[0], 8) == 8
    monkeypatch.setattr("proxy_trainer.evals.asking.free_on", lambda _: 0)
    assert asking.members(asking.pieces[0], 8) == 1, "no memory for two"
    names = set(measured.store.query("select distinct name from metrics")["name"])
    assert {"sums/acc", "sums-10/acc"} <= names


COLLECTION = """\
tasks:
  - {kind: texts, name: held, sources: {sums: [text/sums.jsonl], code: [text/code.jsonl]}}
  - {kind: generation, name: said, files: [questions.jsonl], fields: {answer: subject},
     extract: ["[a-z]+"], max_tokens: 8, repeats: 2, temperature: 1.0}
"""


def test_a_study_asks_tasks_of_all_kinds_as_runs_end_and_afterwards(
    measured: Study, train_runs: Callable[..., Outcome]
) -> None:
    root = measured.layout.root
    (root / "held.yaml").write_text(COLLECTION)
    config = measured.layout.config
    config.write_text(config.read_text().replace("[tasks.yaml]", "[tasks.yaml, held.yaml]"))
    study = Study.open(root)
    steps.build_data(study)
    specs = [study.target_run("t", study.references()["natural"], seed) for seed in (1, 2)]
    for spec in specs:
        study.add_run(spec)
    ids = [spec.run_id for spec in specs]
    train_runs(study, ids)
    for run_id in ids:
        assert {"sums/bpb", "held/bpb", "held/micro/bpb", "held/code/bpb", "said/avg@2"} <= set(
            read_json(study.layout.run(run_id).done)["metrics"]
        )
    asked = tasks(study)
    paths = [
        study.layout.run(run_id).eval_result(task.fingerprint)
        for run_id in ids
        for task in asked[1:]
    ]
    before = [read_json(path) for path in paths]
    for path in paths:
        path.unlink()
    found = steps.ask(study, asked)
    assert (found.asked, found.failed) == (2, {})
    for path, then in zip(paths, before, strict=True):
        now = read_json(path)
        assert now["counts"] == then["counts"]
        for old, new in zip(then["metrics"], now["metrics"], strict=True):
            assert new["value"] == pytest.approx(old["value"], rel=1e-6)
            assert new["std_error"] == pytest.approx(old["std_error"], rel=1e-4)
    texts = [pd.read_parquet(path.with_suffix(".parquet")).get("text") for path in paths[1::2]]
    assert not texts[0].equals(texts[1]), "two seeds write two things"
    rows = study.store.query("select * from metrics where name = 'held/code/bpb'")
    assert len(rows) == 2
    assert rows["std_error"].notna().all()
    assert {"held/bpb", "held/sums/bpb"} <= set(rows_of(study))


def rows_of(study: Study) -> list[str]:
    found = study.store.query("select distinct name from metrics where split = 'test'")
    return [str(name) for name in found["name"]]


def test_other_questions_of_one_name_are_refused(
    measured: Study, train_runs: Callable[..., Outcome]
) -> None:
    spec = measured.target_run("t", measured.references()["natural"])
    measured.add_run(spec)
    train_runs(measured, [spec.run_id])
    path = measured.layout.root / "questions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"the run was asked other questions as 'sums'"):
        steps.ask(measured, tasks(measured))


@pytest.mark.slow
def test_the_command(
    measured: Study,
    train_runs: Callable[..., Outcome],
    regmix: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    spec = measured.target_run("large", measured.references()["natural"])
    measured.add_run(spec)
    train_runs(measured, [spec.run_id])
    root = measured.layout.root
    os.remove(measured.layout.run(spec.run_id).eval_result(spec.tasks[0]))

    def output(*arguments: object, code: int = 0) -> str:
        process = regmix("eval", *arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        return out if code == 0 else err

    text = output(root)
    assert "1 of 1 models asked now" in text
    value = result(measured, spec.run_id)["sums/bpb"]
    assert f"{value['value']:.4f} ± {value['std_error']:.4f}" in text
    assert "0 of 1 models asked now" in output(root)
    written = tmp_path / "found.json"
    folder = measured.layout.run(spec.run_id).model
    text = output(folder, "--tasks", root / "tasks.yaml", "--limit", 12, "--seed", 4, "-o", written)
    assert "sums-12-seed4/small/bpb" in text
    assert "12 of 21, drawn with seed 4" in text
    [saved] = read_json(written)["results"]
    assert saved["counts"]["asked"] == 12
    assert len(pd.read_parquet(paired.beside(written, saved["fingerprint"]))) == 12
    elsewhere = tmp_path / "whole.json"
    output(folder, "--tasks", root / "tasks.yaml", "-o", elsewhere)
    same = measured.compare(spec.run_id, str(elsewhere)).frame.set_index("metric")
    assert same.loc["sums/bpb", "items"] == 21
    assert same.loc["sums/small/bpb", "items"] > 0
    assert same["difference"].abs().max() < 1e-5, "one model, by its run and by its file"
    assert same.loc["sums/bpb", "std_error_texts"] < 1e-5
    assert "none is asked for; there are " in output(folder, code=2)
    assert "unknown task 'mmul'" in output(folder, "--tasks", "mmul", code=2)
    assert "no such folder" in output(tmp_path / "no", "--tasks", root / "tasks.yaml", code=2)
    assert "-o is for a model's folder" in output(root, "-o", written, code=2)
