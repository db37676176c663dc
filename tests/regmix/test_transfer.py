"""What a larger size says of the order that the proxies found."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regmix import design
from regmix.config import SwarmConfig
from regmix.errors import UserError
from regmix.mixture import Mixture
from regmix.space import Space
from regmix.transfer import Size, Transfer, compare, decided_alike

VALUES = st.lists(st.integers(-3, 3), min_size=2, max_size=8)


@given(st.data())
def test_pairs_are_counted_as_they_are_defined(data: st.DataObject) -> None:
    x = data.draw(VALUES)
    y = data.draw(st.lists(st.integers(-3, 3), min_size=len(x), max_size=len(x)))
    scores = []
    for i, j in combinations(range(len(x)), 2):
        small, large = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
        if small or large:
            scores.append(0.5 if small * large == 0 else float(small == large))
    found = decided_alike(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    assert found == pytest.approx(np.mean(scores)) if scores else math.isnan(found)


def size(parameters: int, **metrics: np.ndarray) -> Size:
    names = [f"m{i}" for i in range(len(next(iter(metrics.values()))))]
    return Size(parameters, 1000, pd.DataFrame(metrics, index=names))


def compared(x: np.ndarray, y: np.ndarray, sign: int = 1, noise: float = 0.01) -> Transfer:
    return compare(size(1_000_000, a=x), size(4_000_000, a=y), {}, {"a": sign}, {"a": noise})


def test_correlation_is_that_of_scipy_and_direction_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = 0.5 * x + 0.3 * rng.normal(size=12)
    lower, higher = compared(x, y), compared(x, y, sign=-1)
    assert lower.table.loc[0, "spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    columns = ["spearman", "accuracy", "slope"]
    pd.testing.assert_frame_equal(lower.table[columns], higher.table[columns])
    tau = stats.kendalltau(x, y).statistic
    assert lower.table.loc[0, "accuracy"] == pytest.approx((tau + 1) / 2)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of normal pairs with correlation ρ, 1/2 + arcsin(ρ)/π are decided alike."""
    rng = np.random.default_rng(1)
    rho = 0.8
    truth = 0.5 + math.asin(rho) / math.pi
    held = 0
    for _ in range(100):
        x = rng.normal(size=16)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=16)
        row = compared(x, y).table.iloc[0]
        held += bool(row["accuracy_low"] <= truth <= row["accuracy_high"])
    assert 80 <= held <= 98


def test_rescaling_helps_where_sizes_differ_in_scale_and_not_where_they_are_shifted() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=14)
    noise = 0.05 * rng.normal(size=14)
    shrunk = compared(x, 3 + 0.4 * x + noise).table.iloc[0]
    assert bool(shrunk["helps"])
    assert shrunk["slope"] == pytest.approx(0.4, abs=0.05)
    flat = compared(x, 3 + x + 5 * rng.normal(size=14)).table.iloc[0]
    assert flat["accuracy_low"] < 0.5 < flat["accuracy_high"]


def test_reversals_are_named_with_their_noise() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 4.01])
    y = np.array([2.0, 1.0, 3.0, 5.0, 4.9])
    found = compared(x, y, noise=0.1)
    named = {(r.first, r.second): r for r in found.reversals}
    assert named.keys() == {("m0", "m1"), ("m3", "m4")}
    assert (named["m0", "m1"].small, named["m0", "m1"].large) == (1.0, 1.0)
    assert named["m0", "m1"].beyond_noise
    assert not named["m3", "m4"].beyond_noise


def test_the_verdict_is_a_sentence() -> None:
    x = np.arange(8.0)
    said = compared(x, x).verdict()
    assert said.startswith("1M → 4M: the proxy, on average over 1 metrics, decides correctly")
    assert said.endswith("100% ± 0% of pairs (8 mixtures)")
    rng = np.random.default_rng(3)
    assert "no better than a coin" in compared(x, rng.permutation(x)).verdict()


def test_mixtures_are_joined_by_name() -> None:
    x = np.arange(6.0)
    small = size(1_000_000, a=x)
    large = Size(4_000_000, 1000, small.values.iloc[::-1])
    assert compare(small, large, {}, {"a": 1}, {}).table.loc[0, "accuracy"] == 1
    with pytest.raises(UserError, match="3 mixtures are measured at both 1M and 4M"):
        compare(small, Size(4_000_000, 1000, small.values.iloc[:3]), {}, {"a": 1}, {})


def test_a_ladder_takes_mixtures_that_lie_far_apart() -> None:
    natural = Mixture.of({"a": 0.6, "b": 0.3, "c": 0.1})
    swarm = design.swarm(SwarmConfig(runs=40), Space(("a", "b", "c")), natural, 0)
    own = [p for p in swarm.runs if p.seed == 0]
    chosen = design.spread(own, 10)
    assert len({p.mixture.id for p in chosen}) == 10
    assert {p.role for p in chosen} == {"baseline", "swarm"}

    def nearest(planned: list[design.Planned]) -> float:
        weights = [np.array(list(p.mixture.as_dict().values())) for p in planned]
        return min(abs(a - b).sum() for a, b in combinations(weights, 2))

    drawn = [p for p in own if p.role in ("baseline", "swarm")][:10]
    assert nearest(chosen) > nearest(drawn)
    assert design.spread(own, 1000) != []
