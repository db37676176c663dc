"""What every exporter is: a mixture to one trainer's own format, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from regmix.errors import UserError
from regmix.files import from_json
from regmix.floats import as_float
from regmix.places import Place
from regmix.yaml_io import dump, parse

Read = Literal["olmo-core", "megatron", "text", "own"]
"""What a trainer reads: token shards as ``regmix data export`` lays them out, text, or data that
its own tools prepared."""


class Unit(Enum):
    """What a trainer's weights are shares of."""

    TOKENS = "tokens"
    DOCUMENTS = "documents"


@dataclass(frozen=True)
class Stage:
    """The weights from one training step on."""

    start: int
    """Training steps done when it begins; 0 for the first."""
    weights: Mapping[str, float]
    """By domain, in the format's unit, summing to 1; no zeros."""


@dataclass(frozen=True)
class Request:
    """What is to be written."""

    name: str
    """Of the mixture."""
    stages: tuple[Stage, ...]
    """One, or several for a format that changes weights on the way; by their start."""
    places: Mapping[str, Place]
    """Of every domain that has a weight in some stage, in the mixture's order."""
    notes: tuple[str, ...]
    """What a person who opens the file should know."""
    tokens: int | None = None
    """Training tokens of the run."""
    max_epochs: float = 1.0
    """How often the run may go over a domain, for formats that carry a cap."""
    seed: int = 0
    dtype: str | None = None
    """Type of the ids in files without a header; None: not known, or the files say it."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The first stage's weights; the only one of most formats."""
        return self.stages[0].weights


@dataclass(frozen=True)
class Written:
    """An export as text."""

    text: str
    beside: Mapping[str, str] = field(default_factory=dict)
    """Further files that the trainer reads, by their names in the same folder."""
    notes: tuple[str, ...] = ()
    """What came up in writing, for the person to read; in the file too where it can hold notes."""


@dataclass(frozen=True)
class Part:
    """One weighted entry of a file that is read back."""

    weight: float
    name: str | None = None
    """The domain's, where the format has names."""
    paths: tuple[str, ...] = ()
    """Where its training data lie, where the file says so; needed where there is no name."""


Parts = Mapping[int, tuple[Part, ...]]
"""Weighted entries by the step at which their stage begins."""


class Exporter(Protocol):
    """One format: text out of a mixture, and weighted entries out of text.

    Both are pure: nothing is read or written. ``read(write(…))`` gives the weights that were
    written, for the same domains.
    """

    name: ClassVar[str]
    """As ``--to`` and ``--from`` take it."""
    title: ClassVar[str]
    """Of the trainer, and what of it is written."""
    unit: ClassVar[Unit]
    reads: ClassVar[Read]
    capped: ClassVar[bool]
    """Whether the file depends on how many tokens are trained, or on ``max_epochs``."""
    staged: ClassVar[bool]
    """Whether it can hold several stages."""

    def write(self, request: Request) -> Written:
        """The mixture in the trainer's format.

        Raises:
            UserError: the format cannot say what is asked.
        """
        ...

    def read(self, text: str, where: Path) -> Parts:
        """What a file of this format weighs.

        Args:
            text: the file's content.
            where: the file: messages begin with it, relative paths start at its folder.

        Raises:
            UserError: it is not such a file; with the key.
        """
        ...


def comment(request: Request, more: Sequence[str] = ()) -> str:
    """The request's notes, and more of them, as comment lines to open a file with."""
    lines = [line for note in (*request.notes, *more) for line in note.splitlines()]
    return "".join(f"# {line}\n" for line in lines)


def yaml_text(request: Request, value: dict[str, Any], more: Sequence[str] = ()) -> str:
    """YAML under the request's notes, and more of them."""
    return comment(request, more) + dump(value)


def parse_yaml(text: str, where: Path) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        UserError: it is not YAML, or not a mapping.
    """
    return mapping(parse(text, where), str(where))


def parse_json(text: str, where: Path) -> dict[str, Any]:
    """A JSON file's mapping.

    Raises:
        UserError: it is not JSON, or not a mapping.
    """
    return mapping(from_json(text, where), str(where))


def one_stage(request: Request) -> Stage:
    """The request's only stage."""
    assert len(request.stages) == 1, "a format without stages was asked for several"
    return request.stages[0]


def mapping(value: Any, where: str) -> dict[str, Any]:
    """``value``, which must be a mapping with text keys.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where}: expected a mapping by name, found {_shown(value)}")
    return value


def entries(value: Any, where: str) -> list[dict[str, Any]]:
    """``value``, which must be a list of mappings and not empty.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: expected a list of entries, found {_shown(value)}")
    return [mapping(one, f"{where}[{i}]") for i, one in enumerate(value)]


def required(holder: Mapping[str, Any], key: str, where: str) -> Any:
    """What stands under ``key``.

    Raises:
        UserError: nothing does.
    """
    if key not in holder:
        raise UserError(
            f"{where}: has no '{key}'; it has {', '.join(map(repr, holder)) or 'nothing'}"
        )
    return holder[key]


def number(value: Any, where: str) -> float:
    """``value`` as a weight: a number, or text that spells one.

    Raises:
        UserError: it is something else, negative or not finite.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(value)
        found = as_float(value)
    except ValueError:
        raise UserError(f"{where}: {_shown(value)} is not a number") from None
    if not math.isfinite(found) or found < 0:
        raise UserError(f"{where}: a weight of {found:g}; it must be finite and >= 0")
    return found


def text(value: Any, where: str) -> str:
    """``value``, which must be text.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: expected text, found {_shown(value)}")
    return value


def texts(value: Any, where: str) -> tuple[str, ...]:
    """One text or a list of them, as a tuple.

    Raises:
        UserError: it is something else, or empty.
    """
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{where}: expected a path or a list of them, found {_shown(value)}")
    return tuple(text(one, where) for one in listed)


def paths(holder: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The paths under ``key`` of an entry that has a name: none where there is no such key.

    Raises:
        UserError: it holds something else.
    """
    return texts(holder[key], f"{where}.{key}") if holder.get(key) else ()


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:79] + "…"
