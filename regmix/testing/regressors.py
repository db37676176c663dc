"""What every regressor must do.

Data are drawn from fixed seeds, so that a check that passes once passes always.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

from regmix.mixture import FloatArray
from regmix.regressors import Context, Prediction, Regressor

Kind = type[Regressor]
RANKS = 0.8
"""Rank correlation that 60 runs of five domains must give on an easy surface."""
_WAYS = 7


def check_regressor(kind: Kind) -> None:
    """Every check, one after the other."""
    for check in REGRESSOR_CHECKS:
        check(kind)


def draw(count: int, domains: int = 4, seed: int = 0) -> FloatArray:
    """Mixtures, uniform over the simplex, shape ``(count, domains)``."""
    return np.random.default_rng([seed, count]).dirichlet(np.ones(domains), count)


def surface(x: FloatArray) -> FloatArray:
    """Falls steeply from 0, then flattens, as losses do; four domains or more, shape ``(n,)``."""
    return np.asarray(2 + np.exp(-6 * x[:, 0]) + 0.5 * x[:, 1] - 0.3 * np.sqrt(x[:, 2]))


def _surfaces(x: FloatArray) -> FloatArray:
    """A falling metric, a rising one, and one that bends both ways; shape ``(n, 3)``."""
    return np.column_stack([surface(x), 1 - np.exp(-3 * x[:, 1]), x[:, 0] * x[:, 1] - x[:, 2] ** 2])


def _noisy(x: FloatArray, y: FloatArray, level: float = 0.02) -> FloatArray:
    noise = np.random.default_rng(len(x)).standard_normal(y.shape)
    return np.asarray(y + level * y.std(0) * noise)


def _one(kind: Kind, x: FloatArray, y: FloatArray) -> Regressor:
    models = kind.fit_all(x, y[:, None])
    assert len(models) == 1, f"fit_all of one metric gave {len(models)} regressors"
    return models[0]


def _places(domains: int) -> FloatArray:
    """Corners, the middles of edges, the centre, and the inside."""
    corners = np.eye(domains)
    edges = (corners + np.roll(corners, 1, axis=0)) / 2
    middle = np.full((1, domains), 1 / domains)
    return np.vstack([corners, edges, middle, draw(20, domains, seed=9)])


def _whole(found: Prediction, count: int, what: str) -> None:
    """A prediction is finite, and always uncertain."""
    for part, values in (("mean", found.mean), ("std", found.std)):
        assert values.shape == (count,), f"{what}: {part} has shape {values.shape}"
        assert np.isfinite(values).all(), f"{what}: {part} is not finite: {values}"
    assert (found.std > 0).all(), f"{what}: a standard deviation is not above 0: {found.std.min()}"


def _same(found: Prediction, expected: Prediction, tolerance: float, what: str) -> None:
    """Equal to within ``tolerance`` times the spread of the means, or the deviations' size."""
    unit = max(float(np.ptp(expected.mean)), float(expected.std.mean()))
    for part in ("mean", "std"):
        apart = float(np.abs(getattr(found, part) - getattr(expected, part)).max()) / unit
        assert apart <= tolerance, f"{what}: {part} differs by {apart:.3g} of the spread"


def several_metrics_are_fitted_as_each_alone(kind: Kind) -> None:
    """What stands beside a metric does not change its fit; the order of metrics is kept."""
    x, new = draw(30), _places(4)
    y = _noisy(x, _surfaces(x))
    together = kind.fit_all(x, y)
    assert len(together) == y.shape[1], f"{len(together)} regressors for {y.shape[1]} metrics"
    for column, model in enumerate(together):
        alone = _one(kind, x, y[:, column])
        # A batch may be summed in another order, which a badly conditioned fit magnifies.
        _same(model.predict(new), alone.predict(new), 1e-7, f"metric {column} among others")


def fitting_is_deterministic_and_leaves_its_input_alone(kind: Kind) -> None:
    """Twice the same data, twice the same regressor, to the last digit."""
    x, new = draw(24), _places(4)
    y = _noisy(x, surface(x))
    kept = x.copy(), y.copy()
    one, other = (_one(kind, x, y).predict(new) for _ in range(2))
    _same(one, other, 0.0, "a second fit")
    assert (x == kept[0]).all(), "fit_all changed the mixtures"
    assert (y == kept[1]).all(), "fit_all changed the values"


def predictions_are_finite_and_uncertain_everywhere(kind: Kind) -> None:
    """At corners and inside, from many runs and from fewer than domains."""
    for runs, domains in ((40, 4), (8, 4), (8, 12), (5, 6)):
        x = draw(runs, domains)
        model = _one(kind, x, _noisy(x, surface(x)))
        new = _places(domains)
        what = f"{runs} runs of {domains} domains"
        _whole(model.predict(new), len(new), what)
        _whole(model.predict(new[:1]), 1, f"{what}, one row")
        alone = model.mean(new)
        apart = np.abs(alone - model.predict(new).mean).max()
        assert apart <= 1e-9 * max(1.0, float(np.abs(alone).max())), "mean() is not predict().mean"


def contrasts_are_those_of_a_difference(kind: Kind) -> None:
    """0 between a mixture and itself, never negative, the same both ways, at most the sum."""
    x, new = draw(30), _places(4)
    y = _noisy(x, surface(x), 0.1)
    model = _one(kind, x, y)
    for reference in new[:_WAYS]:
        found = model.contrast(new, reference)
        assert found.shape == (len(new),), f"contrast has shape {found.shape}"
        assert np.isfinite(found).all(), "contrast is not finite"
        assert (found >= 0).all(), "contrast is negative"
        itself = float(model.contrast(reference[None], reference)[0])
        assert itself <= 1e-6 * y.std(), f"contrast of a mixture with itself is {itself:.3g}"
        back = np.array([model.contrast(reference[None], row)[0] for row in new])
        apart = float(np.abs(found - back).max())
        assert apart <= 1e-6 * y.std(), f"contrast differs by {apart:.3g} the other way round"


def state_is_plain_json_and_predicts_the_same(kind: Kind) -> None:
    """Written, read and restored: the same means, deviations, contrasts and shape."""
    x, new = draw(24), _places(4)
    y = _noisy(x, surface(x))
    model = _one(kind, x, y)
    state = json.loads(json.dumps(model.state(), allow_nan=False))
    restored = kind.from_state(state)
    assert type(restored) is type(model), f"restored as {type(restored).__name__}"
    _same(restored.predict(new), model.predict(new), 1e-12, "restored")
    apart = np.abs(restored.contrast(new, x[0]) - model.contrast(new, x[0])).max()
    assert apart <= 1e-12 * np.ptp(y), f"restored: contrast differs by {apart:.3g}"
    assert restored.shape == model.shape, f"restored: {restored.shape}, was {model.shape}"
    again = restored.refit(x, y).mean(new) - model.refit(x, y).mean(new)
    assert np.abs(again).max() <= 1e-9 * np.ptp(y), "restored: refits differently"


def a_constant_metric_is_predicted_as_such(kind: Kind) -> None:
    """Nothing varies: nothing is divided by."""
    x, new = draw(20), draw(5, seed=1)
    for value in (3.25, 0.0, -1e-9, 1e7):
        found = _one(kind, x, np.full(20, value)).predict(new)
        apart = float(np.abs(found.mean - value).max())
        assert apart <= 1e-6 * max(abs(value), 1.0), f"constant {value}: off by {apart:.3g}"
        assert np.isfinite(found.std).all(), f"constant {value}: std is not finite"


def the_unit_of_a_metric_does_not_matter(kind: Kind) -> None:
    """``a·y + b`` is predicted as ``a`` times the prediction plus ``b``."""
    x, new = draw(40), draw(30, seed=1)
    y = _noisy(x, surface(x))
    plain = _one(kind, x, y).predict(new)
    for a, b in ((1e-6, 0.0), (1e6, 0.0), (1.0, -40.0), (-2.0, 7.0)):
        found = _one(kind, x, a * y + b).predict(new)
        back = Prediction((found.mean - b) / a, found.std / abs(a))
        _same(back, plain, 1e-4, f"{a:g}·y + {b:g}")


def awkward_swarms_are_fitted_all_the_same(kind: Kind) -> None:
    """Weights that never vary, repeated mixtures, edges only, one domain, pure noise."""
    x = draw(12)
    rest = x[:, 1:] / x[:, 1:].sum(1, keepdims=True)
    edges = np.where(x < x.max(1, keepdims=True) * 0.5, 0.0, x)
    swarms = {
        "a domain never sampled": np.hstack([np.zeros((12, 1)), rest]),
        "a domain never varied": np.hstack([np.full((12, 1), 0.3), 0.7 * rest]),
        "every mixture three times": np.repeat(x[:4], 3, axis=0),
        "one mixture only": np.repeat(x[:1], 12, axis=0),
        "edges only": edges / edges.sum(1, keepdims=True),
        "corners only": np.eye(4)[np.arange(12) % 4],
        "one domain only": np.ones((12, 1)),
    }
    y = np.random.default_rng(1).standard_normal(12)
    for what, swarm in swarms.items():
        places = _places(swarm.shape[1])
        _whole(_one(kind, swarm, y).predict(places), len(places), what)


def refits_keep_the_kind(kind: Kind) -> None:
    """The same runs give the same surface, resampled ones a like surface."""
    x, new = draw(40), draw(30, seed=1)
    y = _noisy(x, surface(x))
    model = _one(kind, x, y)
    before = model.mean(new)
    again = model.refit(x, y)
    assert type(again) is type(model), f"refit as {type(again).__name__}"
    apart = float(np.abs(again.mean(new) - before).max() / np.ptp(y))
    assert apart <= 0.02, f"refit on the same runs: differs by {apart:.3g} of the spread"
    rows = np.random.default_rng(2).integers(len(x), size=len(x))
    found = model.refit(x[rows], y[rows]).mean(new)
    assert np.isfinite(found).all(), "refit on resampled runs is not finite"
    assert (model.mean(new) == before).all(), "a refit changed the regressor that it came from"
    if np.ptp(before) > 0:
        rank = float(stats.spearmanr(before, found).statistic)
        assert rank > 0.7, f"refit on resampled runs: rank correlation {rank:.2f} with the first"


def claims_about_the_shape_hold(kind: Kind) -> None:
    """Convexity along chords of the simplex, corners among their ends; smoothness: no jumps."""
    x = draw(40)
    y = _noisy(x, _surfaces(x))
    rng = np.random.default_rng(5)
    ends = np.vstack([np.eye(4), rng.dirichlet(np.full(4, 0.5), 40)])
    left, right = ends[rng.integers(len(ends), size=(2, 200))]
    share = rng.uniform(size=(200, 1))
    steps = np.linspace(0.05, 0.95, 1000)[:, None]
    for column, model in enumerate(kind.fit_all(x, y)):
        shape, unit = model.shape, float(np.ptp(y[:, column]))
        chord = share[:, 0] * model.mean(left) + (1 - share[:, 0]) * model.mean(right)
        above = model.mean(share * left + (1 - share) * right) - chord
        worst = float((abs(above) if shape.linear else shape.convex * above).max())
        assert worst <= 1e-7 * unit, f"metric {column}: convex {shape.convex}, off by {worst:.3g}"
        if shape.smooth:
            path = model.mean(steps * draw(1, seed=3) + (1 - steps) * draw(1, seed=4))
            jump = float(np.abs(np.diff(path)).max())
            assert jump <= 0.02 * unit, f"metric {column}: smooth, yet jumps by {jump:.3g}"


def an_easy_surface_is_ranked(kind: Kind) -> None:
    """60 runs of five domains are enough to order new mixtures."""
    x, new = draw(60, 5), draw(200, 5, seed=1)
    found = _one(kind, x, _noisy(x, surface(x))).predict(new)
    rank = float(stats.spearmanr(surface(new), found.mean).statistic)
    assert rank >= RANKS, f"rank correlation {rank:.3f} on new mixtures, below {RANKS}"


def error_bars_are_of_the_right_size(kind: Kind) -> None:
    """Before calibration: neither half nor twice the errors that are made."""
    x, new = draw(60, 5), draw(300, 5, seed=1)
    found = _one(kind, x, _noisy(x, surface(x), 0.1)).predict(new)
    _whole(found, len(new), "new mixtures")
    z = (_noisy(new, surface(new), 0.1) - found.mean) / found.std
    size = float(np.sqrt(np.mean(z**2)))
    assert 0.4 < size < 2.0, f"errors are {size:.2f} times their standard deviations"


def context_is_taken(kind: Kind) -> None:
    """Equal noise is no news; unequal noise and monotone wishes can be given."""
    x, new = draw(30), _places(4)
    y = _noisy(x, surface(x), 0.1)[:, None]
    plain = kind.fit_all(x, y)[0].predict(new)
    equal = kind.fit_all(x, y, Context(noise=np.ones_like(y)))[0].predict(new)
    _same(equal, plain, 1e-9, "equal noise")
    noise = np.where(np.arange(30)[:, None] < 15, 0.1, 10.0)
    monotone: npt.NDArray[np.int64] = np.array([[-1, 0, 0, 0]])
    told = kind.fit_all(x, y, Context(noise, monotone))[0]
    _whole(told.predict(new), len(new), "unequal noise, monotone")
    _whole(told.refit(x, y[:, 0]).predict(new), len(new), "refit after context")


REGRESSOR_CHECKS: tuple[Callable[[Kind], None], ...] = (
    several_metrics_are_fitted_as_each_alone,
    fitting_is_deterministic_and_leaves_its_input_alone,
    predictions_are_finite_and_uncertain_everywhere,
    contrasts_are_those_of_a_difference,
    state_is_plain_json_and_predicts_the_same,
    a_constant_metric_is_predicted_as_such,
    the_unit_of_a_metric_does_not_matter,
    awkward_swarms_are_fitted_all_the_same,
    refits_keep_the_kind,
    claims_about_the_shape_hold,
    an_easy_surface_is_ranked,
    error_bars_are_of_the_right_size,
    context_is_taken,
)
"""What a regressor must pass, by what is promised."""
