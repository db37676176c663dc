"""The `code` domain: source files of the Python standard library."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from proxy_trainer.corpus.base import DomainRecipe, Shard, Source, Work
from proxy_trainer.corpus.files import (
    CODE_BOUNDARIES,
    cut,
    file_shards,
    list_files,
    python_source,
)

# Tables written by a program (code pages, help topics, entity names) and a whole application:
# text nobody would call a sample of Python code.
_SKIPPED_FOLDERS = frozenset({"encodings", "pydoc_data", "idlelib", "lib-dynload", "ensurepip"})
_SKIPPED_FILES = frozenset({"html/entities.py", "keyword.py", "token.py"})


def _sources() -> tuple[Source, ...]:
    return (python_source(),)


def _shards() -> Iterator[Shard]:
    root = Path(sysconfig.get_path("stdlib"))
    files = [
        path
        for path in list_files(root, (".py",), skip_folders=_SKIPPED_FOLDERS)
        if path.relative_to(root).as_posix() not in _SKIPPED_FILES
        # `_sysconfigdata_*` records how this one interpreter was compiled.
        and not path.name.startswith("_sysconfigdata")
    ]
    return file_shards("python", root, files)


def _documents(work: Work) -> Iterator[str]:
    for path in work.shard.files:
        text = work.read(path)
        if text is not None:
            yield from cut(text, CODE_BOUNDARIES)


RECIPE = DomainRecipe(
    name="code",
    description="Source files of the Python standard library, without its test suites.",
    licence="PSF-2.0",
    target_bytes=6_500_000,
    sources=_sources,
    shards=_shards,
    documents=_documents,
)
