"""Bits per byte of held-out text from named sources, as Paloma has them (arXiv 2312.10523).

Of a source it is that of :mod:`proxy_trainer.evals.bpb`, over its documents. The collection's own
is the mean over its sources, each of which counts the same (macro); sources are given, documents
are drawn, so that its standard error is √(Σ se²) / S. ``micro`` is over the bytes of all documents
alike.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from proxy_trainer.data.sources import json_lines
from proxy_trainer.evals import bpb, results, rows, sampling
from proxy_trainer.evals.bpb import EvalSet, Reading
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.questions import TASK
from proxy_trainer.evals.results import WHOLE, Mean, Result
from proxy_trainer.evals.task import Outcome, Progress
from regmix.errors import RegmixError, UserError
from regmix.files import read_json, to_json, write_text
from regmix.tasks import MICRO, TextCollection

SCORING = 1
"""Raised whenever the same documents would come to other figures."""
_DOCUMENTS = "documents.jsonl"
_TOLD = {"excluded": "documents do not count: the results name them"}
_AT_ONCE = 256
"""Documents that are read together, between two reports of progress."""


@dataclass(frozen=True)
class Document:
    """One text."""

    place: str
    """File, below the task's folder if it is, and line or row."""
    source: str
    text: str


@dataclass(frozen=True)
class Texts:
    """A collection with nothing left to be read; :class:`proxy_trainer.evals.task.Task`."""

    name: str
    sources: tuple[str, ...]
    documents: tuple[Document, ...]
    available: int
    """Documents of which these are all, or a sample."""
    seed: int | None = None
    """Of the sample, if it is one."""
    kind: ClassVar[str] = "texts"

    @property
    def fingerprint(self) -> str:
        """Of name, sources and texts; not of where the files lie."""
        found = hashlib.sha256(json.dumps([SCORING, self.name, self.sources]).encode())
        for document in self.documents:
            found.update(json.dumps([document.source, document.text]).encode())
        return found.hexdigest()[:16]

    def sample(self, limit: int, seed: int) -> Self:
        """At most so many documents; see :func:`proxy_trainer.evals.sampling.drawn`.

        Raises:
            UserError: fewer than two for every source.
        """
        items = [(d.source, d.text) for d in self.documents]
        kept = sampling.drawn(self.name, items, self.sources, limit, seed)
        if len(kept) == len(items):
            return self
        return replace(
            self,
            name=sampling.named(self.name, limit, seed),
            documents=tuple(self.documents[i] for i in kept),
            seed=seed,
        )

    def save(self, folder: Path) -> None:
        """Write them where :meth:`load` finds them."""
        lines = (json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in self.documents)
        write_text(folder / _DOCUMENTS, "".join(lines))
        found = {
            "fingerprint": self.fingerprint,
            "kind": self.kind,
            "name": self.name,
            "sources": self.sources,
            "available": self.available,
            "seed": self.seed,
        }
        write_text(folder / TASK, to_json(found))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: it is not there, or was changed by hand.
        """
        raw = read_json(folder / TASK)
        lines: list[Any] = [line for _, line in json_lines(folder / _DOCUMENTS)]
        try:
            found = cls(
                name=raw["name"],
                sources=tuple(raw["sources"]),
                documents=tuple(Document(**line) for line in lines),
                available=raw["available"],
                seed=raw["seed"],
            )
        except (KeyError, TypeError) as exc:
            raise UserError(f"{folder}: not a task's documents ({exc})") from exc
        if found.fingerprint != folder.name:
            raise UserError(
                f"{folder}: its documents are those of {found.fingerprint}; they were changed by "
                "hand or written by another version; run `regmix data build` again"
            )
        return found

    @classmethod
    def read(cls, described: TextCollection, folder: Path) -> Self:
        """The documents of all sources.

        Args:
            folder: that relative paths of the description start at.

        Raises:
            UserError: file, line and key of the first row without text; a source without a row.
        """
        found: list[Document] = []
        for source, files in described.sources.items():
            read = rows.read(described.name, folder, files, [described.text_field])
            own = [Document(row.place, source, row.text(described.text_field)) for row in read]
            if not own:
                raise UserError(
                    f"task '{described.name}': sources.{source}: no document in {', '.join(files)}"
                )
            found += own
        return cls(described.name, tuple(described.sources), tuple(found), len(found))

    def ask(self, models: Models, progress: Progress | None = None) -> list[Outcome]:
        """Read all documents with all models together."""
        read = _Read(self, models)
        for done in read.steps():
            if progress is not None:
                progress(done, len(self.documents))
        return [read.outcome(member) for member in range(models.members)]


class _Read:
    """What models came to on a collection's documents."""

    def __init__(self, task: Texts, models: Models) -> None:
        self._task, self._models = task, models
        self._excluded: dict[str, str] = {}
        self._kept: list[Document] = []
        self._bytes: list[int] = []
        self._tokens: list[int] = []
        self._nats_KM: list[np.ndarray] = []

    def steps(self) -> Iterator[int]:
        """Read on; yields how many documents have been."""
        for start in range(0, len(self._task.documents), _AT_ONCE):
            part = self._task.documents[start : start + _AT_ONCE]
            windows = EvalSet(self._task.name, [], [], [], [])
            for document, ids in zip(part, self._ids(part), strict=True):
                if not len(ids):
                    self._excluded[document.place] = "a document without a token"
                    continue
                size = len(document.text.encode())
                windows.add(ids, size, opening=self._models.opening, context=self._models.context)
                self._kept.append(document)
                self._bytes.append(size)
                self._tokens.append(len(ids))
            if windows.inputs:
                [reading] = bpb.read(self._models.measured, [windows])
                self._nats_KM.append(reading.nats_KM)
            yield start + len(part)

    def _ids(self, part: Sequence[Document]) -> list[np.ndarray]:
        encoded = self._models.tokenizer.encode_batch_fast(
            [d.text for d in part], add_special_tokens=False
        )
        return [np.asarray(e.ids, dtype=np.int64) for e in encoded]

    def outcome(self, member: int) -> Outcome:
        """One model's result, or why it has none."""
        task = self._task
        table = self._table(member)
        excluded = dict(self._excluded)
        broken = table.loc[~np.isfinite(table["nats"]), "place"]
        excluded |= dict.fromkeys(broken, "nats that are no finite number")
        known = table[np.isfinite(table["nats"])]
        by_source = {str(name): part for name, part in known.groupby("source", sort=False)}
        empty = [name for name in task.sources if name not in by_source]
        if empty:
            return RegmixError(
                f"task '{task.name}': source '{empty[0]}' has no document left that can be counted "
                f"({len(empty)} such sources)"
            )
        counts = {
            "available": task.available,
            "asked": len(task.documents),
            "excluded": len(excluded),
            "tokens_read": sum(self._tokens),
        }
        return Result(
            task=task.name,
            fingerprint=task.fingerprint,
            means=means(task.name, {name: by_source[name] for name in task.sources}),
            items=table,
            excluded=excluded,
            counts=counts,
            notes=results.notes(task.name, counts, task.seed, _TOLD),
            seed=task.seed,
        )

    def _table(self, member: int) -> pd.DataFrame:
        """A document a row, by source and its place in it, as of the study's own text."""
        nats_KM = np.concatenate(self._nats_KM, axis=1) if self._nats_KM else np.zeros((1, 0))
        table = pd.DataFrame(
            {
                "place": [d.place for d in self._kept],
                "source": [d.source for d in self._kept],
                "nats": nats_KM[member] if self._kept else [],
                "bytes": self._bytes,
                "tokens": self._tokens,
            }
        )
        name = self._task.name
        one = len(self._task.sources) == 1
        table.insert(0, "metric", f"{name}/bpb" if one else name + "/" + table["source"] + "/bpb")
        table.insert(1, "document", table.groupby("source").cumcount())
        return table


def means(name: str, by_source: dict[str, pd.DataFrame]) -> list[Mean]:
    """A collection's metrics: macro, micro, and those of its sources if it has several.

    Args:
        by_source: ``nats`` and ``bytes`` of documents that count.
    """
    own = {source: _mean(f"{name}/{source}/bpb", part) for source, part in by_source.items()}
    whole = pd.concat(by_source.values())
    if len(own) == 1:
        return [_mean(f"{name}/bpb", whole)]
    errors = [m.std_error for m in own.values()]
    squares = [e * e for e in errors if e is not None]
    error = math.sqrt(math.fsum(squares)) / len(own) if len(squares) == len(own) else None
    value = math.fsum(m.value for m in own.values()) / len(own)
    macro = Mean(f"{name}/bpb", WHOLE, value, error, len(whole))
    return [macro, _mean(f"{name}/{MICRO}/bpb", whole), *own.values()]


def _mean(metric: str, part: pd.DataFrame) -> Mean:
    reading = Reading(metric, part["nats"].to_numpy(float)[None], part["bytes"].to_numpy(np.int64))
    return Mean(metric, WHOLE, reading.value(0), reading.std_error(0), len(part))
