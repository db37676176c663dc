"""Records and status: what run folders say, also while others write them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmix import claims, sizes, yaml_io
from regmix.config import ModelConfig, TrainConfig
from regmix.errors import UserError
from regmix.files import write_text
from regmix.layout import RunLayout, StudyLayout, folder_name
from regmix.mixture import Mixture
from regmix.outline import outline
from regmix.records import RunRecord, read_events, read_runs
from regmix.runs import RunSpec
from regmix.status import status
from regmix.study import Study


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    made = make_study()
    made.propose()
    return made


def spec_of(study: Study) -> RunSpec:
    return study.runs()[0].spec


def test_a_specification_round_trips(study: Study) -> None:
    for record in study.runs():
        assert RunSpec.load(record.layout.spec) == record.spec
        assert record.layout.run_id == record.spec.run_id


@given(weights=st.lists(st.floats(0.001, 1), min_size=3, max_size=3), seed=st.integers(0, 2**31))
def test_any_specification_round_trips(
    tmp_path_factory: pytest.TempPathFactory, weights: list[float], seed: int
) -> None:
    """Whatever the hash looks like: `12345e678901` is text, not a number."""
    total = sum(weights)
    model = sizes.shape(ModelConfig(size="50k"))
    spec = RunSpec(
        name="any",
        role="swarm",
        mixture=Mixture.of({d: w / total for d, w in zip("abc", weights, strict=True)}),
        model=model,
        plan=sizes.plan(TrainConfig(lr=1e-3 / (1 + seed)), model),
        vocab_size=300,
        data=f"{seed % 10**8:08d}e{seed % 997}",
        seed=seed,
    )
    path = tmp_path_factory.getbasetemp() / "specs" / spec.run_id / "spec.yaml"
    spec.save(path)
    assert RunSpec.load(path) == spec


def test_identity_is_everything_that_changes_the_result(study: Study) -> None:
    spec = spec_of(study)
    same = [replace(spec, name="x"), replace(spec, role="target")]
    other = [
        replace(spec, seed=99), replace(spec, data="else"), replace(spec, vocab_size=1),
        replace(spec, keep_model=True),
        replace(spec, mixture=Mixture.of({"web": 0.5, "code": 0.5, "math": 0.0})),
        replace(spec, plan=replace(spec.plan, lr=spec.plan.lr * 1.01)),
        replace(spec, model=replace(spec.model, qk_norm=True)),
    ]  # fmt: skip
    assert {s.run_id for s in same} == {spec.run_id}
    assert len({spec.run_id, *(s.run_id for s in other)}) == len(other) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 7}, r"spec\.yaml: its content has id .*changed by hand"),
        ({"weights": {"web": 0.5, "code": 0.4, "math": 0.0}},
         r"spec\.yaml: weights: .* sum to 0\.9"),
        ({"weights": None}, r"spec\.yaml: not a run specification"),
        ({"plan": {"steps": 1}}, r"spec\.yaml: not a run specification .*missing"),
        ({"run_id": "else"}, r"spec\.yaml: its content has id .*not 'else'"),
    ],
)  # fmt: skip
def test_a_specification_changed_by_hand_is_refused(
    study: Study, change: dict[str, Any], message: str
) -> None:
    path = study.runs()[0].layout.spec
    path.write_text(yaml_io.dump({**yaml_io.load(path), **change}), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_runs(study.layout)


def test_the_state_follows_from_the_files(study: Study, worker: Any) -> None:
    record = study.runs()[0]
    seen = [record.status]
    worker.log(record, {})
    seen.append(record.status)
    worker.fail(record, "it broke")
    seen.append(record.status)
    record.layout.failed.unlink()
    worker.mark_done(record, {"bpb/web": 1.0})
    seen.append(record.status)
    assert seen == ["waiting", "started", "failed", "done"]
    assert record.result()["metrics"] == {"bpb/web": 1.0}


def test_the_stamp_changes_with_the_files(study: Study, worker: Any) -> None:
    record = study.runs()[0]
    stamps = [record.stamp]
    worker.log(record, {})
    stamps.append(record.stamp)
    assert record.stamp == stamps[-1]
    worker.log(record, {})
    stamps.append(record.stamp)
    worker.mark_done(record, {})
    stamps.append(record.stamp)
    assert len(set(stamps)) == 4


def test_events_up_to_a_line_still_being_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert list(read_events(path)) == []
    path.write_text('{"type": "a"}\n{"type": "b"}\n{"type": "c"', encoding="utf-8")
    assert [e["type"] for e in read_events(path)] == ["a", "b"]
    path.write_text('{"type": "a"}\n{"typ\n{"type": "c"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"events\.jsonl:2: not JSON"):
        list(read_events(path))


def test_a_whole_study_at_a_glance(study: Study, worker: Any) -> None:
    failed, stopped, running, done, *waiting = study.runs()
    worker.fail(failed, "loss is not finite")
    worker.log(stopped, {}, step=10)
    worker.finish(done)
    with held(running):
        found = status(study.layout)
    by_id = {r.run_id: r for r in found.runs}
    assert by_id[failed.spec.run_id].state == "failed"
    assert by_id[failed.spec.run_id].reason == "loss is not finite"
    assert by_id[stopped.spec.run_id].state == "stopped"
    assert by_id[running.spec.run_id].state == "running"
    assert by_id[done.spec.run_id].state == "done"
    assert found.count("waiting") == len(waiting)
    tokens = done.spec.tokens
    assert by_id[stopped.spec.run_id].tokens == 10 * 1024
    assert found.done_tokens == tokens + 10 * 1024
    assert found.planned_tokens == tokens * (len(found.runs) - 1)
    assert found.tokens_per_second == 0.0
    assert found.eta_seconds is None
    after = {r.run_id: r.state for r in status(study.layout).runs}
    assert after[running.spec.run_id] == "waiting"  # released, and nothing was written


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"name": "true"},
        {"name": "12"},
        {"name": "a: b"},
        {"name": "é – 'x'\nand more " * 9},
        {"name": "swarm-0001"},
        {"name": "- a"},
        {"role": "target"},
    ],
)
def test_an_outline_agrees_with_the_specification(study: Study, change: dict[str, str]) -> None:
    spec = replace(spec_of(study), seed=77, **change)
    study.add_run(spec)
    folder = study.layout.run(spec.run_id).root
    brief = outline(folder)
    expected = (spec.run_id, spec.name, spec.role, spec.tokens, spec.tokens_per_step, spec.flops)
    assert tuple(vars(brief).values()) == expected
    # laid out by hand, in another order and style: the same
    raw = yaml_io.load(folder / "spec.yaml")
    path = folder / "spec.yaml"
    path.write_text(json.dumps(dict(reversed(raw.items()))), encoding="utf-8")
    assert outline(folder) == brief
    path.write_text("kind: run\nname: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"spec\.yaml:3: not valid YAML"):
        outline(folder)


def test_rate_and_time_left_from_the_log(study: Study) -> None:
    record = study.runs()[0]
    now = time.time()
    events = [
        {"type": "step", "step": s, "tokens": s * 1024, "time": now - 20 + s} for s in (5, 10, 15)
    ]
    record.layout.events.write_text("".join(json.dumps(e) + "\n" for e in events), encoding="utf-8")
    found = status(study.layout)
    assert found.tokens_per_second == pytest.approx(15 * 1024 / 15, rel=0.1)
    left = found.planned_tokens - 15 * 1024
    assert found.eta_seconds == pytest.approx(left / found.tokens_per_second)


def log_steps(record: RunRecord, *points: tuple[float, int]) -> None:
    """A start at the first point (seconds ago, step), then a step event at each of the others."""
    now = time.time()
    (ago, step), *rest = points
    events: list[dict[str, Any]] = [{"type": "start", "step": step, "time": now - ago}]
    per_step = record.spec.tokens_per_step
    events += [{"type": "step", "step": n, "tokens": n * per_step, "time": now - t}
               for t, n in rest]  # fmt: skip
    with record.layout.events.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(e) + "\n" for e in events)
    os.utime(record.layout.events, (events[-1]["time"],) * 2)


@contextmanager
def held(*records: RunRecord) -> Iterator[None]:
    """Runs that this process has claimed."""
    entries = []
    for record in records:
        number = len(claims.log(record.layout.claims)) + 1
        entries.append(claims.made(record.layout.claims / f"{number}.json", "w", 120.0, 0))
    for entry in entries:
        write_text(entry.path, claims.to_text(entry))
    yield
    for entry in entries:
        after = claims.released(entry, "asked to end", failed=False)
        write_text(after.path, claims.to_text(after))


def test_the_rate_of_runs_that_say_little(study: Study) -> None:
    """One event in ten minutes, and one in forty seconds: both count at their own pace."""
    slow, slower, *_ = study.runs()
    per_step = slow.spec.tokens_per_step
    log_steps(slow, (100, 0), (60, 8), (20, 16))
    log_steps(slower, (3000, 0), (1500, 5), (900, 11), (300, 15))
    with held(slow, slower):
        found = status(study.layout)
    assert found.tokens_per_second == pytest.approx(per_step * (16 / 80 + 4 / 600), rel=0.01)
    assert found.eta_seconds == pytest.approx(
        (found.planned_tokens - 31 * per_step) / found.tokens_per_second
    )


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
def test_a_worker_whose_clock_is_off_counts_at_its_pace(study: Study, off: float) -> None:
    run = study.runs()[0]
    log_steps(run, (80 - off, 0), (40 - off, 8), (0 - off, 16))
    os.utime(run.layout.events)
    with held(run):
        rate = status(study.layout).tokens_per_second
    assert rate == pytest.approx(run.spec.tokens_per_step * 16 / 80, rel=0.05)


def test_a_machine_whose_clock_is_off_sees_the_same(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = study.runs()[0]
    log_steps(run, (80, 0), (40, 8), (0, 16))
    now = time.time()
    with held(run):
        for off in (-3600.0, 3600.0):
            monkeypatch.setattr(time, "time", lambda off=off: now + off)
            rate = status(study.layout).tokens_per_second
            assert rate == pytest.approx(run.spec.tokens_per_step * 16 / 80, rel=0.1)


def test_a_resumed_run_counts_from_its_resumption_and_a_still_one_fades(study: Study) -> None:
    resumed, still, *_ = study.runs()
    per_step = resumed.spec.tokens_per_step
    log_steps(resumed, (90_000, 0), (89_000, 10))
    log_steps(resumed, (30, 10), (10, 14))
    with held(resumed):
        rate = status(study.layout).tokens_per_second
    assert rate == pytest.approx(per_step * 4 / 20, rel=0.01)
    log_steps(still, (10_030, 0), (10_000, 30))
    with held(still):
        os.utime(resumed.layout.events, (0, 0))
        rate = status(study.layout).tokens_per_second
    assert rate == pytest.approx(per_step * 30 / 10_000, rel=0.01)


def test_a_run_that_has_just_begun_counts_like_others_per_flop(study: Study, worker: Any) -> None:
    begun, done, *_ = study.runs()
    larger = study.target_run("larger", study.references()["uniform"])
    study.add_run(larger)
    other = next(r for r in study.runs() if r.spec.run_id == larger.run_id)
    worker.finish(done)
    seconds = float(done.result()["seconds"])
    with held(begun):
        found = status(study.layout)
    assert found.tokens_per_second == pytest.approx(begun.spec.tokens / seconds)
    log_steps(other, (40, 0), (20, 10))
    with held(begun, other):
        found = status(study.layout)
    own = 10 * larger.tokens_per_step / 20
    size = (larger.flops / larger.tokens) / (begun.spec.flops / begun.spec.tokens)
    assert size > 1.2
    assert found.tokens_per_second == pytest.approx(own + own * size, rel=0.01)
    os.utime(other.layout.events, (0, 0))
    assert status(study.layout).tokens_per_second == 0.0  # nobody is at work


def test_a_study_without_runs(tmp_path: Path) -> None:
    found = status(StudyLayout(tmp_path))
    assert (found.runs, found.planned_tokens, found.eta_seconds) == ((), 0, None)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6, unique=True))
def test_folder_names_are_single_and_distinct(names: list[str]) -> None:
    folders = [folder_name(n) for n in names]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert Path("/tokens") / folder != Path("/tokens")
        assert (Path("/tokens") / folder).parent == Path("/tokens")
        assert folder not in (".", "..")


@pytest.mark.parametrize("letter", ["a", "é", "数", "🙂", "%", "."])
def test_any_valid_name_of_a_domain_has_a_folder_of_its_own(tmp_path: Path, letter: str) -> None:
    names = [letter * n for n in (1, 28, 29, 42, 43, 84, 86, 199, 200)]
    names += [letter * 199 + "x", "x" + letter * 199, letter * 198 + "/x"]
    folders = [StudyLayout(tmp_path).domain_tokens(name) for name in names]
    assert len(set(folders)) == len(names)
    for name, folder in zip(names, folders, strict=True):
        assert folder.parent == tmp_path / "tokens"
        folder.mkdir(parents=True)
        (folder / ".train-00000.bin.tmp-part").touch()
        assert unquote(folder.name) == name or "%~" in folder.name
        assert folder_name(folder.name) != folder.name or "%" not in folder.name


def test_run_layout_names_its_files(tmp_path: Path) -> None:
    run = StudyLayout(tmp_path).run("abc")
    assert run == RunLayout(tmp_path / "runs" / "abc")
    files = {run.spec, run.events, run.done, run.failed, run.claims, run.model, run.checkpoints}
    assert len(files) == 7
    assert {f.parent for f in files} == {run.root}
