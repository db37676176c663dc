"""Fit: scores worked out by hand, honest choices, and the same fit whatever the order of rows."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from regmix import assess
from regmix.config import FitConfig, ObjectiveConfig
from regmix.diagnose import curve
from regmix.errors import UserError
from regmix.fit import FitResult, choose, fit, score
from regmix.mixture import FloatArray, Mixture
from regmix.noise import relative_variances
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.regressors import CANDIDATES, Prediction, names
from regmix.regressors.held_out import Folds, HeldOut
from regmix.surrogate import Surrogate, stack

GP = FitConfig(regressor="gp", repeats=1)
DOMAINS = ["web", "code", "math"]


def observations(
    runs: int = 30, noise: float = 0.01, seed: int = 0, replicates: int = 0
) -> Observations:
    rng = np.random.default_rng(seed)
    ids = pd.Index([f"run{i:02d}" for i in range(runs)], name="run_id")
    weights = pd.DataFrame(rng.dirichlet(np.ones(3), runs), ids, DOMAINS)
    metrics = pd.DataFrame(
        {
            "bpb/web": 2 + np.exp(-3 * weights["web"]) + noise * rng.standard_normal(runs),
            "bpb/code": 1 + np.exp(-5 * weights["code"]) + noise * rng.standard_normal(runs),
        }
    )
    info = pd.DataFrame({"name": ids, "role": "swarm", "seed": 0, "tokens": 1}, index=ids)
    twins = pd.DataFrame(columns=[*metrics, "mixture"])
    if replicates:
        values = {m: 2 + noise * rng.standard_normal(replicates) for m in metrics}
        twins = pd.DataFrame({**values, "mixture": "same"})
    return Observations(weights, metrics, info, twins)


def fitted(data: Observations, config: FitConfig = GP) -> FitResult:
    return fit(data, list(data.metric_names), config)


def cautions(data: Observations, result: FitResult) -> tuple[str, ...]:
    objective = Objective.from_config(ObjectiveConfig(), data.metric_names)
    scores = assess.objective_scores(data, result.held_out, result.surrogate, objective)
    return assess.warnings(data, result.surrogate, objective, scores)


def shuffled(data: Observations, seed: int) -> Observations:
    """Rows in another order, and metrics too."""
    rng = np.random.default_rng(seed)
    order, columns = rng.permutation(len(data.weights)), rng.permutation(data.metrics.shape[1])
    return Observations(
        data.weights.iloc[order],
        data.metrics.iloc[order, columns],
        data.info.iloc[order],
        data.replicates,
    )


def assert_same_fit(one: FitResult, other: FitResult) -> None:
    """To the last digit."""
    new = np.random.default_rng(5).dirichlet(np.ones(3), 20)
    for metric in one.surrogate.metric_names:
        a, b = one.surrogate.predict(new)[metric], other.surrogate.predict(new)[metric]
        assert (a.mean == b.mean).all()
        assert (a.std == b.std).all()
        assert one.surrogate.metric(metric).scores == other.surrogate.metric(metric).scores
        assert one.surrogate.metric(metric).candidates == other.surrogate.metric(metric).candidates
    pd.testing.assert_frame_equal(
        one.held_out,
        other.held_out.loc[one.held_out.index, one.held_out.columns],
        check_exact=True,
    )
    ordered = other.surrogate.correlations(one.surrogate.metric_names)
    assert one.surrogate.correlation == pytest.approx(ordered, abs=1e-12)


@pytest.mark.parametrize("name", ["auto", *names()])
def test_shuffled_rows_and_metrics_give_the_same_fit(name: str) -> None:
    data, config = observations(18), FitConfig(regressor=name, repeats=1)
    assert_same_fit(fitted(data, config), fitted(shuffled(data, 1), config))


@settings(max_examples=8, deadline=None)
@given(st.integers(8, 14), st.integers(0, 1000), st.sampled_from(["gp", "loglinear", "sqrt-ridge"]))
def test_no_order_of_rows_matters(runs: int, seed: int, name: str) -> None:
    data, config = observations(runs, seed=seed), FitConfig(regressor=name, repeats=1)
    assert_same_fit(fitted(data, config), fitted(shuffled(data, seed + 1), config))


def test_one_metric_is_fitted_as_among_others() -> None:
    data = observations(20)
    alone, together = fit(data, ["bpb/code"], GP), fitted(data)
    new = np.random.default_rng(5).dirichlet(np.ones(3), 20)
    one = alone.surrogate.predict(new)["bpb/code"]
    other = together.surrogate.predict(new)["bpb/code"]
    assert one.mean == pytest.approx(other.mean, rel=1e-12)
    assert one.std == pytest.approx(other.std, rel=1e-9)


def test_scores_by_hand() -> None:
    """Ranks 1 2 3 4 5 against 2 1 4 3 5: ρ = 1 − 6·4 / (5·24) = 0.8."""
    y = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    mean = np.array([1.6, 1.5, 3.9, 3.0, 5.0])
    found = score(y, Prediction(mean, np.full(5, 0.5)))
    residual = np.array([-0.6, 0.5, -0.9, 1.0, 0.0])
    assert found.spearman == pytest.approx(0.8)
    assert found.r2 == pytest.approx(1 - (residual**2).sum() / 10)
    assert found.mae == pytest.approx(0.6)
    assert found.rmse == pytest.approx(np.sqrt(2.42 / 5))
    assert found.coverage90 == pytest.approx(3 / 5)  # 1.645 · 0.5 = 0.82
    assert score(y, Prediction(mean, np.ones(5))).coverage90 == 1.0


def test_a_constant_prediction_has_no_rank_correlation() -> None:
    y = np.arange(4.0)
    found = score(y, Prediction(np.full(4, 1.5), np.ones(4)))
    assert (found.spearman, found.r2) == (0.0, 0.0)
    assert score(np.ones(4), Prediction(y, np.ones(4))).spearman == 0.0


@pytest.mark.parametrize("name", ["gp", "loglinear", "auto"])
def test_a_metric_that_never_varies_is_fitted_beside_others(name: str) -> None:
    data = observations(12)
    flat = replace(data, metrics=data.metrics.assign(acc=0.25, zero=0.0))
    found = fitted(flat, FitConfig(regressor=name, repeats=1)).surrogate
    assert np.isfinite(found.correlation).all()
    parts = found.predict(np.eye(3))
    assert parts["acc"].mean == pytest.approx(0.25, abs=1e-6)
    assert parts["zero"].mean == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite([p.std for p in parts.values()]).all()
    alone = fit(flat, ["acc", "zero"], FitConfig(regressor="linear", repeats=1)).surrogate
    assert np.isfinite(alone.correlation).all()


def test_held_out_predictions_have_not_seen_their_run() -> None:
    """A metric without any signal is not predicted better than its mean."""
    data = observations(40)
    noise = np.random.default_rng(3).standard_normal(40)
    blind = replace(data, metrics=pd.DataFrame({"bpb/loss": noise}, index=data.weights.index))
    for name in ("gp", "auto"):
        found = fitted(blind, FitConfig(regressor=name, repeats=1))
        assert found.surrogate.metric("bpb/loss").scores.r2 < 0.1
        assert found.surrogate.metric("bpb/loss").scores.spearman < 0.35
        said = cautions(blind, found)
        assert any("held-out rank correlation below 0.5, not reliable" in w for w in said)
        assert any("take the proposal with care" in w for w in said)


def test_a_clear_surface_is_found_and_its_error_is_calibrated() -> None:
    data = observations(60, noise=0.02)
    found = fitted(data)
    for metric in data.metric_names:
        scores = found.surrogate.metric(metric).scores
        assert scores.spearman > 0.97
        assert scores.r2 > 0.95
        z = (data.metrics[metric] - found.held_out[metric]) / found.held_out[f"{metric}_std"]
        assert (z.abs() <= stats.norm.ppf(0.95) + 1e-9).mean() == pytest.approx(scores.coverage90)
        assert 0.9 <= scores.coverage90 <= 0.95
        assert scores.spearman == pytest.approx(
            stats.spearmanr(data.metrics[metric], found.held_out[metric]).statistic
        )
    assert cautions(data, found) == ()


def options(errors: dict[str, float]) -> tuple[dict[str, HeldOut], np.ndarray]:
    y = np.random.default_rng(0).standard_normal(200)
    wrong = np.where(np.arange(200) % 2, 1.0, -1.0)
    return {
        name: HeldOut((y + e * wrong)[None, :, None], np.ones((1, 200, 1)))
        for name, e in errors.items()
    }, y


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ({"linear": 0.1, "gp": 0.1, "ensemble": 0.1}, "linear"),
        ({"linear": 0.1009, "gp": 0.1, "ensemble": 0.1}, "linear"),
        ({"linear": 0.102, "gp": 0.1005, "ensemble": 0.1}, "gp"),
        ({"linear": 0.2, "gp": 0.15, "ensemble": 0.1}, "ensemble"),
    ],
)
def test_the_simpler_one_is_chosen_unless_another_is_better(
    errors: dict[str, float], chosen: str
) -> None:
    tried, y = options(errors)
    folds = Folds.draw(200, 5, 1)
    name, scores = choose(tried, 0, y, "auto", folds)
    assert name == chosen
    assert {n: s.rmse for n, s in scores.items()} == pytest.approx(errors)
    assert choose(tried, 0, y, "gp", folds)[0] == "gp"


def test_the_ensemble_is_measured_against_choosing_not_against_the_luckiest() -> None:
    """Each of two is the worse one exactly where the other runs speak for it: 0.2 in both folds."""
    y, folds = np.random.default_rng(0).standard_normal(40), Folds.draw(40, 2, 1)
    first = folds.of[0] == 0
    errors = {
        "linear": np.where(first, 0.1, 0.2),
        "gp": np.where(first, 0.2, 0.1),
        "ensemble": np.full(40, 0.19),
    }
    tried = {n: HeldOut((y + e)[None, :, None], np.ones((1, 40, 1))) for n, e in errors.items()}
    name, scores = choose(tried, 0, y, "auto", folds)
    assert scores["linear"].rmse == pytest.approx(np.sqrt(0.025))
    assert name == "ensemble"
    tried["ensemble"] = HeldOut((y + 0.199)[None, :, None], np.ones((1, 40, 1)))
    assert choose(tried, 0, y, "auto", folds)[0] == "linear"


def test_auto_records_every_candidate_and_takes_the_simplest_of_the_best() -> None:
    chosen = fitted(observations(40), FitConfig(repeats=1)).surrogate.metrics
    for metric in chosen:
        assert list(metric.candidates) == [*CANDIDATES, "ensemble"]
        assert metric.scores == metric.candidates[metric.regressor]
        if metric.regressor != "ensemble":
            least = min(metric.candidates[name].rmse for name in CANDIDATES)
            tied = [n for n in CANDIDATES if metric.candidates[n].rmse <= 1.01 * least]
            assert metric.regressor == tied[0]


def test_auto_takes_a_straight_line_where_there_is_one() -> None:
    data = observations(100)
    line = data.weights @ [1.0, 2.0, 0.5]
    noisy = line + 0.2 * np.random.default_rng(0).standard_normal(100)
    straight = replace(data, metrics=pd.DataFrame({"loss": noisy}))
    assert fitted(straight, FitConfig(repeats=1)).surrogate.metric("loss").regressor == "linear"


def test_one_regressor_alone_is_the_only_candidate() -> None:
    found = fitted(observations(12)).surrogate.metrics[0]
    assert (found.regressor, list(found.candidates)) == ("gp", ["gp"])


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(UserError, match="7 runs are too few to fit; at least 8 are needed"):
        fitted(observations(7))
    found = fitted(observations(8), FitConfig(repeats=1))
    assert found.held_out.shape == (8, 4)
    assert list(found.surrogate.metrics[0].candidates) == [*CANDIDATES, "ensemble"]


def wide(runs: int, domains: int, noise: float = 0.01) -> Observations:
    rng = np.random.default_rng([runs, domains])
    columns = [f"d{i:02d}" for i in range(domains)]
    ids = pd.Index([f"r{i:03d}" for i in range(runs)])
    weights = pd.DataFrame(rng.dirichlet(np.ones(domains), runs), ids, columns)
    loss = 2 + np.exp(-3 * weights["d00"]) + weights["d01"] + noise * rng.standard_normal(runs)
    info = pd.DataFrame({"name": ids, "role": "swarm", "seed": 0, "tokens": 1}, index=ids)
    return Observations(weights, pd.DataFrame({"loss": loss}), info, pd.DataFrame())


@pytest.mark.parametrize(
    ("runs", "domains", "said"),
    [
        (10, 16, "10 runs for 16 domains: not even a straight line through them is determined"),
        (16, 16, "16 runs for 16 domains: effects of single domains can hardly be told apart; 48"),
    ],
)
def test_fewer_runs_than_domains_are_fitted_and_warned_of(
    runs: int, domains: int, said: str
) -> None:
    data = wide(runs, domains)
    found = fitted(data, FitConfig(repeats=1))
    assert any(w.startswith(said) for w in cautions(data, found))
    prediction = found.surrogate.predict(np.eye(domains))["loss"]
    assert np.isfinite(prediction.mean).all()
    assert (prediction.std > 0).all()
    assert prediction.std.max() < 100 * np.ptp(data.y("loss"))


def test_enough_runs_are_not_warned_of() -> None:
    data = wide(60, 5)
    assert not any("runs for" in w for w in cautions(data, fitted(data)))


def imported(mixtures: int, seeds: int, seed: int = 0) -> Observations:
    """An import: as many runs of every mixture, all of them among the runs; seeds say little."""
    rng = np.random.default_rng(seed)
    own = np.repeat(np.arange(mixtures), seeds)
    ids = pd.Index([f"run{i:03d}" for i in range(len(own))], name="run_id")
    x = rng.dirichlet(np.ones(5), mixtures)[own]
    weights = pd.DataFrame(x, ids, list("abcde"))
    metrics = pd.DataFrame({"loss": wiggly(x) + 0.01 * rng.standard_normal(len(own))}, ids)
    info = pd.DataFrame({"name": ids, "role": "import", "seed": pd.NA, "tokens": pd.NA}, ids)
    hashes = np.array([f"mixture{m % 10}{m}" for m in own])
    places = weights.set_axis(hashes, axis=0)[::seeds]
    return Observations(weights, metrics, info, metrics.assign(mixture=hashes), places)


def wiggly(x: FloatArray) -> FloatArray:
    """Of more bends than a few mixtures show."""
    return 2 + 0.5 * np.sin(9 * x[:, 0]) + 0.4 * np.cos(11 * x[:, 1]) + 0.3 * np.sin(16 * x[:, 2])


@pytest.mark.parametrize("name", ["gp", "linear", "lightgbm", "ensemble"])
def test_repeats_in_a_swarm_make_no_surface_look_known(name: str) -> None:
    """Held-out error as on new mixtures, and intervals that cover these."""
    errors, truths, covers = [], [], []
    for seed in range(3):
        config = FitConfig(regressor=name, repeats=1)
        (metric,) = fitted(imported(16, 4, seed), config).surrogate.metrics
        rng = np.random.default_rng(seed + 50)
        x = rng.dirichlet(np.ones(5), 300)
        new = score(wiggly(x) + 0.01 * rng.standard_normal(300), metric.predict(x))
        errors.append(metric.scores.rmse)
        truths.append(new.rmse)
        covers.append(new.coverage90)
    assert 0.7 < np.mean(errors) / np.mean(truths) < 1.6
    assert np.mean(covers) > 0.85


def test_a_learning_curve_knows_no_mixture_that_it_is_judged_on() -> None:
    """With more seeds it is as low as with one, and it counts runs all the same."""
    ends = []
    for seeds in (1, 4):
        found = [
            curve.learn(
                imported(20, seeds, seed), Objective(("loss",), (1.0,), (1,)), "gp", None, 2
            )
            for seed in range(3)
        ]
        ends.append(np.mean([c.points["spearman"].iloc[-1] for c in found if c is not None]))
        assert [list(c.points.index) for c in found if c is not None] == (
            [[seeds * 4, seeds * 8, seeds * 12, seeds * 16]] * 3
        )
    assert max(ends) < 0.8
    assert curve.learn(imported(15, 4), Objective(("loss",), (1.0,), (1,)), "gp") is None


@pytest.mark.parametrize("name", ["gp", "ensemble"])
def test_shuffled_repeats_give_the_same_fit(name: str) -> None:
    data, config = imported(10, 2), FitConfig(regressor=name, repeats=1)
    order = np.random.default_rng(1).permutation(20)
    other = replace(
        data, weights=data.weights.iloc[order], metrics=data.metrics.iloc[order],
        info=data.info.iloc[order],
    )  # fmt: skip
    one, same = fitted(data, config), fitted(other, config)
    pd.testing.assert_frame_equal(
        one.held_out, same.held_out.loc[one.held_out.index], check_exact=True
    )


def test_repeats_do_not_count_as_mixtures() -> None:
    with pytest.raises(UserError, match="7 mixtures, in 28 runs, are too few to fit; at least 8"):
        fitted(imported(7, 4))
    data = imported(8, 2)
    numbers = data.numbered()
    assert numbers is not None
    assert numbers.tolist() == np.repeat(np.arange(8), 2).tolist()
    # Copies, too, are runs of their mixture.
    data.metrics.iloc[1], data.replicates.iloc[1] = data.metrics.iloc[0], data.replicates.iloc[0]
    again = data.numbered()
    assert again is not None
    assert again.tolist() == numbers.tolist()
    assert observations(replicates=3).numbered() is None


def test_an_unknown_regressor_is_refused_with_the_choices() -> None:
    with pytest.raises(
        UserError,
        match=r"fit\.regressor: unknown regressor 'lgbm'; did you mean 'lightgbm'\? Valid: auto, e",
    ):
        fitted(observations(12), FitConfig(regressor="lgbm"))


def test_warnings_tell_what_cannot_be_known() -> None:
    data = observations(20)
    frozen = data.weights.assign(math=0.1)
    frozen[["web", "code"]] *= (0.9 / frozen[["web", "code"]].sum(axis=1)).to_numpy()[:, None]
    still = replace(data, weights=frozen)
    assert any(
        "weights of math hardly vary over the runs" in w for w in cautions(still, fitted(still))
    )
    noisy = observations(20, noise=2.0, replicates=4)
    assert any("below 3x the seed noise on bpb/" in w for w in cautions(noisy, fitted(noisy)))


def test_progress_counts_up_to_the_end() -> None:
    data = observations(10)
    seen: list[tuple[int, int]] = []
    config = FitConfig(repeats=1, folds=2)
    fit(data, list(data.metric_names), config, lambda done, of: seen.append((done, of)))
    assert seen == [(i + 1, len(CANDIDATES) + 1) for i in range(len(seen))]


def test_monotone_wishes_reach_the_trees_of_the_metric_that_is_named() -> None:
    """Rows are sorted and metrics too on the way: each wish must still find its place."""
    data = shuffled(observations(40, noise=0.5), 3)
    wishes = {"bpb/web": {"web": "falling", "code": "rising", "math": "rising"}}
    config = FitConfig.model_validate({"regressor": "lightgbm", "repeats": 1, "monotone": wishes})
    found = fitted(data, config).surrogate
    share = np.linspace(0, 1, 60)[:, None]
    rises = dict.fromkeys(data.metric_names, 0.0)
    for start in np.random.default_rng(0).dirichlet(np.ones(3), 20):
        line = (1 - share) * start + share * np.array([1.0, 0.0, 0.0])
        for metric, part in found.predict(line).items():
            rises[metric] = max(rises[metric], float(np.diff(part.mean).max()))
    assert rises["bpb/web"] <= 1e-9
    assert rises["bpb/code"] > 0.01


def test_a_monotone_wish_about_an_unknown_metric_is_refused() -> None:
    config = FitConfig(regressor="gp", monotone={"bpb/wbe": {"web": "falling"}})
    with pytest.raises(UserError, match=r"fit\.monotone: unknown metric 'bpb/wbe'; did you mean"):
        fitted(observations(10), config)


def test_a_monotone_wish_about_an_unknown_domain_is_refused() -> None:
    config = FitConfig(regressor="gp", monotone={"bpb/web": {"wbe": "falling"}})
    with pytest.raises(
        UserError, match=r"fit\.monotone\.bpb/web: unknown domain 'wbe'; did you mean 'web'"
    ):
        fitted(observations(10), config)


def repeated(noisy: str, quiet: str) -> Observations:
    """A swarm in which two mixtures were repeated, one with ten times the noise."""
    data, rng = observations(60), np.random.default_rng(1)
    places = pd.DataFrame({"a": [0.9, 0.05, 0.05], "b": [0.05, 0.05, 0.9]}, DOMAINS).T
    rows = {"a": 0.5 if noisy == "a" else 0.05, "b": 0.5 if quiet == "a" else 0.05}
    values = [
        {"bpb/web": 2 + s * z, "bpb/code": 1 + 0.05 * z, "mixture": m}
        for m, s in rows.items()
        for z in rng.standard_normal(12)
    ]
    return replace(data, replicates=pd.DataFrame(values), replicate_weights=places)


def test_noise_is_larger_near_mixtures_whose_seeds_differ_more() -> None:
    data = repeated("a", "b")
    found = relative_variances(data, ["bpb/web", "bpb/code"])
    assert found is not None
    near_a, near_b = (np.argsort(-data.weights[d].to_numpy())[:4] for d in ("web", "math"))
    assert found[near_a, 0].min() > 3 * found[near_b, 0].max()
    assert found[:, 1].max() < 3 * found[:, 1].min()
    assert np.exp(np.log(found).mean(0)) == pytest.approx([1.0, 1.0])


def test_one_repeated_mixture_does_not_say_where_the_noise_is() -> None:
    data = repeated("a", "b")
    only = replace(data, replicates=data.replicates[data.replicates["mixture"] == "a"])
    assert relative_variances(only, ["bpb/web"]) is None
    assert relative_variances(observations(10), ["bpb/web"]) is None


def test_errors_that_go_together_are_known_to() -> None:
    """One seed's luck on both metrics: their errors correlate, and the sum is less sure."""
    data, rng = observations(60, noise=0.0), np.random.default_rng(0)
    luck = 0.1 * rng.standard_normal(60)
    metrics = data.metrics + luck[:, None]
    found = fitted(replace(data, metrics=metrics)).surrogate
    assert found.correlation[0, 1] > 0.8
    own = data.metrics + 0.1 * rng.standard_normal((60, 2))
    assert abs(fitted(replace(data, metrics=own)).surrogate.correlation[0, 1]) < 0.4
    assert np.diag(found.correlation) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", ["auto", *names()])
def test_a_saved_surrogate_predicts_the_same(name: str, tmp_path: Path) -> None:
    surrogate = fitted(observations(20), FitConfig(regressor=name, repeats=1)).surrogate
    surrogate.save(tmp_path / "s.json.gz")
    loaded = Surrogate.load(tmp_path / "s.json.gz")
    new = np.random.default_rng(1).dirichlet(np.ones(3), 50)
    assert loaded.domains == surrogate.domains
    for metric, before in surrogate.predict(new).items():
        after = loaded.predict(new)[metric]
        assert np.abs(after.mean - before.mean).max() <= 1e-12
        assert np.abs(after.std - before.std).max() <= 1e-12
        assert loaded.metric(metric).scores == surrogate.metric(metric).scores
        assert loaded.metric(metric).candidates == surrogate.metric(metric).candidates
    surrogate.save(tmp_path / "again.json.gz")
    assert (tmp_path / "s.json.gz").read_bytes() == (tmp_path / "again.json.gz").read_bytes()


def test_the_objective_adds_means_and_covariances() -> None:
    surrogate = fitted(observations(20)).surrogate
    config = ObjectiveConfig(weights={"bpb/web": 1.0, "bpb/code": 3.0},
                             directions={"bpb/code": "higher"})  # fmt: skip
    objective = Objective.from_config(config, surrogate.metric_names)
    new = stack([Mixture.uniform(DOMAINS), Mixture.only("web", DOMAINS)])
    parts, total = surrogate.predict(new), surrogate.objective(new, objective)
    web, code = parts["bpb/web"], parts["bpb/code"]
    assert total.mean == pytest.approx(0.25 * web.mean - 0.75 * code.mean)
    together = surrogate.correlations(["bpb/web", "bpb/code"])[0, 1]
    assert total.std == pytest.approx(
        np.sqrt(
            (0.25 * web.std) ** 2
            + (0.75 * code.std) ** 2
            - 2 * together * 0.25 * web.std * 0.75 * code.std
        )
    )
    assert surrogate.objective_mean(new, objective) == pytest.approx(total.mean)


def test_a_surrogate_refuses_what_it_was_not_fitted_to() -> None:
    surrogate = fitted(observations(12)).surrogate
    with pytest.raises(UserError, match=r"predict: shape \(1, 2\), expected \(n, 3\)"):
        surrogate.predict(np.array([[0.5, 0.5]]))
    with pytest.raises(UserError, match="mixture over code, web, math; the fit is over web, code"):
        surrogate.predict_one(Mixture.uniform(["code", "web", "math"]))
    with pytest.raises(UserError, match="unknown metric 'bpb/wb'; did you mean 'bpb/web'"):
        surrogate.metric("bpb/wb")


def test_a_damaged_surrogate_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "surrogate.json.gz"
    with pytest.raises(UserError, match=r"surrogate\.json\.gz: no such fit; run `regmix fit`"):
        Surrogate.load(path)
    fitted(observations(12)).surrogate.save(path)
    whole = path.read_bytes()
    spoilt = [
        b"", b"not gzip", whole[:200], whole[: len(whole) // 2] + b"\0" * 40,
        whole[:40] + bytes(b ^ 0xFF for b in whole[40:80]) + whole[80:],
        gzip.compress(b"\xff\xfe broken"), gzip.compress(b"[1, 2"), gzip.compress(b"[]"),
    ]  # fmt: skip
    for content in spoilt:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"surrogate\.json\.gz: damaged"):
            Surrogate.load(path)
    path.write_bytes(gzip.compress(b'{"version": 99}'))
    with pytest.raises(UserError, match="version 99, expected 2; fit again"):
        Surrogate.load(path)


def test_observations_find_metrics_by_part_of_their_name() -> None:
    data = observations(8)
    assert data.find_metric("web") == data.find_metric("bpb/web") == "bpb/web"
    with pytest.raises(UserError, match="'bpb' could be any of bpb/web, bpb/code; write more"):
        data.find_metric("bpb")
    with pytest.raises(UserError, match="unknown metric 'bpb/cod3'; did you mean 'bpb/code'"):
        data.find_metric("bpb/cod3")


def test_noise_pools_the_seeds_of_every_repeated_mixture() -> None:
    data = observations(8)
    twins = pd.DataFrame(
        {"bpb/web": [1.0, 3.0, 4.0, 5.0, 9.0], "bpb/code": 1.0, "mixture": list("aabbb")}
    )
    found = Observations(data.weights, data.metrics, data.info, twins).noise()
    assert found["bpb/web"] == pytest.approx(np.sqrt((1 + 1 + 4 + 1 + 9) / 3))
    assert found["bpb/code"] == 0.0
    assert data.noise().isna().all()


def test_observations_need_one_index() -> None:
    data = observations(8)
    with pytest.raises(UserError, match="same, unique run ids"):
        Observations(data.weights, data.metrics.iloc[::-1], data.info, data.replicates)
