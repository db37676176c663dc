"""Where a trainer finds each domain's data, and how much there is: the mapping file of an export.

``regmix data export`` writes one beside the shards that it lays out; for data that lie elsewhere a
person does::

    kind: paths
    domains:
      web: {paths: [s3://bucket/web/*.npy], tokens: 1200000000, documents: 900000}
      code: {paths: [code/part-0.npy, code/part-1.npy]}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from regmix.config import check_name
from regmix.config.base import Strict
from regmix.errors import UserError
from regmix.files import expanded, write_text
from regmix.strict import load, place
from regmix.yaml_io import dump


@dataclass(frozen=True)
class Place:
    """Where one domain's data lie, and how much there is of it."""

    paths: tuple[str, ...]
    """Files, folders, prefixes or URLs of the training data, as the trainer takes them."""
    valid: tuple[str, ...] = ()
    """The same of held-out data; may be empty."""
    tokens: int | None = None
    """Training tokens, end-of-document tokens included; None where that is not known."""
    documents: int | None = None
    """Training documents; None where that is not known."""
    text_field: str = "text"
    """Field of a document that holds its text, for trainers that read text."""

    @property
    def mean_tokens(self) -> float | None:
        """Mean tokens of a training document; None where that is not known."""
        if self.tokens is None or self.documents is None:
            return None
        return self.tokens / self.documents


@dataclass(frozen=True)
class Places:
    """Every domain's place, in the order of the file or study that says so."""

    domains: Mapping[str, Place]
    where: str
    """The file that says so, as messages begin."""
    layout: str | None = None
    """How the files are laid out, such as ``olmo-core``; None: not said."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer that counted or made the tokens; None: not said."""
    data: str | None = None
    """Fingerprint of the study's data that they are a copy of; None: not said, or no copy."""
    dtype: str | None = None
    """Type of the ids in files without a header, such as ``uint16``; None: not said."""
    notes: tuple[str, ...] = ()
    """What a person should know about the data."""

    def save(self, path: Path) -> None:
        """Write the mapping file; paths below its folder are written relative to it."""
        write_text(
            path,
            dump(
                {
                    "kind": "paths",
                    **{key: value for key, value in self._said() if value is not None},
                    "domains": {n: _entry(p, path.parent) for n, p in self.domains.items()},
                }
            ),
        )

    def _said(self) -> tuple[tuple[str, str | None], ...]:
        return (
            ("layout", self.layout),
            ("tokenizer", self.tokenizer),
            ("data", self.data),
            ("dtype", self.dtype),
        )


def _listed(value: object) -> object:
    """One path or a list of them."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_Count = Annotated[int, Field(gt=0, le=10**18)]
_Path = Annotated[str, Field(min_length=1)]
_Paths = Annotated[tuple[_Path, ...], BeforeValidator(_listed)]


class _PlaceConfig(Strict):
    paths: Annotated[_Paths, Field(min_length=1)]
    valid: _Paths = ()
    tokens: _Count | None = None
    documents: _Count | None = None
    text_field: _Path = "text"


class _PlacesConfig(Strict):
    kind: Literal["paths"]
    layout: str | None = None
    tokenizer: str | None = None
    data: str | None = None
    dtype: str | None = None
    domains: Annotated[dict[str, _PlaceConfig], Field(min_length=1)]


def load_places(path: Path) -> Places:
    """Read a mapping file; relative paths start at its folder, URLs stay as they are.

    Raises:
        UserError: file, line, key and value of whatever is not as it should be.
    """
    config = load(path, _PlacesConfig)
    root = path.parent.resolve()
    for name in config.domains:
        check_name(name, place(path, ("domains", name)))
    domains = {
        name: Place(
            tuple(located(p, root) for p in entry.paths),
            tuple(located(p, root) for p in entry.valid),
            entry.tokens,
            entry.documents,
            entry.text_field,
        )
        for name, entry in config.domains.items()
    }
    _check_shared(path, domains)
    said = config.layout, config.tokenizer, config.data, config.dtype
    return Places(domains, str(path), *said)


def located(path: str, root: Path) -> str:
    """An absolute path or URL; a relative path starts at ``root``."""
    if "://" in path:
        return path
    full = expanded(path)
    return str(full if full.is_absolute() else root / full)


def _check_shared(path: Path, domains: Mapping[str, Place]) -> None:
    """A path that two domains name would be counted for both, and could not be read back."""
    owner: dict[str, str] = {}
    for name, found in domains.items():
        for one in found.paths:
            if owner.setdefault(one, name) != name:
                where = place(path, ("domains", name, "paths"))
                raise UserError(f"{where}: '{one}' belongs to domain '{owner[one]}' already")


def _entry(found: Place, root: Path) -> dict[str, object]:
    entry: dict[str, object] = {"paths": [_relative(p, root) for p in found.paths]}
    if found.valid:
        entry["valid"] = [_relative(p, root) for p in found.valid]
    if found.tokens is not None:
        entry["tokens"] = found.tokens
    if found.documents is not None:
        entry["documents"] = found.documents
    if found.text_field != "text":
        entry["text_field"] = found.text_field
    return entry


def _relative(path: str, root: Path) -> str:
    full = Path(path)
    if "://" in path or not full.is_relative_to(root.resolve()):
        return path
    return full.relative_to(root.resolve()).as_posix()
