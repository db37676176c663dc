"""Facts about places: position, country, distances and local time, from the tz database."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from proxy_trainer.corpus.base import Work
from proxy_trainer.corpus.files import package_folder

_EARTH_RADIUS_KM = 6371.0
_COORDINATES = re.compile(r"([+-])(\d{2})(\d{2})(?:\d{2})?([+-])(\d{3})(\d{2})(?:\d{2})?")
_COMPASS = (
    "north",
    "north-east",
    "east",
    "south-east",
    "south",
    "south-west",
    "west",
    "north-west",
)
_TEXTS_PER_PLACE = 4
_FIRST_YEAR, _LAST_YEAR = 1970, 2030


@dataclass(frozen=True)
class _Place:
    """A city that names a time zone; angles are in degrees, north and east positive."""

    city: str
    country: str
    code: str
    latitude: float
    longitude: float
    zone_name: str
    zone: ZoneInfo


def documents(work: Work) -> Iterator[str]:
    """Yield texts about this shard's share of the places."""
    folder = package_folder("tzdata")
    if folder is None:
        return
    places = _read_places(work, folder / "zoneinfo")
    for place in places[work.shard.index :: work.shard.count]:
        for _ in range(_TEXTS_PER_PLACE):
            yield _article(place, places, work.rng)


def _read_places(work: Work, folder: Path) -> list[_Place]:
    countries = {row[0]: row[1] for row in _table(work, folder / "iso3166.tab")}
    places = []
    for row in _table(work, folder / "zone.tab"):
        code, coordinates, zone_name = row[:3]
        match = _COORDINATES.fullmatch(coordinates)
        path = folder / zone_name
        if match is None or not path.is_file():
            continue
        # Read from the package, not the system's own copy, which may be of another version.
        with path.open("rb") as file:
            zone = ZoneInfo.from_file(file, key=zone_name)
        city = zone_name.rpartition("/")[2].replace("_", " ")
        north = _degrees(*match.group(1, 2, 3))
        east = _degrees(*match.group(4, 5, 6))
        places.append(_Place(city, countries[code], code, north, east, zone_name, zone))
    return places


def _table(work: Work, path: Path) -> list[list[str]]:
    text = work.read(path) or ""
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]


def _degrees(sign: str, degrees: str, minutes: str) -> float:
    return (int(degrees) + int(minutes) / 60) * (-1 if sign == "-" else 1)


def _article(place: _Place, places: list[_Place], rng: random.Random) -> str:
    others = rng.sample([other for other in places if other.city != place.city], 3)
    sentences = [
        _position(place, rng),
        _offsets(place, rng),
        *(_distance(place, other, rng) for other in others[:2]),
        *(_clocks(place, other, rng) for other in others[1:]),
        _neighbour(place, places, rng),
    ]
    body = sentences[1:]
    rng.shuffle(body)
    return rng.choice((" ", "\n")).join([sentences[0], *body[: rng.randint(3, 6)]])


def _position(place: _Place, rng: random.Random) -> str:
    where = f"{_angle(place.latitude, 'N', 'S')}, {_angle(place.longitude, 'E', 'W')}"
    return rng.choice(
        (
            f"{place.city} lies in {place.country} ({place.code}) at {where}.",
            f"At {where} one finds {place.city}, {place.country}.",
            f"{place.city}: a place in {place.country}, position {where}, "
            f"time zone {place.zone_name}.",
            f"The time zone {place.zone_name} is named after {place.city} in {place.country}, "
            f"which lies at {where}.",
        )
    )


def _angle(value: float, positive: str, negative: str) -> str:
    minutes = round(abs(value) * 60)
    return f"{minutes // 60}°{minutes % 60:02d}′ {positive if value >= 0 else negative}"


def _moment(rng: random.Random) -> datetime:
    start = datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC)
    days = rng.randrange(365 * (_LAST_YEAR - _FIRST_YEAR))
    return start + timedelta(days=days, minutes=5 * rng.randrange(288))


def _day(moment: datetime) -> str:
    # Not strftime: names of months would follow the machine's locale.
    month = (
        "January February March April May June July August September October November December"
    ).split()[moment.month - 1]
    return f"{moment.day} {month} {moment.year}"


def _utc(offset: timedelta | None) -> str:
    minutes = round((offset or timedelta()).total_seconds() / 60)
    sign = "-" if minutes < 0 else "+"
    return f"UTC{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def _offsets(place: _Place, rng: random.Random) -> str:
    moment = _moment(rng).astimezone(place.zone)
    summer = "Daylight saving time" if moment.dst() else "Standard time"
    return rng.choice(
        (
            f"On {_day(moment)} its clocks were at {_utc(moment.utcoffset())}.",
            f"{summer} was in force there on {_day(moment)}, {_utc(moment.utcoffset())}.",
            f"The offset from universal time on {_day(moment)} is {_utc(moment.utcoffset())} "
            f"({moment.tzname()}).",
        )
    )


def _clocks(place: _Place, other: _Place, rng: random.Random) -> str:
    moment = _moment(rng)
    here, there = moment.astimezone(place.zone), moment.astimezone(other.zone)
    day = "the same day" if here.date() == there.date() else _day(there)
    return rng.choice(
        (
            f"When it is {here:%H:%M} on {_day(here)} in {place.city}, it is {there:%H:%M} in "
            f"{other.city} on {day}.",
            f"A call from {place.city} at {here:%H:%M} on {_day(here)} rings in {other.city} at "
            f"{there:%H:%M} local time.",
        )
    )


def _distance(place: _Place, other: _Place, rng: random.Random) -> str:
    kilometres, bearing = _great_circle(place, other)
    heading = _COMPASS[round(bearing / 45) % 8]
    return rng.choice(
        (
            f"From {place.city} to {other.city} it is {kilometres:.0f} km, heading {heading}.",
            f"{other.city} in {other.country} is {kilometres:.0f} km away to the {heading}.",
            f"The great circle to {other.city} ({other.code}) measures {kilometres:.0f} km and "
            f"starts at a bearing of {bearing:.0f}°.",
        )
    )


def _neighbour(place: _Place, places: list[_Place], rng: random.Random) -> str:
    others = [other for other in places if other.city != place.city]
    nearest = min(others, key=lambda other: _great_circle(place, other)[0])
    kilometres, _ = _great_circle(place, nearest)
    return rng.choice(
        (
            f"The nearest other city of the list is {nearest.city}, {kilometres:.0f} km off.",
            f"Its closest neighbour is {nearest.city} in {nearest.country}, {kilometres:.0f} km.",
        )
    )


def _great_circle(start: _Place, end: _Place) -> tuple[float, float]:
    """Return the distance in km (haversine formula) and the initial bearing in degrees."""
    lat0, lat1 = math.radians(start.latitude), math.radians(end.latitude)
    turn = math.radians(end.longitude - start.longitude)
    half = math.sin((lat1 - lat0) / 2) ** 2
    half += math.cos(lat0) * math.cos(lat1) * math.sin(turn / 2) ** 2
    kilometres = 2 * _EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(half)))
    east = math.sin(turn) * math.cos(lat1)
    north = math.cos(lat0) * math.sin(lat1) - math.sin(lat0) * math.cos(lat1) * math.cos(turn)
    return kilometres, math.degrees(math.atan2(east, north)) % 360
