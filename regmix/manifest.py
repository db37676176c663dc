"""What the token shards hold: written by ``data build``, read by every later stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regmix.errors import UserError, unknown_name
from regmix.files import read_json, write_json
from regmix.hashing import fingerprint
from regmix.mixture import Mixture

VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One token file and the document boundaries beside it."""

    file: str
    """Path below ``tokens/``; ``<file>.docs`` holds document ends and text bytes."""
    tokens: int
    documents: int
    content: str
    """SHA-256 of the token bytes."""


@dataclass(frozen=True)
class SplitManifest:
    """One split of one domain."""

    tokens: int
    """Tokens, end-of-document tokens included."""
    documents: int
    text_bytes: int
    """UTF-8 bytes of the text: the denominator of bits per byte."""
    shards: tuple[Shard, ...]
    skipped_no_text: int = 0
    """Documents left out because the text field was missing, null or not a string."""
    skipped_empty: int = 0
    """Documents left out because the text was empty."""


@dataclass(frozen=True)
class DomainManifest:
    """Both splits of one domain."""

    name: str
    train: SplitManifest
    valid: SplitManifest

    def split(self, name: str) -> SplitManifest:
        """``train`` or ``valid``."""
        if name not in ("train", "valid"):
            raise unknown_name("split", name, ("train", "valid"))
        return self.train if name == "train" else self.valid


@dataclass(frozen=True)
class DataManifest:
    """All domains of a study, in study order."""

    domains: tuple[DomainManifest, ...]
    vocab_size: int
    eod_id: int
    """Token that ends every document; it carries no bytes."""
    dtype: str
    """``uint16`` or ``uint32``, little-endian."""
    tokenizer: str
    """Fingerprint of ``tokens/tokenizer.json``."""
    notes: tuple[str, ...] = ()
    """What a person should know about the build; not part of its identity."""

    @property
    def fingerprint(self) -> str:
        """Identity of the content: tokens, boundaries, order and tokenizer."""
        shards = [
            [d.name, split, [[s.content, s.tokens, s.documents] for s in d.split(split).shards]]
            for d in self.domains
            for split in ("train", "valid")
        ]
        return fingerprint([self.tokenizer, self.dtype, self.eod_id, shards])

    @property
    def names(self) -> tuple[str, ...]:
        """Domain names in study order."""
        return tuple(d.name for d in self.domains)

    def domain(self, name: str) -> DomainManifest:
        """One domain by name."""
        for d in self.domains:
            if d.name == name:
                return d
        raise unknown_name("domain", name, self.names)

    def natural(self) -> Mixture:
        """The mixture in which every training token is as likely as any other."""
        total = sum(d.train.tokens for d in self.domains)
        return Mixture.of({d.name: d.train.tokens / total for d in self.domains})

    def available_tokens(self) -> dict[str, int]:
        """Training tokens of each domain."""
        return {d.name: d.train.tokens for d in self.domains}

    def save(self, path: Path) -> None:
        """Write ``manifest.json`` whole."""
        write_json(path, {"version": VERSION, "fingerprint": self.fingerprint, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> DataManifest:
        """Read ``manifest.json``.

        Raises:
            UserError: missing (the data is not built), of another version, or edited by hand.
        """
        if not path.exists():
            raise UserError(f"{path}: no data yet; run `regmix data build {path.parent.parent}`")
        raw = read_json(path)
        try:
            if raw["version"] != VERSION:
                raise UserError(
                    f"{path}: version {raw['version']}, expected {VERSION}; build again"
                )
            manifest = cls(
                domains=tuple(_domain(d) for d in raw["domains"]),
                **{key: raw[key] for key in ("vocab_size", "eod_id", "dtype", "tokenizer")},
                notes=tuple(raw.get("notes", ())),
            )
        except (KeyError, TypeError) as exc:
            raise UserError(f"{path}: not a data manifest ({exc!r}); build again") from exc
        if manifest.fingerprint != raw.get("fingerprint"):
            raise UserError(f"{path}: changed since it was built; run `regmix data build` again")
        return manifest


def split_from_dict(raw: dict[str, Any]) -> SplitManifest:
    """A split's manifest from its JSON form."""
    return SplitManifest(**{**raw, "shards": tuple(Shard(**s) for s in raw["shards"])})


def _domain(raw: dict[str, Any]) -> DomainManifest:
    return DomainManifest(raw["name"], split_from_dict(raw["train"]), split_from_dict(raw["valid"]))
