"""Swarm designs: allowed, repeatable, and a larger one extends a smaller one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix.config import Domain, SpaceConfig, SwarmConfig
from regmix.design import MINIMUM_WEIGHT, Swarm, swarm
from regmix.mixture import Mixture
from regmix.space import Space

NAMES = ("web", "code", "math", "books")
DOMAINS = [Domain(name=n) for n in NAMES]
NATURAL = Mixture.of(dict(zip(NAMES, (0.6, 0.25, 0.1, 0.05), strict=True)))
BOUNDED = SpaceConfig(bounds={"web": (0.2, 0.7), "math": (0.05, 0.4)})


def planned(runs: int, bounds: SpaceConfig | None = None, seed: int = 0, **more: object) -> Swarm:
    space = Space.from_config(bounds or SpaceConfig(), DOMAINS, {})
    return swarm(SwarmConfig(runs=runs, **more), space, NATURAL, seed)  # type: ignore[arg-type]


def sampled(found: Swarm) -> list[Mixture]:
    return [p.mixture for p in found.runs if p.role == "swarm"]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.integers(0, 15), st.integers(0, 1000), st.booleans())
def test_a_larger_swarm_extends_a_smaller_one(
    runs: int, more: int, seed: int, bounded: bool
) -> None:
    bounds = BOUNDED if bounded else None
    small, large = planned(runs, bounds, seed), planned(runs + more, bounds, seed)
    assert sampled(large)[: len(sampled(small))] == sampled(small)
    assert len(sampled(large)) - len(sampled(small)) == more
    kept = {(p.name, p.mixture.id, p.seed) for p in small.runs}
    assert kept <= {(p.name, p.mixture.id, p.seed) for p in large.runs}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_sampled_mixtures_are_allowed_and_free_of_dust(seed: int) -> None:
    space = Space.from_config(BOUNDED, DOMAINS, {})
    weights = np.array(
        [m.weights for m in sampled(swarm(SwarmConfig(runs=20), space, NATURAL, seed))]
    )
    assert space.contains(weights).all()
    assert not ((weights > 0) & (weights < MINIMUM_WEIGHT)).any()


def test_one_seed_gives_one_swarm_and_another_another() -> None:
    assert planned(10) == planned(10)
    assert sampled(planned(10)) != sampled(planned(10, seed=1))


def test_what_a_swarm_holds() -> None:
    found = planned(10, replicates=3, seed=5)
    roles = [p.role for p in found.runs]
    assert roles.count("replicate") == 2
    assert roles.count("single") == len(NAMES)
    assert roles.count("swarm") == 9  # uniform is the tenth
    by_name = {p.name: p for p in found.runs}
    assert len(by_name) == len(found.runs)
    assert by_name["natural"].mixture == NATURAL
    assert by_name["uniform"].mixture == Mixture.uniform(NAMES)
    assert by_name["only-math"].mixture == Mixture.only("math", NAMES)
    assert [by_name[n].seed for n in ("natural", "natural-seed1", "natural-seed2")] == [5, 6, 7]
    assert {p.seed for p in found.runs if p.role != "replicate"} == {5}
    assert (found.acceptance, found.pulled, found.notes) == (1.0, 0, ())


def test_baselines_can_be_left_out() -> None:
    found = planned(4, baselines=False, replicates=1)
    assert [p.role for p in found.runs] == ["baseline", *["swarm"] * 4]


def test_baselines_the_space_forbids_are_left_out_and_noted() -> None:
    found = planned(6, SpaceConfig(bounds={"web": (0.2, 0.5)}))
    names = {p.name for p in found.runs}
    assert not any(n.startswith("only-") for n in names)
    assert "uniform" in names
    assert any("natural mixture breaks bounds.web: 0.6 is 0.1 above 0.5" in n for n in found.notes)
    assert any("only-code is left out: bounds.web: 0 is 0.2 below 0.2" in n for n in found.notes)


def test_a_tight_space_is_filled_all_the_same() -> None:
    bounds = SpaceConfig(bounds={"web": (0.3, 0.3), "code": (0.1, 0.12)})
    found = planned(30, bounds)
    weights = np.array([m.weights for m in sampled(found)])
    assert Space.from_config(bounds, DOMAINS, {}).contains(weights).all()
    assert found.acceptance < 0.1
    assert len({m.id for m in sampled(found)}) == len(sampled(found))
    assert weights[:, 2].std() > 0.05


def test_a_flatter_temperature_moves_the_centre_towards_uniform() -> None:
    steep = np.mean([m["web"] for m in sampled(planned(300, temperature=1.0))])
    flat = np.mean([m["web"] for m in sampled(planned(300, temperature=0.25))])
    assert steep == pytest.approx(0.6, abs=0.05)
    assert flat == pytest.approx(0.6**0.25 / sum(w**0.25 for w in NATURAL.weights), abs=0.05)


def test_swarm_of_one_domain() -> None:
    found = swarm(SwarmConfig(runs=1), Space(["all"]), Mixture.of({"all": 1.0}), 0)
    assert {p.mixture.weights for p in found.runs} == {(1.0,)}
