"""Space: sampler, projection, membership and complaints agree about what is allowed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix.config import Domain, GroupBound, RatioBound, SpaceConfig
from regmix.errors import UserError
from regmix.mixture import FloatArray, Mixture
from regmix.space import Constraint, Space

NAMES = ("a", "b", "c", "d", "e")
WIDE = (0.3, 30.0)


def domains(*names: str) -> list[Domain]:
    return [Domain(name=n) for n in names]


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
    names = NAMES[:k]
    pinned = {}
    if k > 2 and draw(st.booleans()):
        together = names[: draw(st.integers(2, k))]
        pinned["p"] = {n: 10 * inside[names.index(n)] for n in together}
    if draw(st.booleans()):
        ratio = inside[0] / inside[-1]
        factors = {
            "ratio.lower": 0.9 * ratio,
            "ratio.upper": draw(st.sampled_from([1.0, 2.0])) * ratio,
        }
        constraints += [
            Constraint("ratio.lower", {names[0]: 1.0, names[-1]: -factors["ratio.lower"]}, lower=0),
            Constraint("ratio.upper", {names[0]: 1.0, names[-1]: -factors["ratio.upper"]}, upper=0),
        ]
    return Space(names, constraints, pinned)


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


NO_ROOM: dict[str, tuple[list[Constraint], int, float]] = {
    "a domain at 0": ([Constraint("b", {"a": 1.0}, 0.0, 0.0)], 3, 0.25),
    "a group at 0": (
        [Constraint("g", {"a": 1.0, "b": 1.0}, upper=0.0)], 2, 1 / 3
    ),
    "bounds that fix a sum": (
        [Constraint("x", {"a": 1.0, "b": 1.0}, lower=0.6),
         Constraint("y", {"c": 1.0, "d": 1.0, "e": 1.0}, lower=0.4)],
        3, 0.4 / 3,
    ),
    "one follows from another": (
        [Constraint("x", {"a": 1.0, "b": -1.0}, lower=0.0), Constraint("y", {"a": 1.0}, upper=0.0)],
        2, 1 / 3,
    ),
    "nothing is left to choose": ([Constraint("x", {"a": 1.0}, lower=1.0)], 0, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_ROOM)
def test_what_leaves_no_room_leaves_the_rest_free(case: str) -> None:
    """The centre is inside of what is left, and mixtures fill all its dimensions."""
    constraints, dimensions, depth = NO_ROOM[case]
    space = Space(["a", "b", "c", "d", "e"], constraints)
    assert space.contains(space.centre).all()
    assert space.centre[space.centre > 1e-9].min() == pytest.approx(depth)
    drawn = space.sample(
        60, np.random.default_rng(0), centre=np.full(5, 0.2), concentration=(0.5, 5.0)
    ).weights
    assert space.contains(drawn).all()
    assert np.linalg.matrix_rank(drawn - space.centre, tol=1e-6) == dimensions
    if dimensions:
        assert len(np.unique(drawn.round(6), axis=0)) > 50
    corners = space.pull(np.eye(5))
    assert space.contains(corners).all()


def test_only_what_the_simplex_does_not_say_holds_back() -> None:
    constraints = [
        Constraint("half", {"a": 1.0}, 0.0, 0.5), Constraint("all", {"b": 1.0, "c": 1.0}, upper=1.0)
    ]  # fmt: skip
    space = Space(["a", "b", "c"], constraints)
    assert space.active(Mixture.of({"a": 0.0, "b": 0.5, "c": 0.5})) == []
    assert space.active(Mixture.of({"a": 0.5, "b": 0.5, "c": 0.0})) == ["half"]


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


def refusal(*constraints: Constraint, names: tuple[str, ...] = NAMES[:3], **more: Any) -> str:
    with pytest.raises(UserError) as error:
        Space(names, constraints, **more)
    return str(error.value)


def shortfall(message: str) -> float:
    return sum(float(part.split(";")[0].split(" ")[0]) for part in message.split("short by ")[1:])


def test_an_empty_space_gives_the_numbers() -> None:
    message = refusal(
        Constraint("bounds.a", {"a": 1.0}, 0.7, 1.0),
        Constraint("bounds.c", {"c": 1.0}, 0.0, 0.9),
        Constraint("bounds.b", {"b": 1.0}, 0.6, 1.0),
    )
    assert message.startswith(
        "no mixture satisfies the constraints; these exclude each other, and one of them must "
        "give: bounds.a asks for 0.7 to 1"
    )
    assert "bounds.b asks for 0.6 to 1" in message
    assert "bounds.c" not in message
    assert shortfall(message) == pytest.approx(0.3)


def test_bounds_the_wrong_way_round_are_an_empty_space() -> None:
    message = refusal(Constraint("bounds.a", {"a": 1.0}, 0.8, 0.1))
    # Moving both ends by 0.35 makes room.
    assert "give: bounds.a asks for 0.8 to 0.1, short by 0.35" in message


def test_every_conflict_is_named_not_only_the_first() -> None:
    message = refusal(
        Constraint("a", {"a": 1.0}, lower=0.7),
        Constraint("b", {"b": 1.0}, lower=0.5),
        Constraint("low", {"c": 1.0}, lower=0.3),
        Constraint("high", {"c": 1.0}, upper=0.1),
    )
    assert message.count("-- and so do these:") == 1
    assert all(f"{n} asks for" in message for n in ("a", "b", "low", "high"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_what_is_named_as_a_conflict_is_one_and_none_of_it_is_idle(seed: int) -> None:
    """Together infeasible; without any one of them feasible; and the numbers repair it."""
    rng = np.random.default_rng(seed)
    rows = [
        Constraint(
            f"c{i}",
            {n: float(rng.choice([1.0, 1.0, -0.5])) for n in rng.choice(NAMES, rng.integers(1, 4))},
            *sorted(rng.uniform(-0.2, 1, 2)),
        )
        for i in range(8)
    ]
    try:
        Space(NAMES, rows)
    except UserError as error:
        first = str(error).split(" -- and so do these: ")[0]
        named = [c for c in rows if f"{c.name} asks for" in first]
        lacks = {
            c.name: float(re.split("; | ", part.split("short by ")[1])[0])
            for c in named
            if "short by" in (part := first.split(f"{c.name} asks for")[1].split("; c")[0])
        }
        with pytest.raises(UserError, match="exclude each other"):
            Space(NAMES, named)
        for left_out in named:
            Space(NAMES, [c for c in named if c is not left_out])
        assert lacks
        loosened = [
            Constraint(
                c.name, c.coefficients, c.lower - d * 1.001 - 1e-4, c.upper + d * 1.001 + 1e-4
            )
            for c in named
            for d in [lacks.get(c.name, 0.0)]
        ]
        Space(NAMES, loosened)


def test_pinned_shares_in_conflict_are_said_as_they_were_written() -> None:
    message = refusal(
        Constraint("bounds.a", {"a": 1.0}, lower=0.5),
        Constraint("bounds.b", {"b": 1.0}, upper=0.1),
        pinned={"code": {"a": 1.0, "b": 3.0}},
    )
    assert "pinned.code asks for 0 (a : b = 1 : 3)" in message


def test_repetition_caps_follow_from_tokens() -> None:
    config = SpaceConfig(max_epochs=2.0, budget_tokens=1000)
    space = Space.from_config(config, domains("a", "b"), {"a": 100, "b": 5000})
    assert [c.name for c in space.constraints] == ["max_epochs.a"]
    assert space.constraints[0].upper == pytest.approx(0.2)
    broken = space.violations(Mixture.of({"a": 0.5, "b": 0.5}))
    assert broken == ["max_epochs.a: 0.5 is 0.3 above 0.2"]


def test_repetition_caps_that_no_budget_fits_are_refused_with_numbers() -> None:
    config = SpaceConfig(max_epochs=1.0, budget_tokens=1000)
    with pytest.raises(UserError) as error:
        Space.from_config(config, domains("a", "b"), {"a": 300, "b": 400})
    message = str(error.value)
    assert (
        "max_epochs.a asks for at most 0.3 (1 epochs of 300 tokens in a budget of 1,000)" in message
    )
    assert "max_epochs.b asks for at most 0.4 (1 epochs of 400 tokens" in message
    assert shortfall(message) == pytest.approx(0.3)


def test_repetition_caps_need_known_tokens() -> None:
    config = SpaceConfig(max_epochs=1.0, budget_tokens=1000)
    with pytest.raises(UserError, match=r"space\.max_epochs: tokens of b are not known"):
        Space.from_config(config, domains("a", "b"), {"a": 300})


def test_config_becomes_constraints_with_names() -> None:
    config = SpaceConfig(
        bounds={"a": (0.1, 0.5)}, groups={"rest": GroupBound(domains=("b", "c"), upper=0.6)}
    )
    space = Space.from_config(config, domains("a", "b", "c"), {})
    assert [c.name for c in space.constraints] == ["bounds.a", "groups.rest"]
    assert space.active(Mixture.of({"a": 0.5, "b": 0.3, "c": 0.2})) == ["bounds.a"]
    assert space.active(Mixture.of({"a": 0.45, "b": 0.3, "c": 0.25})) == []


HIERARCHY = [
    Domain(name="web/high", group="web", tags=("quality",)),
    Domain(name="web/low", group="web"),
    Domain(name="code/py", group="code", tags=("quality", "dry")),
    Domain(name="books"),
]


@pytest.mark.parametrize(
    ("group", "members"),
    [
        (GroupBound(domains=("web/*",), upper=0.5), {"web/high", "web/low"}),
        (GroupBound(domains=("books", "code/py"), upper=0.5), {"books", "code/py"}),
        (GroupBound(domains=("*/*",), upper=0.5), {"web/high", "web/low", "code/py"}),
        (GroupBound(group="web", upper=0.5), {"web/high", "web/low"}),
        (GroupBound(tag="quality", upper=0.5), {"web/high", "code/py"}),
    ],
)
def test_groups_are_domains_patterns_groups_or_tags(group: GroupBound, members: set[str]) -> None:
    space = Space.from_config(SpaceConfig(groups={"g": group}), HIERARCHY, {})
    assert set(space.constraints[0].coefficients) == members
    assert (space.constraints[0].name, space.constraints[0].upper) == ("groups.g", 0.5)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (
            GroupBound(domains=("wbe/*",), upper=0.5),
            r"unknown domain 'wbe/\*'; did you mean 'web/",
        ),
        (
            GroupBound(group="wb", upper=0.5),
            r"unknown group 'wb'; .* Valid: code, w",
        ),
        (GroupBound(tag="wet", upper=0.5), r"unknown tag 'wet'.* Valid: dry, qu"),
    ],
)
def test_a_group_that_stands_for_nothing_is_refused(group: GroupBound, said: str) -> None:
    with pytest.raises(UserError, match=rf"space\.groups\.g: {said}"):
        Space.from_config(SpaceConfig(groups={"g": group}), HIERARCHY, {})


def test_ratios_bound_sums_over_sums() -> None:
    """0.5 <= (code + books) / web <= 2, with patterns."""
    ratio = RatioBound(of=("code/py", "books"), to=("web/*",), lower=0.5, upper=2.0)
    space = Space.from_config(SpaceConfig(ratios={"r": ratio}), HIERARCHY, {})
    assert [c.name for c in space.constraints] == ["ratios.r.lower", "ratios.r.upper"]
    for of, to in ((0.3, 0.7), (0.4, 0.6), (0.6, 0.4), (0.7, 0.3)):
        mixture = Mixture.of(
            {"web/high": to / 2, "web/low": to / 2, "code/py": of / 3, "books": of * 2 / 3}
        )
        assert (not space.violations(mixture)) == (0.5 <= of / to <= 2)
    drawn = space.sample(
        200, np.random.default_rng(0), centre=np.full(4, 0.25), concentration=WIDE
    ).weights
    found = drawn[:, 2:].sum(1) / drawn[:, :2].sum(1)
    assert (found > 0.5 - 1e-6).all()
    assert (found < 2 + 1e-6).all()


def test_a_ratio_without_a_lower_bound_is_one_constraint() -> None:
    config = SpaceConfig(ratios={"r": RatioBound(of=("a",), to=("b",), upper=1.5)})
    space = Space.from_config(config, domains("a", "b"), {})
    assert [c.name for c in space.constraints] == ["ratios.r.upper"]
    assert "a over b <= 1.5" in space.constraints[0].note


def test_pinned_domains_keep_their_shares_of_what_they_have_together() -> None:
    config = SpaceConfig(
        pinned={"web": {"a": 3.0, "b": 1.0, "c": 4.0}},
        ratios={"r": RatioBound(of=("d",), to=("a",), lower=0.2)},
        bounds={"e": (0.0, 0.5)},
    )
    space = Space.from_config(config, domains(*NAMES), {})
    drawn = space.sample(
        300, np.random.default_rng(0), centre=np.full(5, 0.2), concentration=WIDE
    ).weights
    assert space.contains(drawn).all()
    together = drawn[:, :3].sum(1)
    assert drawn[:, :3] == pytest.approx(np.outer(together, [3 / 8, 1 / 8, 4 / 8]), abs=1e-8)
    assert np.ptp(together) > 0.5  # what they have together is free
    assert (drawn[:, 3] >= 0.2 * drawn[:, 0] - 1e-8).all()
    assert (drawn[:, 4] <= 0.5 + 1e-8).all()


def test_without_leaves_out_what_is_named_and_nothing_else() -> None:
    config = SpaceConfig(
        bounds={"a": (0.2, 0.5)},
        groups={"g": GroupBound(domains=("c", "d"), upper=0.6)},
        ratios={"r": RatioBound(of=("e",), to=("d",), lower=0.5, upper=2.0)},
        pinned={"p": {"a": 1.0, "b": 1.0, "c": 2.0}, "q": {"d": 1.0, "e": 1.0}},
    )
    space = Space.from_config(config, domains(*NAMES), {})
    names = [c.name for c in space.constraints]
    assert set(names) == {
        "bounds.a", "groups.g", "ratios.r.lower", "ratios.r.upper", "pinned.p", "pinned.q",
    }  # fmt: skip
    for name in set(names):
        left = space.without(name)
        assert [c.name for c in left.constraints] == [n for n in names if n != name]
        assert set(left.pinned) == {n for n in ("p", "q") if name != f"pinned.{n}"}
        assert left.domains == space.domains
    assert [c.name for c in space.constraints] == names


@pytest.mark.parametrize(
    ("caps", "filled"),
    [
        ({}, [0.25, 0.25, 0.25, 0.25]),
        ({"a": 0.1}, [0.1, 0.3, 0.3, 0.3]),
        ({"a": 0.1, "b": 0.28}, [0.1, 0.28, 0.31, 0.31]),  # b's cap binds only after a's
        ({"a": 0.1, "b": 0.2, "c": 0.25}, [0.1, 0.2, 0.25, 0.45]),
        ({"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}, [0.25, 0.25, 0.25, 0.25]),
        ({"a": 0.0, "b": 0.9}, [0.0, 1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_unimax_fills_domains_like_water(caps: dict[str, float], filled: list[float]) -> None:
    space = Space(NAMES[:4], [Constraint(f"cap.{n}", {n: 1.0}, upper=v) for n, v in caps.items()])
    assert space.unimax().array() == pytest.approx(filled, abs=1e-9)


def test_unimax_follows_epochs_of_tokens_and_stays_in_the_space() -> None:
    """Two epochs of 50 and 150 tokens in 1000: 0.1 and 0.3, the rest evenly."""
    config = SpaceConfig(max_epochs=2.0, budget_tokens=1000)
    tokens = {"a": 50, "b": 150, "c": 900, "d": 900}
    space = Space.from_config(config, domains(*NAMES[:4]), tokens)
    assert space.unimax().array() == pytest.approx([0.1, 0.3, 0.3, 0.3])
    bounded = SpaceConfig(
        max_epochs=2.0, budget_tokens=1000, groups={"g": GroupBound(domains=("c", "d"), upper=0.65)}
    )
    with pytest.raises(UserError, match=r"groups\.g asks for .*max_epochs\.a asks for"):
        Space.from_config(
            bounded.model_copy(update={"groups": {"g": GroupBound(domains=("c", "d"), upper=0.5)}}),
            domains(*NAMES[:4]),
            tokens,
        )
    within = Space.from_config(bounded, domains(*NAMES[:4]), tokens)
    assert within.contains(within.unimax().array())[0]


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
