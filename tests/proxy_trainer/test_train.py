"""A run is a function of its specification: interrupted, repeated, resumed, it is the same."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from proxy_trainer import checkpoint, retention
from proxy_trainer.data import build
from proxy_trainer.events import EventLog
from proxy_trainer.loop import Outcome
from proxy_trainer.train import train
from proxy_trainer.worker import OK, Task, Worker
from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.records import RunRecord, read_events
from regmix.runs import NUMERICS, RunSpec
from regmix.study import Study

NEVER = 1e9


class Stop(Exception):
    """As a kill: nothing after it runs."""


def planned(study: Study, **changes: object) -> RunSpec:
    """One run on the natural mixture, its specification written."""
    template = study.propose().specs[0]
    spec = replace(template, **changes)  # type: ignore[arg-type]
    study.add_run(spec)
    return spec


def go(study: Study, spec: RunSpec, **options: object) -> RunLayout:
    run = study.layout.run(spec.run_id)
    together(study, [spec], **options)
    return run


def together(study: Study, specs: Sequence[RunSpec], **options: object) -> Outcome:
    runs = [study.layout.run(s.run_id) for s in specs]
    return train(study.layout, runs, **{"checkpoint_seconds": NEVER, **options})  # type: ignore[arg-type]


def work(study: Study, spec: RunSpec) -> None:
    """Train a run as a worker does."""
    task = Task(study.layout, (spec.run_id,), study.config.launch)
    assert Worker(task, "w").run() == OK


def done(run: RunLayout) -> dict[str, object]:
    return json.loads(run.done.read_text())


def logged(run: RunLayout) -> dict[tuple[str, int, str], float]:
    """Loss, gradient norm and metric of every step, later events replacing earlier ones."""
    found = {}
    for event in read_events(run.events):
        for key in ("loss", "grad_norm", "lr", "value"):
            if key in event:
                found[event["type"], event["step"], event.get("name", key)] = event[key]
    return found


def test_a_finished_run_says_what_it_did(study: Study) -> None:
    spec = planned(study)
    run = go(study, spec)
    result = done(run)
    assert result["run_id"] == spec.run_id
    assert (result["steps"], result["tokens"]) == (30, 3840)
    assert result["flops"] == spec.flops
    assert sum(d["tokens"] for d in result["domains"]) == 3840  # type: ignore[index, attr-defined]
    events = list(read_events(run.events))
    assert [e["step"] for e in events if e["type"] == "step"] == list(range(1, 31))
    metrics = [(e["name"], e["step"]) for e in events if e["type"] == "metric"]
    assert metrics == [(f"bpb/{d}", s) for s in (15, 30) for d in study.domains]
    last = {e["name"]: e["value"] for e in events if e["type"] == "metric" and e["step"] == 30}
    assert result["metrics"] == last
    assert not list(run.checkpoints.glob("*"))
    assert not run.model.exists()


def test_training_learns(study: Study) -> None:
    spec = planned(study)
    steps = [e["loss"] for e in read_events(go(study, spec).events) if e["type"] == "step"]
    assert steps[0] == pytest.approx(6.24, abs=0.1)  # log 512
    assert sum(steps[-5:]) / 5 < steps[0] - 0.5


@pytest.mark.parametrize("stop_at", [4, 15, 29])
def test_interrupted_and_resumed_it_comes_to_the_same_bits(
    copy_study: Callable[..., Study], stop_at: int
) -> None:
    whole, cut = copy_study("whole"), copy_study("cut")
    spec = planned(whole)
    assert planned(cut).run_id == spec.run_id
    expected = go(whole, spec)
    run = cut.layout.run(spec.run_id)
    saved: list[int] = []

    def stop(step: int, _: int) -> None:
        if saved and step == stop_at:
            raise Stop
        saved.append(step)

    with pytest.raises(Stop):
        go(cut, spec, on_step=stop, checkpoint_seconds=0.0)
    assert not run.done.exists()
    assert retention.found(run.checkpoints)
    resumed: list[int] = []
    go(cut, spec, on_step=lambda step, _: resumed.append(step))
    assert resumed[0] == stop_at, "did not go on from its last checkpoint"
    assert logged(run) == logged(expected)
    ours, theirs = done(run), done(expected)
    for key in ("metrics", "domains", "steps", "tokens", "flops"):
        assert ours[key] == theirs[key]
    assert not list(run.checkpoints.glob("*"))


def test_how_often_it_is_saved_changes_no_figure(copy_study: Callable[..., Study]) -> None:
    one, two = copy_study("one"), copy_study("two")
    spec = planned(one)
    planned(two)
    assert logged(go(one, spec)) == logged(go(two, spec, checkpoint_seconds=0.0))


@pytest.mark.parametrize("both", [False, True])
def test_a_shortened_checkpoint_gives_way_to_the_one_before_and_comes_to_the_same(
    copy_study: Callable[..., Study], both: bool
) -> None:
    whole, cut = copy_study("whole"), copy_study("cut")
    spec = planned(whole)
    planned(cut)
    expected = go(whole, spec)
    run = cut.layout.run(spec.run_id)

    def stop(step: int, _: int) -> None:
        if step == 20:
            raise Stop

    with pytest.raises(Stop):
        go(cut, spec, on_step=stop, checkpoint_seconds=0.0)
    (last, path), (before, other) = retention.found(run.checkpoints)
    assert (last, before) == (19, 18)
    os.truncate(path, path.stat().st_size // 2)
    if both:
        os.truncate(other, 100)
    steps: list[int] = []
    go(cut, spec, on_step=lambda step, _: steps.append(step))
    assert steps[0] == (1 if both else 19)
    assert done(run)["metrics"] == done(expected)["metrics"]


def test_another_seed_is_another_result(study: Study) -> None:
    first, second = planned(study), planned(study, seed=1)
    assert first.run_id != second.run_id
    assert done(go(study, first))["metrics"] != done(go(study, second))["metrics"]


def diverging(study: Study) -> RunSpec:
    plan = replace(study.propose().specs[0].plan, lr=1e9, clip=1e9, warmup_share=0.0)
    return planned(study, role="target", plan=plan)  # no other proxy, which would not be trained


def test_divergence_is_an_error_with_the_step(study: Study) -> None:
    spec = diverging(study)
    outcome = together(study, [spec])
    assert outcome.done == outcome.stopped == ()
    reason = outcome.diverged[spec.run_id]
    assert re.fullmatch(
        r"(loss or gradient is no number at step \d+ of 30|bpb/\w+ is (nan|inf) at step \d+); .*",
        reason,
    )
    assert not study.layout.run(spec.run_id).done.exists()


def test_members_of_an_array_come_to_the_figures_that_they_have_alone(
    copy_study: Callable[..., Study],
) -> None:
    """Different mixtures, learning rates and seeds; one of them diverges."""
    one, all_of_them = copy_study("one"), copy_study("all")
    template = one.propose().specs
    all_of_them.propose()
    fast = replace(template[0].plan, lr=0.02)
    specs = [*template[:3], replace(template[1], plan=fast), replace(template[2], seed=9)]
    specs.append(diverging(one))
    for spec in specs:
        one.add_run(spec)
        all_of_them.add_run(spec)
    plans = {replace(s.plan, lr=0.0) for s in specs}
    assert len(plans) == 2, "the diverging run has other clipping"
    for spec in specs[:-1]:
        go(one, spec)
    outcome = together(all_of_them, specs[:-1])
    assert set(outcome.done) == {s.run_id for s in specs[:-1]}
    for spec in specs[:-1]:
        ours, theirs = (s.layout.run(spec.run_id) for s in (all_of_them, one))
        assert logged(ours) == logged(theirs)
        assert done(ours)["metrics"] == done(theirs)["metrics"]
        assert (done(ours)["members"], done(theirs)["members"]) == (5, 1)
    with pytest.raises(UserError, match="cannot be trained together"):
        together(all_of_them, specs)


def test_runs_that_stand_at_different_steps_go_on_together(
    copy_study: Callable[..., Study],
) -> None:
    whole, cut = copy_study("whole"), copy_study("cut")
    specs = whole.propose().specs[:3]
    cut.propose()
    together(whole, specs)

    for spec, stop_at in zip(specs, (5, 12, 5), strict=True):
        left = iter([True] * (stop_at - 1) + [False])
        outcome = together(cut, [spec], keep_going=lambda left=left: next(left))
        assert outcome.stopped == (spec.run_id,)
    outcome = together(cut, specs)
    assert set(outcome.done) == {s.run_id for s in specs}
    for spec in specs:
        ours, theirs = (s.layout.run(spec.run_id) for s in (cut, whole))
        assert logged(ours) == logged(theirs)
        assert done(ours)["metrics"] == done(theirs)["metrics"]


def test_a_diverged_run_is_marked_and_a_retry_takes_the_mark_away(study: Study) -> None:
    spec = diverging(study)
    run = study.layout.run(spec.run_id)
    work(study, spec)
    record = RunRecord(run, spec)
    assert record.status == "failed"
    assert " at step " in record.failure()["reason"]
    assert spec.run_id not in study.open_runs()
    assert spec.run_id in study.open_runs(retry_failed=True)
    run.failed.unlink()
    work(study, spec)
    assert record.status == "failed"
    sane = planned(study, seed=5)
    work(study, sane)
    assert RunRecord(study.layout.run(sane.run_id), sane).status == "done"


def test_data_changed_since_it_was_proposed_is_an_error(study: Study) -> None:
    spec = planned(study)
    path = study.layout.root / "text" / "sums.jsonl"
    path.write_text(path.read_text().replace("9", "8"))
    build.build(study.layout, study.config)
    with pytest.raises(UserError, match=rf"proposed for data {spec.data}, the study now holds \w+"):
        go(study, spec)
    assert not study.layout.run(spec.run_id).done.exists()


def test_a_run_planned_for_other_numerics_is_an_error(study: Study) -> None:
    spec = replace(planned(study), numerics=NUMERICS - 1)
    study.add_run(spec)
    assert RunSpec.load(study.layout.run(spec.run_id).spec) == spec
    with pytest.raises(UserError, match=f"planned for version {NUMERICS - 1} of the numerics"):
        go(study, spec)


def test_a_shortened_shard_is_an_error_before_any_step(study: Study) -> None:
    spec = planned(study)
    shard = study.layout.tokens / "code" / "train-00000.bin"
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(UserError, match=r"train-00000\.bin: has [\d,]+ bytes, the manifest says"):
        go(study, spec)


def test_a_specification_changed_by_hand_is_refused(study: Study) -> None:
    spec = planned(study)
    path = study.layout.run(spec.run_id).spec
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(UserError, match="changed by hand"):
        go(study, spec)


def test_a_torn_last_line_of_the_log_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write("step", step=1)
    with path.open("ab") as stream:
        stream.write(b'{"type": "step", "st')
    assert [e["step"] for e in read_events(path)] == [1]
    with EventLog(path) as log:
        log.write("step", step=2)
    assert [e["step"] for e in read_events(path)] == [1, 2]
    with pytest.raises(ValueError, match="not JSON compliant"), EventLog(path) as log:
        log.write("step", step=3, loss=float("nan"))
    assert [e["step"] for e in read_events(path)] == [1, 2]


def test_a_torn_log_of_a_killed_run_is_whole_after_it_goes_on(study: Study) -> None:
    spec = planned(study)
    run = study.layout.run(spec.run_id)

    def stop(step: int, _: int) -> None:
        if step == 10:
            raise Stop

    with pytest.raises(Stop):
        go(study, spec, on_step=stop, checkpoint_seconds=0.0)
    with run.events.open("ab") as stream:
        stream.write(b'{"type": "metr')
    go(study, spec)
    lines = run.events.read_bytes().splitlines()
    assert all(json.loads(line)["type"] in ("start", "step", "metric") for line in lines)
    frame = study.store.query("select step, count(*) as n from steps group by step order by step")
    assert frame["step"].tolist() == list(range(1, 31))
    assert set(frame["n"]) == {1}


def test_told_to_end_it_leaves_a_checkpoint_and_comes_to_the_same(
    copy_study: Callable[..., Study],
) -> None:
    study, whole = copy_study("study"), copy_study("whole")
    spec = planned(study)
    planned(whole)
    expected = go(whole, spec)
    run = study.layout.run(spec.run_id)
    for ends_at in (1, 7, 15, 16):  # 15: where it is evaluated, too
        left = [ends_at - checkpoint.saved_step(run.checkpoints)]

        def keep_going(left: list[int] = left) -> bool:
            left[0] -= 1
            return left[0] > 0

        go(study, spec, keep_going=keep_going)
        assert not run.done.exists()
        assert checkpoint.saved_step(run.checkpoints) == ends_at
    go(study, spec)
    assert done(run)["metrics"] == done(expected)["metrics"]
    assert logged(run) == logged(expected)


def test_what_keep_going_raises_ends_it_with_nothing_more_written(study: Study) -> None:
    spec = planned(study)
    asked = [0]

    def keep_going() -> bool:
        asked[0] += 1
        if asked[0] == 10:
            raise Stop
        return True

    with pytest.raises(Stop):
        go(study, spec, keep_going=keep_going, checkpoint_seconds=0.0)
    run = study.layout.run(spec.run_id)
    assert checkpoint.saved_step(run.checkpoints) == 9
    assert max(e["step"] for e in read_events(run.events)) == 9


def test_of_two_that_finish_the_same_run_one_records_it(study: Study) -> None:
    spec = planned(study)
    run = study.layout.run(spec.run_id)

    def other(step: int, steps: int) -> None:
        if step == steps:
            run.done.write_text("{}")

    go(study, spec, on_step=other)
    assert run.done.read_text() == "{}"


def test_a_kept_model_is_the_one_that_was_measured(study: Study) -> None:
    from transformers import AutoModelForCausalLM

    from proxy_trainer.evals import bpb
    from proxy_trainer.models.array import ModelArray

    spec = planned(study, keep_model=True)
    run = go(study, spec)
    theirs = AutoModelForCausalLM.from_pretrained(run.model)
    model = ModelArray(spec.model, spec.vocab_size, 1)
    model.load_member(0, theirs.state_dict())
    manifest = build.load_manifest(study.layout, study.config)
    sets = bpb.load_eval_sets(study.layout, manifest, context=32, max_bytes=2000)
    assert bpb.bits_per_byte(model, sets)[0] == done(run)["metrics"]


def test_matched_repetition_gives_a_proxy_the_full_runs_epochs(
    copy_study: Callable[..., Study],
) -> None:
    """A thirtieth of the budget sees a thirtieth of each domain, as often as the full run would."""
    study = copy_study()
    path = study.layout.config
    text = path.read_text().replace("eval_points: 2", "eval_points: 2, repetition: match")
    path.write_text(text + f"space: {{budget_tokens: {4 * 3840}}}\n")
    matched = Study.open(study.layout.root)
    spec = matched.propose().specs[0]
    assert spec.plan.data_share == pytest.approx(0.25)
    full = replace(spec, plan=replace(spec.plan, data_share=1.0, steps=4 * spec.plan.steps,
                                      eval_steps=(4 * spec.plan.steps,)))  # fmt: skip
    matched.add_run(full)
    short, long = (done(go(matched, s))["domains"] for s in (spec, full))
    for ours, theirs in zip(short, long, strict=True):  # type: ignore[call-overload]
        assert ours["epochs"] == pytest.approx(theirs["epochs"], rel=0.05)


def test_matching_without_a_budget_is_an_error(study: Study) -> None:
    path = study.layout.config
    path.write_text(path.read_text().replace("eval_points: 2", "repetition: match"))
    with pytest.raises(UserError, match=r"proxy\.train\.repetition: match needs .*budget_tokens"):
        Study.open(study.layout.root)
