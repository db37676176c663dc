"""What a domain recipe is: where a domain's text comes from and how it becomes documents."""

from __future__ import annotations

import ast
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A named origin of text: an installed distribution, a data table or a generator.

    `version` is None where an optional distribution is not installed; such a source gives no
    documents and is reported as absent.
    """

    name: str
    version: str | None
    licence: str


@dataclass(frozen=True)
class Shard:
    """One independent, picklable piece of a domain's work.

    `key` is unique within the domain. It seeds the shard's random numbers, so that neither the
    number of workers nor the order in which they finish can change the text. A shard of files
    names them and the folder they are shown relative to; a shard of generated text is number
    `index` of `count`.
    """

    key: str
    source: str
    root: Path | None = None
    files: tuple[Path, ...] = ()
    index: int = 0
    count: int = 1


@dataclass
class Work:
    """A shard being worked on: its random numbers, and readers that note what they cannot read."""

    shard: Shard
    rng: random.Random
    unreadable: list[str] = field(default_factory=list)

    def read(self, path: Path) -> str | None:
        """Return a file's text with Unix line ends, or None (noted) if it is not UTF-8 text."""
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            self.unreadable.append(self._label(path))
            return None
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def parse(self, path: Path) -> ast.Module | None:
        """Return a Python file's syntax tree, or None (noted) if it cannot be read or parsed."""
        text = self.read(path)
        if text is None:
            return None
        try:
            with warnings.catch_warnings():
                # Old packages hold invalid escapes such as "\d"; they are not this project's.
                warnings.simplefilter("ignore")
                return ast.parse(text)
        except (SyntaxError, ValueError):
            self.unreadable.append(self._label(path))
            return None

    def _label(self, path: Path) -> str:
        """A path without the machine's own prefix, so that the report is the same anywhere."""
        root = self.shard.root
        return path.relative_to(root).as_posix() if root in path.parents and root else path.name


@dataclass(frozen=True)
class DomainRecipe:
    """How one domain is made.

    `target_bytes` is the domain's size in UTF-8 bytes at scale 1. `shards` lists the work from
    what is installed; `documents` yields the texts of one shard and runs in a worker process, so
    it is a module-level function. A recipe offers the same documents at every scale: the build
    decides which of them are kept.
    """

    name: str
    description: str
    licence: str
    target_bytes: int
    sources: Callable[[], tuple[Source, ...]]
    shards: Callable[[], Iterable[Shard]]
    documents: Callable[[Work], Iterator[str]]


def generator_shards(source: str, count: int) -> Iterator[Shard]:
    """Yield `count` shards without files, for text that is generated rather than read."""
    for index in range(count):
        yield Shard(key=f"{source}/{index:03d}", source=source, index=index, count=count)
