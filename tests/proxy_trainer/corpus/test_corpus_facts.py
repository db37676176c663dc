"""The facts told are the facts of the tables, and an absent table is no error."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest

from proxy_trainer.corpus.base import Source, Work, generator_shards
from proxy_trainer.corpus.facts import RECIPE, characters, constants, places


def work_on(source: str) -> Work:
    return Work(next(generator_shards(source, 12)), random.Random(0))


def test_characters_bear_their_own_names() -> None:
    told = "\n".join(characters.documents(work_on("unicode")))
    named = re.findall(r"^U\+([0-9A-F]+) (.) bears the name (.+);", told, re.MULTILINE)
    assert len(named) > 100
    for code, character, name in named:
        assert character == chr(int(code, 16))
        assert unicodedata.name(character).lower() == name


def test_constants_are_those_of_codata() -> None:
    pytest.importorskip("scipy")
    told = list(constants.documents(work_on("scipy")))
    speed = [text for text in told if "the speed of light in vacuum" in text.partition(".")[0]]
    assert speed
    assert all("299792458 m s^-1" in text for text in speed)


def test_distances_and_local_times_are_right() -> None:
    pytest.importorskip("tzdata")
    told = "\n".join(places.documents(work_on("tzdata")))
    offsets = re.findall(r"UTC([+-])(\d\d):(\d\d)", told)
    assert offsets
    assert all(int(hours) <= 15 and int(minutes) < 60 for _, hours, minutes in offsets)
    kilometres = [int(number) for number in re.findall(r"(\d+) km", told)]
    assert 15_000 < max(kilometres) <= 20_038  # half the circumference of the earth


def test_tables_of_absent_packages_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"tzdata", "scipy", "scikit-learn", "datasets"}
    monkeypatch.setattr(
        "proxy_trainer.corpus.facts.distribution_source",
        lambda name: Source(name, None, "not installed"),
    )
    shards = list(RECIPE.shards())
    assert {shard.source for shard in shards} == {"unicode", "python"}
    assert {source.name for source in RECIPE.sources() if source.version is None} == absent
    size = sum(
        len(text.encode())
        for shard in shards
        for text in RECIPE.documents(Work(shard, random.Random(0)))
    )
    assert size > 1_000_000
