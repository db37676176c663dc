"""What the token shards hold: written by ``data build``, read by every later stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regmix.config import StudyConfig
from regmix.errors import StudyRefused, UserError, unknown_name
from regmix.files import read_json, write_json
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout
from regmix.mixture import Mixture
from regmix.strict import place
from regmix.yaml_io import KeyPath

VERSION = 1
_TOLD = 3
"""Changed settings that a message names."""
_DEFAULT = object()


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
    contaminated: int = 0
    """Documents left out because they hold evaluation items (``data.decontaminate``)."""


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
    settings: dict[str, Any] | None = None
    """``StudyConfig.data_settings`` of the build, not part of its identity either; None where the
    manifest is of a version that kept none."""

    def as_figures(self) -> dict[str, Any]:
        """Plain values, for ``--json``: sizes by domain and split, without the shards."""
        names = ("tokens", "documents", "text_bytes", "skipped_no_text", "skipped_empty",
                 "contaminated")  # fmt: skip
        domains = [
            {"name": d.name}
            | {s: {n: getattr(d.split(s), n) for n in names} for s in ("train", "valid")}
            for d in self.domains
        ]
        return {
            "fingerprint": self.fingerprint,
            "vocab_size": self.vocab_size,
            "domains": domains,
            "notes": list(self.notes),
        }

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

    def check_domains(self, config: StudyConfig, layout: StudyLayout) -> None:
        """Refuse a manifest of other domains than the study's.

        Raises:
            UserError: both lists.
        """
        if self.names != config.domain_names:
            raise UserError(
                f"{layout.manifest}: built for domains {', '.join(self.names)}, but "
                f"{layout.config} names {', '.join(config.domain_names)}; run "
                f"`regmix data build {layout.root}` again"
            )

    def check_settings(self, config: StudyConfig, layout: StudyLayout) -> None:
        """Refuse a manifest that was built with other settings than ``study.yaml`` has now.

        Only settings are compared; whether a source has other content the next build finds out.

        Raises:
            UserError: what changed, from what to what, with its line.
        """
        self.check_domains(config, layout)
        if self.settings is None:
            return
        found = list(_differences(self.settings, config.data_settings(), ()))
        if not found:
            return
        told = "; ".join(
            f"{place(layout.config, key)} was {_brief(old)} and is now {_brief(new)}"
            for key, old, new in found[:_TOLD]
        )
        more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        raise UserError(
            f"{told}{more}: changed since the data were built; run "
            f"`regmix data build {layout.root}` again, or change it back"
        )

    def save(self, path: Path) -> None:
        """Write ``manifest.json`` whole."""
        write_json(path, {"version": VERSION, "fingerprint": self.fingerprint, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> DataManifest:
        """Read ``manifest.json``.

        Raises:
            StudyRefused: missing (the data is not built), of another version, or edited by hand.
        """
        if not path.exists():
            raise StudyRefused(f"{path}: no data yet; run `regmix data build {path.parent.parent}`")
        try:
            raw = read_json(path)
        except UserError as exc:
            raise StudyRefused(str(exc)) from exc
        try:
            if raw["version"] != VERSION:
                raise StudyRefused(
                    f"{path}: version {raw['version']}, expected {VERSION}; build again"
                )
            manifest = cls(
                domains=tuple(_domain(d) for d in raw["domains"]),
                **{key: raw[key] for key in ("vocab_size", "eod_id", "dtype", "tokenizer")},
                notes=tuple(raw.get("notes", ())),
                settings=raw.get("settings"),
            )
        except (KeyError, TypeError) as exc:
            raise StudyRefused(f"{path}: not a data manifest ({exc!r}); build again") from exc
        if manifest.fingerprint != raw.get("fingerprint"):
            raise StudyRefused(f"{path}: changed since it was built; run `regmix data build` again")
        return manifest


def split_from_dict(raw: dict[str, Any]) -> SplitManifest:
    """A split's manifest from its JSON form."""
    return SplitManifest(**{**raw, "shards": tuple(Shard(**s) for s in raw["shards"])})


def _differences(old: Any, new: Any, key: KeyPath) -> Iterator[tuple[KeyPath, Any, Any]]:
    """The innermost keys at which two settings differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**new, **old}:
            yield from _differences(
                old.get(name, _DEFAULT), new.get(name, _DEFAULT), (*key, str(name))
            )
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, (*key, index))
    elif old != new:
        yield key, old, new


def _brief(value: Any) -> str:
    if value is _DEFAULT:
        return "its default"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"


def _domain(raw: dict[str, Any]) -> DomainManifest:
    return DomainManifest(raw["name"], split_from_dict(raw["train"]), split_from_dict(raw["valid"]))
