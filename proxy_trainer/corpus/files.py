"""Find installed text and cut it into documents, the same way on every machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from proxy_trainer.corpus.base import Shard, Source

MAX_DOCUMENT_BYTES = 12_000
FILES_PER_SHARD = 64

_UNWANTED_FOLDERS = frozenset(
    {"__pycache__", "_vendor", "site-packages", "dist-packages", "test", "tests", "testing"}
)
_MEMBER = re.compile(r"\n(?=    (?:async def |def |class |@))")
_PARAGRAPH = re.compile(r"\n\s*\n(?=\S)")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_LINE = re.compile(r"\n")
_TOP_LEVEL = re.compile(r"\n(?=(?:async def |def |class |@|if __name__))")

CODE_BOUNDARIES = (_TOP_LEVEL, _MEMBER, _BLANK_LINE, _LINE)
PROSE_BOUNDARIES = (_PARAGRAPH, _BLANK_LINE, _LINE)


def package_folder(package: str) -> Path | None:
    """Return the folder of an installed top-level package without importing it, or None."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def distribution_source(distribution: str) -> Source:
    """Return a distribution's version and licence; the version is None if it is not installed."""
    try:
        metadata = importlib.metadata.metadata(distribution).json
    except importlib.metadata.PackageNotFoundError:
        return Source(distribution, None, "not installed")
    return Source(distribution, str(metadata["version"]), _licence(metadata))


def _licence(metadata: Mapping[str, str | list[str]]) -> str:
    expression = str(metadata.get("license_expression", ""))
    classifiers = [
        value.rpartition(" :: ")[2]
        for value in metadata.get("classifier", [])
        if value.startswith("License ::")
    ]
    # Older metadata puts the whole licence text in this field; its first line names it.
    named = str(metadata.get("license", "")).strip().partition("\n")[0]
    return expression or ", ".join(classifiers) or named or "see the distribution"


def python_source() -> Source:
    """Return the running interpreter as a source of text."""
    return Source("python", platform.python_version(), "PSF-2.0")


def list_files(
    root: Path, suffixes: Sequence[str], *, skip_folders: frozenset[str] = frozenset()
) -> list[Path]:
    """List the files under `root` that end in one of `suffixes`, sorted by relative path.

    Test suites, vendored copies and caches are left out, and so are hidden folders and the
    folders named in `skip_folders`.
    """
    skipped = _UNWANTED_FOLDERS | skip_folders
    found: list[tuple[str, Path]] = []
    for suffix in suffixes:
        for path in root.rglob(f"*{suffix}"):
            relative = path.relative_to(root)
            folders = relative.parts[:-1]
            hidden = any(part.startswith(".") or part in skipped for part in folders)
            if not hidden and path.is_file():
                found.append((relative.as_posix(), path))
    return [path for _, path in sorted(found)]


def file_shards(source: str, root: Path, files: Sequence[Path]) -> Iterator[Shard]:
    """Yield shards of at most `FILES_PER_SHARD` files each, in order."""
    for index, start in enumerate(range(0, len(files), FILES_PER_SHARD)):
        chunk = tuple(files[start : start + FILES_PER_SHARD])
        yield Shard(key=f"{source}/{index:03d}", source=source, root=root, files=chunk)


def cut(
    text: str, boundaries: Sequence[re.Pattern[str]], limit: int = MAX_DOCUMENT_BYTES
) -> Iterator[str]:
    """Cut `text` into pieces of at most `limit` UTF-8 bytes.

    A piece ends at the coarsest boundary that keeps it within the limit: units between matches of
    the first pattern are packed together, and a unit that is too long by itself is cut by the
    next. A single line beyond the limit is cut by characters.
    """
    if _size(text) <= limit:
        yield text
        return
    if not boundaries:
        step = limit // 4  # a character takes at most four bytes
        yield from (text[start : start + step] for start in range(0, len(text), step))
        return
    pending = ""
    for unit in _units(text, boundaries[0]):
        if _size(pending) + _size(unit) <= limit:
            pending += unit
            continue
        if pending:
            yield pending
        pending = ""
        if _size(unit) <= limit:
            pending = unit
        else:
            yield from cut(unit, boundaries[1:], limit)
    if pending:
        yield pending


def _units(text: str, boundary: re.Pattern[str]) -> Iterator[str]:
    start = 0
    for match in boundary.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
