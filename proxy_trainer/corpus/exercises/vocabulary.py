"""The people, things and places that the word problems are about."""

from __future__ import annotations

import random

NAMES = tuple(
    "Ada Ahmed Aiko Alma Amara Anton Astrid Bao Beatriz Boris Carla Chen Chidi Clara Daniel Dara "
    "Diego Edith Elif Emeka Emma Erik Esra Farid Fatima Felix Gloria Goran Grace Hana Hassan "
    "Helena Hugo Ibrahim Ines Ingrid Isaac Ivan Jamal Jana Jonas Juan Julia Kamala Karim Katya "
    "Kenji Kofi Lan Lars Leila Lena Liam Lucia Mahmoud Maria Marta Mei Miguel Mina Mohan Nadia "
    "Naomi Nikhil Nina Noor Olga Omar Oscar Paolo Petra Priya Quentin Rafael Rania Ravi Rosa Ruth "
    "Samir Sara Selma Simon Sofia Sven Tamar Tariq Teresa Thabo Theo Uma Vera Victor Wanda Wei "
    "Xavier Yara Yusuf Zainab Zoe".split()
)
GOODS = tuple(
    "apples pencils notebooks marbles stamps oranges candles buttons postcards tickets eggs books "
    "mugs tulips seashells batteries ribbons tiles bricks screws lemons plates lamps chairs "
    "balloons cookies spoons nails envelopes beads coins stickers mangoes loaves bottles towels "
    "umbrellas keys bulbs scarves hats kites puzzles crayons onions melons jars pumpkins".split()
)
CONTAINERS = tuple("boxes bags crates baskets shelves trays cartons drawers sacks cases".split())
SHOPS = (
    "market",
    "bakery",
    "bookshop",
    "hardware store",
    "corner shop",
    "pharmacy",
    "garden centre",
    "school fair",
    "kiosk",
    "flea market",
)
TOWNS = tuple(
    "Ashford Belmar Corvino Dunmore Elmira Fairholt Granby Hollin Ivybridge Juneau Kestrel Lindale "
    "Marlow Norvik Oakham Penrith Quilla Rosario Selby Thornton Umberleigh Verona Westby Yarrow "
    "Zell".split()
)
# Slowest and fastest plausible speed of each, in steps of 6 km/h (a tenth of a km a minute).
SPEEDS_6_KMH = {
    "bus": (6, 14),
    "car": (7, 20),
    "cyclist": (2, 5),
    "ferry": (3, 8),
    "lorry": (6, 14),
    "motorbike": (8, 20),
    "runner": (1, 3),
    "train": (9, 30),
    "tram": (3, 9),
    "van": (6, 18),
}
VEHICLES = tuple(SPEEDS_6_KMH)
CURRENCIES = ("dollars", "euros", "pounds", "francs", "crowns", "rupees", "pesos", "yuan")
_CONNECTIVES = ("First", "Then", "Next", "After that", "Now")


def people(rng: random.Random, count: int) -> list[str]:
    """Return `count` different names."""
    return rng.sample(NAMES, count)


def plural(count: int, word: str) -> str:
    """Write a count with a regular noun: `1 day`, `3 days`."""
    return f"{count} {word}" + ("" if count == 1 else "s")


def narrated(rng: random.Random, *steps: str) -> tuple[str, ...]:
    """Return the steps, sometimes led by words such as `First` and `Then`."""
    if rng.random() < 0.5:
        return steps
    told = []
    for place, step in enumerate(steps):
        word = _CONNECTIVES[0] if place == 0 else rng.choice(_CONNECTIVES[1:])
        told.append(f"{word}: {step}")
    return tuple(told)
