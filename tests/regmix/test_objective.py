"""Objective: directions, weights, and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from regmix.config import ObjectiveConfig
from regmix.errors import UserError
from regmix.objective import Objective, direction

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
    assert direction(metric, {}) == sign


def test_the_study_can_say_otherwise() -> None:
    assert direction("loss", {"loss": "higher"}) == -1
    assert direction("mmlu/acc", {"mmlu/acc": "lower"}) == 1


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
