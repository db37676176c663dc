"""Text files as trainers load them: the builder of a domain's files, and their names.

Sources: datasets 5.2.0, ``src/datasets/packaged_modules/__init__.py`` (``json``, ``parquet``,
``text``), ``packaged_modules/text/text.py`` (``sample_by="document"``: a row a file) and
``data_files.py`` (every name in ``data_files`` is a pattern).
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from typing import Any

from regmix.errors import UserError
from regmix.export.base import Request
from regmix.files import JSON_LINES, PARQUET, PLAIN_TEXT

_JSON, _TEXT = "json", "text"
_BUILDERS = {_JSON: (*JSON_LINES, ".json"), "parquet": PARQUET, _TEXT: PLAIN_TEXT}
ROWS = (*JSON_LINES, ".json", *PARQUET)
"""Ends of files in which a document is a row."""
_ESCAPED = re.compile(r"\[([*?[])\]")


def builder(request: Request, name: str, *, whole: bool = False) -> str:
    """``json``, ``parquet`` or ``text``: what reads every file of a domain.

    Args:
        whole: whether the trainer can be told that a plain text file is one document, as it is
            here; its ``text`` builder gives a row a line otherwise.

    Raises:
        UserError: its files are of several kinds, or of one in which a document is no row.
    """
    taken = (*ROWS, *PLAIN_TEXT) if whole else ROWS
    check_ends(name, request.places[name].paths, taken)
    kinds = {_kind(path) for path in request.places[name].paths}
    if len(kinds) > 1:
        raise UserError(
            f"domain '{name}' has files for {' and '.join(sorted(kinds))}, and is loaded by one "
            "builder; give one kind in the mapping file (--paths)"
        )
    return kinds.pop()


def loading(request: Request, name: str) -> dict[str, Any]:
    """Arguments of ``load_dataset`` but for the files, and the column that holds the text.

    Raises:
        UserError: as :func:`builder`.
    """
    found = builder(request, name, whole=True)
    if found == _TEXT:
        return {"builder": found, "options": {"sample_by": "document"}, "text_field": "text"}
    return {"builder": found, "options": {}, "text_field": request.places[name].text_field}


def check_ends(name: str, paths: Sequence[str], taken: tuple[str, ...]) -> None:
    """Refuse a domain's files that the trainer cannot load, by the ends of their names.

    Raises:
        UserError: with the file and the ends that there may be.
    """
    for path in paths:
        if path.endswith(taken):
            continue
        why = "is not text that the trainer can load"
        if path.endswith(PLAIN_TEXT):
            why = "is one document, of which the trainer would make one a line"
        raise UserError(
            f"domain '{name}': '{path}' {why}: it ends in none of {', '.join(taken)}; write it as "
            "such a file, and name that in the mapping file (--paths)"
        )


def literal(path: str) -> str:
    """A path as the pattern that means it alone; a URL is a pattern as it is."""
    return path if "://" in path else glob.escape(path)


def meant(pattern: str) -> str:
    """The way back from :func:`literal`."""
    return pattern if "://" in pattern else _ESCAPED.sub(r"\1", pattern)


def single(request: Request, name: str, what: str, *, valid: bool = False) -> str:
    """The only path of a domain's training data, or of its held-out data.

    Raises:
        UserError: it has several.
    """
    place = request.places[name]
    paths = place.valid if valid else place.paths
    if len(paths) != 1:
        of = " of held-out data" if valid else ""
        raise UserError(
            f"domain '{name}' has {len(paths)} paths{of}, and {what}; give one of it in the "
            "mapping file (--paths)"
        )
    return paths[0]


def _kind(path: str) -> str:
    return next(kind for kind, ends in _BUILDERS.items() if path.endswith(ends))
