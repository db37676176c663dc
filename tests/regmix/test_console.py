"""What the terminal shows: every figure there is, whole, beside the one it belongs with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from regmix import console
from regmix.config import FitConfig
from regmix.demo import stage_costs
from regmix.study import Study

QUICK = FitConfig(regressor="gp", samples=500, top_k=20, repeats=1)


def shown(show: Callable[[], None], width: int = 40) -> list[str]:
    """Lines as a terminal of this width, or a pipe, gets them."""
    before = console.console.width
    console.console.width = width
    try:
        with console.console.capture() as captured:
            show()
    finally:
        console.console.width = before
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.fixture
def compared(trained: Study, worker: object) -> Study:
    """A fit, and the proposal and its references trained at the larger size with two seeds."""
    trained.fit(settings=QUICK)
    for seed in (3, 4):
        for number, (name, mixture) in enumerate(
            {"proposal": trained.best(), **trained.references()}.items()
        ):
            spec = trained.target_run(name, mixture, seed)
            trained.add_run(spec)
            record = next(r for r in trained.runs() if r.spec.run_id == spec.run_id)
            values = {f"bpb/{d}": 2.0 + number / 8 + seed / 16 for d in mixture.domains}
            worker.finish(record, values)  # type: ignore[attr-defined]
    return trained


def test_predicted_stands_beside_measured_for_every_metric(compared: Study) -> None:
    fit, comparison = compared.latest_fit(), compared.comparison()
    assert comparison is not None
    lines = shown(lambda: console.show_outcome(compared, fit, comparison))
    assert lines[0].endswith("(2 seeds)")
    for metric, (mean, sd) in fit.proposal.best.metrics.items():
        row = next(x for x in lines if x.startswith(f"{metric} "))
        assert f" {mean:.4f} ±{sd:.4f} " in row
        noise = fit.diagnostics["metrics"][metric]["noise"]
        # 2 + (3 + 4) / 2 / 16, then an eighth more for each mixture.
        assert row.split()[-4:] == ["2.2188", "2.3438", "2.4688", f"{noise:.4f}"]
    row = next(x for x in lines if x.startswith("objective "))
    for candidate in (fit.proposal.best, *fit.proposal.baselines[:2]):
        mean, sd = candidate.objective
        assert f" {mean:.4f} ±{sd:.4f} " in row
    assert any(x.startswith("against natural  measured gain +0.1250 (+0.1250, +0.1250)")
               for x in lines)  # fmt: skip


def test_no_figure_is_cut_in_a_narrow_terminal(compared: Study) -> None:
    fit, comparison = compared.latest_fit(), compared.comparison()
    assert comparison is not None
    narrow, wide = (
        shown(lambda: console.show_outcome(compared, fit, comparison), width) for width in (40, 200)
    )
    assert narrow == wide
    assert not any("…" in line for line in narrow)


def test_costs_are_those_of_the_runs_of_a_stage(compared: Study) -> None:
    records = compared.runs()
    swarm = [r.spec.run_id for r in records if r.spec.role != "target"]
    larger = [r.spec.run_id for r in records if r.spec.role == "target"]
    costs = stage_costs(
        compared.store,
        {"tokens": 3.0, "swarm": 60.0, "fit": 5.0, "proposal": 7.0},
        {"swarm": swarm, "proposal": [*larger, swarm[0]]},
    )
    assert [c.stage for c in costs] == ["tokens", "swarm", "fit", "proposal"]
    assert [c.runs for c in costs] == [0, len(swarm), 0, len(larger)]
    assert costs[1].tokens == sum(r.spec.tokens for r in records if r.spec.run_id in swarm)
    assert costs[3].flops == pytest.approx(
        sum(r.spec.flops for r in records if r.spec.run_id in larger)
    )
    assert costs[1].core_seconds == pytest.approx(1.5 * len(swarm))
    lines = shown(lambda: console.show_costs(costs))
    assert lines[1].split() == ["stage", "runs", "tokens", "FLOPs", "core-seconds", "time"]
    assert next(x for x in lines if x.startswith("fit")).split() == [
        "fit", "–", "–", "–", "–", "5", "s"
    ]  # fmt: skip
    assert lines[-1].split()[:2] == ["all", str(len(records))]
    assert lines[-1].endswith("75 s")


@pytest.mark.parametrize(("counted", "shown"), [(True, "7/7"), (False, "100%")])
def test_a_bar_that_ended_says_so(
    counted: bool, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with console.TerminalDisplay().stage("Fit", counted=counted) as progress:
        progress(6, 7)
    assert shown in capfd.readouterr().out


def test_a_bar_of_unknown_length_ends_too(capfd: pytest.CaptureFixture[str]) -> None:
    with console.TerminalDisplay().stage("Report"):
        pass
    assert "Report" in capfd.readouterr().out
