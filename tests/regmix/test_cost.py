"""The cost account: figures by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from regmix import cost
from regmix.cli import main
from regmix.files import read_json, write_json
from regmix.study import Study

Make = Callable[..., Study]


def test_sums_are_those_of_the_runs(trained: Study) -> None:
    found = trained.cost()
    records = [r for r in trained.runs() if r.spec.role == "swarm"]
    row = found.roles.loc["swarm"]
    assert row["runs"] == len(records)
    assert row["tokens"] == sum(r.spec.tokens for r in records)
    assert row["flops"] == pytest.approx(sum(r.spec.flops for r in records))
    assert row["device_hours"] == pytest.approx(1.5 * len(records) / 3600)


def test_evaluation_is_a_forward_pass_over_the_held_out_text(trained: Study) -> None:
    """Held-out text of the fixture: 60,000, 30,000 and 10,000 tokens of 4 bytes."""
    found = trained.cost()
    spec = trained.runs()[0].spec
    assert (spec.plan.eval_bytes, len(spec.plan.eval_steps)) == (60_000, 1)
    tokens = 15_000 + 15_000 + 10_000  # two are cut at 60,000 bytes, the third has 40,000
    each = tokens * spec.flops / spec.tokens / 3
    count = len(trained.runs())
    assert found.roles["evaluation"].sum() == pytest.approx(count * each)
    share = each / (each + spec.flops)
    assert found.evaluation_share == pytest.approx(share)


def result(**counts: int) -> dict[str, Any]:
    named = {"task": "t", "fingerprint": "f"}
    return {**named, "metrics": [], "step": 40, "tokens": 40_960, "counts": counts}


def test_what_tasks_gave_to_read_counts_at_a_third_too(trained: Study) -> None:
    before = trained.cost().roles["evaluation"].sum()
    first, second = [r for r in trained.runs() if r.spec.role == "swarm"][:2]
    for record, name, tokens in (
        (first, "f1", 30_000), (first, "f2", 6_000), (second, "f1", 30_000),
    ):  # fmt: skip
        write_json(record.layout.eval_result(name), result(tokens_read=tokens))
    write_json(first.layout.eval_result("f3"), result(tokens_read=3_000, tokens_written=1_000))
    found = trained.cost()
    each = first.spec.flops / first.spec.tokens / 3
    assert found.roles["evaluation"].sum() - before == pytest.approx(70_000 * each)
    write_json(second.layout.eval_result("f1"), result())  # does not say
    assert trained.cost().as_dict()["evaluation_share"] is None


def test_larger_models_are_none_of_the_proxies(trained: Study, worker: Any) -> None:
    """Neither the FLOPs nor the speed of ladder, stage and target belong beside RegMix's."""
    before = trained.cost()
    natural = trained.references()["natural"]
    for seed, role in enumerate(("ladder", "stage", "target")):
        spec = replace(trained.target_run(role, natural, seed), role=role)
        trained.add_run(spec)
        worker.finish(next(r for r in trained.runs() if r.spec.run_id == spec.run_id))
    after = trained.cost()
    assert set(after.roles.index) > {"ladder", "stage", "target", "swarm"}
    assert after.ratio == before.ratio
    assert after.regmix == before.regmix


def test_a_process_is_a_device(trained: Study) -> None:
    before = trained.cost().roles.loc["swarm", "device_hours"]
    record = next(r for r in trained.runs() if r.spec.role == "swarm")
    done = read_json(record.layout.done)
    done["environment"]["processes"] = 8
    write_json(record.layout.done, done)
    after = trained.cost().roles.loc["swarm", "device_hours"]
    assert after - before == pytest.approx(7 * 1.5 / 3600)


def test_regmix_by_hand(trained: Study) -> None:
    """4 d² + 3 d · MLP + 2 norms a layer, a last norm, the head, attention at half the context."""
    weights = 2 * (4 * 256**2 + 3 * 256 * 512 + 2 * 256) + 256 + 50_432 * 256
    per_token = 6 * weights + 6 * 2 * 2_048 * 256
    total = 512 * 1_001 * 1_048_576 * per_token
    found = trained.cost()
    assert found.regmix["flops"] == pytest.approx(total)
    assert 6 * 50_432 * 256 / per_token == pytest.approx(0.85, abs=0.02)  # as published
    proxies = found.roles.drop("target", errors="ignore")
    assert found.ratio == pytest.approx(total / proxies["flops"].sum())
    speed = proxies["flops"].sum() / proxies["device_hours"].sum()
    assert found.regmix["device_hours"] == pytest.approx(total / speed)


def test_without_runs_or_data_nothing_is_made_up(
    make_study: Make, import_study: Make, swarm_files: Any
) -> None:
    empty = make_study().cost()
    assert empty.roles.empty
    assert json.dumps(empty.as_dict(), allow_nan=False)
    imported = import_study(swarm_files.weights, swarm_files.values).cost()
    assert imported.as_dict()["ratio"] is None


def test_the_command_states_its_assumptions(
    trained: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["regmix", "cost", str(trained.layout.root)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    shown = " ".join(capsys.readouterr().out.split())
    assert "RegMix's published recipe takes" in shown
    for assumption in cost.ASSUMPTIONS:
        assert " ".join(assumption.split()) in shown
