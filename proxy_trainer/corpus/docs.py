"""The `docs` domain: reference pages, package descriptions and language help topics."""

from __future__ import annotations

import importlib.metadata
import pydoc_data.topics
import re
from collections.abc import Iterator
from pathlib import Path

from proxy_trainer.corpus.base import DomainRecipe, Shard, Source, Work
from proxy_trainer.corpus.docstrings import pages
from proxy_trainer.corpus.files import (
    PROSE_BOUNDARIES,
    cut,
    distribution_source,
    file_shards,
    list_files,
    package_folder,
    python_source,
)

# Distribution → (package, the parts of it that are read; none means all). Only the documented
# interface of torch is read: the rest of its source is large and says little.
_PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "numpy": ("numpy", ()),
    "scipy": ("scipy", ()),
    "pandas": ("pandas", ()),
    "scikit-learn": ("sklearn", ()),
    "networkx": ("networkx", ()),
    "matplotlib": ("matplotlib", ()),
    "torch": ("torch", ("nn", "optim", "distributions", "utils/data", "linalg", "fft", "special")),
    "datasets": ("datasets", ()),
    "huggingface_hub": ("huggingface_hub", ()),
    "click": ("click", ()),
    "Jinja2": ("jinja2", ()),
    "rich": ("rich", ()),
    "fsspec": ("fsspec", ()),
    "joblib": ("joblib", ()),
    "pydantic": ("pydantic", ()),
    "pillow": ("PIL", ()),
    "python-dateutil": ("dateutil", ()),
    "lightgbm": ("lightgbm", ()),
    "tqdm": ("tqdm", ()),
}
_SUFFIXES = (".py", ".rst", ".md", ".txt")
# Lists of people and legal text are not documentation; README and guide files are.
_UNWANTED_NAMES = re.compile(r"licen[cs]e|copying|notice|authors|requirements|cmakelists", re.I)
_MIN_WORD_SHARE = 0.75


def _sources() -> tuple[Source, ...]:
    return (python_source(), *(distribution_source(name) for name in _PACKAGES))


def _shards() -> Iterator[Shard]:
    yield Shard(key="python/topics", source="python")
    for distribution, (package, parts) in _PACKAGES.items():
        root = package_folder(package)
        if root is None:
            continue
        yield Shard(key=f"{distribution}/description", source=distribution)
        yield from file_shards(distribution, root, _documentation_files(root, parts))


def _documentation_files(root: Path, parts: tuple[str, ...]) -> list[Path]:
    folders = [root / part for part in parts] if parts else [root]
    return [
        path
        for folder in folders
        for path in list_files(folder, _SUFFIXES)
        if not _UNWANTED_NAMES.search(path.name)
    ]


def _documents(work: Work) -> Iterator[str]:
    if work.shard.key == "python/topics":
        yield from _help_topics()
    elif not work.shard.files:
        yield from _description(work.shard.source)
    for path in work.shard.files:
        if path.suffix == ".py":
            yield from pages(work, path)
        else:
            yield from _prose(work, path)


def _help_topics() -> Iterator[str]:
    """Yield the sections of the language reference that `help()` shows."""
    for _, text in sorted(pydoc_data.topics.topics.items()):
        yield from cut(text, PROSE_BOUNDARIES)


def _description(distribution: str) -> Iterator[str]:
    """Yield the long description (the README) that a distribution was published with."""
    try:
        metadata = importlib.metadata.metadata(distribution).json
    except importlib.metadata.PackageNotFoundError:
        return
    yield from cut(str(metadata.get("description", "")), PROSE_BOUNDARIES)


def _prose(work: Work, path: Path) -> Iterator[str]:
    text = work.read(path)
    if text is not None and _is_prose(text):
        yield from cut(text, PROSE_BOUNDARIES)


def _is_prose(text: str) -> bool:
    """Tell prose from tables of numbers, which packages also ship as `.txt`."""
    words = sum(character.isalpha() or character.isspace() for character in text)
    return words >= _MIN_WORD_SHARE * len(text)


RECIPE = DomainRecipe(
    name="docs",
    description="Reference pages, descriptions and guides of installed Python packages.",
    licence="that of each package; see the sources",
    target_bytes=5_000_000,
    sources=_sources,
    shards=_shards,
    documents=_documents,
)
