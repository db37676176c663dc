"""Text files as `datasets.load_dataset` takes them: the builder and the files of a domain.

Source: datasets 5.2.0, ``src/datasets/packaged_modules/__init__.py`` (``json``, ``parquet``).
"""

from __future__ import annotations

from regmix.errors import UserError
from regmix.export.base import Request
from regmix.files import JSON_LINES, PARQUET

_BUILDERS = {"json": (*JSON_LINES, ".json"), "parquet": PARQUET}


def builder(request: Request, name: str) -> str:
    """``json`` or ``parquet``: what reads every file of a domain.

    Raises:
        UserError: its files are of several kinds, or of one in which a document is no row.
    """
    kinds = {_kind(path, name) for path in request.places[name].paths}
    if len(kinds) > 1:
        raise UserError(
            f"domain '{name}' has both JSON Lines and parquet, and is loaded by one builder; give "
            "one kind in the mapping file (--paths)"
        )
    return kinds.pop()


def _kind(path: str, name: str) -> str:
    for kind, suffixes in _BUILDERS.items():
        if path.endswith(suffixes):
            return kind
    known = ", ".join(suffix for suffixes in _BUILDERS.values() for suffix in suffixes)
    raise UserError(
        f"domain '{name}': '{path}' is not text that the trainer can load: it ends in none of "
        f"{known}; give such files in the mapping file (--paths)"
    )


def single(request: Request, name: str, what: str) -> str:
    """The only path of a domain, which may be a folder.

    Raises:
        UserError: it has several.
    """
    paths = request.places[name].paths
    if len(paths) != 1:
        raise UserError(
            f"domain '{name}' has {len(paths)} paths, and {what}; give one file or folder of it in "
            "the mapping file (--paths)"
        )
    return paths[0]
