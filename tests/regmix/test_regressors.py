"""What every regressor must do, and each one's mathematics against a reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from regmix.errors import UserError
from regmix.mixture import FloatArray
from regmix.regressors import NAMES, create, restore
from regmix.regressors.gp import GaussianProcess, _negative_log_posterior

DOMAINS = 4


def draw(count: int, seed: int) -> FloatArray:
    return np.random.default_rng(seed).dirichlet(np.ones(DOMAINS), count)


def surface(x: FloatArray) -> FloatArray:
    """Falls steeply from 0, then flattens, as losses do."""
    return np.asarray(2 + np.exp(-6 * x[:, 0]) + 0.5 * x[:, 1] - 0.3 * np.sqrt(x[:, 2]))


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_predicts_a_surface_far_better_than_its_mean(name: str) -> None:
    x, new = draw(80, 0), draw(200, 1)
    found = create(name).fit(x, surface(x)).predict(new)
    residual = surface(new) - found.mean
    assert np.mean(residual**2) < 0.2 * np.var(surface(new))


def test_gives_a_mean_and_a_positive_deviation_for_every_row(name: str) -> None:
    x = draw(30, 0)
    model = create(name).fit(x, surface(x))
    for count in (1, 7):
        found = model.predict(draw(count, 2))
        assert found.mean.shape == found.std.shape == (count,)
        assert np.isfinite(found.mean).all()
        assert (found.std > 0).all()
    corners = model.predict(np.eye(DOMAINS))
    assert np.isfinite(corners.mean).all()
    assert np.isfinite(corners.std).all()


def test_error_bars_are_of_the_right_size(name: str) -> None:
    rng = np.random.default_rng(3)
    x, new = draw(60, 4), draw(300, 5)
    noise = 0.05
    model = create(name).fit(x, surface(x) + noise * rng.standard_normal(60))
    found = model.predict(new)
    z = (surface(new) + noise * rng.standard_normal(300) - found.mean) / found.std
    assert 0.4 < np.sqrt(np.mean(z**2)) < 2.0


def test_fitting_is_deterministic_and_leaves_its_input_alone(name: str) -> None:
    x, new = draw(24, 0), draw(10, 1)
    y = surface(x)
    x_before, y_before = x.copy(), y.copy()
    one, other = (create(name).fit(x, y).predict(new) for _ in range(2))
    assert (one.mean == other.mean).all()
    assert (one.std == other.std).all()
    assert (x == x_before).all()
    assert (y == y_before).all()


def test_state_is_plain_json_and_predicts_the_same(name: str) -> None:
    x, new = draw(24, 0), draw(50, 1)
    model = create(name).fit(x, surface(x))
    state = json.loads(json.dumps(model.state(), allow_nan=False))
    one, other = model.predict(new), restore(name, state).predict(new)
    assert np.abs(one.mean - other.mean).max() <= 1e-12
    assert np.abs(one.std - other.std).max() <= 1e-12


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_the_metric_does_not_matter(name: str, scale: float) -> None:
    x, new = draw(40, 0), draw(20, 1)
    plain = create(name).fit(x, surface(x)).predict(new)
    scaled = create(name).fit(x, scale * surface(x)).predict(new)
    assert scaled.mean / scale == pytest.approx(plain.mean, rel=0.02)
    assert scaled.std / scale == pytest.approx(plain.std, rel=0.2)


def test_a_constant_metric_is_predicted_as_such(name: str) -> None:
    x = draw(20, 0)
    found = create(name).fit(x, np.full(20, 3.25)).predict(draw(5, 1))
    assert found.mean == pytest.approx(np.full(5, 3.25), abs=1e-6)
    assert np.isfinite(found.std).all()


@pytest.mark.parametrize("case", ["few", "twins", "constant domain", "one domain", "on edges"])
def test_awkward_swarms_are_fitted_all_the_same(name: str, case: str) -> None:
    x = draw(12, 0)
    if case == "few":
        x = x[:6]
    elif case == "twins":
        x = np.repeat(x[:4], 3, axis=0)
    elif case == "constant domain":
        x = np.hstack([np.zeros((12, 1)), x[:, 1:] / x[:, 1:].sum(1, keepdims=True)])
    elif case == "one domain":
        x = np.ones((12, 1))
    elif case == "on edges":
        x = np.where(x < 0.2, 0.0, x)
        x = x / x.sum(1, keepdims=True)
    y = np.random.default_rng(1).standard_normal(len(x))
    found = create(name).fit(x, y).predict(x)
    assert np.isfinite(found.mean).all()
    assert (found.std > 0).all()


def test_unknown_names_are_refused_with_the_choices() -> None:
    for call in (create, lambda n: restore(n, {})):
        with pytest.raises(
            UserError, match="unknown regressor 'ligthgbm'; did you mean 'lightgbm'"
        ):
            call("ligthgbm")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(-2.0, 2.0), min_size=7, max_size=7))
def test_gp_gradient_against_finite_differences(seed: int, theta: list[float]) -> None:
    z = np.sqrt(draw(15, seed))
    t = np.random.default_rng(seed).standard_normal(15)
    at = np.array(theta) - [0, 0, 0, 0, 0, 2, 3]
    _, gradient = _negative_log_posterior(at, z, t)
    numeric = optimize.approx_fprime(at, lambda p: _negative_log_posterior(p, z, t)[0], 1.5e-7)
    assert gradient == pytest.approx(numeric, rel=2e-4, abs=2e-4 * (1 + np.abs(gradient).max()))


def test_gp_posterior_against_sklearn() -> None:
    """Same kernel, same hyperparameters, same data: same mean and standard deviation."""
    x, new = draw(25, 0), draw(40, 1)
    y = surface(x) + 0.05 * np.random.default_rng(2).standard_normal(25)
    model = GaussianProcess().fit(x, y)
    theta = np.array(model.state()["theta"])
    signal, linear, noise = np.exp(theta[-3:])
    kernel = (
        ConstantKernel(signal, "fixed") * Matern(np.exp(theta[:-3]), "fixed", nu=2.5)
        + ConstantKernel(linear, "fixed") * DotProduct(0.0, "fixed")
        + WhiteKernel(noise, "fixed")
    )
    reference = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None, normalize_y=True)
    mean, std = reference.fit(np.sqrt(x), y).predict(np.sqrt(new), return_std=True)
    found = model.predict(new)
    assert found.mean == pytest.approx(mean, rel=1e-7)
    assert found.std == pytest.approx(std, rel=1e-5)


def test_gp_likelihood_against_sklearn() -> None:
    """Without the prior, differences of the objective are differences of log likelihood."""
    z = np.sqrt(draw(20, 3))
    t = surface(z**2)
    t = (t - t.mean()) / t.std()
    thetas = [np.array([0.1, -0.3, 0.5, 0.0, 0.2, -1.0, -2.5]), np.full(7, -0.4)]
    ours, theirs = [], []
    for theta in thetas:
        centre = np.array([0.0] * 4 + [0.0, -2.0, -4.0])
        width = np.array([1.5] * 4 + [2.0, 3.0, 3.0])
        prior = 0.5 * (((theta - centre) / width) ** 2).sum()
        ours.append(-(_negative_log_posterior(theta, z, t)[0] - prior))
        signal, linear, noise = np.exp(theta[-3:])
        kernel = (
            ConstantKernel(signal) * Matern(np.exp(theta[:-3]), nu=2.5)
            + ConstantKernel(linear) * DotProduct(0.0, "fixed")
            + WhiteKernel(noise)
        )
        gp = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(z, t)
        theirs.append(gp.log_marginal_likelihood_value_)
    assert ours[0] - ours[1] == pytest.approx(theirs[0] - theirs[1], rel=1e-7)


def test_gp_is_surer_near_the_runs() -> None:
    x = draw(30, 0) * 0.2 + np.array([0.8, 0, 0, 0])
    model = GaussianProcess().fit(x, surface(x))
    near, far = model.predict(x[:5]), model.predict(np.eye(4)[1:])
    assert near.std.max() < far.std.min()
