"""Folds, calibration and stacking: honest, and right where the answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from regmix.mixture import FloatArray
from regmix.regressors import CANDIDATES, Context, Prediction, Shape, regressor
from regmix.regressors.base import NOTHING, Averaged, rows_of
from regmix.regressors.ensemble import Ensemble, Share, combine, stack, stacked_held_out, weigh
from regmix.regressors.held_out import Folds, HeldOut, conformal_scale, held_out
from regmix.testing.regressors import draw, surface


@given(st.integers(3, 60), st.integers(2, 10), st.integers(1, 4))
def test_folds_hold_every_run_out_once_a_repeat(runs: int, count: int, repeats: int) -> None:
    folds = Folds.draw(runs, count, repeats)
    seen = np.zeros((repeats, runs), dtype=int)
    for repeat, out in folds:
        seen[repeat] += out
        assert 0 < out.sum() < runs
    assert (seen == 1).all()
    assert len(folds) == len(list(folds)) == repeats * min(runs, count)
    sizes = [out.sum() for _, out in folds]
    assert max(sizes) - min(sizes) <= 1
    assert (Folds.draw(runs, count, repeats).of == folds.of).all()


def test_repeats_are_drawn_anew() -> None:
    of = Folds.draw(40, 5, 2).of
    assert (of[0] != of[1]).any()


@dataclass(frozen=True)
class Memory:
    """Knows the runs that it saw, and nothing else; as a test of what folds let it see."""

    name: ClassVar[str] = "memory"
    x: FloatArray
    y: FloatArray
    noise: FloatArray

    @classmethod
    def fit_all(cls, x: FloatArray, y: FloatArray, context: Context = NOTHING) -> Sequence[Self]:
        return [cls(x, y[:, i], context.noise_of(i, len(x))) for i in range(y.shape[1])]

    def mean(self, x: FloatArray) -> FloatArray:
        known = {row.tobytes(): value for row, value in zip(self.x, self.y, strict=True)}
        return np.array([known.get(row.tobytes(), np.inf) for row in x])

    def predict(self, x: FloatArray) -> Prediction:
        return Prediction(self.mean(x), np.full(len(x), self.noise.sum()))

    def contrast(self, x: FloatArray, reference: FloatArray) -> FloatArray:
        return np.zeros(len(x))

    def refit(self, x: FloatArray, y: FloatArray) -> Self:
        return type(self)(x, y, np.ones(len(x)))

    shape = Shape(smooth=False)

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        raise NotImplementedError


def test_held_out_predictions_have_not_seen_their_runs_nor_their_noise() -> None:
    x, folds = draw(20), Folds.draw(20, 5, 2)
    y, noise = np.arange(40.0).reshape(20, 2), 2.0 ** np.arange(40).reshape(20, 2)
    found = held_out(Memory, x, y, folds, Context(noise=noise))
    assert np.isinf(found.mean).all()
    for repeat, out in folds:
        for metric in range(2):
            assert (found.std[repeat, out, metric] == noise[~out, metric].sum()).all()


@pytest.mark.parametrize("wrong", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("name", ["gp", "linear", "loglinear"])
def test_conformal_scaling_makes_intervals_cover_new_measurements(name: str, wrong: float) -> None:
    """A regressor whose standard deviations are off by a factor, at 200 runs."""
    x, new = draw(200), draw(2_000, seed=1)
    rng = np.random.default_rng(0)
    y = surface(x) + 0.1 * rng.standard_normal(200)
    truth = surface(new) + 0.1 * rng.standard_normal(2_000)
    kind = regressor(name)
    found = held_out(kind, x, y[:, None], Folds.draw(200, 5, 1), NOTHING)
    scale = conformal_scale(y, HeldOut(found.mean, wrong * found.std))
    prediction = kind.fit_all(x, y[:, None])[0].predict(new)
    inside = (
        np.abs(truth - prediction.mean) <= stats.norm.ppf(0.95) * scale * wrong * prediction.std
    )
    assert 0.85 <= inside.mean() <= 0.95


def test_conformal_scale_by_hand() -> None:
    """Of 19 residuals the 18th counts: (19 + 1) · 0.9 = 18; with few runs, the largest."""
    residual = np.arange(1.0, 20.0)
    found = HeldOut(np.zeros((1, 19, 1)), np.full((1, 19, 1), 2.0))
    assert conformal_scale(residual, found) == pytest.approx(18 / 2 / stats.norm.ppf(0.95))
    few = HeldOut(np.zeros((1, 8, 1)), np.ones((1, 8, 1)))
    assert conformal_scale(np.arange(8.0), few) == pytest.approx(7 / stats.norm.ppf(0.95))


@given(st.lists(st.integers(0, 8), min_size=3, max_size=40).filter(lambda m: len(set(m)) > 2))
def test_runs_of_one_mixture_are_held_out_together(numbers: list[int]) -> None:
    mixtures = np.array(numbers)
    folds = Folds.draw(len(mixtures), 3, 2, mixtures)
    seen = np.zeros((2, len(mixtures)), dtype=int)
    for repeat, out in folds:
        seen[repeat] += out
        assert not set(mixtures[out]) & set(mixtures[~out])
        assert len(set(mixtures[~out])) > 0 < out.sum()
    assert (seen == 1).all()


@given(st.integers(2, 40), st.integers(0, 99))
def test_mixtures_that_all_differ_change_nothing(runs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    alone = np.arange(runs)
    assert (Folds.draw(runs, 5, 2, alone).of == Folds.draw(runs, 5, 2).of).all()
    assert (rows_of(alone, rng.permutation(runs)) == np.random.default_rng(seed).permutation(runs)
            ).all()  # fmt: skip
    found = HeldOut(np.zeros((2, runs, 1)), rng.random((2, runs, 1)) + 0.1)
    y = rng.standard_normal(runs)
    assert conformal_scale(y, found, alone) == conformal_scale(y, found)


def test_a_mixture_counts_once_in_the_scale_however_often_it_was_run() -> None:
    """Of 9 mixtures the largest residual counts; of 19 the 18th. The mixture that was run 50 times
    has the least."""
    residual = np.concatenate([np.full(50, 1.0), np.arange(2.0, 20.0)])
    mixtures = np.concatenate([np.zeros(50, dtype=int), np.arange(1, 19)])
    found = HeldOut(np.zeros((1, 68, 1)), np.ones((1, 68, 1)))
    z = stats.norm.ppf(0.95)
    assert conformal_scale(residual, found, mixtures) == pytest.approx(18 / z)
    assert conformal_scale(residual, found) == pytest.approx(14 / z)
    few = HeldOut(np.zeros((1, 58, 1)), np.ones((1, 58, 1)))
    assert conformal_scale(residual[:58], few, mixtures[:58]) == pytest.approx(9 / z)


def test_rows_of_a_mixture_that_is_picked_twice_are_there_twice() -> None:
    mixtures = np.array([0, 1, 0, 2, 1])
    assert rows_of(mixtures, np.array([1, 2, 1])).tolist() == [1, 4, 3, 1, 4]


def test_averages_are_of_mixtures_with_the_noise_that_is_left() -> None:
    x = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    y = np.array([[1.0], [5.0], [3.0]])
    found = Averaged.of(x, y, Context(mixtures=np.array([4, 7, 4])))
    assert found.x.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert found.y.tolist() == [[2.0], [5.0]]
    assert found.context.noise is not None
    assert found.context.noise[1] / found.context.noise[0] == pytest.approx(2.0)
    # Between runs 2, of one degree of freedom; of the means' variance half is lost in one of two.
    assert found.lost == pytest.approx([np.sqrt(2 * (1 - 0.75))])


@pytest.mark.parametrize("name", ["linear", "sqrt-ridge", "loglinear"])
def test_a_penalty_is_not_chosen_by_repeats_of_what_is_left_out(name: str) -> None:
    """As of the mixtures' means: four equal runs of each must not look like four that agree."""
    rng = np.random.default_rng(0)
    x = rng.dirichlet(np.ones(6), 12)
    y = 2 + rng.standard_normal((12, 1))
    own = np.repeat(np.arange(12), 4)
    alone = regressor(name).fit_all(x, y)[0]
    repeated = regressor(name).fit_all(x[own], y[own], Context(mixtures=own))[0]
    assert repeated.mean(x) == pytest.approx(alone.mean(x))
    assert repeated.predict(x).std == pytest.approx(alone.predict(x).std)


def test_trees_are_judged_by_mixtures_that_they_have_not_seen() -> None:
    """Of values that mixtures do not explain at all, the error is that of guessing."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.dirichlet(np.ones(4), 40), 4, axis=0)
    y = np.repeat(rng.standard_normal((40, 1)), 4, axis=0)
    own = np.repeat(np.arange(40), 4)
    kind = regressor("lightgbm")
    assert kind.fit_all(x, y)[0].state()["residual"] < 0.7
    assert kind.fit_all(x, y, Context(mixtures=own))[0].state()["residual"] > 0.9


def test_repeats_are_averaged() -> None:
    """Means by their mean, standard deviations by their mean square."""
    found = HeldOut(np.array([[[1.0]], [[3.0]]]), np.array([[[3.0]], [[4.0]]])).average()
    assert found.mean.tolist() == [2.0]
    assert found.std == pytest.approx([np.sqrt(12.5)])


# Stacking.


def predictions(truth: FloatArray, errors: Sequence[float], seed: int = 0) -> list[HeldOut]:
    """Members that are wrong by independent normal errors of these sizes; one repeat."""
    rng = np.random.default_rng(seed)
    return [
        HeldOut(
            (truth + e * rng.standard_normal(len(truth)))[None, :, None],
            np.full((1, len(truth), 1), max(e, 0.01)),
        )
        for e in errors
    ]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=6),
    st.integers(8, 40),
    st.integers(0, 100),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_weights_are_shares(errors: list[float], runs: int, seed: int, unit: float) -> None:
    truth = unit * np.random.default_rng(seed).standard_normal(runs)
    tried = predictions(truth, [unit * e for e in errors], seed)
    weights = stack(tried, truth, np.ones(runs, dtype=bool))
    assert weights.shape == (len(errors),)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0)
    assert ((weights == 0) | (weights > 0.019)).all()


def test_weights_follow_the_inverse_variances() -> None:
    """The best combination of independent errors (Bates & Granger 1969)."""
    truth = np.random.default_rng(9).standard_normal(4_000)
    weights = stack(predictions(truth, [0.2, 0.4]), truth, np.ones(4_000, dtype=bool))
    assert weights == pytest.approx([0.8, 0.2], abs=0.03)


def test_a_perfect_member_stands_alone() -> None:
    truth = np.random.default_rng(1).standard_normal(30)
    tried = dict(zip("abc", predictions(truth, [0.8, 0.0, 0.5]), strict=True))
    shares = weigh(tried, truth)
    assert shares["b"].weight > 0.97
    stacked = stacked_held_out(list(tried.values()), truth, Folds.draw(30, 5, 1))
    assert np.abs(stacked.mean[0, :, 0] - truth).max() < 0.1


def test_an_ensemble_of_a_law_is_the_law() -> None:
    """Where one candidate is exact, so is the ensemble."""
    x, new = draw(40), draw(100, seed=1)
    truth = 1 + np.exp(new @ [-2.0, 0.5, -1.0, 0.0])
    model = Ensemble.fit_all(x, (1 + np.exp(x @ [-2.0, 0.5, -1.0, 0.0]))[:, None])[0]
    assert np.sqrt(np.mean((model.mean(new) - truth) ** 2)) < 0.01 * truth.std()
    assert {m.model.name for m in model.members} <= set(CANDIDATES)
    assert sum(m.weight for m in model.members) == pytest.approx(1.0)


def test_members_that_agree_share_evenly_and_one_of_no_use_is_dropped() -> None:
    truth = np.random.default_rng(1).standard_normal(50)
    good = predictions(truth, [0.3])[0]
    useless = HeldOut(5 * np.random.default_rng(2).standard_normal((1, 50, 1)), np.ones((1, 50, 1)))
    weights = stack([good, good, useless], truth, np.ones(50, dtype=bool))
    assert weights == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    assert set(weigh({"one": good, "other": good, "useless": useless}, truth)) == {"one", "other"}


def test_a_constant_metric_is_stacked_all_the_same() -> None:
    tried = predictions(np.zeros(10), [0.0, 0.0])
    assert stack(tried, np.zeros(10), np.ones(10, dtype=bool)).sum() == pytest.approx(1.0)


def test_stacking_is_judged_without_the_runs_it_predicts() -> None:
    """A fold's own values change nothing that is predicted for it, and much for the others."""
    truth = np.random.default_rng(3).standard_normal(40)
    tried, folds = predictions(truth, [0.3, 0.5, 0.8]), Folds.draw(40, 5, 1)
    before = stacked_held_out(tried, truth, folds)
    for _, out in folds:
        spoilt = np.where(out, 100 * np.random.default_rng(4).standard_normal(40), truth)
        after = stacked_held_out(tried, spoilt, folds)
        assert (after.mean[0, out] == before.mean[0, out]).all()
        assert (after.std[0, out] == before.std[0, out]).all()
        assert (after.std[0, ~out] != before.std[0, ~out]).all()


def test_stacking_repeats_use_every_repeat_of_the_other_folds() -> None:
    truth = np.random.default_rng(3).standard_normal(30)
    parts = [predictions(truth, [0.4, 0.6], seed) for seed in (0, 1)]
    tried = [
        HeldOut(np.concatenate([a.mean, b.mean]), np.concatenate([a.std, b.std]))
        for a, b in zip(*parts, strict=True)
    ]
    folds = Folds.draw(30, 5, 2)
    found = stacked_held_out(tried, truth, folds)
    repeat, out = next(iter(folds))
    weights = stack(tried, truth, ~out)
    expected = sum(w * t.mean[repeat, out, 0] for w, t in zip(weights, tried, strict=True))
    assert found.mean[repeat, out, 0] == pytest.approx(expected)


def test_disagreement_widens_the_interval() -> None:
    """Moments of a mixture of normals: ½(1² + 1²) + ½(2² + 2²) around the mean of 0 and 4."""
    found = combine(
        np.array([[0.5], [0.5]]),
        [np.array([0.0]), np.array([4.0])],
        [np.array([1.0]), np.array([1.0])],
    )
    assert found.mean.tolist() == [2.0]
    assert found.std == pytest.approx([np.sqrt(1 + 4)])


def test_members_are_fitted_only_to_the_metrics_that_want_them() -> None:
    x = draw(20)
    y = np.column_stack([surface(x), x[:, 1], 1 - x[:, 0]])
    shares = [
        {"gp": Share(0.75, 2.0), "linear": Share(0.25, 1.0)},
        {"linear": Share(1.0, 1.0)},
        {"gp": Share(1.0, 3.0)},
    ]
    noise = np.ones((20, 3))
    found = Ensemble.fit_members(shares, x, y, Context(noise=noise))
    assert [[m.model.name for m in e.members] for e in found] == [
        ["gp", "linear"], ["linear"], ["gp"],
    ]  # fmt: skip
    both = found[0]
    gp, linear = (regressor(n).fit_all(x, y[:, :1])[0] for n in ("gp", "linear"))
    new = draw(5, seed=1)
    assert both.mean(new) == pytest.approx(0.75 * gp.mean(new) + 0.25 * linear.mean(new))
    expected = combine(
        np.array([[0.75], [0.25]]),
        [gp.mean(new), linear.mean(new)],
        [2.0 * gp.predict(new).std, linear.predict(new).std],
    )
    assert both.predict(new).std == pytest.approx(expected.std)
    assert both.shape == Shape(smooth=True, convex=0)
    assert found[1].shape == linear.shape
