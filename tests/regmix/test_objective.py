"""Objective: directions, weights, and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmix import direction
from regmix.config import ObjectiveConfig
from regmix.errors import UserError
from regmix.objective import Objective

METRICS = ["bpb/web", "bpb/code", "mmlu/acc", "loss"]


@pytest.mark.parametrize(
    ("metric", "sign"),
    [
        ("bpb/code", 1), ("loss", 1), ("mmlu/bpb", 1), ("arc_easy:rc::olmes", 1), ("vacc", 1),
        ("mmlu/acc", -1), ("gsm8k/exact_match", -1), ("humaneval/pass@10", -1), ("acc_norm", -1),
        ("squad:f1", -1), ("accent/bpb", 1),
    ],
)  # fmt: skip
def test_directions_follow_from_names(metric: str, sign: int) -> None:
    assert direction.sign(metric, {}) == sign


def test_the_study_can_say_otherwise() -> None:
    assert direction.sign("loss", {"loss": "higher"}) == -1
    assert direction.sign("mmlu/acc", {"mmlu/acc": "lower"}) == 1


def test_default_is_the_mean_of_bits_per_byte() -> None:
    found = Objective.from_config(ObjectiveConfig(), METRICS)
    assert found.metrics == ("bpb/web", "bpb/code")
    assert found.weights == (0.5, 0.5)
    assert found.describe() == "mean of 2 metrics (lower is better)"
    fallback = Objective.from_config(ObjectiveConfig(), ["x", "y", "z"])
    assert fallback.metrics == ("x", "y", "z")


def test_value_by_hand() -> None:
    config = ObjectiveConfig(weights={"bpb/web": 1.0, "mmlu/acc": 3.0})
    found = Objective.from_config(config, METRICS)
    assert found.weights == (0.25, 0.75)
    assert found.coefficients.tolist() == [0.25, -0.75]
    value = found.value({"bpb/web": np.array([2.0, 1.0]), "mmlu/acc": np.array([0.4, 0.8])})
    assert value == pytest.approx([0.25 * 2 - 0.75 * 0.4, 0.25 - 0.75 * 0.8])
    assert found.describe() == "0.25·bpb/web + -0.75·mmlu/acc"


def test_better_is_lower_whatever_the_metric() -> None:
    accuracy = Objective.single("mmlu/acc", ObjectiveConfig())
    assert accuracy.value({"mmlu/acc": 0.9}) < accuracy.value({"mmlu/acc": 0.5})
    assert accuracy.describe() == "mmlu/acc (higher is better)"


@pytest.mark.parametrize("key", ["weights", "directions"])
def test_a_metric_that_was_never_measured_is_refused(key: str) -> None:
    value = {"bpb/cod": 1.0} if key == "weights" else {"bpb/cod": "lower"}
    with pytest.raises(
        UserError, match=rf"objective\.{key}: unknown metric 'bpb/cod'; did you mean 'bpb/code'"
    ):
        Objective.from_config(ObjectiveConfig(**{key: value}), METRICS)  # type: ignore[arg-type]


def test_a_missing_value_is_named() -> None:
    found = Objective.from_config(ObjectiveConfig(), METRICS)
    with pytest.raises(UserError, match="no value for bpb/code"):
        found.value({"bpb/web": 1.0})


# Relative and worst-case objectives: metrics 2.0, 1.0 and 0.5 at the reference.

AT_REFERENCE = {"bpb/web": 2.0, "bpb/code": 1.0, "mmlu/acc": 0.5}
NEW = {
    "bpb/web": np.array([1.8, 2.2]),  # losses -0.1, +0.1
    "bpb/code": np.array([1.1, 0.7]),  # losses +0.1, -0.3
    "mmlu/acc": np.array([0.6, 0.4]),  # higher is better: -0.2, +0.2
}
WEIGHTS = {"bpb/web": 1.0, "bpb/code": 1.0, "mmlu/acc": 2.0}


def relative(kind: str) -> Objective:
    config = ObjectiveConfig.model_validate({"kind": kind, "weights": WEIGHTS})
    return Objective.from_config(config, METRICS).against(AT_REFERENCE)


def test_relative_by_hand() -> None:
    """0.25·(−0.1) + 0.25·0.1 + 0.5·(−0.2) and 0.25·0.1 + 0.25·(−0.3) + 0.5·0.2."""
    found = relative("relative")
    assert found.value(NEW) == pytest.approx([-0.1, 0.05])
    assert found.value(AT_REFERENCE) == pytest.approx(0.0)
    assert found.describe().startswith("mean relative loss against natural: ")


def test_worst_by_hand() -> None:
    """Losses times weight over the mean weight: 0.75, 0.75, 1.5; the largest counts."""
    found = relative("worst")
    assert found.value(NEW) == pytest.approx([0.075, 0.3])
    assert found.value(AT_REFERENCE) == pytest.approx(0.0)
    stds = np.array([[0.2, 0.2], [0.4, 0.1], [0.05, 0.05]])
    means = np.array([NEW[m] for m in found.metrics])
    value, std = found.join(means, stds)
    # The error of the term that counts: 0.75·0.4/1.0 and 1.5·0.05/0.5.
    assert std == pytest.approx([0.3, 0.15])
    assert value == pytest.approx([0.075, 0.3])
    assert found.describe().startswith("worst relative loss against natural: ")


def test_negative_metrics_are_relative_to_their_size() -> None:
    """A log-probability of -2 that falls to -3 is worse by half, not better."""
    config = ObjectiveConfig(kind="relative", directions={"loss": "higher"}, weights={"loss": 1.0})
    found = Objective.from_config(config, METRICS).against({"loss": -2.0})
    assert found.value({"loss": -3.0}) == pytest.approx(0.5)


def test_join_adds_variances_with_their_correlation() -> None:
    config = ObjectiveConfig(weights={"bpb/web": 1.0, "mmlu/acc": 3.0})
    found = Objective.from_config(config, METRICS)
    means, stds = np.array([2.0, 0.5]), np.array([0.4, 0.2])
    for rho in (-0.5, 0.0, 0.9):
        value, std = found.join(means, stds, np.array([[1.0, rho], [rho, 1.0]]))
        # Coefficients 0.25 and -0.75: the covariance counts with their product's sign.
        variance = 0.1**2 + 0.15**2 - 2 * rho * 0.1 * 0.15
        assert value == pytest.approx(0.25 * 2 - 0.75 * 0.5)
        assert std == pytest.approx(np.sqrt(variance))
    assert found.join(means, stds)[1] == pytest.approx(np.hypot(0.1, 0.15))
    assert found.join(means)[1] == 0.0


def test_errors_that_cancel_leave_nothing() -> None:
    config = ObjectiveConfig(weights={"bpb/web": 1.0, "mmlu/acc": 1.0})
    found = Objective.from_config(config, METRICS)
    assert found.join(np.ones(2), np.full(2, 0.3), np.ones((2, 2)))[1] == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 1000), st.sampled_from(["weighted", "relative", "worst"]))
def test_join_is_the_same_for_one_mixture_as_for_many(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    found = relative(kind)
    means, stds = rng.uniform(0.2, 3, (2, 3, 7))
    root = rng.standard_normal((3, 3))
    covariance = root @ root.T + 0.1 * np.eye(3)
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(scale, scale)
    value, std = found.join(means, stds, correlation)
    each = [found.join(means[:, i], stds[:, i], correlation) for i in range(7)]
    assert value == pytest.approx([v for v, _ in each])
    assert std == pytest.approx([s for _, s in each])
    assert value == pytest.approx(found.value(dict(zip(found.metrics, means, strict=True))))


def test_signal_weights_by_hand() -> None:
    """Weights times the share of variance that is signal; what is noise alone drops out."""
    config = ObjectiveConfig(
        weights={"bpb/web": 1.0, "bpb/code": 2.0, "mmlu/acc": 5.0}, snr_weights=True
    )
    signal = {"bpb/web": 0.5, "bpb/code": 0.75, "mmlu/acc": 0.0, "loss": float("nan")}
    found = Objective.from_config(config, METRICS, signal)
    assert dict(zip(found.metrics, found.weights, strict=True)) == pytest.approx(
        {"bpb/web": 0.25, "bpb/code": 0.75}
    )


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        (None, r"the noise of bpb/web, bpb/code is not known; repeat a mixture with other seeds"),
        ({"bpb/web": float("nan"), "bpb/code": 1.0}, r"the noise of bpb/web is not known"),
        ({"bpb/web": 0.0, "bpb/code": 0.0}, r"no metric varies more than its seed noise"),
    ],
)
def test_signal_weights_need_a_known_signal(signal: dict[str, float] | None, said: str) -> None:
    with pytest.raises(UserError, match=rf"objective\.snr_weights: .*{said}"):
        Objective.from_config(ObjectiveConfig(snr_weights=True), METRICS, signal)


def test_a_reference_of_zero_has_no_relative_terms() -> None:
    config = ObjectiveConfig(kind="relative", weights={"loss": 1.0}, reference="uniform")
    with pytest.raises(
        UserError,
        match=r"objective\.kind relative: metric 'loss' is 0 at the reference 'uniform'; use kind",
    ):
        Objective.from_config(config, METRICS).against({"loss": 0.0})


def test_relative_terms_need_the_reference_filled_in() -> None:
    bare = Objective.from_config(ObjectiveConfig(kind="worst", weights={"loss": 1.0}), METRICS)
    with pytest.raises(UserError, match="metrics of the reference 'natural' are not known"):
        bare.value({"loss": 1.0})


def test_one_metric_alone_needs_no_reference() -> None:
    config = ObjectiveConfig(kind="worst", directions={"loss": "higher"})
    found = Objective.single("loss", config)
    assert (found.kind, found.reference, found.signs) == ("weighted", "", (-1,))
