"""The store: derived from files, idempotent, rebuilt when deleted, polite about locks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from regmix import planning, report
from regmix import store as store_module
from regmix.errors import RegmixError, UserError
from regmix.mixture import Mixture
from regmix.runs import NUMERICS
from regmix.study import Study


def contents(study: Study) -> dict[str, pd.DataFrame]:
    study.store.ingest()
    tables = ("runs", "mixtures", "metrics", "steps", "costs", "environments")
    with study.store.connect(read_only=True) as db:
        return {t: db.execute(f"select * from {t} order by all").fetchdf() for t in tables}


def assert_same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    for table, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[table], check_exact=True)


def test_ingesting_twice_reads_nothing_the_second_time(trained: Study) -> None:
    runs = len(trained.runs())
    assert trained.store.ingest() == runs
    before = contents(trained)
    assert trained.store.ingest() == 0
    assert_same(before, contents(trained))
    assert len(before["runs"]) == runs
    assert set(before["runs"]["status"]) == {"done"}
    assert len(before["mixtures"]) == 3 * runs
    assert len(before["metrics"]) == 3 * runs


def test_steps_of_watched_runs_of_others_and_of_earlier_versions(trained: Study) -> None:
    """Figures that were not taken are null, not zero."""
    record = trained.runs()[0]
    base = {"type": "step", "time": 0.0, "loss": 3.0, "grad_norm": 1.0, "lr": 1e-3}
    watched = {
        "tokens_per_second": 1.5e6,
        "mfu": None,
        "device_bytes": 2**36,
        "process_bytes": None,
    }
    events = [
        {**base, "step": 1, "tokens": 10},
        {**base, "step": 2, "tokens": 20, "skipped": 3, "losses": {"web": 2.0}},
        {**base, "step": 3, "tokens": 30, "skipped": 4, "losses": {}, **watched},
        {"type": "devices", "time": 0.0, "name": "cpu", "count": 1},
        {"type": "warning", "time": 0.0, "step": 3, "about": "loss", "text": "x"},
    ]
    record.layout.events.write_text("".join(json.dumps(e) + "\n" for e in events))
    found = trained.store.query(
        "select step, skipped, tokens_per_second, mfu, device_bytes, process_bytes from steps "
        f"where run_id = '{record.spec.run_id}' order by step"
    )
    told = found.astype(object).where(found.notna(), None).values.tolist()
    assert told == [
        [1, None, None, None, None, None],
        [2, 3, None, None, None, None],
        [3, 4, 1.5e6, None, 2**36, None],
    ]


def test_a_deleted_store_is_built_again_the_same(trained: Study) -> None:
    before, observed = contents(trained), trained.observations().frame()
    trained.layout.store.unlink()
    assert_same(before, contents(trained))
    pd.testing.assert_frame_equal(observed, trained.observations().frame(), check_exact=True)


def test_observations_are_what_the_runs_say(trained: Study) -> None:
    data = trained.observations()
    by_name = {r.spec.name: r.spec for r in trained.runs()}
    assert set(data.info["name"]) == {n for n in by_name if n.startswith("mix-")} | {
        "natural",
        "uniform",
    }
    for run_id, name in data.info["name"].items():
        spec = by_name[str(name)]
        assert run_id == spec.run_id
        assert data.weights.loc[str(run_id)].to_dict() == spec.mixture.as_dict()
        for domain, weight in spec.mixture.as_dict().items():
            expected = 2.0 + 1.5 * np.exp(-3 * weight)
            assert data.metrics.loc[str(run_id), f"bpb/{domain}"] == pytest.approx(expected)
    assert sorted(data.singles.index) == ["only-code", "only-math", "only-web"]
    assert len(data.replicates) == 3
    assert data.noise().to_numpy() == pytest.approx(1e-3)  # seeds 0, 1 and 2 times 1e-3
    assert list(data.weights) == ["web", "code", "math"]


def test_a_run_whose_files_change_is_replaced_as_a_whole(trained: Study, worker: Any) -> None:
    trained.store.ingest()
    record = next(r for r in trained.runs() if r.spec.name == "mix-0003")
    record.layout.events.unlink()
    worker.finish(record, {"bpb/web": 1.25, "bpb/code": 1.5, "bpb/math": 1.75})
    assert trained.store.ingest() == 1
    found = trained.store.query(
        f"select name, value from metrics where run_id = '{record.spec.run_id}'"
    )
    assert dict(zip(found["name"], found["value"], strict=True)) == {
        "bpb/web": 1.25, "bpb/code": 1.5, "bpb/math": 1.75
    }  # fmt: skip
    assert len(contents(trained)["runs"]) == len(trained.runs())


def test_a_run_that_is_gone_is_forgotten(trained: Study) -> None:
    trained.store.ingest()
    record = trained.runs()[0]
    for path in record.layout.root.iterdir():
        path.unlink()
    record.layout.root.rmdir()
    trained.store.ingest()
    for table, frame in contents(trained).items():
        assert record.spec.run_id not in set(frame["run_id"]), table


def test_unfinished_and_failed_runs_are_kept_but_not_observed(
    make_study: Callable[..., Study], worker: Any
) -> None:
    study = make_study()
    study.propose()
    failed, started, waiting, *rest = study.runs()
    worker.fail(failed, "loss is not finite in step 3")
    worker.log(started, {"bpb/web": 9.0}, step=5)
    for record in rest:
        worker.finish(record)
    frame = contents(study)["runs"].set_index("run_id")
    assert frame.loc[failed.spec.run_id, "status"] == "failed"
    assert frame.loc[failed.spec.run_id, "reason"] == "loss is not finite in step 3"
    assert frame.loc[started.spec.run_id, "status"] == "started"
    assert frame.loc[waiting.spec.run_id, "status"] == "waiting"
    data = study.observations()
    assert f"{failed.spec.name} (failed: loss is not finite in step 3)" in data.excluded
    observed = set(data.weights.index)
    assert not observed & {r.spec.run_id for r in (failed, started, waiting)}
    worker.finish(started)
    assert study.store.ingest() == 1


def test_a_torn_last_line_is_left_for_the_next_reading(trained: Study) -> None:
    before = trained.observations().frame()
    record = trained.runs()[0]
    with record.layout.events.open("a", encoding="utf-8") as stream:
        stream.write('{"type": "metric", "step": 99, "na')
    pd.testing.assert_frame_equal(before, trained.observations().frame(), check_exact=True)


@pytest.mark.parametrize(
    "line", [b'{"type": "step", "st', b"\xff\xfe\x00", b"\0\0\0\0", b"[1, 2]", b'{"step": 3}']
)
def test_a_broken_line_in_the_middle_is_an_error_with_its_number(
    trained: Study, line: bytes
) -> None:
    record = trained.runs()[0]
    lines = record.layout.events.read_bytes().splitlines()
    lines[1] = line
    record.layout.events.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UserError, match=r"events\.jsonl:2: not "):
        trained.store.ingest()


@pytest.mark.parametrize("content", ['{"task": "mmlu", "metrics": []}', "[]"])
def test_a_file_that_is_no_results_of_a_task_is_named(trained: Study, content: str) -> None:
    layout = trained.runs()[0].layout
    layout.evals.mkdir()
    (layout.evals / "abc.json").write_text(content)
    missing = r"abc\.json: no results of a task \(.*fingerprint, step, .*missing\); delete the file"
    with pytest.raises(UserError, match=missing):
        trained.store.ingest()


def test_the_last_value_of_a_metric_counts(trained: Study, worker: Any) -> None:
    record = next(r for r in trained.runs() if r.spec.name == "mix-0000")
    record.layout.events.unlink()
    worker.log(record, {f"bpb/{d}": 5.0 for d in trained.domains}, step=20)
    worker.log(record, {f"bpb/{d}": 4.0 for d in trained.domains}, step=40)
    worker.log(record, {f"bpb/{d}": 3.0 for d in trained.domains}, step=40)  # after a resume
    data = trained.observations()
    assert data.metrics.loc[record.spec.run_id].tolist() == [3.0, 3.0, 3.0]


def test_a_metric_that_some_runs_lack_is_an_error(trained: Study, worker: Any) -> None:
    record = next(r for r in trained.runs() if r.spec.name == "mix-0000")
    worker.log(record, {"mmlu/acc": 0.25})
    with pytest.raises(UserError, match=r"metric 'mmlu/acc' is missing in \d+ of \d+ runs, first"):
        trained.observations()


def test_nothing_measured_yet_is_said(make_study: Callable[..., Study]) -> None:
    study = make_study()
    with pytest.raises(UserError, match=r"no finished proxy yet; run `regmix propose`"):
        study.observations()


@pytest.mark.parametrize("role", ["single", "replicate"])
def test_of_repeats_and_single_domains_alone_nothing_is_observed(
    make_study: Callable[..., Study], worker: Any, role: str
) -> None:
    study = make_study()
    study.propose()
    for record in study.runs():
        if record.spec.role == role:
            worker.finish(record)
    with pytest.raises(UserError, match="only repeats and single domains are finished yet"):
        study.observations()
    with pytest.raises(UserError, match="only repeats and single domains are finished yet"):
        report.write(study)
    worker.finish(next(r for r in study.runs() if r.spec.role == "baseline"))
    assert len(study.observations().weights) == 1
    assert report.write(study).is_file()


def test_runs_of_another_proxy_are_left_out_and_named(
    make_study: Callable[..., Study], worker: Any
) -> None:
    study = make_study()
    study.propose()
    worker.finish_all(study)
    other = study.runs()[0].spec
    study.add_run(replace(other, name="longer", plan=replace(other.plan, steps=80)))
    worker.finish(next(r for r in study.runs() if r.spec.name == "longer"))
    data = study.observations()
    assert "longer" not in set(data.info["name"])
    assert "longer (another proxy)" in data.excluded


def test_what_was_trained_before_the_numerics_changed_counts_until_as_much_is_trained(
    make_study: Callable[..., Study], worker: Any
) -> None:
    study = make_study()
    ids = [s.run_id for s in study.propose().specs if s.role == "swarm"][:3]
    for spec in [r.spec for r in study.runs() if r.spec.run_id in ids]:
        study.add_run(replace(spec, numerics=NUMERICS - 1))
    for record in study.runs():
        if record.spec.numerics < NUMERICS:
            worker.finish(record)
    earlier = set(study.observations().weights.index)
    assert len(earlier) == 3
    [note] = study.propose().notes
    assert note.startswith("3 finished runs are of an earlier version of the numerics")
    assert set(ids) <= set(study.open_runs())
    for done, run_id in enumerate(ids, 1):
        worker.finish(next(r for r in study.runs() if r.spec.run_id == run_id))
        found = study.observations()
        assert set(found.weights.index) == (earlier if done < 3 else set(ids))
        reasons = [text for text in found.excluded if "another version of the numerics" in text]
        assert len(reasons) == done


def test_a_domain_that_was_dropped_later_leaves_no_trace(
    make_study: Callable[..., Study], worker: Any
) -> None:
    """Runs over other domains are another cohort; their columns must not come along."""
    study = make_study()
    spec = planning.template(study, study.config.proxy)
    wider = Mixture.of({"books": 0.25, "web": 0.25, "code": 0.25, "math": 0.25})
    study.add_run(replace(spec, name="old", mixture=wider, data="older data"))
    study.propose()
    worker.finish_all(study)
    data = study.observations()
    assert list(data.weights) == ["web", "code", "math"]
    assert data.weights.notna().all(axis=None)


def test_targets_and_costs(trained: Study, worker: Any) -> None:
    spec = trained.target_run("uniform", Mixture.uniform(trained.domains))
    trained.add_run(spec)
    worker.finish(next(r for r in trained.runs() if r.spec.role == "target"))
    targets = trained.store.targets()
    assert targets["run_id"].tolist() == [spec.run_id]
    assert targets["bpb/web"].iloc[0] == pytest.approx(2 + 1.5 * np.exp(-1))
    assert targets["parameters"].iloc[0] == spec.model.parameters
    assert "bpb/web" in trained.observations().metrics
    costs = trained.store.costs().set_index("role")
    assert costs.loc["target", "tokens"] == spec.tokens
    assert costs.loc["single", "runs"] == 3
    assert costs["flops"].sum() == pytest.approx(sum(r.spec.flops for r in trained.runs()))


def test_sql_reaches_no_file_outside_the_store(trained: Study, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    (tmp_path / "in.csv").write_text("a\n1\n", encoding="utf-8")
    for sql in (f"copy (select 1) to '{target}'", f"select * from '{tmp_path / 'in.csv'}'"):
        with pytest.raises(UserError, match=r"^sql: "):
            trained.store.query(sql)
    assert not target.exists()


def test_sql_that_writes_or_is_wrong_is_refused_and_changes_nothing(trained: Study) -> None:
    before = contents(trained)
    for sql in (
        "drop table runs", "delete from metrics", "insert into costs values ('x', 1, 1, 1)",
        "create table mine as select 1", "update runs set seed = 1", "selec 1",
        "select * from nothing", "select cast('a' as integer)", "", "   ", "-- nothing",
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"^sql: "):
            trained.store.query(sql)
    assert_same(before, contents(trained))
    assert trained.store.query("select count(*) as n from runs")["n"].tolist() == [18]


@pytest.mark.parametrize("folder", ["study", "blocks"])
@pytest.mark.parametrize("damage", ["garbage", "empty", "half", "zeros"])
def test_a_corrupt_store_is_said_to_be_so_at_once(
    make_study: Callable[..., Study], worker: Any, folder: str, damage: str
) -> None:
    study = make_study(folder=folder)
    study.propose()
    worker.finish_all(study)
    study.store.ingest()
    whole = study.layout.store.read_bytes()
    study.layout.store.write_bytes(
        {
            "garbage": b"this is no database" * 1000,
            "empty": b"",
            "half": whole[: len(whole) // 2],
            "zeros": whole[:4096] + bytes(4096) + whole[8192:],
        }[damage]
    )
    began = time.monotonic()
    with pytest.raises(RegmixError, match=r"metrics\.duckdb: .*delete it"):
        study.store.ingest()
    assert time.monotonic() - began < 5
    study.layout.store.unlink()
    assert study.store.ingest() == len(study.runs())


@contextmanager
def held(path: Path, seconds: float) -> Iterator[None]:
    """Another process keeps the store open."""
    code = (
        "import duckdb, sys, time\n"
        f"connection = duckdb.connect({str(path)!r})\n"
        "print('open', flush=True)\n"
        f"time.sleep({seconds})\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        yield
    finally:
        holder.terminate()
        holder.communicate()


def test_a_store_in_use_is_waited_for(trained: Study) -> None:
    trained.store.ingest()
    record = trained.runs()[0]
    with record.layout.events.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"type": "end"}) + "\n")
    with held(trained.layout.store, 1.0):
        with pytest.raises(duckdb.IOException, match="lock"):
            duckdb.connect(str(trained.layout.store))
        assert trained.store.ingest() == 1


def test_the_wait_for_a_store_in_use_ends(trained: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.store.ingest()
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.3)
    with (
        held(trained.layout.store, 30),
        pytest.raises(RegmixError, match=r"metrics\.duckdb: still locked by another process"),
    ):
        trained.store.ingest()


def test_a_store_of_another_version_is_built_anew(trained: Study) -> None:
    before = contents(trained)
    with trained.store.connect() as db:
        db.execute("update schema_version set version = 0")
        db.execute("alter table runs drop column reason")
    assert trained.store.ingest() == len(trained.runs())
    assert_same(before, contents(trained))
