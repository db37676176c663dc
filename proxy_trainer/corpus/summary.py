"""What a finished corpus holds: the content of `corpus.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SplitSummary:
    """One written file: `bytes` counts the UTF-8 text, `file_bytes` the compressed file."""

    documents: int
    bytes: int
    file_bytes: int


@dataclass(frozen=True)
class SourceSummary:
    """What one source gave to a domain.

    `version` is None for an optional source that is not installed. `unreadable` lists the files
    that are not UTF-8 text or do not parse.
    """

    name: str
    version: str | None
    licence: str
    documents: int
    bytes: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class DomainSummary:
    """One domain of the corpus; `duplicates` counts the exact repeats that were left out."""

    name: str
    description: str
    licence: str
    duplicates: int
    splits: dict[str, SplitSummary]
    sources: tuple[SourceSummary, ...]

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of text over both splits."""
        return sum(split.bytes for split in self.splits.values())


@dataclass(frozen=True)
class CorpusSummary:
    """A corpus on disk. `reused` says that it was already there and no work was done."""

    out: Path
    fingerprint: str
    seed: int
    scale: float
    domains: tuple[DomainSummary, ...]
    reused: bool = field(default=False, compare=False)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of text over all domains and splits."""
        return sum(domain.bytes for domain in self.domains)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; where the corpus lies is not part of it."""
        data = asdict(self)
        for key in ("out", "reused"):
            del data[key]
        return {"kind": "corpus", **data}

    @classmethod
    def from_json(cls, data: dict[str, Any], out: Path, *, reused: bool) -> CorpusSummary:
        """Read what `to_json` wrote.

        Raises KeyError or TypeError where the data is not of this form.
        """
        domains = tuple(_domain_from_json(domain) for domain in data["domains"])
        return cls(out, data["fingerprint"], data["seed"], data["scale"], domains, reused=reused)


def _domain_from_json(data: dict[str, Any]) -> DomainSummary:
    splits = {name: SplitSummary(**split) for name, split in data["splits"].items()}
    sources = tuple(
        SourceSummary(**{**source, "unreadable": tuple(source["unreadable"])})
        for source in data["sources"]
    )
    return DomainSummary(**{**data, "splits": splits, "sources": sources})
