"""What a larger size says of the order that the proxies found."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regmix import agreement, design
from regmix.config import SwarmConfig
from regmix.errors import UserError
from regmix.mixture import Mixture
from regmix.noise import SeedNoise
from regmix.objective import Kind, Objective
from regmix.observations import Observations
from regmix.rescaling import Rescaling
from regmix.space import Space
from regmix.transfer import Size, Transfer, Verdict, compare, measured

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
    found = agreement.decided_alike(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    assert found == pytest.approx(np.mean(scores)) if scores else math.isnan(found)


def size(parameters: int, noise: float | None = None, **metrics: np.ndarray) -> Size:
    names = [f"m{i}" for i in range(len(next(iter(metrics.values()))))]
    known = {} if noise is None else {m: SeedNoise(noise, 8) for m in metrics}
    return Size(parameters, 1000, pd.DataFrame(metrics, index=names), known)


def compared(x: np.ndarray, y: np.ndarray, sign: int = 1, metric: str = "a") -> Transfer:
    return compare(
        size(1_000_000, **{metric: x}), size(4_000_000, **{metric: y}), {}, {metric: sign}
    )


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


@pytest.mark.parametrize("count", [4, 8, 16])
@pytest.mark.parametrize("rho", [0.0, 0.8, 0.95])
def test_the_intervals_hold_the_truth_as_often_as_they_say(count: int, rho: float) -> None:
    """Of normal pairs 1/2 + arcsin(ρ)/π are decided alike, and Spearman's is 6/π · arcsin(ρ/2)."""
    rng = np.random.default_rng(1)
    share, rank = 0.5 + math.asin(rho) / math.pi, 6 / math.pi * math.asin(rho / 2)
    draws, held = 400, np.zeros(2)
    for _ in range(draws):
        x = rng.normal(size=count)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=count)
        for k, (found, truth) in enumerate(
            ((agreement.accuracy(x, y), share), (agreement.spearman(x, y), rank))
        ):
            assert found.low < found.high
            assert found.low <= found.value <= found.high
            held[k] += found.low <= truth <= found.high
    assert (held >= stats.binom.ppf(1e-4, draws, 0.9)).all(), held / draws
    if count > 4:  # of four there are seven shares, and a test can only err to the safe side
        assert (held <= stats.binom.ppf(1 - 1e-4, draws, 0.96)).all(), held / draws


def test_scales_do_not_matter_and_other_shapes_do_little_harm() -> None:
    """Values of a skewed signal with noise at both sizes, as no normal copula has them."""
    rng = np.random.default_rng(2)
    held, noise = 0, 0.4
    signal = rng.exponential(size=(20_000, 2))
    small, large = (signal + noise * rng.normal(size=signal.shape) for _ in range(2))
    truth = float(((small[:, 0] < small[:, 1]) == (large[:, 0] < large[:, 1])).mean())
    for _ in range(400):
        signal = rng.exponential(size=12)
        x, y = (signal + noise * rng.normal(size=12) for _ in range(2))
        found = agreement.accuracy(x, np.exp(y))
        held += found.low <= truth <= found.high
    assert held / 400 > 0.83


def test_one_order_at_both_sizes_is_not_certainty() -> None:
    x = np.arange(8.0)
    found = agreement.accuracy(x, x)
    assert (found.value, found.high) == (1, 1)
    # At the lower end 28 of 28 pairs come out alike in one draw of twenty.
    rho = math.sin((found.low - 0.5) * math.pi)
    rng = np.random.default_rng(3)
    a = rng.normal(size=(4000, 8))
    b = rho * a + math.sqrt(1 - rho**2) * rng.normal(size=(4000, 8))
    alike = (a.argsort(1).argsort(1) == b.argsort(1).argsort(1)).all(1)
    assert alike.mean() == pytest.approx(0.05, abs=0.015)
    assert agreement.spearman(x, x).low < 0.97
    assert agreement.accuracy(x[:4], x[:4]).low < 0.6
    turned = agreement.accuracy(x, -x)
    assert (turned.value, turned.low) == (0, 0)
    assert turned.high == pytest.approx(1 - found.low, abs=0.02)


def rescaled(rng: np.random.Generator, slope: float, count: int, noise: float) -> Rescaling:
    x = rng.normal(size=count)
    found = Rescaling.fit(x, 3 + slope * x + noise * rng.normal(size=count))
    assert found is not None
    return found


@pytest.mark.parametrize("count", [5, 8, 14])
def test_a_line_is_used_where_a_shift_is_wrong_and_hardly_ever_where_it_is_right(
    count: int,
) -> None:
    rng = np.random.default_rng(4)
    wrong = [rescaled(rng, 1.0, count, 0.3).helps for _ in range(1000)]
    assert np.mean(wrong) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    assert np.mean([rescaled(rng, 0.4, count, 0.1).helps for _ in range(200)]) > 0.9
    found = rescaled(rng, 0.4, 14, 0.05)
    assert found.slope == pytest.approx(0.4, abs=0.06)
    assert found.error < found.error_shift


@pytest.mark.parametrize(("slope", "count"), [(1.0, 6), (1.0, 12), (0.4, 12)])
def test_what_is_predicted_at_the_larger_size_holds_as_often_as_it_says(
    slope: float, count: int
) -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        line, at = rescaled(rng, slope, count, 0.2), float(rng.normal())
        mean, std = line.large(at)
        truth = 3 + slope * at + 0.2 * rng.normal()
        held += abs(truth - mean) <= stats.t.ppf(0.95, line.freedom) * std
    assert held / 1000 == pytest.approx(0.9, abs=0.035)


def test_left_out_errors_are_those_of_leaving_out() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=9)
    y = 2 + 0.5 * x + 0.3 * rng.normal(size=9)
    found = Rescaling.fit(x, y)
    assert found is not None
    line, shift = [], []
    for i in range(9):
        rest = np.arange(9) != i
        slope, intercept = np.polyfit(x[rest], y[rest], 1)
        line.append(y[i] - intercept - slope * x[i])
        shift.append(y[i] - x[i] - (y[rest] - x[rest]).mean())
    assert found.error == pytest.approx(math.sqrt(np.mean(np.square(line))))
    assert found.error_shift == pytest.approx(math.sqrt(np.mean(np.square(shift))))
    assert Rescaling.fit(x[:4], y[:4]) is None


def test_reversals_are_named_with_the_noise_of_both_sizes() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 4.01])
    y = np.array([2.0, 1.0, 3.0, 5.0, 4.9])
    found = compare(size(1_000_000, 0.1, a=x), size(4_000_000, a=y), {}, {"a": 1})
    named = {(r.first, r.second): r for r in found.reversals}
    assert named.keys() == {("m0", "m1"), ("m3", "m4")}
    assert (named["m0", "m1"].small, named["m0", "m1"].large) == (1.0, 1.0)
    assert named["m0", "m1"].beyond_small is True
    assert named["m0", "m1"].beyond_large is None
    assert named["m3", "m4"].beyond_small is False
    both = compare(size(1_000_000, 0.1, a=x), size(4_000_000, 0.5, a=y), {}, {"a": 1})
    assert {r.beyond_large for r in both.reversals} == {False}


def test_a_reversal_counts_by_students_t() -> None:
    """Three seeds' noise of 0.1: two runs count from 0.61 on, and not from 2 · √2 · 0.1."""
    x, y = np.array([1.0, 1.5, 3, 4]), np.array([1.5, 1.0, 3, 4])
    noise = {"a": SeedNoise(0.1, 2)}
    small = Size(10, 1, pd.DataFrame({"a": x}), noise)
    (found,) = compare(small, Size(20, 1, pd.DataFrame({"a": y})), {}, {"a": 1}).reversals
    assert found.beyond_small is False


def test_the_verdict_is_a_sentence() -> None:
    x = np.arange(8.0)
    said = compared(x, x, metric="objective").verdict()
    assert said == (
        "1M → 4M: the objective decides correctly 100% of pairs (90% interval 88% to 100%, "
        "8 mixtures)"
    )
    rng = np.random.default_rng(3)
    drawn = compared(x, rng.permutation(x), metric="objective").verdict()
    assert drawn.endswith("no better than a coin")
    assert "nothing is fitted yet; of 1 metrics the median decides 100%" in compared(x, x).verdict()


def test_what_a_run_lacks_is_said_and_the_objective_is_not_replaced_by_a_mean() -> None:
    x = np.arange(6.0)
    lacking = np.where(x == 2, np.nan, x)
    large = size(4_000_000, a=x, b=lacking, objective=lacking)
    found = compare(
        size(1_000_000, a=x, b=x, objective=x), large, {}, dict.fromkeys("ab", 1) | {"objective": 1}
    )
    assert found.table.set_index("metric")["mixtures"].to_dict() == {
        "a": 6, "b": 5, "objective": 5,
    }  # fmt: skip
    assert found.notes == (
        "objective is lacking in 1 of 6 mixtures", "b is lacking in 1 of 6 mixtures",
    )  # fmt: skip
    without = compare(
        size(1_000_000, a=x, objective=x), size(4_000_000, a=x), {}, {"a": 1, "objective": 1}
    )
    assert "nothing can be said of the objective: objective is not measured at 4M" in (
        without.verdict()
    )
    carried = without.carried()
    assert carried.accuracy is None
    assert Verdict.of(json.loads(json.dumps(asdict(carried)))) == carried


def test_mixtures_are_joined_by_name() -> None:
    x = np.arange(6.0)
    small = size(1_000_000, a=x)
    large = Size(4_000_000, 1000, small.values.iloc[::-1])
    assert compare(small, large, {}, {"a": 1}).table.loc[0, "accuracy"] == 1
    with pytest.raises(UserError, match="3 mixtures are measured at both 1M and 4M"):
        compare(small, Size(4_000_000, 1000, small.values.iloc[:3]), {}, {"a": 1})


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


def two_sizes() -> tuple[pd.DataFrame, Observations]:
    """Twelve mixtures, the first the reference; a larger model has 0.7 of ``a`` and 0.9 of ``b``.

    Every loss relative to the reference's own is then the same at both sizes.
    """
    rng = np.random.default_rng(0)
    x = rng.dirichlet(np.full(3, 2.0), 12)
    x[0] = 1 / 3
    values = pd.DataFrame({"a": 3 - np.sqrt(x[:, 0]), "b": 2.5 - np.sqrt(x[:, 1])})
    sizes = []
    for cohort, parameters, factors in (("small", 1000, (1, 1)), ("large", 9000, (0.7, 0.9))):
        own = (values * np.array(factors)).assign(
            run_id=[f"{cohort}{i}" for i in range(12)], name=[f"m{i}" for i in range(12)],
            role="swarm", mixture=[f"hash{i}" for i in range(12)], seed=0, cohort=cohort,
            parameters=parameters, tokens=10,
        )  # fmt: skip
        sizes.append(own)
    ids = pd.Index(sizes[0]["run_id"], name="run_id")
    info = sizes[0].set_index("run_id")[["name", "role", "seed", "tokens"]]
    data = Observations(
        pd.DataFrame(x, ids, list("xyz")), values.set_index(ids), info, pd.DataFrame()
    )
    return pd.concat(sizes, ignore_index=True), data


def relative(kind: Kind, data: Observations) -> Objective:
    own = Objective(("a", "b"), (0.5, 0.5), (1, 1), kind, "natural")
    return own.against({m: float(data.metrics[m].iloc[0]) for m in ("a", "b")})


@pytest.mark.parametrize("kind", ["relative", "worst"])
def test_relative_losses_are_relative_to_the_reference_of_their_size(kind: Kind) -> None:
    runs, data = two_sizes()
    objective = relative(kind, data)
    (found,) = measured(runs, ["small", "large"], data, objective, {}, 0, reference="hash0")
    own = found.table.set_index("metric").loc["objective"]
    assert own["accuracy"] == own["spearman"] == 1
    large = found.large.values["objective"]
    assert large.to_numpy() == pytest.approx(found.small.values["objective"].to_numpy())
    assert large["hash0"] == pytest.approx(0)


@pytest.mark.parametrize("kind", ["relative", "worst"])
def test_without_the_reference_at_a_size_nothing_is_said_of_the_objective(kind: Kind) -> None:
    runs, data = two_sizes()
    objective = relative(kind, data)
    gone = runs[(runs["cohort"] == "small") | (runs["mixture"] != "hash0")]
    (found,) = measured(gone, ["small", "large"], data, objective, {}, 0, reference="hash0")
    assert set(found.table["metric"]) == {"a", "b"}
    said = "objective is not measured at 9k: its reference 'natural' is not measured there"
    assert found.notes == (said,)
    assert found.verdict() == f"1k → 9k: nothing can be said of the objective: {said}"
    assert found.carried().accuracy is None
    lacking = runs.copy()
    lacking.loc[(runs["cohort"] == "large") & (runs["mixture"] == "hash0"), "b"] = np.nan
    (found,) = measured(lacking, ["small", "large"], data, objective, {}, 0, reference="hash0")
    assert found.notes[0].endswith("its reference 'natural' is not measured on b there")
    weighted = Objective(("a", "b"), (0.5, 0.5), (1, 1))
    (found,) = measured(gone, ["small", "large"], data, weighted, {}, 0)
    assert "objective" in set(found.table["metric"])
