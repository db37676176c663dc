"""Mixture: what it accepts, what it refuses, and that it survives being written."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmix.errors import UserError
from regmix.mixture import Mixture, MixtureFile

NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12),
    min_size=1,
    max_size=8,
    unique=True,
)


@st.composite
def weight_maps(draw: st.DrawFn) -> dict[str, float]:
    names = draw(NAMES)
    size = len(names)
    raw = draw(st.lists(st.floats(0, 1e6), min_size=size, max_size=size))
    total = math.fsum(raw)
    if total < 1e-3:
        raw, total = [1.0] * size, float(size)
    return {name: value / total for name, value in zip(names, raw, strict=True)}


@given(weight_maps())
def test_sums_to_one_and_keeps_the_order(weights: dict[str, float]) -> None:
    mixture = Mixture.of(weights)
    assert abs(math.fsum(mixture.weights) - 1) <= 1e-12
    assert mixture.domains == tuple(weights)
    assert all(mixture[name] == pytest.approx(w, abs=1e-12) for name, w in weights.items())
    assert Mixture.of(mixture.as_dict()).distance(mixture) <= 1e-12


@given(weight_maps(), st.randoms())
def test_an_order_is_followed(weights: dict[str, float], random: object) -> None:
    names = list(weights)
    random.shuffle(names)  # type: ignore[attr-defined]
    mixture = Mixture.of(weights, names)
    assert mixture.domains == tuple(names)
    assert mixture.distance(Mixture.of(weights)) <= 1e-12


@given(weight_maps())
def test_file_round_trip_loses_nothing(tmp_path_factory: pytest.TempPathFactory, weights) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("mix") / "m.yaml"
    file = MixtureFile("m", Mixture.of(weights), {"fit": "123e45", "runs": 3, "x": [1.5, None]})
    file.save(path)
    loaded = MixtureFile.load(path, file.mixture.domains)
    assert loaded.mixture.domains == file.mixture.domains
    assert loaded.mixture.distance(file.mixture) <= 1e-12
    assert loaded.provenance == file.provenance
    assert loaded.name == "m"


def test_six_printed_decimals_are_accepted_and_nothing_more() -> None:
    thirds = Mixture.of({"a": 0.333333, "b": 0.333333, "c": 0.333333})
    assert thirds.weights == pytest.approx((1 / 3,) * 3, abs=1e-12)
    with pytest.raises(UserError, match=r"weights sum to 0\.9, not 1"):
        Mixture.of({"a": 0.5, "b": 0.4})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.5, "b": -0.5}, r"here: weight of 'b' is -0\.5; it must be finite and >= 0"),
        ({"a": math.nan, "b": 1.0}, r"here: weight of 'a' is nan"),
        ({"a": math.inf, "b": 0.0}, r"here: weight of 'a' is inf"),
        ({"a": 0.5, "b": 0.4}, r"here: weights sum to 0\.9, not 1"),
        ({"a": 2.0, "b": 1.0}, r"here: weights sum to 3, not 1"),
        ({}, r"here: weights sum to 0, not 1"),
    ],
)
def test_what_is_no_mixture_is_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixture.of(weights, where="here")


def test_names_must_be_exactly_the_expected_ones() -> None:
    with pytest.raises(UserError, match=r"unknown domain 'cod'; did you mean 'code'\? Valid: code"):
        Mixture.of({"web": 0.5, "cod": 0.5}, ["web", "code"])
    with pytest.raises(UserError, match=r"no weight for 'code'; every domain needs one"):
        Mixture.of({"web": 1.0}, ["web", "code"])


def test_id_covers_names_order_and_every_digit() -> None:
    one = Mixture.of({"a": 0.25, "b": 0.75})
    assert one.id == Mixture.of({"a": 0.25, "b": 0.75}).id
    others = [
        Mixture.of({"b": 0.75, "a": 0.25}),
        Mixture.of({"a": 0.25, "c": 0.75}),
        Mixture.of({"a": 0.25 + 1e-15, "b": 0.75 - 1e-15}),
    ]
    assert len({one.id, *(m.id for m in others)}) == 4


def test_distance_is_total_variation() -> None:
    one, other = Mixture.of({"a": 0.25, "b": 0.75}), Mixture.of({"b": 0.25, "a": 0.75})
    assert one.distance(other) == pytest.approx(0.5)
    assert Mixture.only("a", ["a", "b"]).distance(Mixture.only("b", ["a", "b"])) == 1.0
    with pytest.raises(UserError, match="different domains"):
        one.distance(Mixture.uniform(["a", "c"]))


def test_arrays_must_fit_the_domains() -> None:
    assert Mixture.from_array(["a", "b"], np.array([0.2, 0.8])).as_dict() == {"a": 0.2, "b": 0.8}
    with pytest.raises(UserError, match=r"\(3,\) weights for 2 domains"):
        Mixture.from_array(["a", "b"], [0.2, 0.3, 0.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weights: {web: 0.5, code: 0.4}", r"m\.yaml: weights: weights sum to 0\.9, not 1"),
        ("weights: {web: 0.5, cod: 0.5}", r"m\.yaml: weights: unknown domain 'cod'.*'code'"),
        ("weights: {web: 1.0}", r"m\.yaml: weights: no weight for 'code'"),
        ("weights: {web: 1.5, code: -0.5}", r"m\.yaml: weights: weight of 'code' is -0\.5"),
        ("weights: {web: .nan, code: 0.5}", r"m\.yaml: weights: weight of 'web' is nan"),
        (f"weights: {{web: {'9' * 401}, code: 0.5}}", r"m\.yaml: weights: weight of 'web' is inf"),
        ("weights: {web: 1.0e+308, code: 1.0e+308}", r"m\.yaml: weights: weights sum to inf"),
        (f"weights: {{web: {'9' * 5000}, code: 0.5}}", r"m\.yaml: not valid YAML"),
        ("weights: {web: half, code: 0.5}", r"m\.yaml: weights\.web is 'half', not a number"),
        ("weights: {web: true, code: 0.5}", r"m\.yaml: weights\.web is True, not a number"),
        ("weights: [0.5, 0.5]", r"m\.yaml: 'weights' must map domain names to shares"),
        ("weigths: {web: 0.5, code: 0.5}", r"m\.yaml: unknown key 'weigths'.*'weights'"),
        ("kind: proposal\nweights: {web: 1}", r"m\.yaml: kind is 'proposal', not 'mixture'"),
        ("weights: {web: 0.5, code: 0.5}\nprovenance: mine", r"m\.yaml: provenance"),
        ("weights:\n  web: 0.5\n  web: 0.5", r"m\.yaml:3: 'web' is named twice \(first in line 2"),
    ],
)
def test_a_faulty_file_is_refused_by_name_and_place(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        MixtureFile.load(path, ["web", "code"])
