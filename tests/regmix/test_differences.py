"""Comparisons: equal things are not told apart, different ones are, and the paperwork is right."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from regmix import differences, planning
from regmix.cli import main
from regmix.differences import NOTHING, UNKNOWN
from regmix.errors import UserError
from regmix.mixture import Mixture, MixtureFile
from regmix.runs import Start
from regmix.study import Study

Make = Callable[..., Study]
SIGMA = 0.01


def fill(
    study: Study,
    worker: Any,
    rng: np.random.Generator,
    shift: Mapping[str, float] | None = None,
    metrics: int = 4,
    sampling: float | None = None,
) -> None:
    """Finish every run with seed noise alone, and a shift by the run's name."""
    for record in study.runs():
        if record.status == "done":
            continue
        name = record.spec.name.split("-seed")[0]
        base = 2.0 + (shift or {}).get(name, 0.0)
        values = {f"bpb/d{i}": base + SIGMA * float(rng.standard_normal()) for i in range(metrics)}
        worker.log(record, values)
        if sampling is not None:
            lines = [json.loads(x) for x in record.layout.events.read_text("utf-8").splitlines()]
            for event in lines:
                if event["type"] == "metric":
                    event["std_error"] = sampling
            text = "".join(json.dumps(x) + "\n" for x in lines)
            record.layout.events.write_text(text, "utf-8")
        worker.mark_done(record, values)


@pytest.fixture
def two(make_study: Make) -> Study:
    """Natural and uniform with five seeds each, and a swarm."""
    study = make_study()
    text = study.layout.config.read_text("utf-8")
    study.layout.config.write_text(
        text.replace("swarm: {runs: 12,", "swarm: {repeat: [uniform], replicates: 5, runs: 12,"),
        "utf-8",
    )
    study = Study.open(study.layout.root)
    study.propose()
    return study


def test_figures_are_those_of_the_definition(two: Study, worker: Any) -> None:
    fill(two, worker, np.random.default_rng(11), {"uniform": 0.05}, metrics=1)
    found = two.compare("natural", "uniform").frame.iloc[0]
    info, values, _ = two.store.measured()
    by = {
        n: values.loc[info["name"].str.startswith(n), "bpb/d0"].to_numpy()
        for n in ("natural", "uniform")
    }
    pooled = math.sqrt(np.mean([v.var(ddof=1) for v in by.values()]))
    difference = by["uniform"].mean() - by["natural"].mean()
    error = pooled * math.sqrt(2 / 5)
    assert found["difference"] == pytest.approx(difference)
    assert found["std_error"] == pytest.approx(error)
    assert found["freedom"] == 8
    assert found["p"] == pytest.approx(stats.ttest_ind(*by.values()).pvalue)
    assert (found["seeds"], found["verdict"]) == (5, "worse")


def test_equal_mixtures_are_told_apart_once_in_twenty_at_most(two: Study, worker: Any) -> None:
    """Over four metrics together: that is what the correction is for."""
    rng = np.random.default_rng(1)
    fill(two, worker, rng)
    info, values, errors = two.store.measured()
    alarms = []
    for _ in range(300):
        drawn = pd.DataFrame(
            2 + SIGMA * rng.standard_normal(values.shape), values.index, values.columns
        )

        class Store:
            def measured(self, drawn: pd.DataFrame = drawn) -> tuple[Any, ...]:
                return info, drawn, errors

        found = differences.compare(two, Store(), ["natural", "uniform"])  # type: ignore[arg-type]
        alarms.append(len(found.detected("uniform")) > 0)
    assert np.mean(alarms) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert np.mean(alarms) > 0.005


def test_no_detectable_difference_is_said_in_these_words(
    two: Study, worker: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(two, worker, np.random.default_rng(2))
    assert set(two.compare("natural", "uniform").frame["verdict"]) == {NOTHING}
    monkeypatch.setattr(
        sys, "argv", ["regmix", "compare", str(two.layout.root), "natural", "uniform"]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "uniform against natural: no detectable difference" in shown
    assert "Holm" in shown


def test_sampling_error_says_where_other_texts_could_turn_it(two: Study, worker: Any) -> None:
    fill(two, worker, np.random.default_rng(3), {"uniform": -0.08}, sampling=0.05)
    frame = two.compare("natural", "uniform").frame
    assert set(frame["verdict"]) == {"better on these texts"}
    row = frame.iloc[0]
    assert row["std_error_any"] == pytest.approx(math.sqrt(row["std_error"] ** 2 + 2 * 0.05**2))


def test_several_are_each_against_the_first(two: Study, worker: Any) -> None:
    fill(two, worker, np.random.default_rng(4), {"mix-0000": 0.3})
    found = two.compare("natural", "uniform", "mix-0000")
    assert found.subjects == ("natural", "uniform", "mix-0000")
    assert found.frame.groupby("name")["p"].max().lt(0.05).to_dict() == {
        "mix-0000": True, "uniform": False,
    }  # fmt: skip
    assert found.frame.set_index("name")["seeds"].to_dict() == {"uniform": 5, "mix-0000": 1}


def test_higher_is_better_where_the_metric_says_so(two: Study, worker: Any) -> None:
    rng = np.random.default_rng(5)
    for record in two.runs():
        shift = 0.2 if record.spec.name.startswith("uniform") else 0.0
        noise = SIGMA * float(rng.standard_normal())
        worker.finish(record, {"mmlu/acc": 0.3 + shift + noise, "loss": 3 + shift + noise})
    verdicts = two.compare("natural", "uniform").frame.set_index("metric")["verdict"]
    assert verdicts.to_dict() == {"loss": "worse", "mmlu/acc": "better"}


def test_runs_by_id_and_beginning_and_mixture_files(two: Study, worker: Any, tmp_path: Any) -> None:
    fill(two, worker, np.random.default_rng(6))
    info, _, _ = two.store.measured()
    ids = {n: i for i, n in info["name"].items()}
    a, b = ids["mix-0000"], ids["mix-0001"]
    assert two.compare(a, b[:8]).frame["seeds"].tolist() == [1] * 4
    path = tmp_path / "even.yaml"
    MixtureFile("even", Mixture.uniform(("math", "web", "code"))).save(path)
    by_file = two.compare("natural", str(path)).frame
    by_name = two.compare("natural", "uniform").frame
    pd.testing.assert_frame_equal(by_file.drop(columns="name"), by_name.drop(columns="name"))
    (two.layout.run(a).root / "model").mkdir()
    assert two.compare(b, str(two.layout.run(a).root / "model")).frame["difference"].tolist() == (
        pytest.approx(two.compare(b, a).frame["difference"].tolist())
    )


def test_larger_models_take_the_proxies_noise_until_they_are_repeated(
    two: Study, worker: Any
) -> None:
    fill(two, worker, np.random.default_rng(7))
    other = next(r.spec.mixture for r in two.runs() if r.spec.name == "mix-0000")
    mixes = {"a": Mixture.uniform(two.domains), "b": other}
    for name, mixture in mixes.items():
        planning.add_run(two, planning.target_run(two, f"target-{name}", mixture))
    fill(two, worker, np.random.default_rng(8))
    found = two.compare("target-a", "target-b")
    assert found.frame["freedom"].tolist() == [8] * 4
    assert "the seed noise is that of the proxies" in found.notes[0]
    spec = planning.target_run(two, "target-a2", mixes["a"])
    planning.add_run(two, replace(spec, seed=99))
    fill(two, worker, np.random.default_rng(9))
    assert two.compare("target-a", "target-b").frame["freedom"].tolist() == [1] * 4


def test_an_average_is_no_further_seed_nor_is_a_run_that_starts_elsewhere(
    two: Study, worker: Any
) -> None:
    """Three runs of a stage 0.001 apart, their average 0.5 better, one from another start."""
    for name in ("natural", "uniform"):
        stage = replace(two.target_run("stage", two.mixture(name), 0), role="stage")
        specs = [replace(stage, seed=seed, start=Start(run="before")) for seed in range(3)]
        ids = tuple(spec.run_id for spec in specs)
        specs += [
            replace(specs[0], merge=ids),
            replace(stage, seed=3, start=Start(run="other")),
            replace(stage, seed=4, start=Start(run="before"), chat="talk"),
        ]
        for index, spec in enumerate(specs):
            two.add_run(spec)
            [record] = [r for r in two.runs() if r.spec.run_id == spec.run_id]
            value = (2.000, 2.001, 2.002, 1.5, 1.0, 3.0)[index] + 0.1 * (name == "uniform")
            worker.finish(record, {"bpb/web": value})
    row = two.compare("natural", "uniform").frame.iloc[0]
    assert row["seeds"] == 3
    assert (row["first"], row["value"]) == pytest.approx((2.001, 2.101))
    assert row["freedom"] == 4
    assert row["std_error"] == pytest.approx(0.001 * math.sqrt(2 / 3))


def test_without_repeats_nothing_is_claimed(import_study: Make, swarm_files: Any) -> None:
    study = import_study(swarm_files.weights, swarm_files.values)
    info, _, _ = study.store.measured()
    a, b = (str(i) for i in info.index[:2])
    found = study.compare(a, b)
    assert set(found.frame["verdict"]) == {UNKNOWN}
    assert json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["natural"], "two or more"),
        (["natural", "unifrom"], "did you mean 'uniform'"),
        (["natural", "natural"], "share run"),
        (["natural", "natural-seed1"], "share run"),
        (["natural", "mix-0003"], "no metric that all"),
    ],
)
def test_what_cannot_be_compared_is_said(
    two: Study, worker: Any, names: list[str], message: str
) -> None:
    for record in two.runs():
        odd = record.spec.name == "mix-0003"
        worker.finish(record, {"acc": 0.1} if odd else {"bpb/web": 2.0 + 0.01 * record.spec.seed})
    with pytest.raises(UserError, match=message):
        two.compare(*names)


def test_a_mixture_that_was_not_trained_is_named(two: Study, worker: Any) -> None:
    fill(two, worker, np.random.default_rng(10))
    MixtureFile("new", Mixture.only("web", two.domains)).save(two.layout.mixture("new"))
    half = Mixture.of({"web": 0.5, "code": 0.5, "math": 0.0})
    MixtureFile("half", half).save(two.layout.mixture("half"))
    with pytest.raises(UserError, match="no finished run was trained on mixture 'half'"):
        two.compare("natural", "half")
