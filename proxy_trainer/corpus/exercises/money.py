"""Word problems about money: shopping, percentages, interest, wages and sharing costs."""

from __future__ import annotations

import random

from proxy_trainer.corpus.exercises.vocabulary import (
    CURRENCIES,
    GOODS,
    SHOPS,
    narrated,
    people,
    plural,
)
from proxy_trainer.corpus.problems import Problem


def _cents(value: int) -> str:
    """Write an amount given in hundredths: 1250 is `12.50`."""
    return f"{value // 100}.{value % 100:02d}"


def shopping(rng: random.Random) -> Problem:
    """Add up a bill and give change."""
    (name,), shop, unit = people(rng, 1), rng.choice(SHOPS), rng.choice(CURRENCIES)
    things = rng.sample(GOODS, rng.randint(2, 3))
    rows = [(thing, rng.randint(2, 12), 5 * rng.randint(5, 180)) for thing in things]
    total = sum(count * price for _, count, price in rows)
    paid = -(-total // 1000) * 1000 + rng.choice((0, 1000))
    listed = ", ".join(f"{n} {thing} at {_cents(price)} each" for thing, n, price in rows)
    steps = [
        f"The {thing} cost {n} × {_cents(price)} = {_cents(n * price)}." for thing, n, price in rows
    ]
    return Problem(
        rng.choice(
            (
                f"At the {shop} {name} buys {listed}. How much change is there from "
                f"{paid // 100} {unit}?",
                f"{name} pays with {paid // 100} {unit} for {listed}. What comes back?",
                f"A {shop} sold {name} {listed}. {name} hands over {paid // 100} {unit}. Find the "
                "change.",
            )
        ),
        narrated(
            rng, *steps, f"The bill is {_cents(total)}, and {paid // 100} minus that is left."
        ),
        f"{_cents(paid - total)} {unit}",
    )


def discount(rng: random.Random) -> Problem:
    """Take a percentage off a price, sometimes twice."""
    thing, shop, unit = rng.choice(GOODS), rng.choice(SHOPS), rng.choice(CURRENCIES)
    price, first = 2000 * rng.randint(2, 40), 5 * rng.randint(1, 12)
    reduced = price * (100 - first) // 100
    question = f"The {shop} sells a set of {thing} for {_cents(price)} {unit}, now {first}% off."
    steps = [
        f"{first}% of {_cents(price)} is {_cents(price - reduced)}, so {_cents(reduced)} remains."
    ]
    if rng.random() < 0.5:
        return Problem(
            f"{question} What does it cost?", narrated(rng, *steps), f"{_cents(reduced)} {unit}"
        )
    second = rng.choice((10, 20, 50))
    final = reduced * (100 - second) // 100
    steps.append(f"A further {second}% takes off {_cents(reduced - final)}.")
    return Problem(
        f"{question} Members get another {second}% off the lower price. What do they pay?",
        narrated(rng, *steps),
        f"{_cents(final)} {unit}",
    )


def percent_change(rng: random.Random) -> Problem:
    """Find by how many percent something rose or fell."""
    old, percent = 20 * rng.randint(2, 90), 5 * rng.choice([n for n in range(-15, 31) if n])
    new = old * (100 + percent) // 100
    what = rng.choice(
        (
            "rent",
            "membership of the club",
            "price of a ticket",
            "number of visitors",
            "harvest in tons",
            "weekly wage",
            "population of the village",
            "number of readers",
        )
    )
    verb = "rose" if percent > 0 else "fell"
    return Problem(
        rng.choice(
            (
                f"The {what} {verb} from {old} to {new}. By how many percent is that?",
                f"Last year the {what} was {old}; this year it is {new}. Find the change in "
                "percent.",
            )
        ),
        narrated(
            rng,
            f"The difference is {abs(new - old)}.",
            f"{abs(new - old)} out of {old} is {abs(new - old) / old:.2f}, or {abs(percent)}%.",
        ),
        f"it {verb} by {abs(percent)}%",
    )


def original_price(rng: random.Random) -> Problem:
    """Undo a percentage."""
    (name,), thing, unit = people(rng, 1), rng.choice(GOODS), rng.choice(CURRENCIES)
    price, percent = 20 * rng.randint(3, 90), 5 * rng.randint(1, 15)
    paid = price * (100 - percent) // 100
    return Problem(
        f"After a reduction of {percent}% {name} paid {paid} {unit} for some {thing}. "
        "What was the price before?",
        narrated(
            rng,
            f"{name} paid {100 - percent}% of the price.",
            f"One percent is {paid} / {100 - percent} = {paid / (100 - percent):.2f}.",
        ),
        f"{price} {unit}",
    )


def compound_interest(rng: random.Random) -> Problem:
    """Grow a deposit year by year."""
    (name,), unit = people(rng, 1), rng.choice(CURRENCIES)
    deposit, rate, years = 100 * rng.randint(2, 90), rng.randint(1, 9), rng.randint(2, 4)
    balance, steps = float(deposit), []
    for year in range(1, years + 1):
        interest = round(balance * rate / 100, 2)
        steps.append(f"Year {year} adds {interest:.2f}, giving {balance + interest:.2f}.")
        balance = round(balance + interest, 2)
    return Problem(
        rng.choice(
            (
                f"{name} puts {deposit} {unit} in a bank at {rate}% a year. How much is there "
                f"after {years} years with compound interest?",
                f"A loan of {deposit} {unit} to {name} grows by {rate}% each year. What is owed "
                f"after {years} years if nothing is paid back?",
            )
        ),
        tuple(steps),
        f"{balance:.2f} {unit}",
    )


def wages(rng: random.Random) -> Problem:
    """Work out a week's pay with overtime."""
    (name,), unit = people(rng, 1), rng.choice(CURRENCIES)
    hours, rate, normal = rng.randint(41, 58), 2 * rng.randint(5, 25), rng.choice((35, 38, 40))
    extra = hours - normal
    job = rng.choice(("nurse", "welder", "waiter", "gardener", "driver", "tailor", "clerk"))
    return Problem(
        f"{name} works as a {job} for {rate} {unit} an hour and half as much again for every hour "
        f"beyond {normal}. What does a week of {hours} hours pay?",
        narrated(
            rng,
            f"{normal} hours at {rate} are {normal * rate}.",
            f"{plural(extra, 'extra hour')} at {rate * 3 // 2} come to {extra * rate * 3 // 2}.",
        ),
        f"{normal * rate + extra * rate * 3 // 2} {unit}",
    )


def shared_bill(rng: random.Random) -> Problem:
    """Share a cost by parts."""
    names, unit = people(rng, 3), rng.choice(CURRENCIES)
    parts = [rng.randint(1, 9) for _ in names]
    part = rng.randint(3, 60)
    total = part * sum(parts)
    occasion = rng.choice(("a holiday flat", "a prize", "the profit", "fuel", "an inheritance"))
    shares = [f"{name} {share * part}" for name, share in zip(names, parts, strict=True)]
    return Problem(
        f"{names[0]}, {names[1]} and {names[2]} share {total} {unit} for {occasion} in the ratio "
        f"{':'.join(map(str, parts))}. What is the share of each?",
        narrated(
            rng,
            f"There are {' + '.join(map(str, parts))} = {sum(parts)} parts.",
            f"A part is {total} / {sum(parts)} = {part} {unit}.",
        ),
        ", ".join(shares),
    )


def saving_up(rng: random.Random) -> Problem:
    """Count the weeks until a goal is reached."""
    (name,), thing, unit = people(rng, 1), rng.choice(GOODS), rng.choice(CURRENCIES)
    start, weekly, goal = rng.randint(5, 90), rng.randint(4, 35), rng.randint(150, 900)
    weeks = -(-(goal - start) // weekly)
    return Problem(
        f"{name} has {start} {unit} and saves {weekly} a week towards {thing} for {goal} {unit}. "
        "In how many weeks is there enough?",
        narrated(
            rng,
            f"{goal} - {start} = {goal - start} {unit} are missing.",
            f"{goal - start} / {weekly} = {(goal - start) / weekly:.2f}, which is rounded up.",
        ),
        f"{weeks} weeks, with {start + weeks * weekly - goal} {unit} to spare",
    )


def unit_price(rng: random.Random) -> Problem:
    """Find the better of two offers."""
    thing, unit = rng.choice(GOODS), rng.choice(CURRENCIES)
    shops = rng.sample(SHOPS, 2)
    counts, prices = rng.sample(range(3, 25), 2), [10 * rng.randint(20, 400) for _ in range(2)]
    each = [price / count / 100 for price, count in zip(prices, counts, strict=True)]
    if abs(each[0] - each[1]) < 0.005:
        return unit_price(rng)
    better = 0 if each[0] < each[1] else 1
    return Problem(
        f"The {shops[0]} offers {counts[0]} {thing} for {_cents(prices[0])} {unit}, the {shops[1]} "
        f"{counts[1]} for {_cents(prices[1])}. Which is cheaper for each?",
        narrated(
            rng,
            f"{_cents(prices[0])} / {counts[0]} = {each[0]:.2f}.",
            f"{_cents(prices[1])} / {counts[1]} = {each[1]:.2f}.",
        ),
        f"the {shops[better]}",
    )


FAMILIES = (
    shopping,
    discount,
    percent_change,
    original_price,
    compound_interest,
    wages,
    shared_bill,
    saving_up,
    unit_price,
)
