"""Facts about characters, from the Unicode character database of the interpreter."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Iterator

from proxy_trainer.corpus.base import Work

_CATEGORIES = {
    "Lu": "an uppercase letter",
    "Ll": "a lowercase letter",
    "Lt": "a titlecase letter",
    "Lm": "a modifier letter",
    "Lo": "a letter without case",
    "Mn": "a nonspacing mark",
    "Mc": "a spacing mark",
    "Me": "an enclosing mark",
    "Nd": "a decimal digit",
    "Nl": "a letter number",
    "No": "a number",
    "Pc": "connecting punctuation",
    "Pd": "a dash",
    "Ps": "opening punctuation",
    "Pe": "closing punctuation",
    "Pi": "an initial quotation mark",
    "Pf": "a final quotation mark",
    "Po": "a punctuation mark",
    "Sm": "a mathematical symbol",
    "Sc": "a currency sign",
    "Sk": "a modifier symbol",
    "So": "a symbol",
}
_DIRECTIONS = {
    "L": "runs from left to right",
    "R": "runs from right to left",
    "AL": "is Arabic text and runs from right to left",
    "EN": "is a European number",
    "AN": "is an Arabic number",
    "ON": "has no direction of its own",
    "NSM": "takes its direction from the character before it",
}
_WIDTHS = {"W": "wide", "F": "full width", "H": "half width", "Na": "narrow", "A": "ambiguous"}
# Tens of thousands of names that only repeat the code point.
_COUNTED_NAMES = ("CJK", "HANGUL SYLLABLE", "TANGUT", "NUSHU", "KHITAN", "EGYPTIAN", "ANATOLIAN")
_LARGEST_GROUP = 12
# About a third of the groups give as much text about characters as about everything else.
_KEPT_GROUPS = 0.32


def documents(work: Work) -> Iterator[str]:
    """Yield texts about runs of neighbouring characters, this shard's share of them."""
    named = [c for c in map(chr, range(0x21, sys.maxunicode)) if _worth_telling(c)]
    size = -(-len(named) // work.shard.count)
    mine = named[work.shard.index * size : (work.shard.index + 1) * size]
    start = 0
    while start < len(mine):
        step = work.rng.randint(4, _LARGEST_GROUP)
        if work.rng.random() < _KEPT_GROUPS:
            yield _article(mine[start : start + step], work.rng)
        start += step


def _worth_telling(character: str) -> bool:
    name = unicodedata.name(character, "")
    return bool(name) and character.isprintable() and not name.startswith(_COUNTED_NAMES)


def _article(group: list[str], rng: random.Random) -> str:
    first, last = _code(group[0]), _code(group[-1])
    opening = rng.choice(
        (
            f"Unicode characters from {first} to {last}.",
            f"What is known about the characters {' '.join(group)}?",
            f"{first}–{last}: {_title(group[0])} and its neighbours.",
            f"The {len(group)} characters that begin with {_title(group[0])}.",
        )
    )
    return "\n".join([opening, *(_about(character, rng) for character in group)])


def _about(character: str, rng: random.Random) -> str:
    category = _CATEGORIES.get(unicodedata.category(character), "a character")
    title, code = _title(character), _code(character)
    opening = rng.choice(
        (
            f"{character} is {title} ({code}), {category}.",
            f"{code} {character} bears the name {title}; it is {category}.",
            f"The name of {character}, {category}, is {title}.",
            f"{title} is written {character} and has the code point {ord(character)}.",
        )
    )
    details = list(_details(character))
    chosen = rng.sample(details, min(len(details), rng.randint(1, 3)))
    return " ".join([opening, *chosen])


def _details(character: str) -> Iterator[str]:
    encoded = character.encode("utf-8")
    yield f"UTF-8 stores it in {len(encoded)} bytes, {encoded.hex(' ').upper()}."
    yield f"In decimal its number is {ord(character)}."
    direction = _DIRECTIONS.get(unicodedata.bidirectional(character))
    if direction:
        yield f"It {direction}."
    value = unicodedata.numeric(character, None)
    if value is not None:
        yield f"Its numeric value is {value:g}."
    width = _WIDTHS.get(unicodedata.east_asian_width(character))
    if width:
        yield f"Beside East Asian text it is {width}."
    if unicodedata.mirrored(character):
        yield "It is mirrored in text from right to left."
    if unicodedata.combining(character):
        yield f"Its combining class is {unicodedata.combining(character)}."
    yield from _relatives(character)


def _relatives(character: str) -> Iterator[str]:
    decomposition = unicodedata.decomposition(character)
    if decomposition and not decomposition.startswith("<"):
        parts = [_title(chr(int(code, 16))) for code in decomposition.split()]
        yield f"It decomposes into {' and '.join(parts)}."
    elif decomposition:
        kind, *codes = decomposition.split()
        shown = " ".join(chr(int(code, 16)) for code in codes)
        yield f"It is a {kind.strip('<>')} form of {shown}."
    upper, lower = character.upper(), character.lower()
    if upper != character:
        yield f"Its uppercase is {upper}."
    if lower != character:
        yield f"Its lowercase is {lower}."


def _title(character: str) -> str:
    return unicodedata.name(character, "an unnamed character").lower()


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
