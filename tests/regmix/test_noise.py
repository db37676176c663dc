"""The noise floor: what was put in comes out, with as much certainty as the repeats allow."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regmix import fit, noise
from regmix.cli import main
from regmix.config import ObjectiveConfig
from regmix.errors import UserError
from regmix.mixture import Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.study import Study

Make = Callable[..., Study]
DOMAINS = ["books", "code", "math", "web"]
FIT = "fit: {regressor: gp, samples: 500, bootstraps: 0, repeats: 1}\n"


def repeated(
    rng: np.random.Generator,
    seeds: int = 3,
    mixtures: int = 1,
    levels: np.ndarray | float = 0.01,
    runs: int = 40,
    spread: float = 0.1,
    metrics: int = 2,
) -> Observations:
    """A swarm of known spread, and mixtures repeated with known noise (by mixture if several)."""
    names = [f"bpb/m{i}" for i in range(metrics)]
    ids = [f"r{i:03d}" for i in range(runs)]
    places = rng.dirichlet(np.ones(len(DOMAINS)), mixtures)
    sigma = np.repeat(np.broadcast_to(levels, mixtures), seeds)[:, None]
    values = 2 + sigma * rng.standard_normal((mixtures * seeds, metrics))
    hashes = [f"h{i}" for i in range(mixtures)]
    index = [f"h{i}-s{j}" for i in range(mixtures) for j in range(seeds)]
    return Observations(
        weights=pd.DataFrame(rng.dirichlet(np.ones(4), runs), ids, DOMAINS),
        metrics=pd.DataFrame(2 + spread * rng.standard_normal((runs, metrics)), ids, names),
        info=pd.DataFrame({"name": ids, "role": "swarm", "seed": 0, "tokens": 1}, ids),
        replicates=pd.DataFrame(values, index, names).assign(mixture=np.repeat(hashes, seeds)),
        replicate_weights=pd.DataFrame(places, hashes, DOMAINS),
    )


def command(patch: pytest.MonkeyPatch, name: str, study: Study, *more: str) -> None:
    patch.setattr(sys, "argv", ["regmix", name, str(study.layout.root), *more])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


def test_figures_are_those_of_the_definitions() -> None:
    data = repeated(np.random.default_rng(0), seeds=3, mixtures=2)
    floor = noise.floor(data)
    row = floor.metrics.loc["bpb/m0"]
    groups = data.replicates.groupby("mixture")["bpb/m0"]
    pooled = math.sqrt(float(groups.var(ddof=1).mean()))
    assert row["seed"] == pytest.approx(pooled)
    assert row["freedom"] == 4
    assert row["snr"] == pytest.approx(data.metrics["bpb/m0"].std(ddof=1) / pooled)
    assert row["counts"] == pytest.approx(2.776445 * math.sqrt(2) * pooled)
    assert row["seed_low"] == pytest.approx(pooled * math.sqrt(4 / 9.487729))
    assert row["seed_high"] == pytest.approx(pooled * math.sqrt(4 / 0.710723))
    assert floor.mixtures["seeds"].tolist() == [3, 3]
    assert floor.mixtures["bpb/m0"].tolist() == pytest.approx(groups.std(ddof=1).tolist())


def test_of_equal_runs_five_per_cent_differ_by_what_counts() -> None:
    """The promise of `counts`, few repeats or not: t, not the normal's 1.96."""
    rng = np.random.default_rng(1)
    for seeds in (2, 3, 10):
        beyond = []
        for _ in range(40):
            data = repeated(rng, seeds=seeds, metrics=60)
            pair = 0.01 * rng.standard_normal((2, 60))
            counts = noise.floor(data).metrics.loc[list(data.metric_names), "counts"]
            beyond.append(np.abs(pair[0] - pair[1]) > counts.to_numpy())
        # Metrics are independent here: 2,400 draws, three standard errors are 1.3 points.
        assert abs(float(np.mean(beyond)) - 0.05) < 0.0134, seeds


def test_the_interval_of_the_noise_covers() -> None:
    rng = np.random.default_rng(2)
    inside = []
    for _ in range(25):
        rows = noise.floor(repeated(rng, seeds=3, metrics=96)).metrics
        inside.append((rows["seed_low"] <= 0.01) & (rows["seed_high"] >= 0.01))
    assert float(np.mean(inside)) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    ("snr", "wanted"),
    [(8.0, "very stable"), (7.9, "stable"), (3.0, "stable"), (2.9, "noisy"), (math.nan, "unknown"),
     (math.inf, "very stable")],
)  # fmt: skip
def test_classes(snr: float, wanted: str) -> None:
    assert noise.kind(snr) == wanted


def test_what_is_the_same_in_all_runs_is_no_signal() -> None:
    data = repeated(np.random.default_rng(3), seeds=4, metrics=2)
    metrics = data.metrics.assign(**{"bpb/m1": 0.0})
    still = Observations(
        data.weights, metrics, data.info, data.replicates.assign(**{"bpb/m1": 0.0}),
        data.replicate_weights,
    )  # fmt: skip
    assert noise.floor(still).metrics.loc["bpb/m1", "kind"] == "noisy"
    assert noise.refused(still) == {"bpb/m1": "the same in all runs"}


def test_the_clearest_metric_comes_first_and_repeats_that_help_are_counted() -> None:
    rng = np.random.default_rng(3)
    data = repeated(rng, seeds=40, metrics=3)
    metrics = data.metrics.assign(**{"bpb/m1": data.metrics["bpb/m1"].mean() + 0.02 *
                                     rng.standard_normal(len(data.metrics))})  # fmt: skip
    metrics["bpb/m2"] = 2 + 0.004 * rng.standard_normal(len(metrics))
    rows = noise.floor(
        Observations(data.weights, metrics, data.info, data.replicates, data.replicate_weights)
    ).metrics
    assert rows["kind"].tolist() == ["very stable", "noisy", "noisy"]
    assert rows.loc["bpb/m0", "seeds"] == 1
    snr = float(rows.loc["bpb/m1", "snr"])
    assert rows.loc["bpb/m1", "seeds"] == math.ceil(8 / (snr**2 - 1))
    assert math.isnan(rows.loc["bpb/m2", "seeds"])


def test_sampling_error_lowers_only_the_least_that_the_ratio_can_be() -> None:
    data = repeated(np.random.default_rng(4))
    errors = pd.DataFrame(0.03, data.metrics.index, list(data.metric_names))
    errors.iloc[0] = np.nan
    known = Observations(
        data.weights, data.metrics, data.info, data.replicates, data.replicate_weights,
        std_errors=errors,
    )  # fmt: skip
    row, before = (noise.floor(d).metrics.loc["bpb/m0"] for d in (known, data))
    assert row["eval"] == pytest.approx(0.03)
    assert row["snr"] == before["snr"]
    assert row["snr_least"] == pytest.approx(row["spread"] / math.hypot(row["seed"], 0.03))
    assert math.isnan(before["eval"])
    assert math.isnan(before["snr_least"])


def test_even_noise_is_not_called_uneven() -> None:
    """False alarms of the test for equal noise stay at its level, two seeds a mixture or more."""
    rng = np.random.default_rng(5)
    for seeds, mixtures in ((2, 4), (3, 3), (6, 2)):
        alarms = [
            float(
                noise.floor(repeated(rng, seeds, mixtures, metrics=1)).metrics["p_uneven"].iloc[0]
            )
            < 0.05
            for _ in range(400)
        ]
        assert np.mean(alarms) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
        assert np.mean(alarms) > 0.01


def test_repeats_that_are_equal_have_no_noise_at_all() -> None:
    """As accuracies of chance have; the mean of three times 0.1 is not 0.1."""
    data = repeated(np.random.default_rng(6), seeds=3, mixtures=3)
    data.replicates.loc[data.replicates["mixture"] == "h1", "bpb/m1"] = 0.1
    row = noise.floor(data).metrics.loc["bpb/m1"]
    assert math.isnan(row["uneven"])
    assert math.isnan(row["p_uneven"])
    data = repeated(np.random.default_rng(6), seeds=3, mixtures=3)
    data.replicates["bpb/m1"] = 0.1
    assert data.noise()["bpb/m1"] == 0
    assert noise.floor(data).metrics.loc["bpb/m1", "snr"] == math.inf


def test_uneven_noise_is_found_and_differences_are_judged_by_the_noisiest() -> None:
    rng = np.random.default_rng(6)
    floor = noise.floor(repeated(rng, 8, 2, np.array([0.01, 0.25]), metrics=1))
    row = floor.metrics.iloc[0]
    assert row["p_uneven"] < 0.001
    assert row["uneven"] > 5
    sigma, degrees = floor.at_most("bpb/m0")
    assert (sigma, degrees) == (floor.mixtures["bpb/m0"].max(), 7)
    even = noise.floor(repeated(rng, 8, 2, metrics=1))
    assert even.at_most("bpb/m0") == (even.metrics["seed"].iloc[0], 14)


def test_bartletts_test_agrees_with_scipy_where_groups_are_large() -> None:
    rng = np.random.default_rng(7)
    data = repeated(rng, 60, 3, np.array([0.01, 0.012, 0.0135]), metrics=1)
    found = float(noise.floor(data).metrics["p_uneven"].iloc[0])
    groups = [g.to_numpy() for _, g in data.replicates.groupby("mixture")["bpb/m0"]]
    assert found == pytest.approx(float(stats.bartlett(*groups).pvalue), abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_between_the_plain_and_bonferronis(p: list[float]) -> None:
    found = noise.holm(p)
    assert (found >= np.array(p) - 1e-15).all()
    assert (found <= np.minimum(1, np.array(p) * len(p)) + 1e-12).all()
    assert (np.diff(found[np.argsort(p, kind="stable")]) >= 0).all()


def test_holm_by_hand_and_with_unknown_ones() -> None:
    found = noise.holm([0.01, math.nan, 0.04, 0.03])
    assert found[[0, 2, 3]].tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(found[1])


def test_a_seed_that_was_taken_twice_is_no_repeat() -> None:
    data = repeated(np.random.default_rng(8), seeds=3)
    twice = data.replicates.copy()
    twice.loc["copy"] = twice.iloc[0]
    found = Observations(data.weights, data.metrics, data.info, twice, data.replicate_weights)
    assert found.copies == ("copy",)
    pd.testing.assert_series_equal(found.noise(), data.noise())
    assert noise.freedom(found) == noise.freedom(data) == 2


def test_without_repeats_nothing_is_said_of_noise() -> None:
    data = repeated(np.random.default_rng(9))
    alone = Observations(data.weights, data.metrics, data.info, pd.DataFrame())
    floor = noise.floor(alone)
    assert set(floor.metrics["kind"]) == {"unknown"}
    assert floor.metrics["counts"].isna().all()
    assert noise.refused(alone) == {}


def swarm(noises: dict[str, float], seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """64 runs, the last eight of one mixture: metrics of one spread, each with its own noise."""
    rng = np.random.default_rng(seed)
    w = rng.dirichlet(np.ones(4), 64)
    w[-8:] = w[-8]
    index = pd.Index([f"r{i:03d}" for i in range(64)])
    values = {
        name: 2 + np.exp(-2 * w[:, i % 4]) + level * rng.standard_normal(64)
        for i, (name, level) in enumerate(noises.items())
    }
    return pd.DataFrame(w, index, DOMAINS), pd.DataFrame(values, index)


def test_a_noisy_metric_is_not_fitted_and_the_fit_says_why(
    import_study: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the objective of itself or not: a surface through noise would be one of seeds."""
    study = import_study(
        *swarm({"bpb/a": 0.002, "bpb/b": 0.9, "mmlu/bpb": 0.9, "mmlu/acc": 5}), FIT
    )
    found = study.fit()
    assert found.objective.metrics == ("bpb/a",)
    assert found.surrogate.metric_names == ("bpb/a",)
    assert set(found.diagnostics["refused"]) == {"bpb/b", "mmlu/acc", "mmlu/bpb"}
    assert "below 3x" in found.diagnostics["refused"]["mmlu/acc"]
    assert found.diagnostics["warnings"][0].startswith("objective: without bpb/b, hardly above")
    assert "hardly above" not in str(study.fit("bpb/a").diagnostics["warnings"])
    command(monkeypatch, "fit", study)
    shown = " ".join(capsys.readouterr().out.split())
    assert "not fitted: mmlu/acc: spread" in shown
    assert "not fitted: bpb/b: spread" in shown
    command(monkeypatch, "report", study)
    page = " ".join(study.layout.report.read_text("utf-8").split())
    assert "<code>mmlu/acc</code>: spread" in page


def test_a_metric_that_is_named_is_fitted_however_noisy_and_the_fit_says_so(
    import_study: Make,
) -> None:
    more = FIT + "objective: {weights: {bpb/a: 1, bpb/b: 1}}\n"
    study = import_study(*swarm({"bpb/a": 0.002, "bpb/b": 0.9, "acc": 5}), more)
    found = study.fit()
    assert found.objective.metrics == ("bpb/a", "bpb/b")
    assert found.surrogate.metric_names == ("bpb/a", "bpb/b")
    assert "bpb/b is fitted since it was asked for by name" in found.diagnostics["warnings"][0]
    alone = study.fit("acc")
    assert alone.surrogate.metric_names == ("acc",)
    assert "acc is fitted since it was asked for by name" in alone.diagnostics["warnings"][0]


def test_a_noisy_metric_is_fitted_where_a_limit_or_a_front_names_it(import_study: Make) -> None:
    more = FIT + "objective: {limits: {reference: uniform, metrics: {bpb/b: 0.5}}}\n"
    study = import_study(*swarm({"bpb/a": 0.002, "bpb/b": 0.9, "acc": 5}), more)
    assert study.fit().surrogate.metric_names == ("bpb/a", "bpb/b")
    assert study.pareto("bpb/a", "acc", points=3).y.metrics == ("acc",)


def test_where_no_metric_is_clear_nothing_is_fitted_unless_it_is_named(import_study: Make) -> None:
    """With bits per byte or without: `all metrics` are no way round the gate."""
    for names in (("bpb/a", "bpb/b"), ("acc", "f1")):
        study = import_study(*swarm(dict.fromkeys(names, 0.9)), FIT, name=names[1][-1])
        with pytest.raises(
            UserError, match=r"nothing stands above its seed noise: .*spread .* below 3x"
        ):
            study.fit()
        assert study.fit(names[0]).surrogate.metric_names == (names[0],)
        assert not study.layout.report.exists()


def test_bits_per_byte_of_tasks_are_in_the_objective_of_themselves() -> None:
    names = ["bpb/a", "mmlu/acc", "mmlu/bpb", "mmlu/stem/bpb", "mmlu/micro/bpb", "bpb/x/bpb"]
    assert Objective.from_config(ObjectiveConfig(), names).metrics == (
        "bpb/a", "mmlu/bpb", "bpb/x/bpb",
    )  # fmt: skip


def test_only_the_default_choice_leaves_metrics_out() -> None:
    config = ObjectiveConfig()
    chosen = Objective.from_config(config, ["bpb/a", "bpb/b", "acc"], refused={"bpb/b": "noise"})
    assert chosen.metrics == ("bpb/a",)
    assert Objective.single("bpb/b", config).metrics == ("bpb/b",)


@pytest.mark.parametrize(("seeds", "mixtures", "runs"), [(3, 1, 32), (2, 2, 16), (1, 0, 32)])
def test_metrics_that_are_noise_pass_in_one_study_of_twenty_at_most(
    seeds: int, mixtures: int, runs: int
) -> None:
    """Whatever the ratio: over three seeds' noise it is 3 or more in one metric of ten."""
    rng = np.random.default_rng(12)
    any_passed, ratios = [], []
    for _ in range(400):
        data = repeated(rng, seeds, mixtures, 0.1, runs, spread=0.1, metrics=12)
        p = noise.holm(noise.no_signal(data).tolist())
        any_passed.append(bool((p < 0.05).any()))
        ratios.append(data.spread() / data.noise())
    assert np.mean(any_passed) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert np.mean(any_passed) > 0.01
    if mixtures == 1:  # what the ratio alone would have let through
        assert np.mean([r >= 3 for r in ratios]) == pytest.approx(0.105, abs=0.02)


def test_metrics_with_a_signal_are_shown_to_have_one() -> None:
    """Straight or bent, and with three seeds alone, where the ratio's own test is weak."""
    rng = np.random.default_rng(13)
    shown, between = [], []
    for _ in range(100):
        data = repeated(rng, 3, 1, 0.1, 32, spread=0.1, metrics=2)
        bent = np.exp(-3 * data.x()[:, :2])
        values = data.metrics + 0.3 * (bent - bent.mean(0)) / bent.std(0)
        lifted = replace(data, metrics=values)
        shown.append(noise.no_signal(lifted) < 0.05 / 2)
        between.append(noise._between(lifted) < 0.05 / 2)
    assert np.mean(shown) > 0.99
    assert np.mean(between) < 0.6


def test_the_test_for_signal_is_scipys_where_all_mixtures_are_repeated() -> None:
    data = repeated(np.random.default_rng(14), 4, 5, runs=0, metrics=3)
    groups = [g.to_numpy() for _, g in data.replicates.groupby("mixture")[["bpb/m0"]]]
    expected = float(stats.f_oneway(*groups).pvalue[0])
    assert noise._between(data)[0] == pytest.approx(expected)
    x = np.linspace(0, 1, 20)
    line = Observations(
        pd.DataFrame({"a": x, "b": 1 - x}), pd.DataFrame({"m": x + np.sin(9 * x)}),
        pd.DataFrame({"name": range(20)}), pd.DataFrame(),
    )  # fmt: skip
    found = stats.linregress(x, x + np.sin(9 * x))
    assert noise.no_signal(line)[0] == pytest.approx(float(found.pvalue))


def test_the_spread_is_that_of_distinct_mixtures() -> None:
    """Ten mixtures and forty repeats of an eleventh: each counts once."""
    rng = np.random.default_rng(15)
    owner = np.r_[np.arange(10), np.full(40, 10)]
    ids = [f"r{i:02d}" for i in range(50)]
    truth = rng.normal(0, 0.25, (11, 2000))  # many metrics at once
    values = pd.DataFrame(truth[owner] + rng.normal(0, 0.1, (50, 2000)), ids).rename(columns=str)
    weights = pd.DataFrame(rng.dirichlet(np.ones(4), 11)[owner], ids, DOMAINS)
    repeats = values[10:].assign(mixture="h")
    data = Observations(weights, values, pd.DataFrame({"name": ids}, ids), repeats)
    wanted = 0.25**2 + 0.1**2  # signal² + noise² of one run
    assert float((data.spread() ** 2).mean()) == pytest.approx(wanted, rel=0.05)
    assert float(values.var().mean()) < 0.6 * wanted
    assert data.objective_spread(lambda m: m["7"]) == pytest.approx(data.spread()["7"])


def test_uneven_noise_changes_what_is_predicted(import_study: Make) -> None:
    """A second repeated mixture says where the noise is; the fit uses it."""
    weights, values = swarm({"bpb/a": 0.02})
    loud = weights.iloc[[0]].to_numpy()
    more = pd.DataFrame(np.repeat(loud, 7, 0), [f"s{i:03d}" for i in range(7)], DOMAINS)
    rng = np.random.default_rng(16)
    noisy = pd.DataFrame({"bpb/a": values["bpb/a"].iloc[0] + 0.4 * rng.standard_normal(7)},
                         more.index)  # fmt: skip
    both = import_study(pd.concat([weights, more]), pd.concat([values, noisy]), FIT, name="both")
    data = both.observations()
    one = replace(data, replicates=data.replicates[
        data.replicates["mixture"] != data.replicates.loc["s000", "mixture"]])  # fmt: skip
    settings = both.config.fit
    at = rng.dirichlet(np.ones(4), 50)
    even, uneven = (
        fit.fit(d, ["bpb/a"], settings).surrogate.predict(at)["bpb/a"].mean for d in (one, data)
    )
    truth = 2 + np.exp(-2 * at[:, 0])
    assert np.abs(even - uneven).max() > 1e-3
    assert np.mean((uneven - truth) ** 2) < np.mean((even - truth) ** 2)


def test_the_command_prints_the_table(
    import_study: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = import_study(*swarm({"bpb/a": 0.002, "bpb/b": 0.9}), FIT)
    command(monkeypatch, "noise", study)
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    order = [line[0] for line in lines if line and line[0].startswith("bpb/")]
    assert order[:2] == ["bpb/a", "bpb/b"]
    assert "very stable" in shown
    assert "noisy" in shown
    assert "7 degrees of freedom" in " ".join(shown.split())
    assert "kept out" in " ".join(shown.split())
    command(monkeypatch, "noise", study, "--json")
    read = json.loads(capsys.readouterr().out)
    assert read["metrics"][0]["metric"] == "bpb/a"
    assert read["metrics"][0]["freedom"] == 7


def test_more_mixtures_are_repeated_as_the_study_says(make_study: Make) -> None:
    study = make_study()
    text = study.layout.config.read_text("utf-8")
    study.layout.config.write_text(
        text.replace("swarm: {runs: 12,", "swarm: {repeat: [uniform], runs: 12,"), "utf-8"
    )
    study = Study.open(study.layout.root)
    specs = study.propose().specs
    uniform = Mixture.uniform(study.domains).id
    seeds = sorted(s.seed for s in specs if s.mixture.id == uniform)
    assert seeds == [3, 4, 5]
    assert [s.role for s in specs if s.name.startswith("uniform")].count("replicate") == 2
    assert sum(s.role in ("swarm", "baseline") for s in specs) == 12 + 1
    assert len({s.run_id for s in specs}) == len(specs)


def test_two_repeated_mixtures_reach_the_regressors(make_study: Make, worker: object) -> None:
    study = make_study()
    text = study.layout.config.read_text("utf-8")
    study.layout.config.write_text(
        text.replace("swarm: {runs: 12,", "swarm: {repeat: [uniform], runs: 12,"), "utf-8"
    )
    study = Study.open(study.layout.root)
    study.propose()
    rng = np.random.default_rng(0)
    for record in study.runs():
        loud = 20.0 if record.spec.name.startswith("uniform") else 1.0
        level = 1e-3 * loud * float(rng.standard_normal())
        values = {"bpb/web": 2.0 + record.spec.mixture["web"] + level,
                  "bpb/code": 2.0 + record.spec.mixture["code"] + level}  # fmt: skip
        worker.finish(record, values)  # type: ignore[attr-defined]
    data = study.observations()
    found = noise.relative_variances(data, data.metric_names)
    assert found is not None
    by_name = pd.DataFrame(found, data.info["name"])
    assert (by_name.loc["uniform"] > 1.2 * by_name.loc["natural"]).all()


def test_an_unknown_mixture_to_repeat_is_named(make_study: Make) -> None:
    study = make_study()
    text = study.layout.config.read_text("utf-8")
    study.layout.config.write_text(
        text.replace("swarm: {runs: 12,", "swarm: {repeat: [uniformm], runs: 12,"), "utf-8"
    )
    with pytest.raises(UserError, match=r"uniformm.*did you mean 'uniform'"):
        Study.open(study.layout.root).propose()
