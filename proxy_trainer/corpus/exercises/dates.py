"""Word problems about dates and clocks."""

from __future__ import annotations

import calendar
import random
from datetime import date, timedelta

from proxy_trainer.corpus.exercises.vocabulary import TOWNS, VEHICLES, narrated, people, plural
from proxy_trainer.corpus.problems import Problem

# Written out here, because the names in `calendar` follow the machine's locale.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_EVENTS = ("wedding", "exam", "concert", "flight", "deadline", "parade", "match", "exhibition")


def _date(rng: random.Random) -> date:
    return date(rng.randint(1900, 2060), 1, 1) + timedelta(days=rng.randrange(365))


def _written(day: date) -> str:
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24}:{minutes % 60:02d}"


def weekday_later(rng: random.Random) -> Problem:
    """Find the weekday some days away."""
    today, days, event = rng.randrange(7), rng.randint(8, 400), rng.choice(_EVENTS)
    back = rng.random() < 0.4
    then = (today + (-days if back else days)) % 7
    when = f"was {days} days ago" if back else f"is {days} days away"
    return Problem(
        f"Today is {_DAYS[today]} and the {event} {when}. Which day of the week is that?",
        narrated(
            rng,
            f"{days} = 7 × {days // 7} + {days % 7}, and whole weeks change nothing.",
            f"Count {plural(days % 7, 'day')} {'back' if back else 'on'} from {_DAYS[today]}.",
        ),
        _DAYS[then],
    )


def days_between(rng: random.Random) -> Problem:
    """Count the days between two dates of one year."""
    start = _date(rng)
    end = start + timedelta(days=rng.randint(15, 150))
    if start.month == end.month:
        return days_between(rng)
    left = calendar.monthrange(start.year, start.month)[1] - start.day
    middle = (end - start).days - left - end.day
    return Problem(
        f"How many days is it from {_written(start)} to {_written(end)}?",
        narrated(
            rng,
            f"{_MONTHS[start.month - 1]} has {plural(left, 'day')} left.",
            f"The whole months between have {middle}." if middle else "No whole month is between.",
            f"{_MONTHS[end.month - 1]} adds {end.day}.",
        ),
        plural((end - start).days, "day"),
    )


def add_days(rng: random.Random) -> Problem:
    """Find the date some days later."""
    start, days, (name,) = _date(rng), rng.randint(20, 90), people(rng, 1)
    end = start + timedelta(days=days)
    first = start.replace(day=1)
    length = calendar.monthrange(first.year, first.month)[1]
    what = rng.choice(("a loan", "a library card", "a course", "a lease", "a journey", "a trial"))
    return Problem(
        f"{name} starts {what} on {_written(start)}. It runs for {days} days. When does it end?",
        narrated(
            rng,
            f"{_MONTHS[start.month - 1]} {start.year} has {length} days, so "
            f"{plural(length - start.day, 'day')} remain after the {start.day}.",
            f"Going on through the months, day {days} is reached in {_MONTHS[end.month - 1]}.",
        ),
        f"{_written(end)}, a {_DAYS[end.weekday()]}",
    )


def leap_year(rng: random.Random) -> Problem:
    """Decide whether a year is a leap year."""
    year = rng.choice(
        (rng.randint(1600, 2400), 100 * rng.randint(16, 26), 4 * rng.randint(400, 600))
    )
    if year % 400 == 0:
        reason = f"{year} is a multiple of 400."
    elif year % 100 == 0:
        reason = f"{year} is a multiple of 100 but not of 400."
    elif year % 4 == 0:
        reason = f"{year} / 4 = {year // 4} is whole, and {year} is no multiple of 100."
    else:
        reason = f"{year} leaves {year % 4} when divided by 4."
    leap = calendar.isleap(year)
    return Problem(
        rng.choice((f"Is {year} a leap year?", f"How many days has the February of {year}?")),
        narrated(rng, reason),
        f"{'a leap year' if leap else 'no leap year'}, February has {29 if leap else 28} days",
    )


def arrival(rng: random.Random) -> Problem:
    """Add a duration to a time of day, across midnight if need be."""
    vehicle, (start, end) = rng.choice(VEHICLES), rng.sample(TOWNS, 2)
    leave, lasts = rng.randrange(24 * 60), rng.randint(25, 700)
    stop = rng.choice((0, 0, 5 * rng.randint(1, 12)))
    total = leave + lasts + stop
    pause = f", plus a stop of {stop} minutes" if stop else ""
    night = " the next day" if total >= 24 * 60 else ""
    return Problem(
        f"The {vehicle} leaves {start} at {_clock(leave)} and travels {lasts // 60} hours "
        f"{lasts % 60} minutes{pause}. When is it in {end}?",
        narrated(
            rng,
            f"In all it takes {plural(lasts + stop, 'minute')}.",
            f"{_clock(leave)} is minute {leave} of the day, and {leave} + {lasts + stop} = "
            f"{total}.",
        ),
        f"{_clock(total)}{night}",
    )


def time_elapsed(rng: random.Random) -> Problem:
    """Find how long something lasted."""
    (name,), start, lasts = people(rng, 1), rng.randint(300, 1000), rng.randint(20, 420)
    activity = rng.choice(
        (
            "reads",
            "rows",
            "sleeps",
            "paints",
            "practises the violin",
            "hikes",
            "repairs a clock",
            "studies",
            "works in the shed",
        )
    )
    whole = -(-start // 60) * 60
    return Problem(
        f"{name} {activity} from {_clock(start)} until {_clock(start + lasts)}. How long is that?",
        narrated(
            rng,
            f"Up to {_clock(whole)} it is {plural(whole - start, 'minute')}.",
            f"From there to {_clock(start + lasts)} it is {start + lasts - whole} more.",
        )
        if whole < start + lasts
        else narrated(rng, "Both times lie in the same hour, so subtract the minutes."),
        f"{plural(lasts // 60, 'hour')} and {plural(lasts % 60, 'minute')}",
    )


def clock_angle(rng: random.Random) -> Problem:
    """Find the angle between the hands of a clock."""
    hour, minute = rng.randint(1, 12), rng.randrange(0, 60, 2)
    short, long = 30 * (hour % 12) + minute // 2, 6 * minute
    angle = abs(short - long)
    return Problem(
        f"Which angle do the hands of a clock form at {hour}:{minute:02d}?",
        narrated(
            rng,
            f"The short hand stands at 30 × {hour % 12} + {minute} / 2 = {short} degrees.",
            f"The long hand stands at 6 × {minute} = {long} degrees.",
        ),
        f"{min(angle, 360 - angle)} degrees",
    )


def fast_clock(rng: random.Random) -> Problem:
    """Find what a clock shows that gains or loses time."""
    rate, hours, start = rng.randint(1, 9), rng.randint(4, 40), 30 * rng.randrange(48)
    gains = rng.random() < 0.5
    shown = start + 60 * hours + (rate if gains else -rate) * hours
    verb = "gains" if gains else "loses"
    return Problem(
        f"A clock {verb} {plural(rate, 'minute')} an hour. It was right at {_clock(start)}. What "
        f"does it show {hours} hours later?",
        narrated(
            rng,
            f"The true time is {_clock(start + 60 * hours)}.",
            f"By then the clock {verb} {rate} × {hours} = {rate * hours} minutes.",
        ),
        _clock(shown),
    )


FAMILIES = (
    weekday_later,
    days_between,
    add_days,
    leap_year,
    arrival,
    time_elapsed,
    clock_angle,
    fast_clock,
)
