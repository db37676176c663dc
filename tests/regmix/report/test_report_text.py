"""The sentences: what is said must follow from the numbers, above all when they disagree."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from regmix.comparison import Comparison, Gain
from regmix.noise import SeedNoise
from regmix.objective import Objective
from regmix.report import text

KNOWN = SeedNoise(0.01, 8)
BPB = Objective(("bpb/a", "bpb/b"), (0.5, 0.5), (1, 1))


def comparison(*mixtures: str) -> Comparison:
    return Comparison(pd.DataFrame({"mixture": mixtures}), 14_200_000, 300_000_000)


def predicted(**gains: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(gains, orient="index", columns=["gain", "std"])


def test_a_prediction_names_both_references_and_the_unit() -> None:
    said = text.predicted(BPB, predicted(natural=(0.033, 0.004), uniform=(0.012, 0.005)))
    assert said == (
        "The proposed mixture is predicted to lower the mean of 2 metrics by 0.0330 ± 0.0040 bits "
        "per byte against natural and by 0.0120 ± 0.0050 bits per byte against uniform."
    )


def test_a_predicted_loss_is_not_called_a_gain() -> None:
    said = text.predicted(BPB, predicted(natural=(0.033, 0.004), uniform=(-0.002, 0.005)))
    assert ", but to raise it by 0.0020" in said
    assert said.endswith("against uniform (less than its own error).")


def test_a_metric_that_is_better_high_is_raised() -> None:
    accuracy = Objective(("mmlu/acc",), (1.0,), (-1,))
    said = text.predicted(accuracy, predicted(uniform=(0.05, 0.01)))
    assert said.startswith(
        "The proposed mixture is predicted to raise mmlu/acc by 0.050 ± 0.010 ag"
    )


@pytest.mark.parametrize(
    ("measured", "expected_gain", "words", "tone"),
    [
        (0.03, 0.03, "better than natural by 0.0300 over 2 seeds, as predicted", "good"),
        (0.03, -0.03, "better than natural by 0.0300 over 2 seeds, which contradicts", "warn"),
        (0.001, 0.03, "tied with natural over 2 seeds (mean gain +0.0010, within seed", "warn"),
        (-0.03, 0.03, "worse than natural by 0.0300 over 2 seeds, which contradicts the p", "bad"),
        (-0.03, -0.03, "worse than natural by 0.0300 over 2 seeds, as predicted", "bad"),
    ],
)
def test_what_was_measured_is_said_plainly(
    measured: float, expected_gain: float, words: str, tone: str
) -> None:
    gains = {"natural": Gain("natural", {0: measured, 1: measured}, expected_gain, 0.004)}
    said = text.measured(comparison("proposal", "natural"), gains, SeedNoise(0.0042, 8), "")
    assert "at the larger size (14.2M parameters, 300M tokens)" in said
    assert words in said
    assert text.tone(gains, SeedNoise(0.0042, 8)) == tone


def test_the_worst_outcome_sets_the_tone() -> None:
    good, bad = Gain("natural", {0: 1.0}, 1.0, 0.1), Gain("uniform", {0: -1.0}, 1.0, 0.1)
    assert text.tone({"natural": good, "uniform": bad}, KNOWN) == "bad"
    assert text.tone({}, KNOWN) == "plain"


def test_without_repeats_the_noise_is_said_to_be_unknown() -> None:
    gains = {"natural": Gain("natural", {0: 0.001}, 0.03, 0.004)}
    said = text.measured(comparison("proposal", "natural"), gains, SeedNoise(math.nan, 0), "")
    assert "mean gain against natural +0.0010 over 1 seed." in said
    assert "better" not in said
    assert "the noise is not known" in said
    assert text.tone(gains, SeedNoise(math.nan, 0)) == "warn"


def test_of_equal_mixtures_one_gain_in_twenty_counts_however_few_repeats_there_were() -> None:
    """The noise itself is an estimate: with two degrees of freedom two σ would say so in 18 %."""
    rng = np.random.default_rng(0)
    for freedom, seeds in ((2, 1), (2, 2), (2, 5), (8, 2)):
        said, plain = [], []
        for _ in range(2000):
            std = math.sqrt(float(rng.chisquare(freedom)) / freedom)
            values = rng.normal(0, math.sqrt(2), seeds)
            gain = Gain("natural", dict(enumerate(values.tolist())), 0.1, 0.1)
            said.append(gain.verdict(SeedNoise(std, freedom)) != "tied")
            plain.append(abs(gain.mean) > 2 * std * math.sqrt(2 / seeds))
        assert np.mean(said) == pytest.approx(0.05, abs=0.015), (freedom, seeds)
        if freedom == 2:
            assert np.mean(plain) > 0.15


def test_missing_measurements_are_named() -> None:
    assert text.measured(None, {}, KNOWN, "").startswith("Nothing has been measured at the target")
    assert "not yet checked" in text.measured(comparison("proposal"), {}, KNOWN, "")
    gains = {"natural": Gain("natural", {0: 0.1}, 0.1, 0.01)}
    said = text.measured(comparison("proposal", "natural", "uniform"), gains, KNOWN, "")
    lacking = replace(comparison("proposal", "natural"), unmeasured=("mmlu/acc",))
    assert "not all measured on mmlu/acc, which" in text.measured(lacking, {}, KNOWN, "")
    alone = replace(comparison("proposal", "uniform"), unknown="its reference is gone")
    assert text.measured(alone, {}, KNOWN, "").endswith(
        "not known: its reference is gone, so the prediction is not yet checked."
    )
    assert "not measured against uniform with the same seed" in said
