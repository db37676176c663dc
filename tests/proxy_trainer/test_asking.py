"""Models asked by workers: what two commands ask is asked once, whatever dies; and on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proxy_trainer import checkpoint, steps
from proxy_trainer.evals import kept_tasks, kinds
from proxy_trainer.evals.asking import Asking
from proxy_trainer.evals.task import Task
from proxy_trainer.launch import running
from proxy_trainer.launch.running import Outcome
from proxy_trainer.sharded.ranks import Ranks
from proxy_trainer.sharded.run import Settings, train_sharded
from proxy_trainer.train import train
from regmix import claims
from regmix.errors import UserError
from regmix.files import read_json
from regmix.layout import AskedLayout
from regmix.planning import template
from regmix.records import read_events
from regmix.study import Study
from regmix.tasks import GenerationTask
from regmix.testing.launchers import until

RUNS = 9
"""Of the swarm."""
SECONDS = 240
"""For a command on a busy machine."""
Train = Callable[..., Outcome]


def ask_for(study: Study, evaluate: str) -> Study:
    """The study with tasks."""
    with study.layout.config.open("a") as stream:
        stream.write(f"evaluate: {{tasks: [tasks.yaml], {evaluate}}}\n")
    found = Study.open(study.layout.root)
    kept_tasks.take_in(found.layout, found.config.evaluate)
    return found


def tasks(study: Study) -> list[Task]:
    return kept_tasks.Asked(("tasks.yaml",), None, None, None).read(study.layout)


@pytest.fixture(scope="module")
def kept_root(
    built_root: Path, tmp_path_factory: pytest.TempPathFactory, write_task: Callable[..., Path]
) -> Path:
    """A study whose proxies keep their models, trained; not to be written to."""
    root = tmp_path_factory.mktemp("kept") / "study"
    shutil.copytree(built_root, root)
    config = root / "study.yaml"
    config.write_text(config.read_text().replace("proxy:\n", "proxy:\n  keep_model: true\n"))
    write_task(root)
    study = Study.open(root)
    study.propose()
    train(study.layout, [r.layout for r in study.runs()], checkpoint_seconds=1e9)
    assert len(study.runs()) == RUNS
    return root


@pytest.fixture
def kept(kept_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A copy of it."""
    root = shutil.copytree(kept_root, tmp_path / "study")
    monkeypatch.chdir(root)
    return Study.open(root)


@pytest.fixture
def keeping(kept: Study) -> Study:
    """A copy of it with nothing trained."""
    shutil.rmtree(kept.layout.runs)
    return kept


def pieces(study: Study) -> list[AskedLayout]:
    [task] = tasks(study)
    return study.layout.asked([r.spec.run_id for r in study.runs()], [task.fingerprint])


def entries(piece: AskedLayout) -> list[str]:
    return [f"{e.kind}{' in vain' * e.failed}" for e in claims.log(piece.claims)]


def test_a_task_that_is_added_later_trains_nothing_again(kept: Study) -> None:
    before = {r.spec.run_id for r in kept.runs()}
    study = ask_for(kept, "")
    proposed = study.propose()
    assert (proposed.new, {s.run_id for s in proposed.specs}) == (0, before)
    assert study.open_runs() == []
    assert "sums/bpb" not in study.observations().metric_names
    found = steps.ask(study, tasks(study))
    assert (found.asked, len(found.runs), found.without, found.busy) == (RUNS, RUNS, [], [])
    data = study.observations()
    assert {"sums/acc", "sums/bpb", "bpb/prose"} <= set(data.metric_names)
    assert data.metrics["sums/bpb"].nunique() == len(data.metrics)
    assert data.std_errors is not None
    assert data.std_errors["sums/bpb"].notna().all()
    assert [entries(piece) for piece in pieces(study)] == [["claimed", "released"]] * RUNS
    again = steps.ask(study, tasks(study))
    assert (again.asked, len(again.runs)) == (0, RUNS)
    pieces(study)[0].done.unlink()
    with pytest.raises(UserError, match=r"metric 'sums/.*' is missing in 1 of .*`regmix eval`"):
        study.observations()


def test_what_models_that_are_not_kept_were_asked_is_a_part_of_what_they_are(
    keeping: Study,
) -> None:
    lost, own = (
        replace(template(keeping, keeping.config.proxy), keep_model=keep) for keep in (False, True)
    )
    asked, asked_kept = (replace(spec, tasks=("a",), tasks_at="every") for spec in (lost, own))
    assert len({spec.run_id for spec in (lost, asked, own)}) == 3
    assert len({spec.cohort for spec in (lost, asked, own)}) == 3
    assert (asked_kept.run_id, asked_kept.cohort) == (own.run_id, own.cohort)
    assert replace(asked, tasks_at="last").run_id == asked.run_id


def test_two_commands_ask_each_model_once(
    kept: Study, regmix: Callable[..., subprocess.Popen[str]], write_task: Callable[..., Path]
) -> None:
    root = kept.layout.root
    write_task(root, 600)
    told = ("eval", root, "--tasks", root / "tasks.yaml", "--workers", 1)
    both = [regmix(*told) for _ in range(2)]
    texts = []
    for process in both:
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
        texts.append(out)
    own = [int(text[text.index(f" of {RUNS} models asked now") - 1]) for text in texts]
    assert sum(own) == RUNS
    assert [entries(piece) for piece in pieces(kept)] == [["claimed", "released"]] * RUNS
    workers = {read_json(piece.done)["environment"]["worker"] for piece in pieces(kept)}
    assert len(workers) == sum(count > 0 for count in own)


def test_what_a_killed_worker_had_is_asked_by_another(
    kept: Study, regmix: Callable[..., subprocess.Popen[str]], write_task: Callable[..., Path]
) -> None:
    root = kept.layout.root
    write_task(root, 2000)
    process = regmix("eval", root, "--tasks", root / "tasks.yaml", "--workers", 1)

    def holder() -> int | None:
        found = [claims.last(piece.claims) for piece in pieces(kept)]
        held = [e for e in found if e is not None and e.kind == "claimed" and not e.process.gone]
        return held[0].process.pid if held else None

    until(lambda: holder() is not None, SECONDS)
    killed = holder()
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert f"{RUNS} of {RUNS} models asked now" in out
    logs = [entries(piece) for piece in pieces(kept)]
    assert ["claimed", "claimed", "released"] in logs
    assert all(log[-2:] == ["claimed", "released"] for log in logs)


def test_told_to_end_a_worker_leaves_the_task_and_keeps_what_is_found(kept: Study) -> None:
    [task] = tasks(kept)
    task.save(kept.layout.evals / task.fingerprint)
    ids = [r.spec.run_id for r in kept.runs()]
    work = Asking(kept.layout, ids, [task.fingerprint])
    assert work.members(work.pieces[0], 100) == 8
    assert work.carry_out(work.pieces, lambda: False) == {}
    assert not any(piece.done.exists() for piece in work.pieces)
    assert work.carry_out(work.pieces[:2], lambda: True) == {}
    assert [piece.done.exists() for piece in work.pieces] == [True, True, *[False] * (RUNS - 2)]


def test_a_model_that_can_say_nothing_is_marked_and_may_be_asked_again(kept: Study) -> None:
    root = kept.layout.root
    text = (root / "questions.jsonl").read_text()
    rows = [{**json.loads(line), "choices": ["9" * 400, "7"]} for line in text.splitlines()]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        found = steps.ask(kept, tasks(kept))
        assert set(found.failed) == {r.spec.run_id for r in kept.runs()}
        assert {why.partition(":")[0] for why in found.failed.values()} == {"task 'sums'"}
        assert found.asked == 0
        assert [entries(piece) for piece in pieces(kept)] == [["claimed", "released"]] * RUNS
    assert running.cancel(kept.layout) == [], "nothing of it is open"


def test_on_the_way_tasks_are_asked_where_text_is_read(keeping: Study, train_runs: Train) -> None:
    study = ask_for(keeping, "points: every")
    study.propose()
    ids = study.open_runs()
    train_runs(study, ids, members=3)
    [task] = tasks(study)
    rows = study.store.query(
        "select run_id, step, tokens, value, std_error from metrics where name = 'sums/bpb' "
        "order by run_id, step"
    )
    points = study.runs()[0].spec.plan.eval_steps
    assert len(points) == 2
    text = study.store.query("select step, tokens from metrics where name = 'bpb/prose'")
    assert set(map(tuple, rows[["step", "tokens"]].to_numpy())) == set(map(tuple, text.to_numpy()))
    assert rows["step"].tolist() == [*points] * len(ids)
    assert rows["std_error"].notna().all()
    assert rows.groupby("run_id")["value"].nunique().eq(2).all(), "the models have learned"
    last = rows[rows["step"] == points[-1]].set_index("run_id")["value"]
    data = study.observations()
    assert data.metrics["sums/bpb"].to_dict() == last[data.metrics.index].to_dict()
    for run_id in ids:
        run = study.layout.run(run_id)
        assert read_json(run.done)["metrics"]["sums/bpb"] == last[run_id]
        assert sorted(p.name for p in run.evals.glob(f"{task.fingerprint}*")) == [
            f"{task.fingerprint}.json", f"{task.fingerprint}.parquet",
            f"{task.fingerprint}@{points[0]}.json",
        ]  # fmt: skip
    one = read_json(run.eval_result(task.fingerprint))["counts"]["tokens_read"]
    share = study.cost().roles["evaluation"].sum()
    for path in (run.asked(task.fingerprint, points[0]).done, run.eval_result(task.fingerprint)):
        path.unlink()
    spec = next(r.spec for r in study.runs() if r.spec.run_id == run_id)
    less = 2 * one * spec.flops / spec.tokens / 3
    assert share - study.cost().roles["evaluation"].sum() == pytest.approx(less)


def test_what_is_answered_in_words_a_sharded_run_leaves_for_afterwards(
    kept: Study, ranks: Ranks
) -> None:
    row = {"question": "2 + 3 =", "answer": "#### 5"}
    (kept.layout.root / "words.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    described = GenerationTask(
        kind="generation", name="words", files=("words.jsonl",), gold="#### ([0-9]+)",
        extract=("[0-9]+",), max_tokens=4,
    )  # fmt: skip
    found: list[Task] = [kinds.read(described, kept.layout.root), *tasks(kept)]
    for task in found:
        task.save(kept.layout.evals / task.fingerprint)
    first, second = (task.fingerprint for task in found)
    spec = replace(kept.runs()[0].spec, seed=99, tasks=(first, second))
    kept.add_run(spec)
    run = kept.layout.run(spec.run_id)
    train_sharded(kept.layout, run, ranks, Settings(1e9))
    told = [e for e in read_events(run.events) if e["type"] == "warning"]
    assert [e["about"] for e in told] == ["words"]
    assert "asked afterwards" in told[0]["text"]
    assert not run.eval_result(first).exists()
    assert run.eval_result(second).exists()
    again = steps.ask(kept, [found[0]], run_ids=[spec.run_id])
    assert (again.asked, again.failed) == (1, {})
    assert {m["name"] for m in read_json(run.eval_result(first))["metrics"]} >= {"words/avg@1"}


def test_an_unfinished_run_is_asked_by_its_checkpoint(keeping: Study) -> None:
    study = ask_for(keeping, "points: every")
    study.propose()
    [task] = tasks(study)
    runs = [study.layout.run(run_id) for run_id in study.open_runs()[:2]]
    step = study.runs()[0].spec.plan.eval_steps[0]
    done = [0]
    train(
        study.layout, runs, checkpoint_seconds=1e9,
        keep_going=lambda: done[-1] + 1 < step, on_step=lambda now, _: done.append(now),
    )  # fmt: skip
    assert [checkpoint.saved_step(run.checkpoints) for run in runs] == [step, step]
    before = []
    for run in runs:
        path = run.asked(task.fingerprint, step).done
        before.append(read_json(path))
        path.unlink()
    assert steps.ask(study, [task]).runs == [], "none is finished"
    with pytest.raises(UserError, match=rf"checkpoint of step 7 .*there is {step}; finished"):
        steps.ask(study, [task], step=7)
    found = steps.ask(study, [task], step=step)
    assert (found.asked, len(found.without)) == (2, RUNS - 2)
    for run, then in zip(runs, before, strict=True):
        now = read_json(run.asked(task.fingerprint, step).done)
        for key in ("metrics", "counts", "step", "tokens", "run_id"):
            assert now[key] == then[key], key
    assert steps.ask(study, [task], step=step).asked == 0
    train(study.layout, runs, checkpoint_seconds=1e9)
    assert all(run.done.exists() and not list(run.checkpoints.iterdir()) for run in runs)
    rows = study.store.query("select step from metrics where name = 'sums/bpb' order by step")
    assert rows["step"].tolist() == [step, step, 2 * step, 2 * step]
