"""Axolotl: subsets of the right sizes, since it has no weights.

Source: axolotl 0.19.0, ``axolotl/utils/data/shared.py``: every entry of ``datasets`` is loaded with
its ``split`` (slices such as ``train[:500]`` are kept) and all are concatenated. So a domain gets
``round(share · tokens / mean tokens a document)`` documents: whole passes as entries of their own,
and the first documents of another. A ``path`` that is there is a file, or the folder that
``data_files`` are looked for in (names are patterns there); otherwise one URL.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, ClassVar

from regmix.errors import UserError
from regmix.export import base, text_files
from regmix.export.base import Part, Parts, Read, Request, Unit, Written

_REMOTE = ("s3://", "gs://", "gcs://", "adl://", "abfs://", "az://", "oci://", "https://")
_SPLIT = re.compile(r"train(?:\[:(\d+)\])?")


class Axolotl:
    """``datasets`` of ``type: completion``."""

    name: ClassVar[str] = "axolotl"
    title: ClassVar[str] = "Axolotl sized subsets (YAML)"
    unit: ClassVar[Unit] = Unit.DOCUMENTS
    reads: ClassVar[Read] = "text"
    capped: ClassVar[bool] = True
    staged: ClassVar[bool] = False

    def write(self, request: Request) -> Written:
        """Entries that hold as many documents as the run needs."""
        if request.tokens is None:
            raise UserError(
                "Axolotl has no weights, so the subsets are as large as the run: give --tokens, or "
                "space.budget_tokens in study.yaml"
            )
        documents = _counts(request, request.tokens)
        listed = [e for name, n in documents.items() for e in _entries(request, name, n)]
        note = "train for one epoch (num_epochs: 1): the subsets are all of the run's documents"
        value = {"datasets": listed, "num_epochs": 1, "sample_packing": True}
        return Written(base.yaml_text(request, value, (note,)), notes=(note,))

    def read(self, text: str, where: Path) -> Parts:
        """Documents by file, from the splits' sizes."""
        raw = base.required(base.parse_yaml(text, where), "datasets", str(where))
        found = []
        for i, entry in enumerate(base.entries(raw, f"{where}: datasets")):
            at = f"{where}: datasets[{i}]"
            key = "data_files" if "data_files" in entry else "path"
            paths = base.texts(base.required(entry, key, at), f"{at}.{key}")
            if key == "data_files":
                paths = tuple(map(text_files.meant, paths))
            found.append(Part(float(_size(entry.get("split", "train"), at)), paths=paths))
        return {0: tuple(found)}


def _size(split: Any, at: str) -> int:
    match = _SPLIT.fullmatch(str(split))
    if match is None or match[1] is None:
        raise UserError(
            f"{at}: split {split!r} does not say how many documents it has; a size is read from "
            "'train[:N]' alone"
        )
    return int(match[1])


def _counts(request: Request, tokens: int) -> dict[str, int]:
    """Documents of each domain; all of them together have about the tokens that are asked."""
    weights = base.one_stage(request).weights
    means = {n: request.places[n].mean_tokens for n in weights}
    missing = [n for n, mean in means.items() if mean is None]
    assert not missing, "shares of documents were made without their means"
    # Σ p·m is the mean over the mixture's documents, so tokens / that is how many there are.
    mean = math.fsum(weights[n] * (means[n] or 0.0) for n in weights)
    counts = {n: round(tokens / mean * w) for n, w in weights.items()}
    for name, count in counts.items():
        if count == 0:
            raise UserError(
                f"domain '{name}': {weights[name]:.3g} of the documents of {tokens:,} tokens is "
                "less than one; give more --tokens, or weight 0"
            )
    return counts


def _entries(request: Request, name: str, count: int) -> list[dict[str, Any]]:
    """Whole passes over a domain's documents, then what is left."""
    place = request.places[name]
    assert place.documents is not None
    passes, rest = divmod(count, place.documents)
    sizes = [place.documents] * passes + ([rest] if rest else [])
    return [
        {
            **_files(name, place.paths),
            "ds_type": text_files.builder(request, name),
            "type": "completion",
            "field": place.text_field,
            "split": f"train[:{size}]",
        }
        for size in sizes
    ]


def _files(name: str, paths: tuple[str, ...]) -> dict[str, Any]:
    """One path, or a folder that is there and the names of files as patterns.

    Raises:
        UserError: they are files that the trainer does not find so.
    """
    remote = [path for path in paths if "://" in path]
    if remote and len(paths) > 1:
        raise UserError(
            f"domain '{name}' has {len(paths)} paths and '{remote[0]}' among them: Axolotl loads "
            "several files from this machine alone; copy them, or give one file in the mapping "
            "file (--paths)"
        )
    if remote and not remote[0].startswith(_REMOTE):
        raise UserError(
            f"domain '{name}': '{remote[0]}' begins with none of {', '.join(_REMOTE)}, of which "
            "Axolotl loads files; give such a path in the mapping file (--paths)"
        )
    if len(paths) == 1 and text_files.literal(paths[0]) == paths[0]:
        return {"path": paths[0]}
    folder = str(Path(paths[0]).parent)
    return {"path": folder, "data_files": [text_files.literal(path) for path in paths]}
