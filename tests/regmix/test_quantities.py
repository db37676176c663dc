"""Counts, FLOPs and seconds as text."""

from __future__ import annotations

import pytest

from regmix.quantities import amount, duration, flops


@pytest.mark.parametrize(
    ("value", "counted", "worked"),
    [
        (7, "7", "7 FLOP"),
        (999, "999", "999 FLOP"),
        (1234, "1.23k", "1234 FLOP"),
        (999_600, "1M", "1 MFLOP"),
        (15_230_000, "15.2M", "15.2 MFLOP"),
        (7.22e11, "722B", "722 GFLOP"),
        (4.96e12, "4.96T", "4.96 TFLOP"),
    ],
)
def test_large_numbers(value: float, counted: str, worked: str) -> None:
    assert amount(value) == counted
    assert flops(value) == worked


def test_a_full_pretraining_in_its_unit() -> None:
    assert flops(6 * 32e9 * 6e12) == "1.15 YFLOP"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "0 s"),
        (59, "59 s"),
        (246, "4.1 min"),
        (5900, "98.3 min"),
        (11_520, "3.2 h"),
        (172_799, "48.0 h"),
        (187_200, "2 d 4 h"),
        (259_199, "3 d 0 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
