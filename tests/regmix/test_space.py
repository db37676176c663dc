"""Space: sampler, projection, membership and complaints agree about what is allowed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix.config import GroupBound, SpaceConfig
from regmix.errors import UserError
from regmix.mixture import FloatArray, Mixture
from regmix.space import Constraint, Space

NAMES = ("a", "b", "c", "d", "e")
WIDE = (0.3, 30.0)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Constraints around a known allowed point, so that no space is empty; some leave no room."""
    k = draw(st.integers(2, 5))
    raw = np.array(draw(st.lists(st.floats(0.01, 1), min_size=k, max_size=k)))
    inside = raw / raw.sum()
    constraints = []
    for number in range(draw(st.integers(1, 4))):
        picked = draw(st.lists(st.sampled_from(range(k)), min_size=1, max_size=k, unique=True))
        coefficients = {NAMES[i]: draw(st.sampled_from([1.0, 1.0, 2.0, -1.0])) for i in picked}
        value = sum(c * inside[NAMES.index(n)] for n, c in coefficients.items())
        below = draw(st.sampled_from([0.0, 0.01, 0.2, np.inf]))
        above = draw(st.sampled_from([0.0, 0.01, 0.2, np.inf]))
        constraints.append(Constraint(f"c{number}", coefficients, value - below, value + above))
    return Space(NAMES[:k], constraints)


def points(space: Space, seed: int, count: int = 200) -> FloatArray:
    """Anything on the simplex: corners, edges and the middle."""
    rng = np.random.default_rng(seed)
    k = len(space.domains)
    spread = np.concatenate([rng.dirichlet(np.full(k, a), count // 2) for a in (0.1, 2.0)])
    return np.concatenate([np.eye(k), spread])


@settings(max_examples=80, deadline=None)
@given(spaces(), st.integers(0, 100))
def test_what_is_pulled_is_allowed(space: Space, seed: int) -> None:
    outside = points(space, seed)
    pulled = space.pull(outside)
    assert space.contains(pulled).all()
    allowed = space.contains(outside)
    assert (pulled[allowed] == outside[allowed]).all()
    assert space.contains(space.centre[None])[0]


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 100))
def test_what_is_sampled_is_allowed(space: Space, seed: int) -> None:
    k = len(space.domains)
    found = space.sample(
        50, np.random.default_rng(seed), centre=np.full(k, 1 / k), concentration=WIDE
    )
    assert found.weights.shape == (50, k)
    assert space.contains(found.weights).all()
    assert 0 <= found.acceptance <= 1
    again = space.sample(
        50, np.random.default_rng(seed), centre=np.full(k, 1 / k), concentration=WIDE
    )
    assert (found.weights == again.weights).all()


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 100))
def test_contains_and_violations_agree(space: Space, seed: int) -> None:
    candidates = np.concatenate([points(space, seed, 20), space.pull(points(space, seed, 20))])
    for row in candidates:
        mixture = Mixture.from_array(space.domains, row)
        assert bool(space.contains(mixture.array())[0]) == (not space.violations(mixture))


def test_rows_off_the_simplex_are_not_allowed() -> None:
    space = Space(NAMES[:2])
    rows = np.array([[0.5, 0.5], [0.5, 0.6], [-0.1, 1.1], [0.0, 1.0]])
    assert space.contains(rows).tolist() == [True, False, False, True]


@pytest.mark.parametrize("width", [0.0, 0.002])
def test_a_narrow_constraint_leaves_the_other_domains_free(width: float) -> None:
    """Pinning one share must not glue the others to the centre."""
    space = Space(NAMES[:4], [Constraint("pin", {"a": 1.0}, 0.3 - width, 0.3 + width)])
    drawn = space.sample(
        400, np.random.default_rng(0), centre=np.full(4, 0.25), concentration=(0.5, 2.0)
    ).weights
    assert np.abs(drawn[:, 0] - 0.3).max() <= width + 1e-9
    assert drawn[:, 1:].std(axis=0).min() > 0.08
    assert drawn[:, 1:].max() > 0.6
    assert drawn[:, 1:].min() < 0.01


def test_pinned_ratio_and_group_bounds_together() -> None:
    space = Space(
        NAMES,
        [
            Constraint("ratio", {"a": 1.0, "b": -2.0}, 0.0, 0.0),
            Constraint("group", {"c": 1.0, "d": 1.0}, 0.2, 0.25),
            Constraint("cap", {"e": 1.0}, upper=0.3),
        ],
    )
    drawn = space.sample(
        200, np.random.default_rng(1), centre=np.full(5, 0.2), concentration=WIDE
    ).weights
    assert space.contains(drawn).all()
    assert np.allclose(drawn[:, 0], 2 * drawn[:, 1], atol=1e-8)
    assert np.unique(drawn.round(3), axis=0).shape[0] > 150


def test_an_unconstrained_sample_is_centred_where_asked() -> None:
    centre = np.array([0.6, 0.3, 0.1])
    found = Space(NAMES[:3]).sample(
        20_000, np.random.default_rng(0), centre=centre, concentration=(1.0, 20.0)
    )
    assert found.acceptance == 1.0
    assert found.pulled == 0
    assert found.weights.mean(axis=0) == pytest.approx(centre, abs=0.01)


def test_the_centre_is_the_point_deepest_inside() -> None:
    space = Space(NAMES[:2], [Constraint("a", {"a": 1.0}, 0.2, 0.4)])
    assert space.centre == pytest.approx([0.3, 0.7])


def test_an_empty_space_gives_the_numbers() -> None:
    with pytest.raises(UserError) as error:
        Space(
            NAMES[:3],
            [
                Constraint("bounds.a", {"a": 1.0}, 0.7, 1.0),
                Constraint("bounds.b", {"b": 1.0}, 0.6, 1.0),
            ],
        )
    message = str(error.value)
    assert "no mixture satisfies the constraints" in message
    assert "bounds.a in [0.7, 1], bounds.b in [0.6, 1]" in message
    loosened = sum(float(part.split()[-1]) for part in message.split("loosens ")[1].split(", "))
    assert loosened == pytest.approx(0.3)


def test_bounds_the_wrong_way_round_are_an_empty_space() -> None:
    with pytest.raises(UserError, match=r"bounds\.a in \[0\.8, 0\.1\]"):
        Space(NAMES[:2], [Constraint("bounds.a", {"a": 1.0}, 0.8, 0.1)])


def test_repetition_caps_follow_from_tokens() -> None:
    config = SpaceConfig(max_epochs=2.0, budget_tokens=1000)
    space = Space.from_config(config, ["a", "b"], {"a": 100, "b": 5000})
    assert [c.name for c in space.constraints] == ["max_epochs.a"]
    assert space.constraints[0].upper == pytest.approx(0.2)
    broken = space.violations(Mixture.of({"a": 0.5, "b": 0.5}))
    assert broken == ["max_epochs.a: 0.5 is 0.3 above 0.2"]


def test_repetition_caps_that_no_budget_fits_are_refused_with_numbers() -> None:
    config = SpaceConfig(max_epochs=1.0, budget_tokens=1000)
    with pytest.raises(UserError) as error:
        Space.from_config(config, ["a", "b"], {"a": 300, "b": 400})
    message = str(error.value)
    assert "max_epochs.a in [0, 0.3]" in message
    assert "max_epochs.b in [0, 0.4]" in message
    loosened = sum(float(part.split()[-1]) for part in message.split("loosens ")[1].split(", "))
    assert loosened == pytest.approx(0.3)


def test_repetition_caps_need_known_tokens() -> None:
    config = SpaceConfig(max_epochs=1.0, budget_tokens=1000)
    with pytest.raises(UserError, match=r"space\.max_epochs: tokens of b are not known"):
        Space.from_config(config, ["a", "b"], {"a": 300})


def test_config_becomes_constraints_with_names() -> None:
    config = SpaceConfig(
        bounds={"a": (0.1, 0.5)}, groups={"rest": GroupBound(domains=("b", "c"), upper=0.6)}
    )
    space = Space.from_config(config, ["a", "b", "c"], {})
    assert [c.name for c in space.constraints] == ["bounds.a", "groups.rest"]
    assert space.active(Mixture.of({"a": 0.5, "b": 0.3, "c": 0.2})) == ["bounds.a"]
    assert space.active(Mixture.of({"a": 0.45, "b": 0.3, "c": 0.25})) == []


def test_a_constraint_on_an_unknown_domain_is_refused() -> None:
    with pytest.raises(UserError, match=r"constraint cap: unknown domain 'z'. Valid: a, b"):
        Space(["a", "b"], [Constraint("cap", {"z": 1.0}, upper=0.5)])


def test_one_mixture_at_a_time_is_rejected_as_patiently_as_many() -> None:
    space = Space(("a", "b", "c"), [Constraint("narrow", {"a": 1.0}, lower=0.6)])
    found = [
        space.sample(
            1, np.random.default_rng(i), centre=np.full(3, 1 / 3), concentration=(1.0, 3.0)
        )
        for i in range(60)
    ]
    assert sum(f.pulled for f in found) == 0
    assert all(space.contains(f.weights).all() for f in found)
