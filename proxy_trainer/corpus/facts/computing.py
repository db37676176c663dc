"""Facts about computing, from the tables of the Python standard library."""

from __future__ import annotations

import errno
import html.entities
import locale
import mimetypes
import os
import random
import signal
import unicodedata
from collections.abc import Iterator
from encodings.aliases import aliases
from http import HTTPStatus

from proxy_trainer.corpus.base import Work

_STATUS_CLASSES = {
    1: "an informational answer",
    2: "a success",
    3: "a redirection",
    4: "an error of the client",
    5: "an error of the server",
}
_FACTS_PER_DOCUMENT = 8


def documents(work: Work) -> Iterator[str]:
    """Yield texts of a few facts each, of one kind or mixed from several."""
    facts = [fact for kind in _KINDS for fact in kind(work.rng)]
    yield from _grouped(facts)
    work.rng.shuffle(facts)
    yield from _grouped(facts)


def _grouped(facts: list[str]) -> Iterator[str]:
    for start in range(0, len(facts), _FACTS_PER_DOCUMENT):
        yield "\n".join(facts[start : start + _FACTS_PER_DOCUMENT])


def _statuses(rng: random.Random) -> Iterator[str]:
    for status in HTTPStatus:
        detail = f" {status.description}." if status.description else ""
        family = _STATUS_CLASSES[status.value // 100]
        yield rng.choice(
            (
                f"The HTTP status {status.value} means {status.phrase}; it is {family}.{detail}",
                f"A web server that answers {status.value} {status.phrase} reports {family}."
                f"{detail}",
                f"{status.phrase} ({status.name}) is number {status.value} among the HTTP status "
                f"codes.{detail}",
            )
        )


def _entities(rng: random.Random) -> Iterator[str]:
    for name, text in sorted(html.entities.html5.items()):
        if not name.endswith(";") or not text.isprintable():
            continue
        meaning = " followed by ".join(unicodedata.name(c, "a character").lower() for c in text)
        yield rng.choice(
            (
                f"In HTML the entity &{name} stands for {text}, the {meaning}.",
                f"To show {text} ({meaning}) a web page may write &{name}",
                f"&{name} is the name HTML gives to the {meaning} {text}.",
                f"A browser turns &{name} into {text}, code point {ord(text[0])}.",
            )
        )


def _media_types(rng: random.Random) -> Iterator[str]:
    # A fresh MimeTypes holds the library's own table, not what this machine adds to it.
    for suffix, media_type in sorted(mimetypes.MimeTypes().types_map[True].items()):
        kind, _, subtype = media_type.partition("/")
        yield rng.choice(
            (
                f"Files that end in {suffix} have the media type {media_type}.",
                f"The suffix {suffix} marks {kind} data of the subtype {subtype}.",
                f"A server sends a {suffix} file with the header Content-Type: {media_type}.",
            )
        )


def _errors(rng: random.Random) -> Iterator[str]:
    for number, name in sorted(errno.errorcode.items()):
        message = os.strerror(number)
        yield rng.choice(
            (
                f"The system error {name} has the number {number} and says: {message}.",
                f"When a call fails with errno {number}, the reason is {name}, {message.lower()}.",
                f"{message} is the message of {name} ({number}).",
            )
        )


def _signals(rng: random.Random) -> Iterator[str]:
    for member in signal.Signals:
        meaning = signal.strsignal(member) or "no description"
        yield rng.choice(
            (
                f"The signal {member.name}, number {member.value}, means {meaning.lower()}.",
                f"A process that is sent signal {member.value} receives {member.name}: {meaning}.",
            )
        )


def _locales(rng: random.Random) -> Iterator[str]:
    for number, name in sorted(locale.windows_locale.items()):
        language, _, territory = name.partition("_")
        where = f" as it is used in {territory}" if territory else ""
        yield rng.choice(
            (
                f"Windows numbers the locale {name} {number:#06x}, in decimal {number}.",
                f"Locale {number:#06x} is {name}: the language {language}{where}.",
            )
        )


def _codecs(rng: random.Random) -> Iterator[str]:
    for alias, codec in sorted(aliases.items()):
        yield rng.choice(
            (
                f"The encoding {alias} is another name of {codec}.",
                f"Text declared as {alias} is read with the codec {codec}.",
                f"{codec} also goes by the name {alias}.",
            )
        )


_KINDS = (_statuses, _entities, _media_types, _errors, _signals, _locales, _codecs)
