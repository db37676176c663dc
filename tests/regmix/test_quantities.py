"""Counts, FLOPs and seconds as text."""

from __future__ import annotations

import pytest

from regmix.quantities import (
    amount,
    chance,
    duration,
    flops,
    number,
    short,
    signed,
    with_error,
)


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


@pytest.mark.parametrize(
    ("value", "std", "shown"),
    [
        (0.03312, 0.0042, "0.0331 ± 0.0042"),
        (-1.5, 0.25, "−1.50 ± 0.25"),
        (123.4, 12.0, "123 ± 12"),
        (float("nan"), 1.0, "–"),
    ],
)
def test_an_error_decides_the_decimals(value: float, std: float, shown: str) -> None:
    assert with_error(value, std) == shown


def test_numbers() -> None:
    assert number(1.5) == "1.500"
    assert number(None) == number(float("inf")) == "–"
    assert signed(-0.00001, 3) == "0.000"
    assert signed(0.25, 2) == "+0.25"
    assert signed(None, 2) == "–"
    assert chance(0.9999) == "over 99%"
    assert chance(0.5) == "50%"
    assert short("x" * 200) == "x" * 17 + "…" + "x" * 8
