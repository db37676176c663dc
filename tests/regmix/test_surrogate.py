"""The worst of several metrics: how sure differences are, against draws of the parameters."""

from __future__ import annotations

import numpy as np
import pytest

from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.regressors import CANDIDATES, Regressor, regressor
from regmix.regressors.base import Doubting, doubt
from regmix.regressors.parametric import Posterior
from regmix.regressors.ridge import Linear
from regmix.solve import certainty
from regmix.solve.problem import Problem
from regmix.space import Space
from regmix.surrogate import FittedMetric, Scores, Surrogate
from regmix.testing.regressors import draw, surface

BEST = np.array([0.5, 0.5, 0.0])
X = np.array([[0.46, 0.54, 0], [0.54, 0.46, 0], [0.4, 0.6, 0], [0.6, 0.4, 0], [0.45, 0.45, 0.1]])
THETA = np.array([[2.0, -1.0, 0.0, 0.0], [2.0, 0.0, -1.0, 0.0]])
"""Two metrics, each lowered by a domain of its own: on one side of even shares the one is worst,
on the other side the other."""


def surrogate(models: list[Regressor], correlation: FloatArray, scale: float = 1.0) -> Surrogate:
    nothing = Scores(0, 0, 0, 0, 0)
    metrics = [
        FittedMetric(n, "linear", m, scale, nothing, {})
        for n, m in zip("abcdef", models, strict=False)
    ]
    return Surrogate(("x", "y", "z"), tuple(metrics), correlation)


def problem(own: Surrogate, kind: str = "worst") -> Problem:
    names = own.metric_names
    share = (1 / len(names),) * len(names)
    objective = Objective(names, share, (1,) * len(names), kind, "even")  # type: ignore[arg-type]
    even = np.full((1, 3), 1 / 3)
    at = {m.name: float(m.model.mean(even)[0]) for m in own.metrics}
    return Problem(own, objective.against(at), Space(own.domains))


@pytest.mark.parametrize("rho", [0.0, 0.6, -0.6])
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_differences_of_the_worst_metric_are_as_sure_as_the_parameters(
    rho: float, scale: float
) -> None:
    root = 0.04 * np.tril(np.random.default_rng(3).standard_normal((4, 4)))
    correlation = np.array([[1.0, rho], [rho, 1.0]])
    models: list[Regressor] = [Linear(Posterior(t, root, 0.1, 0.0, 1.0)) for t in THETA]
    own = problem(surrogate(models, correlation, scale))
    # The metrics of one drawn parameter go together as the errors do.
    z = np.random.default_rng(4).standard_normal((200_000, 2, 4))
    z = np.einsum("ij,njk->nik", np.linalg.cholesky(correlation), z)
    drawn = THETA + scale * z @ root.T
    jacobian = np.hstack([np.ones((6, 1)), np.vstack([BEST[None], X])])
    values = drawn @ jacobian.T
    loss = ((values.transpose(0, 2, 1) / own.objective.reference_values) - 1).max(2)
    steps = loss[:, 1:] - loss[:, :1]
    gain, std = certainty.gains(own, BEST, X)
    beaten = certainty.probability_beaten(own, BEST, X)
    assert beaten == pytest.approx((steps > 0).mean(0), abs=0.04)
    assert std == pytest.approx(np.sqrt(((steps - gain) ** 2).mean(0)), rel=0.1)
    back = [certainty.probability_beaten(own, x, BEST[None])[0] for x in X]
    assert beaten + back == pytest.approx(np.ones(5), abs=0.03)
    assert (certainty.gains(own, BEST, X)[1] == std).all(), "the same draws every time"


def test_what_was_sure_of_one_metric_is_not_of_the_worst_of_two() -> None:
    """The same error at both mixtures cancels within a metric, and not between two."""
    root = np.zeros((4, 4))
    root[0, 0] = 0.1
    models: list[Regressor] = [Linear(Posterior(t, root, 0.1, 0.0, 1.0)) for t in THETA]
    both = problem(surrogate(models, np.eye(2)))
    assert certainty.gains(both, BEST, X)[1].min() > 0
    assert 0.5 < certainty.probability_beaten(both, BEST, X)[0] < 0.95
    shared = problem(surrogate(models, np.ones((2, 2))))
    assert certainty.gains(shared, BEST, X)[1] == pytest.approx(np.zeros(5), abs=1e-12)
    assert (certainty.probability_beaten(shared, BEST, X) == 1).all()


def test_the_worst_of_one_metric_is_that_metric() -> None:
    x = draw(30, 3)
    y = surface(x)[:, None] + 0.1 * np.random.default_rng(0).standard_normal((30, 1))
    own = surrogate(list(regressor("gp").fit_all(x, y)), np.eye(1), 1.3)
    worst, relative = problem(own), problem(own, "relative")
    new = draw(20, 3, seed=1)
    for one, other in zip(
        certainty.gains(worst, BEST, new), certainty.gains(relative, BEST, new), strict=True
    ):
        assert one == pytest.approx(other, rel=0.06, abs=1e-9)
    assert certainty.probability_beaten(worst, BEST, new) == pytest.approx(
        certainty.probability_beaten(relative, BEST, new), abs=0.03
    )


def test_a_mixture_does_not_differ_from_itself() -> None:
    x = draw(30, 3)
    y = np.column_stack([surface(x), surface(x[:, ::-1])])
    for name in CANDIDATES:
        own = problem(surrogate(list(regressor(name).fit_all(x, y)), np.eye(2)))
        gain, std = certainty.gains(own, BEST, BEST[None])
        assert gain == pytest.approx(0, abs=1e-9)
        assert std == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", [*CANDIDATES, "ensemble"])
def test_a_metric_is_known_better_than_a_measurement_of_it(name: str) -> None:
    """And two expected values differ by no more than both of their doubts."""
    x, new = draw(30), draw(20, seed=1)
    y = surface(x)[:, None] + 0.1 * np.random.default_rng(0).standard_normal((30, 1))
    model = regressor(name).fit_all(x, y)[0]
    assert isinstance(model, Doubting)
    own, whole = doubt(model, new), model.predict(new).std
    assert (own > 0).all()
    assert (own <= whole * (1 + 1e-9)).all()
    for i in range(3):
        apart = model.contrast(new, new[i])
        assert (apart <= (own + own[i]) * (1 + 1e-6)).all()
        assert (apart >= np.abs(own - own[i]) * (1 - 1e-6)).all()
