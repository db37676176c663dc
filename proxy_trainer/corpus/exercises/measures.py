"""Word problems about measures: units, speed, area, recipes, mixtures and temperature."""

from __future__ import annotations

import math
import random

from proxy_trainer.corpus.exercises.vocabulary import (
    SPEEDS_6_KMH,
    TOWNS,
    VEHICLES,
    narrated,
    people,
)
from proxy_trainer.corpus.problems import Problem

# (kind, larger unit, smaller unit, how many smaller units make a larger one)
_UNITS = (
    ("length", "kilometres", "metres", 1000),
    ("length", "metres", "centimetres", 100),
    ("length", "feet", "inches", 12),
    ("length", "yards", "feet", 3),
    ("length", "miles", "yards", 1760),
    ("mass", "kilograms", "grams", 1000),
    ("mass", "tonnes", "kilograms", 1000),
    ("mass", "pounds", "ounces", 16),
    ("volume", "litres", "millilitres", 1000),
    ("volume", "gallons", "pints", 8),
    ("time", "hours", "minutes", 60),
    ("time", "weeks", "hours", 168),
    ("area", "hectares", "square metres", 10000),
    ("data", "kibibytes", "bytes", 1024),
)
_INGREDIENTS = ("flour", "sugar", "butter", "milk", "rice", "oats", "lentils", "cocoa", "cream")
_DISHES = ("pancakes", "soup", "bread", "porridge", "curry", "biscuits", "stew", "dumplings")


def _hours(minutes: int) -> str:
    return f"{minutes // 60} h {minutes % 60:02d} min"


def conversion(rng: random.Random) -> Problem:
    """Change a measure from one unit to the other."""
    kind, large, small, factor = rng.choice(_UNITS)
    tenths = rng.randint(3, 400)
    amount = tenths / 10
    converted = tenths * factor / 10
    if rng.random() < 0.5:
        return Problem(
            rng.choice(
                (
                    f"How many {small} are {amount:g} {large}?",
                    f"A {kind} is given as {amount:g} {large}. State it in {small}.",
                )
            ),
            narrated(
                rng,
                f"There are {factor} {small} to each of the {large}.",
                f"{amount:g} × {factor} = {converted:g}.",
            ),
            f"{converted:g} {small}",
        )
    return Problem(
        f"Convert {converted:g} {small} to {large}.",
        narrated(rng, f"{factor} {small} make one of the {large}, so divide by {factor}."),
        f"{amount:g} {large}",
    )


def journey(rng: random.Random) -> Problem:
    """Find time, distance or speed from the other two."""
    vehicle, (start, end) = rng.choice(VEHICLES), rng.sample(TOWNS, 2)
    speed, minutes = 6 * rng.randint(*SPEEDS_6_KMH[vehicle]), 10 * rng.randint(3, 48)
    distance = speed * minutes // 60
    wanted = rng.choice(("time", "distance", "speed"))
    if wanted == "time":
        question = f"It is {distance} km from {start} to {end}. How long does a {vehicle} take at "
        question += f"{speed} km/h?"
        step = f"{distance} / {speed} = {distance / speed:.3f} hours, times 60 for minutes."
        return Problem(question, narrated(rng, step), _hours(minutes))
    if wanted == "distance":
        question = f"A {vehicle} leaves {start} and reaches {end} after {_hours(minutes)} at a "
        question += f"steady {speed} km/h. How far apart are the towns?"
        step = f"{minutes} minutes are {minutes / 60:.3f} hours; multiply by {speed}."
        return Problem(question, narrated(rng, step), f"{distance} km")
    question = f"A {vehicle} covers the {distance} km between {start} and {end} in "
    question += f"{_hours(minutes)}. What is the average speed?"
    step = f"{distance} km / {minutes / 60:.3f} h."
    return Problem(question, narrated(rng, step), f"{speed} km/h")


def meeting(rng: random.Random) -> Problem:
    """Find when two travellers meet, or when one catches the other."""
    speeds = {6 * rng.randint(*SPEEDS_6_KMH[vehicle]): vehicle for vehicle in VEHICLES}
    slow, fast = sorted(rng.sample(sorted(speeds), 2))
    first, second = speeds[slow], speeds[fast]
    (start, end), gap, minutes = rng.sample(TOWNS, 2), fast - slow, 15 * rng.randint(2, 16)
    if rng.random() < 0.5:
        distance = (slow + fast) * minutes / 60
        return Problem(
            f"A {first} leaves {start} at {slow} km/h just as a {second} leaves {end}, "
            f"{distance:g} km away, towards it at {fast} km/h. When do they meet?",
            narrated(
                rng,
                f"They approach at {slow} + {fast} = {slow + fast} km/h.",
                f"{distance:g} / {slow + fast} = {minutes / 60:g} hours.",
            ),
            f"after {_hours(minutes)}, {slow * minutes / 60:g} km from {start}",
        )
    lead = gap * minutes / 60
    return Problem(
        f"A {first} at {slow} km/h is {lead:g} km past {start} when a {second} sets out from there "
        f"at {fast} km/h. How long until the {second} draws level?",
        narrated(
            rng,
            f"The lead shrinks by {fast} - {slow} = {gap} km every hour.",
            f"{lead:g} / {gap} = {minutes / 60:g} hours.",
        ),
        _hours(minutes),
    )


def room(rng: random.Random) -> Problem:
    """Find area, perimeter or volume of something rectangular."""
    what = rng.choice(("garden", "hall", "field", "carpet", "car park", "terrace", "pond"))
    a, b = rng.randint(3, 60), rng.randint(2, 45)
    price = rng.randint(2, 30)
    if rng.random() < 0.5:
        return Problem(
            f"A rectangular {what} measures {a} m by {b} m. What does covering it cost at {price} "
            "a square metre, and how long is the edge around it?",
            narrated(
                rng,
                f"The area is {a} × {b} = {a * b} square metres.",
                f"The edge is 2 × ({a} + {b}) = {2 * (a + b)} m.",
            ),
            f"{a * b * price} for the surface, and {2 * (a + b)} m of edge",
        )
    depth = rng.randint(2, 9)
    return Problem(
        f"A tank is {a} dm long, {b} dm wide and {depth} dm deep. How many litres does it hold?",
        narrated(rng, "A cubic decimetre is a litre.", f"{a} × {b} × {depth} = {a * b * depth}."),
        f"{a * b * depth} litres",
    )


def wheel(rng: random.Random) -> Problem:
    """Use the circle's circumference or area."""
    radius = rng.randint(2, 90)
    turns = rng.randint(5, 400)
    if rng.random() < 0.5:
        path = 2 * math.pi * radius * turns / 100
        return Problem(
            f"A wheel has a radius of {radius} cm. How far does it roll in {turns} turns?",
            narrated(rng, f"One turn is 2π × {radius} = {2 * math.pi * radius:.1f} cm."),
            f"about {path:.1f} m",
        )
    thing = rng.choice(("table top", "flower bed", "pizza", "plate", "lawn", "window"))
    return Problem(
        f"What is the area of a round {thing} that is {2 * radius} cm across?",
        narrated(rng, f"The radius is {radius} cm.", f"π × {radius}² = π × {radius * radius}."),
        f"about {math.pi * radius * radius:.0f} square centimetres",
    )


def recipe(rng: random.Random) -> Problem:
    """Scale a recipe to another number of guests."""
    (name,), dish = people(rng, 1), rng.choice(_DISHES)
    guests, wanted = rng.sample(range(2, 16), 2)
    rows = [(item, guests * 5 * rng.randint(2, 24)) for item in rng.sample(_INGREDIENTS, 3)]
    listed = ", ".join(f"{grams} g of {item}" for item, grams in rows)
    scaled = ", ".join(f"{grams // guests * wanted} g of {item}" for item, grams in rows)
    steps = [
        f"A portion takes {grams} / {guests} = {grams // guests} g of {item}."
        for item, grams in rows
    ]
    return Problem(
        f"For {guests} portions of {dish} one takes {listed}. What does {name} need for {wanted}?",
        narrated(rng, *steps),
        scaled,
    )


def mixture(rng: random.Random) -> Problem:
    """Find the strength of a mixture of two solutions."""
    a, b = rng.randint(2, 40), rng.randint(2, 40)
    p, q = rng.sample(range(5, 96, 5), 2)
    liquid = rng.choice(("juice", "salt water", "vinegar", "paint", "cleaning fluid", "syrup"))
    pure = a * p + b * q
    return Problem(
        f"{a} litres of {liquid} at {p}% are mixed with {b} litres at {q}%. How strong is the "
        "mixture?",
        narrated(
            rng,
            f"The first holds {a * p / 100:g} litres of pure matter, the second {b * q / 100:g}.",
            f"Together {pure / 100:g} in {a + b} litres.",
        ),
        f"{pure / (a + b):.1f}%",
    )


def temperature(rng: random.Random) -> Problem:
    """Convert between the Celsius and Fahrenheit scales."""
    celsius, place = 5 * rng.randint(-8, 40), rng.choice(TOWNS)
    fahrenheit = celsius * 9 // 5 + 32
    if rng.random() < 0.5:
        return Problem(
            f"The thermometer in {place} shows {celsius} °C. What is that in Fahrenheit?",
            narrated(rng, f"{celsius} × 9/5 = {celsius * 9 // 5}.", "Add 32."),
            f"{fahrenheit} °F",
        )
    return Problem(
        f"An oven in {place} is set to {fahrenheit} °F. How many degrees Celsius are that?",
        narrated(rng, f"{fahrenheit} - 32 = {fahrenheit - 32}.", "Multiply by 5/9."),
        f"{celsius} °C",
    )


def fuel(rng: random.Random) -> Problem:
    """Find how far a tank lasts and what a trip costs."""
    start, end = rng.sample(TOWNS, 2)
    use, tank, distance = rng.randint(4, 15), rng.randint(30, 90), rng.randint(80, 900)
    needed = use * distance / 100
    verdict = "enough" if needed <= tank else "not enough"
    return Problem(
        f"A car uses {use} litres per 100 km. Is a tank of {tank} litres enough for the {distance} "
        f"km from {start} to {end}?",
        narrated(
            rng,
            f"The trip takes {use} × {distance} / 100 = {needed:g} litres.",
            f"The tank lasts for {100 * tank / use:.0f} km.",
        ),
        f"{verdict}, with a difference of {abs(tank - needed):g} litres",
    )


FAMILIES = (
    conversion,
    journey,
    meeting,
    room,
    wheel,
    recipe,
    mixture,
    temperature,
    fuel,
)
