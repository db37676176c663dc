"""Fit: honest folds, scores worked out by hand, and the same fit whatever the order of rows."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from regmix.config import FitConfig, ObjectiveConfig
from regmix.errors import UserError
from regmix.fit import FitResult, _score, fit, folds
from regmix.mixture import Mixture
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.regressors import NAMES, Prediction
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
    objective = Objective.from_config(ObjectiveConfig(), data.metric_names)
    return fit(data, list(data.metric_names), objective, config)


def shuffled(data: Observations, seed: int) -> Observations:
    order = np.random.default_rng(seed).permutation(len(data.weights))
    return Observations(
        data.weights.iloc[order], data.metrics.iloc[order], data.info.iloc[order], data.replicates
    )


@pytest.mark.parametrize("name", NAMES)
def test_shuffled_rows_give_the_same_fit(name: str) -> None:
    data, config = observations(24), FitConfig(regressor=name, repeats=1)
    one, other = fitted(data, config), fitted(shuffled(data, 1), config)
    new = np.random.default_rng(5).dirichlet(np.ones(3), 20)
    for metric in data.metric_names:
        a, b = one.surrogate.predict(new)[metric], other.surrogate.predict(new)[metric]
        assert (a.mean == b.mean).all()
        assert (a.std == b.std).all()
        assert one.surrogate.metric(metric).scores == other.surrogate.metric(metric).scores
    pd.testing.assert_frame_equal(
        one.held_out, other.held_out.loc[one.held_out.index], check_exact=True
    )


def test_scores_by_hand() -> None:
    """Ranks 1 2 3 4 5 against 2 1 4 3 5: ρ = 1 − 6·4 / (5·24) = 0.8."""
    y = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    mean = np.array([1.6, 1.5, 3.9, 3.0, 5.0])
    found = _score(y, Prediction(mean, np.full(5, 0.5)), 1.0)
    residual = np.array([-0.6, 0.5, -0.9, 1.0, 0.0])
    assert found.spearman == pytest.approx(0.8)
    assert found.r2 == pytest.approx(1 - (residual**2).sum() / 10)
    assert found.mae == pytest.approx(0.6)
    assert found.rmse == pytest.approx(np.sqrt(2.42 / 5))
    assert found.coverage90 == pytest.approx(3 / 5)  # 1.645 · 0.5 = 0.82
    assert _score(y, Prediction(mean, np.full(5, 0.5)), 2.0).coverage90 == 1.0


def test_a_constant_prediction_has_no_rank_correlation() -> None:
    y = np.arange(4.0)
    found = _score(y, Prediction(np.full(4, 1.5), np.ones(4)), 1.0)
    assert (found.spearman, found.r2) == (0.0, 0.0)
    assert _score(np.ones(4), Prediction(y, np.ones(4)), 1.0).spearman == 0.0


@pytest.mark.parametrize(("runs", "count"), [(8, 5), (13, 5), (10, 2), (3, 5)])
def test_folds_cover_every_run_once_and_never_train_on_it(runs: int, count: int) -> None:
    parts = list(folds(runs, count, seed=0))
    assert len(parts) == min(runs, count)
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(runs))
    for train, test in parts:
        assert not set(train) & set(test)
        assert len(train) + len(test) == runs


def test_held_out_predictions_have_not_seen_their_run() -> None:
    """A metric without any signal is not predicted better than its mean."""
    data = observations(40)
    noise = pd.DataFrame(
        {"loss": np.random.default_rng(3).standard_normal(40)}, index=data.weights.index
    )
    blind = Observations(data.weights, noise, data.info, data.replicates)
    found = fit(blind, ["loss"], Objective.single("loss", ObjectiveConfig()), GP)
    assert found.surrogate.metric("loss").scores.r2 < 0.1
    assert found.surrogate.metric("loss").scores.spearman < 0.35
    assert any("held-out rank correlation" in w and "not reliable" in w for w in found.warnings)


def test_a_clear_surface_is_found_and_its_error_is_calibrated() -> None:
    data = observations(60, noise=0.02)
    found = fitted(data)
    for metric in data.metric_names:
        scores = found.surrogate.metric(metric).scores
        assert scores.spearman > 0.97
        assert scores.r2 > 0.95
        assert 0.8 <= scores.coverage90 <= 1.0
        z = (data.metrics[metric] - found.held_out[metric]) / found.held_out[f"{metric}_std"]
        assert np.sqrt((z**2).mean()) == pytest.approx(1.0, abs=0.05)
        assert scores.spearman == pytest.approx(
            stats.spearmanr(data.metrics[metric], found.held_out[metric]).statistic
        )
    assert found.objective_scores.spearman > 0.95
    assert found.warnings == ()


def test_auto_takes_the_better_one_and_records_both() -> None:
    chosen = fitted(observations(40), FitConfig(repeats=1)).surrogate.metrics[0]
    assert set(chosen.candidates) == set(NAMES)
    assert chosen.scores == chosen.candidates[chosen.regressor]
    best = min(chosen.candidates.values(), key=lambda s: s.rmse).rmse
    assert chosen.scores.rmse <= best / 0.98


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(UserError, match="7 runs are too few to fit; at least 8 are needed"):
        fitted(observations(7))
    assert fitted(observations(8)).held_out.shape == (8, 4)


def test_an_unknown_regressor_is_refused_with_the_choices() -> None:
    with pytest.raises(
        UserError, match=r"fit\.regressor: unknown regressor 'lgbm'.*Valid: auto, gp, lightgbm"
    ):
        fitted(observations(12), FitConfig(regressor="lgbm"))


def test_warnings_tell_what_cannot_be_known() -> None:
    assert any("8 runs for 3 domains" in w for w in fitted(observations(8)).warnings)
    data = observations(20)
    frozen = data.weights.assign(math=0.1)
    frozen[["web", "code"]] *= (0.9 / frozen[["web", "code"]].sum(axis=1)).to_numpy()[:, None]
    still = Observations(frozen, data.metrics, data.info, data.replicates)
    assert any("'math' hardly varies" in w for w in fitted(still).warnings)
    noisy = observations(20, noise=2.0, replicates=4)
    assert any("below 3x the seed noise" in w for w in fitted(noisy).warnings)


def test_progress_is_told_metric_by_metric() -> None:
    data = observations(10)
    seen: list[tuple[int, int]] = []
    objective = Objective.from_config(ObjectiveConfig(), data.metric_names)
    fit(data, list(data.metric_names), objective, GP, lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("name", NAMES)
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


def test_the_objective_adds_means_and_variances() -> None:
    surrogate = fitted(observations(20)).surrogate
    config = ObjectiveConfig(weights={"bpb/web": 1.0, "bpb/code": 3.0},
                             directions={"bpb/code": "higher"})  # fmt: skip
    objective = Objective.from_config(config, surrogate.metric_names)
    new = stack([Mixture.uniform(DOMAINS), Mixture.only("web", DOMAINS)])
    parts, total = surrogate.predict(new), surrogate.objective(new, objective)
    web, code = parts["bpb/web"], parts["bpb/code"]
    assert total.mean == pytest.approx(0.25 * web.mean - 0.75 * code.mean)
    assert total.std == pytest.approx(np.hypot(0.25 * web.std, 0.75 * code.std))


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
    with pytest.raises(UserError, match="version 99, expected 1; fit again"):
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
        {"bpb/web": [1.0, 3.0, 5.0, 5.0, 8.0], "bpb/code": 1.0, "mixture": list("aabbb")}
    )
    found = Observations(data.weights, data.metrics, data.info, twins).noise()
    assert found["bpb/web"] == pytest.approx(np.sqrt((1 + 1 + 1 + 1 + 4) / 3))
    assert found["bpb/code"] == 0.0
    assert data.noise().isna().all()


def test_observations_need_one_index() -> None:
    data = observations(8)
    with pytest.raises(UserError, match="same, unique run ids"):
        Observations(data.weights, data.metrics.iloc[::-1], data.info, data.replicates)
