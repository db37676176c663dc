"""Flags: planted faults are found by the rule that is theirs, and clean studies are left alone."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from regmix.cli import main
from regmix.errors import UserError
from regmix.files import read_json, write_json
from regmix.flags import books, curves, prediction
from regmix.flags.base import limit
from regmix.mixture import Mixture
from regmix.observations import Observations
from regmix.records import RunRecord
from regmix.regressors.gp import GaussianProcess
from regmix.study import Study

Make = Callable[..., Study]
DOMAINS = ["books", "code", "math", "web"]


def values(w: np.ndarray, surface: str) -> np.ndarray:
    """Four metrics of mixtures, shape ``(n, 4)``."""
    after = np.roll(w, -1, axis=1)
    if surface == "exponential":
        return np.asarray(2 + (1 + 0.2 * np.arange(4)) * np.exp(-2 * w) - 0.3 * after)
    if surface == "power":
        return np.asarray(2 + 0.3 * (w + 0.02) ** -0.3)
    return np.asarray(2 + 2 * np.maximum(0, 0.3 - w) + 0.2 * after)  # a kink


def clean(
    rng: np.random.Generator, surface: str = "exponential", noise: float = 0.01, runs: int = 100
) -> Observations:
    w = rng.dirichlet(np.full(4, 0.6), runs)
    ids = [f"r{i:03d}" for i in range(runs)]
    names = [f"bpb/{d}" for d in DOMAINS]
    y = values(w, surface) + noise * rng.standard_normal((runs, 4))
    natural = np.full(4, 0.25)
    repeats = values(natural[None], surface) + noise * rng.standard_normal((3, 4))
    return Observations(
        weights=pd.DataFrame(w, ids, DOMAINS),
        metrics=pd.DataFrame(y, ids, names),
        info=pd.DataFrame({"name": ids, "role": "swarm", "seed": 0, "tokens": 1}, ids),
        replicates=pd.DataFrame(repeats, ["n0", "n1", "n2"], names).assign(mixture="h"),
        replicate_weights=pd.DataFrame(natural[None], ["h"], DOMAINS),
    )


def changed(data: Observations, metrics: pd.DataFrame) -> Observations:
    return Observations(data.weights, metrics, data.info, data.replicates, data.replicate_weights)


def test_leave_one_out_is_that_of_conditioning_on_the_others() -> None:
    rng = np.random.default_rng(0)
    x = rng.dirichlet(np.ones(3), 20)
    y = np.exp(-x[:, :1]) + 0.01 * rng.standard_normal((20, 1))
    model = GaussianProcess.fit_all(x, y)[0]
    found = model.leave_one_out()
    state = model.state()
    for i in (0, 7, 19):
        left = {k: np.delete(np.array(state[k]), i, axis=0).tolist() for k in ("x", "y", "noise")}
        alone = GaussianProcess.from_state({**state, **left}).predict(x[i : i + 1])
        assert found.mean[i] == pytest.approx(alone.mean[0], rel=1e-9)
        assert found.std[i] == pytest.approx(alone.std[0], rel=1e-6)


@pytest.mark.parametrize("count", [1, 5])
def test_diverged_runs_are_found_and_no_others(count: int) -> None:
    data = clean(np.random.default_rng(2))
    metrics = data.metrics.copy()
    bad = list(metrics.index[10 : 10 + count])
    metrics.loc[bad] += 1.5
    assert {f.run_id for f in prediction.mispredicted(changed(data, metrics))} == set(bad)


def test_swapped_shares_that_nobody_recorded_are_found_by_the_figures() -> None:
    data = clean(np.random.default_rng(3))
    run = str((data.weights["code"] - data.weights["web"]).abs().idxmax())
    w = data.weights.loc[[run], ["books", "web", "math", "code"]].to_numpy()
    metrics = data.metrics.copy()
    metrics.loc[run] = values(w, "exponential")[0]
    found = prediction.mispredicted(changed(data, metrics))
    assert {f.run_id for f in found} == {run}
    assert {"bpb/code", "bpb/web"} <= {f.subject for f in found}
    assert "is predicted from the other runs" in found[0].text


def test_a_noisy_metric_judges_nobody() -> None:
    data = clean(np.random.default_rng(4))
    rng = np.random.default_rng(5)
    repeats = data.replicates.assign(**{"bpb/code": 2 + rng.standard_normal(3)})
    metrics = data.metrics.copy()
    metrics.loc["r010", "bpb/code"] += 1.5
    noisy = Observations(data.weights, metrics, data.info, repeats, data.replicate_weights)
    assert prediction.mispredicted(noisy) == []


def test_a_diverged_repeat_is_found_and_does_not_hide_behind_its_own_noise() -> None:
    data = clean(np.random.default_rng(6))
    repeats = data.replicates.copy()
    repeats.loc["n2", list(data.metric_names)] += 3.0
    metrics = data.metrics.copy()
    metrics.loc["r020"] += 1.5
    found = prediction.mispredicted(
        Observations(data.weights, metrics, data.info, repeats, data.replicate_weights)
    )
    assert {f.run_id for f in found} == {"n2", "r020"}


def test_no_repeat_is_left_out_of_the_noise_only_because_it_would_be_less() -> None:
    """Of three seeds one is always far from the others: a noisy metric is taken for very stable
    as often as three seeds underestimate its noise fourfold, and no oftener."""
    judged = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, 9])
        data = clean(rng, runs=40)
        spread = float(data.metrics["bpb/web"].std())
        metrics, repeats = data.metrics[["bpb/web"]].copy(), data.replicates.copy()
        noise = spread / math.sqrt(3)  # spread over noise is 2
        metrics["bpb/web"] += noise * rng.standard_normal(40)
        metrics.loc["r010"] += 20 * noise
        repeats["bpb/web"] += noise * rng.standard_normal(3)
        noisy = Observations(
            data.weights, metrics, data.info, repeats[["bpb/web", "mixture"]],
            data.replicate_weights,
        )  # fmt: skip
        judged += bool(prediction.mispredicted(noisy))
    chance = 1 - math.exp(-((2 / 8) ** 2))  # χ² with two degrees of freedom
    assert judged <= stats.binom.ppf(0.999, 40, chance)


def test_with_few_runs_more_is_needed() -> None:
    assert limit(100, 100, 0.002) == pytest.approx(5.0, abs=0.2)
    assert limit(12, 48, 0.002) > 10
    assert prediction.mispredicted(clean(np.random.default_rng(7), runs=10)) == []


def course(rng: np.random.Generator, runs: int = 100, points: int = 60) -> pd.DataFrame:
    """Losses and gradient norms of clean runs: they fall, with long-tailed noise."""
    t = np.arange(points)
    frames = []
    for i in range(runs):
        level = 3 + rng.normal(0, 0.3)
        loss = level + 4 * np.exp(-t / 8) + 0.06 * rng.standard_t(5, points)
        norm = (1 + 3 * np.exp(-t / 4)) * np.exp(0.12 * rng.standard_t(8, points))
        frames.append(
            pd.DataFrame({"run_id": f"r{i:03d}", "step": 10 * t, "loss": loss, "grad_norm": norm})
        )
    return pd.concat(frames, ignore_index=True)


def test_clean_courses_are_left_alone() -> None:
    found = [f for seed in range(20) for f in curves.losses(course(np.random.default_rng(seed)))]
    assert found == []


@pytest.mark.parametrize("column", ["loss", "grad_norm"])
def test_a_spike_is_found_where_it_is(column: str) -> None:
    steps = course(np.random.default_rng(30), runs=20)
    at = (steps["run_id"] == "r004") & (steps["step"] == 400)
    steps.loc[at, column] *= 2 if column == "loss" else 40
    (flag,) = curves.losses(steps)
    assert (flag.run_id, flag.rule, flag.subject) == ("r004", "spike", column)
    assert "in step 400" in flag.text


@pytest.mark.parametrize("column", ["loss", "grad_norm"])
def test_growth_that_lasts_is_found(column: str) -> None:
    steps = course(np.random.default_rng(31), runs=20)
    own = steps["run_id"] == "r004"
    rate = 1.0 if column == "loss" else 2.5
    steps.loc[own, column] *= np.exp(rate * np.maximum(0, np.arange(60) - 30) / 30)
    found = curves.losses(steps)
    assert {(f.run_id, f.rule, f.subject) for f in found} == {("r004", "growth", column)}


def test_growth_that_all_runs_share_is_not_theirs() -> None:
    steps = course(np.random.default_rng(32), runs=20)
    steps["grad_norm"] *= np.tile(np.exp(np.maximum(0, np.arange(60) - 30) / 15), 20)
    assert curves.losses(steps) == []


def learning(rng: np.random.Generator, runs: int = 100) -> pd.DataFrame:
    """A metric at three points of clean runs: later differences are earlier ones, made smaller."""
    level = rng.normal(0, 0.2, runs)
    rows = []
    for step, factor, base in ((100, 2.0, 4.0), (200, 1.4, 3.0), (300, 1.0, 2.5)):
        noise = 0.01 * rng.standard_normal(runs)
        rows.append(
            pd.DataFrame(
                {"run_id": [f"r{i:03d}" for i in range(runs)], "step": step, "name": "bpb/web",
                 "value": base + factor * level + noise}
            )
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_a_curve_that_crosses_the_others_is_found_and_clean_ones_are_not() -> None:
    alarms = [bool(curves.crossings(learning(np.random.default_rng(s)))) for s in range(100)]
    assert sum(alarms) <= 1
    metrics = learning(np.random.default_rng(200))
    last = metrics[metrics["step"] == 300].set_index("run_id")["value"]
    best = str(last.idxmin())
    metrics.loc[(metrics["run_id"] == best) & (metrics["step"] == 300), "value"] = last.max()
    (flag,) = curves.crossings(metrics)
    assert flag.run_id == best
    assert "100 at the end" in flag.text or "99 at the end" in flag.text


def test_metrics_that_have_one_point_make_a_crossing_no_less_certain() -> None:
    metrics = learning(np.random.default_rng(200))
    last = metrics[metrics["step"] == 300].set_index("run_id")["value"]
    best = str(last.idxmin())
    metrics.loc[(metrics["run_id"] == best) & (metrics["step"] == 300), "value"] = last.max()
    end = metrics[metrics["step"] == 300]
    subjects = [end.assign(name=f"mmlu/subject-{i}/acc") for i in range(342)]
    assert curves.crossings(pd.concat([metrics, *subjects])) == curves.crossings(metrics)


def swarm_of(make_study: Make, worker: Any, more: str = "") -> Study:
    """A finished swarm of 24 with a little noise."""
    study = make_study(more)
    text = study.layout.config.read_text("utf-8").replace("runs: 12", "runs: 24")
    study.layout.config.write_text(text, "utf-8")
    study = Study.open(study.layout.root)
    study.propose()
    rng = np.random.default_rng(0)
    for record in study.runs():
        worker.finish(record, measured(record.spec.mixture, rng))
    return study


def measured(mixture: Mixture, rng: np.random.Generator) -> dict[str, float]:
    return {
        f"bpb/{d}": 2 + 1.5 * float(np.exp(-3 * w)) + 0.005 * float(rng.standard_normal())
        for d, w in mixture.as_dict().items()
    }


def named(study: Study, name: str) -> RunRecord:
    return next(r for r in study.runs() if r.spec.name == name)


def redo(worker: Any, record: RunRecord, values: dict[str, float]) -> None:
    record.layout.events.unlink()
    worker.finish(record, values)


def rules(study: Study) -> set[tuple[str, str]]:
    return {(r["name"], r["rule"]) for r in study.flags().frame.to_dict("records")}


def test_planted_faults_of_a_study_are_found_each_by_its_rule(
    make_study: Make, worker: Any
) -> None:
    study = swarm_of(make_study, worker)
    assert rules(study) == set()
    diverged, swapped, short = (named(study, f"mix-{i:04d}") for i in (4, 5, 6))
    redo(worker, diverged, {f"bpb/{d}": 9.0 + i for i, d in enumerate(study.domains)})
    done = read_json(swapped.layout.done)
    shares = [d["realised"] for d in done["domains"]]
    for domain, share in zip(done["domains"], reversed(shares), strict=True):
        domain["realised"] = share
    write_json(swapped.layout.done, done)
    done = read_json(short.layout.done)
    write_json(short.layout.done, {**done, "tokens": done["tokens"] // 2})
    first, again = named(study, "natural"), named(study, "natural-seed2")
    redo(worker, again, read_json(first.layout.done)["metrics"])
    assert rules(study) == {
        ("mix-0004", "prediction"), ("mix-0005", "shares"), ("mix-0006", "tokens"),
        ("natural-seed2", "copy"),
    }  # fmt: skip
    text = study.flags().reasons()[swapped.spec.run_id]
    assert "another mixture than was asked for" in text


def test_figures_of_a_run_on_another_mixture_flag_both(make_study: Make, worker: Any) -> None:
    study = swarm_of(make_study, worker)
    a, b = named(study, "mix-0001"), named(study, "mix-0002")
    redo(worker, b, read_json(a.layout.done)["metrics"])
    found = {(n, r) for n, r in rules(study) if r == "copy"}
    assert found == {("mix-0001", "copy"), ("mix-0002", "copy")}


def test_shares_that_all_runs_are_off_by_are_rounding() -> None:
    rng = np.random.default_rng(8)
    rows = []
    for i in range(30):
        w = rng.dirichlet(np.ones(3))
        off = np.array([0.03, -0.02, -0.01]) if i else np.array([0.3, -0.2, -0.1])
        rows += [(f"r{i}", d, w[j], w[j] + off[j]) for j, d in enumerate("abc")]
    frame = pd.DataFrame(rows, columns=["run_id", "domain", "requested", "realised"])
    assert [f.run_id for f in books.shares(frame)] == ["r0"]
    frame["realised"] = np.nan
    assert books.shares(frame) == []


def planted(make_study: Make, worker: Any, more: str = "") -> Study:
    study = swarm_of(make_study, worker)
    text = study.layout.config.read_text("utf-8")
    study.layout.config.write_text(
        text.replace("fit: {regressor: gp,", f"fit: {{{more}bootstraps: 2, regressor: gp,"), "utf-8"
    )
    record = named(study, "mix-0004")
    redo(worker, record, {f"bpb/{d}": 9.0 for d in study.domains})
    return Study.open(study.layout.root)


def test_flagged_runs_are_kept_and_the_fit_says_what_they_do(
    make_study: Make, worker: Any, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    study = planted(make_study, worker)
    run = named(study, "mix-0004").spec.run_id
    found = study.fit()
    assert run in found.held_out.index
    flagged = found.diagnostics["flagged"]
    assert list(flagged["runs"]) == ["mix-0004"]
    assert flagged["excluded"] is False
    other = flagged["other"]
    without = planted(lambda *a: make_study(*a, folder="other"), worker, "flagged: exclude, ")
    assert other["distance"] == pytest.approx(found.best.distance(without.fit().best), abs=1e-6)
    monkeypatch.setattr(sys, "argv", ["regmix", "fit", str(study.layout.root)])
    with pytest.raises(SystemExit):
        main()
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 flagged runs kept" in shown
    assert "without them the proposal would be" in shown


def test_flagged_runs_leave_the_fit_where_the_study_says_so(make_study: Make, worker: Any) -> None:
    study = planted(make_study, worker, "flagged: exclude, ")
    found = study.fit()
    assert named(study, "mix-0004").spec.run_id not in found.held_out.index
    assert found.diagnostics["flagged"]["excluded"] is True
    assert "distance" in found.diagnostics["flagged"]["other"]
    assert any("mix-0004 (flagged, prediction" in e for e in found.diagnostics["excluded"])
    assert study.diagnose().fit_id == found.fit_id


def test_a_person_leaves_runs_out_by_name(make_study: Make, worker: Any) -> None:
    study = planted(make_study, worker, "exclude: [mix-0004], ")
    assert rules(study) == set()
    found = study.fit()
    assert "mix-0004 (by fit.exclude)" in found.diagnostics["excluded"]
    assert found.diagnostics["flagged"]["runs"] == {}


def diverged_seed(make_study: Make, worker: Any, settings: str) -> Study:
    """A swarm of which one repeat of natural has diverged."""
    study = swarm_of(make_study, worker)
    redo(worker, named(study, "natural-seed2"), {f"bpb/{d}": 9.0 for d in study.domains})
    return with_fit(study, settings)


def test_a_bad_repeat_is_named_in_the_noise_that_it_ruins(make_study: Make, worker: Any) -> None:
    floor = diverged_seed(make_study, worker, "").noise()
    assert set(floor.metrics["kind"]) == {"noisy"}
    (note,) = floor.notes
    assert note.startswith("with natural-seed2, which is flagged (prediction: ")


@pytest.mark.parametrize("settings", ["exclude: [natural-seed2], ", "flagged: exclude, "])
def test_a_repeat_that_is_left_out_is_no_part_of_noise_and_comparisons(
    make_study: Make, worker: Any, settings: str
) -> None:
    study = diverged_seed(make_study, worker, settings)
    floor = study.noise()
    assert set(floor.metrics["kind"]) == {"very stable"}
    assert (floor.metrics["freedom"] == 1).all()
    (note,) = floor.notes
    assert note.startswith("without natural-seed2 (")
    found = study.compare("natural", "mix-0001")
    assert (found.frame["first"] < 4).all()
    assert found.frame["std_error"].tolist() == pytest.approx(
        [math.sqrt(2) * float(floor.metrics["seed"][m]) for m in found.frame["metric"]]
    )
    assert any(n.startswith("without natural-seed2 (") for n in found.notes)
    asked = study.compare("mix-0001", "natural-seed2")
    assert (asked.frame["value"] == 9).all()
    assert any(n.startswith("natural-seed2 is compared, though") for n in asked.notes)


LADDER = """ladder:
  - model: {size: 100k}
    train: {tokens: 40960, batch_tokens: 1024}
    mixtures: 10
"""


def with_fit(study: Study, settings: str) -> Study:
    text = study.layout.config.read_text("utf-8")
    study.layout.config.write_text(text.replace("fit: {", f"fit: {{{settings}", 1), "utf-8")
    return Study.open(study.layout.root)


def test_a_larger_run_that_diverged_is_flagged_and_leaves_the_transfer(
    make_study: Make, worker: Any
) -> None:
    study = swarm_of(make_study, worker, LADDER)
    assert rules(study) == set()
    bad = next(r for r in study.runs() if r.spec.role == "ladder" and "mix-" in r.spec.name)
    redo(worker, bad, {f"bpb/{d}": 9.0 + i for i, d in enumerate(study.domains)})
    found = study.flags()
    assert rules(study) == {(bad.spec.name, "ladder")}
    assert set(found.frame["metric"]) <= {f"bpb/{d}" for d in study.domains}
    fitted = with_fit(study, "bootstraps: 0, ").fit()
    assert fitted.diagnostics["flagged"]["runs"] == {}, "larger runs are not fitted"
    proxy = bad.spec.name.removeprefix("ladder1-")
    for settings, gone in (("flagged: exclude, ", bad.spec.name), (f"exclude: [{proxy}], ", proxy)):
        before = study.layout.config.read_text("utf-8")
        (transfer,) = with_fit(study, settings).transfer()
        study.layout.config.write_text(before, "utf-8")
        assert transfer.mixtures == 9, "of 10"
        assert [x.startswith(f"{gone} (") for x in transfer.left_out] == [True]


def test_a_larger_run_that_saw_other_text_is_flagged(make_study: Make, worker: Any) -> None:
    study = swarm_of(make_study, worker, LADDER)
    short = next(r for r in study.runs() if r.spec.role == "ladder")
    done = read_json(short.layout.done)
    for domain, other in zip(done["domains"], (0.1, 0.1, 0.8), strict=True):
        domain["realised"] = other
    write_json(short.layout.done, {**done, "tokens": done["tokens"] // 2})
    assert rules(study) == {(short.spec.name, "shares"), (short.spec.name, "tokens")}


def test_sampling_errors_are_those_of_the_runs_that_are_kept() -> None:
    data = clean(np.random.default_rng(8), runs=20)
    errors = pd.DataFrame(0.01, [*data.metrics.index, "n0", "n1", "n2"], list(data.metric_names))
    errors.loc[["r004", "n1"]] = 5.0
    known = replace(data, std_errors=errors)
    assert known.sampling().min() > 1
    kept = known.without({"r004": "diverged", "n1": "diverged"})
    assert kept.sampling().tolist() == pytest.approx([0.01] * 4)


def test_an_unknown_run_to_leave_out_is_named(make_study: Make, worker: Any) -> None:
    study = planted(make_study, worker, "exclude: [mix-00004], ")
    with pytest.raises(UserError, match=r"fit\.exclude: unknown run 'mix-00004'.*'mix-0004'"):
        study.fit()


def test_the_command_lists_them(
    make_study: Make, worker: Any, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    study = planted(make_study, worker)
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["regmix", "flags", str(study.layout.root), *more])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        shown = capsys.readouterr().out
        assert "mix-0004" in shown
        assert "prediction" in shown
    assert json.loads(shown)["flags"][0]["name"] == "mix-0004"
