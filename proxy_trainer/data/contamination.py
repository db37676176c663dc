"""Evaluation items in training text: which, in how many documents of which domain."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from proxy_trainer.data.chat.conversations import texts
from proxy_trainer.data.screen import Screen, ShortItems, words
from proxy_trainer.data.sources import Counts, Input, documents, json_lines, parquet_rows
from proxy_trainer.data.tokenise import is_valid_document
from proxy_trainer.data.workers import carry_out
from regmix import strict
from regmix.chat import ChatSource
from regmix.config import Benchmark, name_from
from regmix.errors import UserError
from regmix.files import PARQUET, expanded
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout
from regmix.recipe import RecipeConfig

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Items:
    """The items of one benchmark."""

    name: str
    texts: tuple[str, ...]
    places: tuple[str, ...]
    """File and row of each."""


def given(files: Sequence[Path], fields: Sequence[str]) -> list[Benchmark]:
    """Benchmarks out of files that a command names, each called after its file.

    Raises:
        UserError: fields without a file, or files without a field.
    """
    if bool(files) != bool(fields):
        lacking = "--field" if files else "--file"
        raise UserError(f"{lacking}: is needed too, as in `--file items.jsonl --field question`")
    if len({path.name for path in files}) < len(files):
        raise UserError("--file: two files have one name; put them into study.yaml, with names")
    return [
        Benchmark(name=name_from(path), files=(str(path.resolve()),), fields=tuple(fields))
        for path in files
    ]


def read_items(benchmark: Benchmark, root: Path, where: str) -> Items:
    """A benchmark's items.

    Args:
        root: where relative paths start.
        where: the key of study.yaml, or the option, for messages.

    Raises:
        UserError: no such file, a row without one of the fields, or no row at all.
    """
    texts, places = [], []
    for pattern in benchmark.files:
        full = root / expanded(pattern)
        found = [full] if full.is_file() else sorted(map(Path, glob.glob(str(full))))
        if not found:
            raise UserError(f"{where}.files: no file at '{full}'")
        for path in found:
            for number, record in _rows(path, benchmark.fields):
                place = f"{path}:{number}"
                texts.append(_text(record, benchmark.fields, place))
                places.append(place)
    if not texts:
        raise UserError(f"{where}: no items in {', '.join(benchmark.files)}")
    return Items(benchmark.name, tuple(texts), tuple(places))


def _rows(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, object]]:
    return parquet_rows(path, fields) if path.name.endswith(PARQUET) else json_lines(path)


def _text(record: object, fields: Sequence[str], place: str) -> str:
    if not isinstance(record, dict):
        raise UserError(f"{place}: expected an object, found {type(record).__name__}")
    parts: list[str] = []
    for name in fields:
        if name not in record:
            raise UserError(f"{place}: no field '{name}'; fields: {', '.join(record)}")
        value = record[name]
        parts += [str(v) for v in value] if isinstance(value, list) else [str(value)]
    return "\n".join(parts)


def screen_file(layout: StudyLayout, benchmarks: Sequence[Items], length: int) -> Path:
    """The screen of all items, for the processes of a data build; written once.

    Its name changes with what it holds.
    """
    texts = [text for items in benchmarks for text in items.texts]
    path = layout.tokens / f"screen-{fingerprint([length, texts])}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Screen.of(texts, length).save(path)
    return path


@dataclass(frozen=True)
class Conversations:
    """A source of conversations that some stage trains on."""

    label: str
    """Stage and name."""
    source: ChatSource
    folder: Path
    """Where the source's relative paths start."""


def of_recipe(path: Path) -> list[Conversations]:
    """The conversations that the stages of a recipe train on.

    Raises:
        UserError: the recipe cannot be read, or trains on none.
    """
    recipe = strict.load(path, RecipeConfig)
    found = [
        Conversations(f"{stage.name}/{source.name}", source, path.parent)
        for stage in recipe.stages
        if stage.data is not None
        for source in stage.data.sources
    ]
    if not found:
        raise UserError(f"{path}: no stage of it trains on conversations")
    return found


@dataclass(frozen=True)
class Search:
    """One input of a domain or of a source of conversations, to be searched for all items."""

    layout: StudyLayout
    domain: str
    """Or the source's stage and name."""
    item: Input
    valid_share: float
    """Of the documents, set apart for validation: they are not searched."""
    benchmarks: tuple[Items, ...]
    length: int
    chat: ChatSource | None = None
    """What its conversations are read by, where it holds some."""

    def texts(self) -> Iterator[str]:
        """Every training document or conversation.

        Raises:
            UserError: the input cannot be read.
        """
        if self.chat is not None:
            assert self.item.path is not None  # conversations are read from files
            yield from texts(self.item.path, self.chat.format, self.chat.pair)
            return
        for text in documents(self.item, Counts()):
            if not (self.valid_share and is_valid_document(text, self.valid_share)):
                yield text

    @property
    def folder(self) -> Path:
        """Nothing is written but by whoever asks."""
        return self.layout.tokens


@dataclass
class Overlap:
    """What the training text of one domain holds of one benchmark."""

    domain: str
    benchmark: str
    items: int
    judged: int
    """Items that are long enough to be looked for."""
    documents: int = 0
    contaminated: int = 0
    """Documents that hold an n-gram of an item."""
    held: set[int] = field(default_factory=set)
    """Items of which an n-gram stands in a document."""
    whole: set[int] = field(default_factory=set)
    """Items of which the whole text does."""
    short: set[int] = field(default_factory=set)
    """Items that are too short to be judged, and stand in a document exactly as they are."""


def search(task: Search) -> dict[str, Any]:
    """What one input holds: by benchmark the contaminated documents, and the items."""
    screens = [Screen.of(items.texts, task.length) for items in task.benchmarks]
    shorts = [ShortItems(items.texts, task.length) for items in task.benchmarks]
    found: list[dict[str, Any]] = [
        {"contaminated": 0, "held": set(), "whole": set(), "short": set()} for _ in screens
    ]
    read = 0
    for text in task.texts():
        read += 1
        for items, screen, short, own in zip(task.benchmarks, screens, shorts, found, strict=True):
            own["short"].update(short.found(text))
            held = screen.found(text)
            if held:
                spelled = _spelled(text)
                own["contaminated"] += 1
                own["held"].update(held)
                own["whole"].update(i for i in held if _spelled(items.texts[i]) in spelled)
    return {"documents": read, "benchmarks": found}


def _spelled(text: str) -> str:
    """Words with one space around each, so that whole words alone are found in one another."""
    return f" {' '.join(words(text))} "


def overlaps(
    searches: Sequence[Search], workers: int, progress: Progress | None = None
) -> list[Overlap]:
    """Search the inputs of all domains.

    Raises:
        UserError: an input cannot be read.
    """
    found: dict[tuple[str, str], Overlap] = {}
    for task in searches:
        for items in task.benchmarks:
            key = (task.domain, items.name)
            if key not in found:
                judged = Screen.of(items.texts, task.length).judged()
                found[key] = Overlap(*key, items=len(items.texts), judged=judged)
    ended = 0

    def done(task: Search, result: dict[str, Any]) -> None:
        nonlocal ended
        for items, own in zip(task.benchmarks, result["benchmarks"], strict=True):
            overlap = found[task.domain, items.name]
            overlap.documents += result["documents"]
            overlap.contaminated += own["contaminated"]
            overlap.held |= own["held"]
            overlap.whole |= own["whole"]
            overlap.short |= own["short"]
        ended += 1
        if progress:
            progress(ended, len(searches))

    carry_out(search, searches, workers, done)
    return list(found.values())


def table(found: Sequence[Overlap]) -> pd.DataFrame:
    """A row a domain and benchmark, the most contaminated first."""
    rows = [
        {
            "domain": o.domain,
            "benchmark": o.benchmark,
            "documents": o.documents,
            "contaminated": o.contaminated,
            "items": o.items,
            "judged": o.judged,
            "items held": len(o.held),
            "share of judged": round(len(o.held) / o.judged, 4) if o.judged else 0.0,
            "held whole": len(o.whole),
            "short held": len(o.short),
        }
        for o in found
    ]
    return pd.DataFrame(rows).sort_values("share of judged", ascending=False, kind="stable")
