"""Word problems about sequences, digits, codes and mental arithmetic."""

from __future__ import annotations

import random

from proxy_trainer.corpus.exercises.vocabulary import NAMES, narrated, people, plural
from proxy_trainer.corpus.problems import Problem

_ROMAN = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen".split()
)
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


def next_term(rng: random.Random) -> Problem:
    """Continue a sequence by its rule."""
    values, rule = rng.choice((_steady, _growing, _scaled, _additive, _alternating))(rng)
    *shown, answer = values
    return Problem(
        rng.choice(
            (
                f"Which number comes next: {_listed(shown)}?",
                f"Continue the sequence {_listed(shown)}, ...",
                f"{rng.choice(NAMES)} writes {_listed(shown)}. What follows?",
            )
        ),
        narrated(rng, rule),
        str(answer),
    )


def _steady(rng: random.Random) -> tuple[list[int], str]:
    start, step = rng.randint(-40, 99), rng.choice([n for n in range(-17, 30) if n])
    return [start + i * step for i in range(6)], f"Each term changes by {step}."


def _growing(rng: random.Random) -> tuple[list[int], str]:
    start, step, growth = rng.randint(-20, 60), rng.randint(1, 12), rng.randint(1, 6)
    values = [start]
    for i in range(5):
        values.append(values[-1] + step + i * growth)
    return values, f"The differences begin with {step} and grow by {growth}."


def _scaled(rng: random.Random) -> tuple[list[int], str]:
    start, factor, extra = rng.randint(1, 9), rng.randint(2, 4), rng.randint(-5, 7)
    values = [start]
    for _ in range(5):
        values.append(values[-1] * factor + extra)
    sign = "less" if extra < 0 else "more"
    return values, f"Each term is {factor} times the one before and {abs(extra)} {sign}."


def _additive(rng: random.Random) -> tuple[list[int], str]:
    values = [rng.randint(1, 15), rng.randint(1, 20)]
    for _ in range(5):
        values.append(values[-1] + values[-2])
    return values, f"Each term is the sum of the two before it: {values[-3]} + {values[-2]}."


def _alternating(rng: random.Random) -> tuple[list[int], str]:
    up, down, start = rng.randint(5, 25), rng.randint(1, 20), rng.randint(0, 50)
    values = [start]
    for i in range(6):
        values.append(values[-1] + (-down if i % 2 else up))
    return values, f"In turn {up} is added and {down} taken away."


def mental_sum(rng: random.Random) -> Problem:
    """Work out an expression in the right order."""
    a, b, c, d = rng.randint(2, 40), rng.randint(2, 12), rng.randint(2, 40), rng.randint(1, 30)
    if rng.random() < 0.5:
        return Problem(
            f"Work out {a} + {b} × {c} - {d}.",
            narrated(rng, f"Multiply first: {b} × {c} = {b * c}.", f"{a} + {b * c} = {a + b * c}."),
            str(a + b * c - d),
        )
    return Problem(
        f"What is ({a} + {c}) × {b} + {d}?",
        narrated(rng, f"The bracket is {a + c}.", f"{a + c} × {b} = {(a + c) * b}."),
        str((a + c) * b + d),
    )


def long_multiplication(rng: random.Random) -> Problem:
    """Multiply two numbers by splitting one into tens and units."""
    a, b = rng.randint(12, 989), rng.randint(12, 98)
    tens, units = b // 10 * 10, b % 10
    return Problem(
        rng.choice((f"Multiply {a} by {b}.", f"How much is {a} × {b}?")),
        (f"{a} × {tens} = {a * tens}.", f"{a} × {units} = {a * units}.", "Add both."),
        str(a * b),
    )


def roman_numeral(rng: random.Random) -> Problem:
    """Write a number in Roman numerals, part by part."""
    n = rng.randint(1, 3999)
    rest, parts = n, []
    for value, letters in _ROMAN:
        while rest >= value:
            parts.append((value, letters))
            rest -= value
    written = "".join(letters for _, letters in parts)
    listed = " + ".join(str(value) for value, _ in parts)
    if rng.random() < 0.5:
        return Problem(f"How is {n} written in Roman numerals?", (f"{n} = {listed}.",), written)
    return Problem(f"A stone bears the number {written}. Read it.", (f"It is {listed}.",), str(n))


def number_in_words(rng: random.Random) -> Problem:
    """Write a number in English words."""
    n = rng.randint(21, 99999)
    (name,) = people(rng, 1)
    return Problem(
        rng.choice((f"Write {n} in words.", f"{name} fills in a cheque for {n}. In words?")),
        narrated(rng, f"It has {n // 1000} thousands, {n % 1000 // 100} hundreds and {n % 100}."),
        _in_words(n),
    )


def _in_words(n: int) -> str:
    if n < 20:
        return _UNITS[n]
    if n < 100:
        return _TENS[n // 10] + (f"-{_UNITS[n % 10]}" if n % 10 else "")
    size, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    head = f"{_in_words(n // size)} {name}"
    return f"{head} {_in_words(n % size)}" if n % size else head


def digit_puzzle(rng: random.Random) -> Problem:
    """Find a two-digit number from its digit sum and its reversal."""
    tens, units = rng.sample(range(1, 10), 2)
    n, turned = 10 * tens + units, 10 * units + tens
    word = "larger" if turned > n else "smaller"
    return Problem(
        f"The digits of a two-digit number add up to {tens + units}. Turned round, the number is "
        f"{abs(turned - n)} {word}. Which number is it?",
        narrated(
            rng,
            f"Turning it round changes it by 9 times the difference of the digits, so they differ "
            f"by {abs(tens - units)}.",
            f"Digits with sum {tens + units} and that difference are {max(tens, units)} and "
            f"{min(tens, units)}.",
        ),
        str(n),
    )


def code_word(rng: random.Random) -> Problem:
    """Shift the letters of a word."""
    word, shift = rng.choice(NAMES).lower(), rng.randint(1, 9)
    coded = "".join(chr((ord(letter) - 97 + shift) % 26 + 97) for letter in word)
    spelled = ", ".join(f"{a} to {b}" for a, b in zip(word[:3], coded, strict=False))
    return Problem(
        f"In a code every letter moves {plural(shift, 'place')} on in the alphabet. How is "
        f"'{word}' written?",
        narrated(rng, f"The letters change like this: {spelled} and so on."),
        f"'{coded}'",
    )


def estimate(rng: random.Random) -> Problem:
    """Round the parts of a sum and compare with the exact result."""
    values = [rng.randint(110, 9890) for _ in range(rng.randint(3, 4))]
    rounded = [round(value, -2) for value in values]
    total, near = sum(values), sum(rounded)
    return Problem(
        f"Estimate {' + '.join(map(str, values))} by rounding to hundreds. How far off is it?",
        narrated(
            rng,
            f"Rounded: {' + '.join(map(str, rounded))} = {near}.",
            f"The exact sum is {total}.",
        ),
        f"{near}, off by {abs(total - near)}",
    )


FAMILIES = (
    next_term,
    mental_sum,
    long_multiplication,
    roman_numeral,
    number_in_words,
    digit_puzzle,
    code_word,
    estimate,
)
