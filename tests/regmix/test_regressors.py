"""Each regressor's mathematics against a reference, and known surfaces that must be found again.

What all of them promise alike is in ``tests/conformance``.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Kernel, Matern
from sklearn.linear_model import Ridge

from regmix.mixture import FloatArray
from regmix.regressors import Context, Regressor, regressor
from regmix.regressors.gp import GaussianProcess, _Posterior
from regmix.regressors.lightgbm import BoostedTrees
from regmix.regressors.loglinear import LogLinear
from regmix.regressors.powerlaw import PowerLaw
from regmix.regressors.ridge import PENALTIES, Linear, SqrtRidge
from regmix.testing.regressors import draw, surface


def one(name: str, x: FloatArray, y: FloatArray, noise: FloatArray | None = None) -> Regressor:
    context = Context(noise=None if noise is None else noise[:, None])
    return regressor(name).fit_all(x, y[:, None], context)[0]


# Gaussian process.


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(-2.0, 2.0), min_size=7, max_size=7))
def test_gp_gradient_against_finite_differences(seed: int, theta: list[float]) -> None:
    rng = np.random.default_rng(seed)
    z, t, relative = np.sqrt(draw(15, seed=seed)), rng.standard_normal(15), rng.uniform(0.1, 9, 15)
    at = np.array(theta) - [0, 0, 0, 0, 0, 2, 3]
    posterior = _Posterior(z, t, relative)
    _, gradient = posterior.negative_log(at)
    numeric = optimize.approx_fprime(at, lambda p: posterior.negative_log(p)[0], 1.5e-7)
    assert gradient == pytest.approx(numeric, rel=2e-4, abs=2e-4 * (1 + np.abs(gradient).max()))


def sklearn_kernel(theta: FloatArray) -> Kernel:
    signal, linear, _ = np.exp(theta[-3:])
    return ConstantKernel(signal, "fixed") * Matern(
        np.exp(theta[:-3]), "fixed", nu=2.5
    ) + ConstantKernel(linear, "fixed") * DotProduct(0.0, "fixed")


@pytest.mark.parametrize("unequal", [False, True])
def test_gp_posterior_against_sklearn(unequal: bool) -> None:
    """Same kernel, same hyperparameters, same data: same mean and standard deviation."""
    x, new, rng = draw(25), draw(40, seed=1), np.random.default_rng(2)
    relative = rng.uniform(0.2, 5, 25) if unequal else np.ones(25)
    y = surface(x) + 0.05 * rng.standard_normal(25)
    model = one("gp", x, y, relative)
    theta = np.array(model.state()["theta"])
    noise, scale = np.exp(theta[-1]), y.std()
    reference = GaussianProcessRegressor(
        sklearn_kernel(theta), alpha=noise * relative, optimizer=None, normalize_y=True
    ).fit(np.sqrt(x), y)
    mean, covariance = reference.predict(np.sqrt(new), return_cov=True)
    found = model.predict(new)
    assert found.mean == pytest.approx(mean, rel=1e-7)
    assert found.std == pytest.approx(np.sqrt(np.diag(covariance) + noise * scale**2), rel=1e-5)
    apart = np.diag(covariance) + covariance[0, 0] - 2 * covariance[0]
    assert model.contrast(new, new[0]) == pytest.approx(
        np.sqrt(np.maximum(apart, 0)), rel=1e-4, abs=1e-6
    )


def test_gp_likelihood_against_sklearn() -> None:
    """With the same hyperparameters the prior cancels: what is left is the likelihood's."""
    z = np.sqrt(draw(20, seed=3))
    t = surface(z**2)
    t = (t - t.mean()) / t.std()
    theta = np.array([0.1, -0.3, 0.5, 0.0, 0.2, -1.0, -2.5])
    ours, theirs = [], []
    for relative in (np.ones(20), np.linspace(0.1, 8.0, 20)):
        ours.append(-_Posterior(z, t, relative).negative_log(theta)[0])
        gp = GaussianProcessRegressor(
            sklearn_kernel(theta), alpha=np.exp(theta[-1]) * relative, optimizer=None
        )
        theirs.append(gp.fit(z, t).log_marginal_likelihood_value_)
    assert abs(theirs[0] - theirs[1]) > 1
    assert ours[0] - ours[1] == pytest.approx(theirs[0] - theirs[1], rel=1e-9)


def test_gp_is_surer_near_the_runs() -> None:
    x = draw(30) * 0.2 + np.array([0.8, 0, 0, 0])
    model = one("gp", x, surface(x))
    near, far = model.predict(x[:5]), model.predict(np.eye(4)[1:])
    assert near.std.max() < far.std.min()


def test_gp_refit_conditions_on_the_new_runs_with_the_old_hyperparameters() -> None:
    x = draw(40)
    y = surface(x) + 0.01 * np.random.default_rng(0).standard_normal(40)
    model = one("gp", x, y)
    again = model.refit(x[:20], y[:20])
    assert isinstance(again, GaussianProcess)
    assert again.state()["theta"] == model.state()["theta"]
    assert np.abs(again.mean(x[:20]) - y[:20]).max() < 0.1


# Ridge.


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("kind", [Linear, SqrtRidge])
@pytest.mark.parametrize("runs", [30, 6])
def test_ridge_against_sklearn_and_explicit_leave_one_out(
    kind: type[Linear] | type[SqrtRidge], runs: int, unequal: bool
) -> None:
    """The penalty by brute force, then coefficients and their covariance by the textbook."""
    rng = np.random.default_rng(4)
    x, new = draw(runs), draw(40, seed=1)
    y = surface(x) + 0.2 * rng.standard_normal(runs)
    noise = rng.uniform(0.3, 3.0, runs) if unequal else np.ones(runs)
    phi, weights, t = kind.features(x), 1 / noise, (y - y.mean()) / y.std()
    centre = weights @ phi / weights.sum()
    largest = np.linalg.norm((phi - centre) * np.sqrt(weights)[:, None], 2) ** 2

    def left_out(penalty: float) -> float:
        total = 0.0
        for i in range(runs):
            rest = np.arange(runs) != i
            ridge = Ridge(penalty, solver="svd").fit(phi[rest], t[rest], weights[rest])
            total += weights[i] * (t[i] - ridge.predict(phi[i : i + 1])[0]) ** 2
        return float(total / runs)

    errors = [left_out(p * largest) for p in PENALTIES]
    best = PENALTIES[int(np.argmin(errors))] * largest
    model = kind.fit_all(x, y[:, None], Context(noise=noise[:, None]))[0]
    found = model.predict(new)
    reference = Ridge(best, solver="svd").fit(phi, t, weights).predict(kind.features(new))
    assert found.mean == pytest.approx(y.mean() + y.std() * reference, rel=1e-7)
    design = np.hstack([np.ones((runs, 1)), phi])
    penalty = np.diag([0.0, *np.full(phi.shape[1], best)])
    covariance = min(errors) * np.linalg.inv((design.T * weights) @ design + penalty)
    at = np.hstack([np.ones((40, 1)), kind.features(new)])
    variance = np.einsum("np,pq,nq->n", at, covariance, at) + min(errors)
    assert found.std == pytest.approx(y.std() * np.sqrt(variance), rel=1e-4)


@pytest.mark.parametrize("name", ["gp", "linear"])
def test_precise_runs_are_followed_where_others_are_a_hundred_times_noisier(name: str) -> None:
    x, new, rng = draw(60), draw(200, seed=1), np.random.default_rng(0)
    truth = (lambda w: 2 - w[:, 0] + 0.5 * w[:, 1]) if name == "linear" else surface
    sigma = np.where(np.arange(60) < 30, 0.01, 1.0)
    y = truth(x) + sigma * rng.standard_normal(60)
    relative = sigma**2 / np.exp(np.log(sigma**2).mean())

    def error(model: Regressor) -> float:
        return float(np.sqrt(np.mean((model.mean(new) - truth(new)) ** 2)))

    told, blind = error(one(name, x, y, relative)), error(one(name, x, y))
    precise = error(one(name, x[:30], y[:30]))
    assert told < 0.3 * blind
    assert told < 1.3 * precise


@pytest.mark.parametrize("name", ["linear", "sqrt-ridge", "gp", "loglinear", "powerlaw"])
def test_the_order_of_runs_matters_to_rounding_only(name: str) -> None:
    """To the last digit it is the fit's business, which sorts the runs."""
    x, new = draw(40), draw(40, seed=1)
    y = surface(x) + 0.02 * np.random.default_rng(1).standard_normal(40)
    order = np.random.default_rng(2).permutation(40)
    one_way, other = one(name, x, y), one(name, x[order], y[order])
    assert np.abs(one_way.mean(new) - other.mean(new)).max() < 1e-4 * np.ptp(y)


# Laws.


def loglinear_law(seed: int, domains: int, sign: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """A law's parameters and the slopes of a mixing law as published: moderate, of both signs."""
    rng = np.random.default_rng(seed)
    return np.array([1.5, sign * 0.8]), rng.uniform(-3, 1, domains)


@pytest.mark.parametrize("outliers", [0, 3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("seed", range(3))
def test_loglinear_finds_a_law_again(seed: int, sign: float, outliers: int) -> None:
    """Noiseless runs, and the same with 5 % of them grossly wrong."""
    (c, k), t = loglinear_law(seed, 5, sign)
    x, new = draw(60, 5, seed), draw(200, 5, seed + 50)
    y = c + k * np.exp(x @ t)
    wrong = np.random.default_rng(seed).choice(60, outliers, replace=False)
    y[wrong] += 10 * np.ptp(y)
    truth = c + k * np.exp(new @ t)
    found = one("loglinear", x, y)
    assert found.shape.convex == sign
    error = np.sqrt(np.mean((found.mean(new) - truth) ** 2)) / np.ptp(truth)
    assert error < 1e-4


@pytest.mark.parametrize("outliers", [0, 3])
def test_powerlaw_finds_a_law_again(outliers: int) -> None:
    rng = np.random.default_rng(1)
    factor, offset, power = rng.uniform(0.1, 0.4, 4), rng.uniform(0.02, 0.1, 4), 0.4
    x, new = draw(80), draw(200, seed=1)

    def law(w: FloatArray) -> FloatArray:
        return np.asarray(1 + (factor * (w + offset) ** -power).sum(1))

    y = law(x)
    y[rng.choice(80, outliers, replace=False)] += 10 * np.ptp(y)
    found = one("powerlaw", x, y)
    assert found.shape.convex == 1
    residual = found.mean(new) - law(new)
    assert np.sqrt(np.mean(residual**2)) < 0.01 * law(new).std()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([LogLinear, PowerLaw]), st.sampled_from([1.0, -1.0]))
def test_the_laws_derivatives_against_finite_differences(
    seed: int, kind: type[LogLinear] | type[PowerLaw], sign: float
) -> None:
    rng = np.random.default_rng(seed)
    x = np.vstack([draw(6, 3, seed), np.eye(3)])
    sizes = {LogLinear: 5, PowerLaw: 10}
    theta = rng.uniform(-2, 1, (2, sizes[kind]))
    evaluate = kind.formula(x, sign)
    value, jacobian = evaluate(theta)
    assert value.shape == (2, 9)
    for row in range(2):
        for p in range(theta.shape[1]):
            step = np.zeros_like(theta)
            step[row, p] = 1e-6
            slope = (evaluate(theta + step)[0][row] - evaluate(theta - step)[0][row]) / 2e-6
            size = 1 + np.abs(value[row]).max()
            assert jacobian[row, :, p] == pytest.approx(slope, rel=1e-5, abs=1e-6 * size)


@pytest.mark.parametrize("name", ["loglinear", "powerlaw"])
def test_a_law_whose_exponent_runs_away_is_refused_and_not_followed(name: str) -> None:
    """Steps over many orders of magnitude: finite, and no warning on the way."""
    x = draw(20)
    y = np.where(x[:, 0] > 0.5, 1e8, 1.0)
    found = one(name, x, y).predict(np.eye(4))
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.std).all()


# Trees.


@pytest.mark.parametrize("name", ["lightgbm", "lightgbm-regmix"])
def test_trees_are_monotone_where_they_are_told_to_be(name: str) -> None:
    """Towards a corner one weight rises and the others fall: with signs for all, one direction."""
    x = draw(80)
    y = surface(x) + 0.5 * np.random.default_rng(0).standard_normal(80)
    wishes = np.array([[-1, 1, 1, 1]])
    kind = regressor(name)
    held = kind.fit_all(x, y[:, None], Context(monotone=wishes))[0]
    free = kind.fit_all(x, y[:, None])[0]
    share = np.linspace(0, 1, 60)[:, None]
    rises = {"held": 0.0, "free": 0.0}
    for start in draw(20, seed=2):
        line = (1 - share) * start + share * np.eye(4)[0]
        for what, model in (("held", held), ("free", free)):
            rises[what] = max(rises[what], float(np.diff(model.mean(line)).max()))
    assert rises["held"] <= 1e-9
    assert rises["free"] > 0.01
    again = held.refit(x, y)
    line = (1 - share) * draw(1, seed=3) + share * np.eye(4)[0]
    assert np.diff(again.mean(line)).max() <= 1e-9


def test_trees_follow_the_number_of_runs() -> None:
    """LightGBM's defaults cannot split 24 runs; ours do."""
    few, trees = BoostedTrees.settings(24)
    many, _ = BoostedTrees.settings(512)
    assert (few["num_leaves"], few["min_data_in_leaf"]) == (4, 2)
    assert (many["num_leaves"], many["min_data_in_leaf"]) == (12, 8)
    assert trees == BoostedTrees.settings(512)[1] >= 100
    x = draw(24)
    assert np.ptp(one("lightgbm", x, surface(x)).mean(x)) > 0.5 * np.ptp(surface(x))


def test_laws_do_not_predict_millions_where_no_run_went() -> None:
    """No run leaves a domain out; leaving it out must not be predicted beyond all measure."""
    rng = np.random.default_rng(3)
    x = 0.05 + 0.85 * rng.dirichlet(np.full(3, 0.4), size=40)
    x /= x.sum(1, keepdims=True)
    y = (x[:, 0] - 0.045) ** -0.5 + 0.01 * rng.standard_normal(40)
    for name in ("powerlaw", "loglinear"):
        found = regressor(name).fit_all(x, y[:, None])[0].predict(np.eye(3))
        assert (np.abs(found.mean - y.mean()) <= 20.001 * y.std()).all()
        assert (found.std <= 20.001 * y.std()).all()
