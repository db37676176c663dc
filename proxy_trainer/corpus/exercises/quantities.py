"""Word problems about numbers of things: counting, sharing, averages, ages and chances."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise

from proxy_trainer.corpus.exercises.vocabulary import CONTAINERS, GOODS, narrated, people
from proxy_trainer.corpus.problems import Problem

_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "purple", "orange")


def packing(rng: random.Random) -> Problem:
    """Divide things over containers with a remainder."""
    thing, container, (name,) = rng.choice(GOODS), rng.choice(CONTAINERS), people(rng, 1)
    count, size = rng.randint(60, 900), rng.randint(6, 36)
    full, left = divmod(count, size)
    return Problem(
        rng.choice(
            (
                f"{name} packs {count} {thing} into {container} of {size}. How many {container} "
                "are full and what is left over?",
                f"There are {count} {thing} and {container} that hold {size} each. How many "
                f"{container} can {name} fill, and how many {thing} remain?",
            )
        ),
        narrated(
            rng,
            f"{size} × {full} = {size * full} is the largest multiple of {size} up to {count}.",
            f"{count} - {size * full} = {left}.",
        ),
        f"{full} full {container} and {left} {thing} left over",
    )


def changes(rng: random.Random) -> Problem:
    """Follow a number of things through several changes."""
    thing, names = rng.choice(GOODS), people(rng, 4)
    held = rng.randint(90, 250)  # more than three people can be given
    told, steps = [f"{names[0]} has {held} {thing}."], []
    for other in names[1 : rng.randint(3, 4)]:
        amount = rng.randint(5, 28)
        kind, sign = rng.choice(
            (
                ("gives {} to {}", -1),
                ("gets {} from {}", 1),
                ("loses {} to {} in a bet", -1),
                ("buys {} from {}", 1),
                ("lends {} to {}", -1),
            )
        )
        told.append(f"{names[0]} {kind.format(amount, other)}.")
        steps.append(f"{held} {'-' if sign < 0 else '+'} {amount} = {held + sign * amount}.")
        held += sign * amount
    question = rng.choice(("How many are there now?", f"How many {thing} does {names[0]} have?"))
    return Problem(" ".join([*told, question]), tuple(steps), f"{held} {thing}")


def fraction_of(rng: random.Random) -> Problem:
    """Take a fraction of a whole, then a fraction of the rest."""
    thing, (name, other) = rng.choice(GOODS), people(rng, 2)
    below, second = rng.randint(3, 9), rng.randint(2, 5)
    above = rng.randint(1, below - 1)
    total = below * second * rng.randint(2, 15)
    first = total * above // below
    rest = total - first
    return Problem(
        f"Of {total} {thing}, {name} sells {above}/{below}. {other} takes 1/{second} of the "
        "remaining ones. How many are left?",
        narrated(
            rng,
            f"{above}/{below} of {total} is {first}, which leaves {rest}.",
            f"1/{second} of {rest} is {rest // second}.",
        ),
        f"{rest - rest // second} {thing}",
    )


def average(rng: random.Random) -> Problem:
    """Find a mean, or the value that makes a mean."""
    (name,), count = people(rng, 1), rng.randint(4, 7)
    mean = rng.randint(20, 90)
    values = [mean + rng.randint(-15, 15) for _ in range(count - 1)]
    last = mean * count - sum(values)
    what = rng.choice(("points", "pages", "kilometres", "visitors", "minutes", "calls"))
    listed = ", ".join(map(str, values))
    if rng.random() < 0.5:
        return Problem(
            f"{name} notes {listed} and {last} {what}. What is the average?",
            narrated(rng, f"The sum is {mean * count}.", f"Divide by the {count} entries."),
            f"{mean} {what}",
        )
    return Problem(
        f"So far {name} has {listed} {what}. How many {what} are needed next for an average of "
        f"{mean}?",
        narrated(
            rng,
            f"An average of {mean} over {count} needs {mean * count} in all.",
            f"There are {sum(values)} already.",
        ),
        f"{last} {what}",
    )


def ages(rng: random.Random) -> Problem:
    """Find two ages from a sum or multiple in the future."""
    older, younger = people(rng, 2)
    factor, later = rng.randint(2, 4), rng.randint(2, 12)
    young = rng.randint(3, 18)
    old = factor * (young + later) - later
    word = {2: "twice", 3: "three times", 4: "four times"}[factor]
    return Problem(
        f"{older} is {old - young} years older than {younger}. In {later} years {older} will be "
        f"{word} as old as {younger}. How old are they today?",
        narrated(
            rng,
            f"In {later} years the difference is still {old - young}. Then {older} is {word} as "
            f"old, so {factor - 1} × the age of {younger} equals that.",
            f"So {younger} will be {young + later}, and {older} {old + later}.",
        ),
        f"{younger} is {young} and {older} is {old}",
    )


def heads_and_legs(rng: random.Random) -> Problem:
    """Split a total into two kinds by a second count."""
    (two, legs_two), (four, legs_four) = rng.choice(
        (
            (("hens", 2), ("rabbits", 4)),
            (("bicycles", 2), ("cars", 4)),
            (("stools", 3), ("tables", 4)),
            (("ducks", 2), ("sheep", 4)),
            (("tricycles", 3), ("wagons", 4)),
            (("ants", 6), ("spiders", 8)),
        )
    )
    a, b = rng.randint(4, 40), rng.randint(4, 40)
    parts = "wheels" if two in ("bicycles", "tricycles") else "legs"
    total = legs_two * a + legs_four * b
    spare = total - legs_two * (a + b)
    return Problem(
        f"Someone counts {a + b} {two} and {four} with {total} {parts} together. How many of each "
        "are there?",
        narrated(
            rng,
            f"If all were {two} there would be {legs_two * (a + b)} {parts}, {spare} too few.",
            f"Each of the {four} adds {legs_four - legs_two}, so there are {b} of them.",
        ),
        f"{a} {two} and {b} {four}",
    )


def urn(rng: random.Random) -> Problem:
    """Find the chance of drawing two of a colour."""
    colours = rng.sample(_COLOURS, 3)
    counts = [rng.randint(2, 12) for _ in colours]
    total, wanted = sum(counts), counts[0]
    again = rng.random() < 0.5
    first = Fraction(wanted, total)
    second = first if again else Fraction(wanted - 1, total - 1)
    listed = ", ".join(f"{n} {colour}" for n, colour in zip(counts, colours, strict=True))
    rule = "puts it back and draws again" if again else "draws another without putting it back"
    (name,), thing = people(rng, 1), rng.choice(("balls", "marbles", "beads", "socks", "cards"))
    return Problem(
        f"A bag holds these {thing}: {listed}. {name} draws one, {rule}. What is the probability "
        f"that both are {colours[0]}?",
        narrated(
            rng,
            f"The first is {colours[0]} with probability {wanted}/{total}.",
            f"The second is, too, with probability {second}.",
        ),
        f"{first * second}, about {100 * float(first * second):.1f}%",
    )


def outfits(rng: random.Random) -> Problem:
    """Count combinations by multiplying."""
    (name,) = people(rng, 1)
    kinds = rng.sample(("shirts", "trousers", "hats", "pairs of shoes", "belts", "coats"), 3)
    counts = [rng.randint(2, 9) for _ in kinds]
    listed = ", ".join(f"{n} {kind}" for n, kind in zip(counts, kinds, strict=True))
    product = " × ".join(map(str, counts))
    return Problem(
        f"{name} owns {listed}. How many different outfits with one of each are possible?",
        narrated(rng, f"Every choice goes with every other: {product}."),
        f"{math.prod(counts)} outfits",
    )


def team_work(rng: random.Random) -> Problem:
    """Combine the rates of two workers."""
    first, second = people(rng, 2)
    a, b = rng.sample(range(2, 25), 2)
    together = Fraction(a * b, a + b)
    task = rng.choice(
        (
            "paint the fence",
            "fill the pool",
            "sort the mail",
            "mow the meadow",
            "type the report",
            "pick the cherries",
            "clean the hall",
        )
    )
    return Problem(
        f"{first} can {task} in {a} hours and {second} in {b}. How long do both take together?",
        narrated(
            rng,
            f"In an hour {first} does 1/{a} and {second} 1/{b}, together {1 / together}.",
            f"The whole takes {together} hours, which is {float(together):.2f}.",
        ),
        f"{float(together):.2f} hours",
    )


def ranking(rng: random.Random) -> Problem:
    """Order people by a chain of comparisons."""
    names = people(rng, 4)
    word, most = rng.choice(
        (
            ("taller", "tallest"),
            ("older", "oldest"),
            ("faster", "fastest"),
            ("heavier", "heaviest"),
            ("richer", "richest"),
        )
    )
    clues = [f"{a} is {word} than {b}." for a, b in pairwise(names)]
    order = " > ".join(names)
    rng.shuffle(clues)
    place = rng.randrange(4)
    ordinal = (most, f"second {most}", f"third {most}", f"least {word} of all")[place]
    return Problem(
        f"{' '.join(clues)} Who is the {ordinal}?",
        narrated(rng, f"Put together, the clues give {order}."),
        names[place],
    )


FAMILIES = (
    packing,
    changes,
    fraction_of,
    average,
    ages,
    heads_and_legs,
    urn,
    outfits,
    team_work,
    ranking,
)
