"""Growth is told once when it lasts, however slow; noise, spikes and what falls are not growth."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_trainer.watch.growth import WINDOW, Grown, Growth

POINTS = 1000


def told(value: Callable[[int], float], points: int = POINTS, factor: float = 2.0) -> list[Grown]:
    growth = Growth(factor)
    found = (growth.add(step, value(step)) for step in range(1, points + 1))
    return [grown for grown in found if grown is not None]


def noise(seed: int, sigma: float) -> Callable[[], float]:
    rng = random.Random(seed)
    return lambda: math.exp(rng.gauss(0, sigma))


def test_a_jump_is_told_once_soon_and_with_its_size() -> None:
    (grown,) = told(lambda step: 1.0 if step <= 400 else 3.0)
    assert grown.factor == 3.0
    assert (grown.before.median, grown.now.median) == (1.0, 3.0)
    assert 400 < grown.now.step <= 400 + WINDOW


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("doubling", [60, 200, 450])
def test_slow_growth_is_told_at_every_doubling_or_so(doubling: int, seed: int) -> None:
    wide = noise(seed, 0.2)
    found = told(lambda step: 2 ** (step / doubling) * wide())
    doublings = POINTS / doubling
    assert doublings / 2 <= len(found) <= doublings
    assert all(grown.factor >= 2 for grown in found)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_noise_is_no_growth(sigma: float, seed: int) -> None:
    wide = noise(seed, sigma)
    assert told(lambda _: wide()) == []
    assert told(lambda step: 10 / step**0.5 * wide()) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_rise_by_half_is_too_little(seed: int) -> None:
    wide = noise(seed, 0.2)
    assert told(lambda step: (1 + step / POINTS / 2) * wide()) == []


def test_spikes_are_no_growth() -> None:
    assert told(lambda step: 1000.0 if step % 7 == 0 else 1.0) == []


def test_a_rise_in_the_first_window_is_where_it_begins() -> None:
    assert told(lambda step: float(step), points=WINDOW) == []


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=150),
    st.floats(1e-3, 1e3),
)
def test_units_do_not_matter(values: list[float], unit: float) -> None:
    unit = 2.0 ** round(math.log2(unit))  # exact, so that no comparison can turn over

    def steps(scale: float) -> list[int]:
        return [g.now.step for g in told(lambda i: scale * values[i - 1], points=len(values))]

    assert steps(1.0) == steps(unit)


@given(st.lists(st.floats(0.01, 100.0), min_size=WINDOW, max_size=200))
def test_what_never_rises_is_never_told(values: list[float]) -> None:
    falling = sorted(values, reverse=True)
    assert told(lambda step: falling[step - 1], points=len(falling)) == []
