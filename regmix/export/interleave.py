"""Hugging Face ``datasets.interleave_datasets``: a snippet, and the same as JSON.

Source: datasets 5.2.0, ``src/datasets/combine.py``: ``interleave_datasets`` draws the next *row*
from dataset i with ``probabilities[i]``, so they are shares of documents.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from regmix.export import base, text_files
from regmix.export.base import Parts, Read, Request, Unit, Written
from regmix.export.python_file import named_parts, python_text, read_python
from regmix.files import to_json

_CODE = '''\
import glob

from datasets import interleave_datasets, load_dataset
# ---
SEED = {seed}


def _file(path):
    """A file's name as the pattern that means it alone; a URL as it is."""
    return path if "://" in path else glob.escape(path)


def load(streaming: bool = True, stopping_strategy: str = "all_exhausted"):
    """The mixture, one row a document with its text in the column "text"."""
    parts = []
    for entry in MIXTURE:
        part = load_dataset(
            entry["builder"],
            data_files=[_file(path) for path in entry["paths"]],
            split="train",
            streaming=streaming,
            **entry["options"],
        )
        part = part.select_columns([entry["text_field"]])
        if entry["text_field"] != "text":
            part = part.rename_column(entry["text_field"], "text")
        parts.append(part)
    return interleave_datasets(
        parts,
        probabilities=[entry["weight"] for entry in MIXTURE],
        seed=SEED,
        stopping_strategy=stopping_strategy,
    )
'''


class _Interleave:
    """What both have in common."""

    unit: ClassVar[Unit] = Unit.DOCUMENTS
    reads: ClassVar[Read] = "text"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = False


class Snippet(_Interleave):
    """A module with ``load()``."""

    name: ClassVar[str] = "interleave"
    title: ClassVar[str] = "datasets.interleave_datasets (Python)"

    def write(self, request: Request) -> Written:
        """Code that loads the files and interleaves them."""
        code = _CODE.replace("{seed}", str(request.seed))
        return Written(python_text(request, _domains(request), code))

    def read(self, text: str, where: Path) -> Parts:
        """Weights by name."""
        return read_python(text, where)


class Json(_Interleave):
    """Arguments as data, for a script of one's own."""

    name: ClassVar[str] = "interleave-json"
    title: ClassVar[str] = "datasets.interleave_datasets (JSON)"

    def write(self, request: Request) -> Written:
        """Notes, seed, stopping strategy, and the datasets: probability, and what loads them.

        The paths are patterns, as ``data_files`` of ``load_dataset`` are.
        """
        value = {
            "notes": list(request.notes),
            "seed": request.seed,
            "stopping_strategy": "all_exhausted",
            "datasets": [
                {**entry, "paths": [text_files.literal(path) for path in entry["paths"]]}
                for entry in _domains(request)
            ],
        }
        return Written(to_json(value))

    def read(self, text: str, where: Path) -> Parts:
        """Weights by name."""
        raw = base.required(base.parse_json(text, where), "datasets", str(where))
        parts = named_parts(raw, f"{where}: datasets")
        meant = text_files.meant
        return {0: tuple(replace(p, paths=tuple(map(meant, p.paths))) for p in parts)}


def _domains(request: Request) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "weight": weight,
            "paths": list(request.places[name].paths),
            **text_files.loading(request, name),
        }
        for name, weight in base.one_stage(request).weights.items()
    ]
