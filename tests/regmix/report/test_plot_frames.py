"""The report's frames against values worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regmix.comparison import Comparison, gains
from regmix.mixture import Mixture
from regmix.noise import SeedNoise
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.plot import frames
from regmix.regressors import regressor
from regmix.results import Fit
from regmix.solve import Candidate, Proposal
from regmix.solve.proposal import Stability
from regmix.study import Study
from regmix.surrogate import FittedMetric, Scores, Surrogate


def candidate(
    name: str,
    objective: tuple[float, float],
    loss: tuple[float, float],
    gain: tuple[float, float] = (0.0, 0.0),
) -> Candidate:
    mixture = Mixture.of({"a": 0.25, "b": 0.75})
    return Candidate(name, mixture, objective, {"loss": loss}, gain, 0.9, 0.1)


def hand_made_fit() -> Fit:
    """Objective 0.5·loss − 0.5·acc; only `loss` is among the predicted metrics."""
    proposal = Proposal(
        best=candidate("proposal", (2.0, 0.3), (2.5, 0.03)),
        baselines=(
            candidate("natural", (2.5, 0.4), (2.9, 0.04), (0.5, 0.2)),
            candidate("uniform", (1.9, 0.0), (2.4, 0.0), (-0.1, 0.3)),
            candidate("best run", (2.2, 0.1), (2.6, 0.1), (0.2, 0.1)),
        ),
        method="multi-start",
        gap=None,
        active=(),
        nearest_run="r",
        typical_distance=0.1,
        tied={"a": (0.1, 0.4), "b": (0.6, 0.9)},
        stability=Stability(12, 0.05, {"b": (0.7, 0.8), "a": (0.2, 0.3)}),
    )
    objective = Objective(("loss", "acc"), (0.5, 0.5), (1, -1))
    return Fit("id", Path(), objective, proposal, {"objective_noise": 0.01, "objective_freedom": 2})


def fitted(metric: str) -> FittedMetric:
    model = regressor("linear").fit_all(np.eye(2), np.zeros((2, 1)))[0]
    scores = Scores(1.0, 1.0, 0.0, 0.0, 0.9)
    return FittedMetric(metric, "linear", model, 1.0, scores, {})


def hand_made_comparison() -> Comparison:
    """Natural has seeds 0, 1 and 2, the proposal 1 and 0, uniform only seed 7."""
    rows = [
        ("proposal", 1, "p1", 2.00, 2.4, 0.50),
        ("proposal", 0, "p0", 2.10, 2.5, 0.40),
        ("natural", 0, "n0", 2.30, 2.8, 0.30),
        ("natural", 1, "n1", 2.35, 2.9, 0.55),
        ("natural", 2, "n2", 9.00, 9.0, 0.10),
        ("uniform", 7, "u7", 1.00, 1.0, 0.90),
    ]
    columns = ["mixture", "seed", "run_id", "objective", "loss", "acc"]
    return Comparison(pd.DataFrame(rows, columns=columns), 1000, 2000)


def test_weights_are_matched_by_name_and_sorted_by_the_proposal() -> None:
    proposal = Mixture.of({"a": 0.2, "b": 0.5, "c": 0.3})
    natural = Mixture.of({"c": 0.1, "b": 0.2, "a": 0.7})
    frame = frames.weights({"proposal": proposal, "natural": natural})
    assert list(frame.index) == ["b", "c", "a"]
    assert frame["proposal"].to_list() == pytest.approx([0.5, 0.3, 0.2])
    assert frame["natural"].to_list() == pytest.approx([0.2, 0.1, 0.7])
    assert list(frames.weights({"natural": natural}).index) == ["c", "b", "a"]


def test_a_domain_that_a_mixture_does_not_know_has_no_share_in_it() -> None:
    mixtures = {"proposal": Mixture.of({"a": 1.0}), "uniform": Mixture.uniform(["a", "new"])}
    assert frames.weights(mixtures).loc["new"].to_list() == [0.0, 0.5]


def test_predicted_gains_are_those_of_the_proposal() -> None:
    found = frames.predicted_gains(hand_made_fit().proposal)
    assert list(found.index) == ["natural", "uniform", "best run"]
    assert found["gain"].to_list() == pytest.approx([0.5, -0.1, 0.2])
    assert found["std"].to_list() == pytest.approx([0.2, 0.3, 0.1])


def test_ranges_of_a_weight_are_matched_by_domain() -> None:
    proposal = hand_made_fit().proposal
    found = frames.certainty(proposal)
    assert found.loc["a"].to_list() == [0.1, 0.4, 0.2, 0.3]
    assert found.loc["b"].to_list() == [0.6, 0.9, 0.7, 0.8]
    none = frames.certainty(replace(proposal, stability=None))
    assert none[["refit_low", "refit_high"]].isna().all(axis=None)


def test_gains_are_paired_by_seed_whatever_the_order_of_the_rows() -> None:
    found = gains(hand_made_fit().proposal, hand_made_comparison())
    assert set(found) == {"natural"}, "uniform shares no seed with the proposal"
    assert found["natural"].by_seed == pytest.approx({0: 0.2, 1: 0.35})
    assert found["natural"].predicted == pytest.approx(0.5)


def test_metric_gains_are_turned_so_that_positive_is_better() -> None:
    frame = frames.metric_gains(
        hand_made_comparison(), hand_made_fit(), {"loss": SeedNoise(0.02, 2)}, {}
    )
    by_label = {label: g.set_index("seed") for label, g in frame.groupby("label")}
    assert by_label["loss"]["gain"].to_dict() == pytest.approx({0: 0.3, 1: 0.5})
    assert by_label["acc"]["gain"].to_dict() == pytest.approx({0: 0.1, 1: -0.05})
    assert by_label["objective"]["gain"].to_dict() == pytest.approx({0: 0.2, 1: 0.35})
    assert by_label["loss"]["predicted"].iloc[0] == pytest.approx(0.4)
    assert by_label["loss"]["predicted_std"].iloc[0] == pytest.approx(0.05)
    assert np.isnan(by_label["acc"]["predicted"].iloc[0]), "accuracy was not fitted"
    assert by_label["objective"]["limit"].iloc[0] == pytest.approx(4.302653 * 0.01)  # t
    assert np.isnan(by_label["acc"]["limit"].iloc[0])
    assert frame.drop_duplicates("label")["row"].to_list() == [0, 1, 2]


def test_directions_of_the_study_turn_a_metric_outside_the_objective() -> None:
    comparison = hand_made_comparison()
    comparison.values["strange"] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    for given, expected in (({}, [1.0, 3.0]), ({"strange": "higher"}, [-1.0, -3.0])):
        frame = frames.metric_gains(comparison, hand_made_fit(), {}, given)
        strange = frame[frame["label"] == "strange"].sort_values("seed")
        assert strange["gain"].to_list() == expected


def test_held_out_is_joined_by_run_and_leaves_later_runs_out() -> None:
    runs = ["r1", "r2", "late"]
    data = Observations(
        weights=pd.DataFrame({"d": [1.0, 1.0, 1.0]}, index=runs),
        metrics=pd.DataFrame({"loss": [1.0, 2.0, 9.0], "acc": [0.1, 0.2, 0.9]}, index=runs),
        info=pd.DataFrame(index=runs),
        replicates=pd.DataFrame(),
    )
    predictions = pd.DataFrame(
        {"loss": [2.5, 1.5], "loss_std": [0.6, 0.8], "acc": [0.4, 0.3], "acc_std": [0.6, 0.8]},
        index=["r2", "r1"],
    )
    frame = frames.held_out(data, predictions, "loss")
    assert list(frame.index) == ["r1", "r2"]
    assert (frame["predicted"] - frame["measured"]).to_list() == [0.5, 0.5]
    alone = Surrogate(("d",), (fitted("loss"), fitted("acc")), np.eye(2))
    total = frames.held_out_objective(data, predictions, alone, hand_made_fit().objective)
    assert total["measured"].to_list() == pytest.approx([0.45, 0.9])
    assert total["predicted"].to_list() == pytest.approx([0.6, 1.05])
    assert total["std"].to_list() == pytest.approx([0.5 * 0.8 * 2**0.5, 0.5 * 0.6 * 2**0.5])
    # An accuracy counts with the other sign: errors that go together cancel in the difference.
    together = Surrogate(("d",), (fitted("loss"), fitted("acc")), np.ones((2, 2)))
    total = frames.held_out_objective(data, predictions, together, hand_made_fit().objective)
    assert total["std"].to_list() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_held_out_agrees_with_the_scores_of_the_fit(trained: Any) -> None:
    study: Study = trained.study
    fit = study.latest_fit()
    frame = frames.held_out_objective(
        study.observations(), fit.held_out, fit.surrogate, fit.objective
    )
    residual = frame["measured"] - frame["predicted"]
    scores = fit.diagnostics["objective_scores"]
    assert residual.abs().mean() == pytest.approx(scores["mae"])
    inside = residual.abs() <= 1.6448536269514722 * frame["std"]
    assert inside.mean() == pytest.approx(scores["coverage90"])


def test_panels_keep_the_worst_and_the_best() -> None:
    spearman = pd.Series({f"m{i}": i / 20 for i in (3, 1, 0, 2, 4, 9, 8, 7, 6, 5)})
    assert frames.panels(spearman, 4) == ["m0", "m1", "m8", "m9"]
    assert frames.panels(spearman, 10) == [f"m{i}" for i in range(10)]
    assert frames.panels(spearman, 3) == ["m0", "m8", "m9"]


def test_scores_divide_spread_by_noise_only_where_it_is_known() -> None:
    entry = {"regressor": "gp", "scores": {"spearman": 0.9}, "spread": 0.3}
    metrics = {
        "a": {**entry, "noise": 0.1},
        "b": {**entry, "noise": None},
        "c": {**entry, "noise": 0.0},
    }
    frame = frames.scores({"metrics": metrics})
    assert frame["snr"]["a"] == pytest.approx(3.0)
    assert frame["snr"][["b", "c"]].isna().all()


def test_shares_keep_every_weight_beside_its_run(trained: Any) -> None:
    data = trained.study.observations()
    order = ["web", "books", "code", "math"]
    frame = frames.shares(data, order)
    assert list(frame["domain"].unique()) == order
    back = frame.pivot(index="run_id", columns="domain", values="share")
    pd.testing.assert_frame_equal(
        back.loc[data.weights.index, order], data.weights[order], check_names=False
    )
    assert frame["offset"].between(-0.5, 0.5).all()
    box = frames.share_quartiles(data, order)
    assert box.loc["math", "median"] == pytest.approx(data.weights["math"].median())
    assert (box["low"] <= box["q25"]).all()


def test_runs_are_ordered_by_objective(trained: Any) -> None:
    study: Study = trained.study
    data, objective = study.observations(), study.latest_fit().objective
    frame = frames.run_objectives(data, objective)
    assert frame["objective"].is_monotonic_increasing
    best = data.metrics.mean(axis=1).idxmin()
    assert frame.index[0] == best
    assert frame["objective"].iloc[0] == pytest.approx(data.metrics.loc[best].mean())


def test_states_failures_and_records_of_finished_runs(unfitted: Any) -> None:
    study: Study = unfitted.study
    waiting = study.target_run("later", study.references()["uniform"], 5)
    failing = study.target_run("broken", study.references()["natural"], 6)
    study.add_run(waiting)
    study.add_run(failing)
    unfitted.fail("broken", "loss is nan")
    counts = frames.states(study.runs())
    assert counts.loc["target"].to_dict() == {"done": 0, "started": 0, "waiting": 1, "failed": 1}
    assert counts["done"].sum() == len(study.runs()) - 2
    assert frames.failures(study.runs())[["name", "reason"]].values.tolist() == [
        ["broken", "loss is nan"]
    ]
    realised = frames.realised(study.store, study.domains)
    assert list(realised.index) == list(study.domains)
    assert realised["difference"].to_list() == pytest.approx([0, 0, 0.001, 0], abs=1e-12)
    assert set(frames.environments(study.store)["key"]) == {"torch", "host"}


def test_frames_of_a_study_without_runs_are_empty(imported: Study) -> None:
    assert frames.states([]).empty
    assert frames.failures([]).empty
    assert frames.realised(imported.store, imported.domains).empty
    assert frames.environments(imported.store).empty
